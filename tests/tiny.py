"""The smallest experiments that still have every part."""

from configs import digits


def config(**overrides):
    """Points and a tiny network; keys like `log__every=2`."""
    config = digits.get_config()
    config.num_steps = 10
    config.batch_size = 16
    config.data = dict(name="moons", size=300)
    config.network = dict(name="residual_mlp", features=16, num_blocks=1, dropout=0.1)
    config.optimizer.warmup_steps = 2
    config.log.every = 4
    config.eval = dict(every=5, draws=2)
    config.sampler.num_steps = 2
    config.samples = dict(every=10, per_class=1)
    config.checkpoint = dict(every=5, keep=3)
    with config.unlocked():
        flat = {key.replace("__", "."): value for key, value in overrides.items()}
        config.update_from_flattened_dict(flat)
    return config
