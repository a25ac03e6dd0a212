"""The smallest experiment that still has every part."""

import ml_collections


def config(**overrides):
    """Points and a tiny network; keys like `log__every=2`."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.num_steps = 10
    config.batch_size = 16
    config.data = dict(name="moons", size=330, workers=0)  # 294 to train, 36 to test
    config.objective = dict(
        schedule="flow_matching",
        kind="u",
        weighting="mse(kind='u')",
        times="uniform",
        proposal="",
        coupling="",
    )
    config.distillation = dict(method="", teacher="", weights="ema", guidance=1.0)
    config.sigma_data = 1.0
    config.label_dropout = 0.1
    config.network = dict(name="residual_mlp", features=16, num_blocks=1, dropout=0.1)
    config.optimizer = dict(
        name="adamw(b1=0.9, b2=0.99, weight_decay=0.01)",
        learning_rate=1e-3,
        warmup_steps=2,
        schedule="cosine",
        clip_norm=1.0,
        accumulate=1,
        nonfinite_limit=3,
    )
    config.ema = dict(limit=0.999, warmup=10.0, sigma_rel=(), store_every=0)
    config.matmul_precision = "default"
    config.fused_attention = True
    config.cpu_devices = 1
    config.sharding = dict(fsdp=1, least_size=64)
    config.log = dict(every=4, logsnr_min=-10.0, logsnr_max=10.0, num_bins=10)
    config.eval = dict(every=5, draws=2)
    config.sampler = dict(name="ddim", num_steps=2, grid="uniform")
    config.guidance = 1.0
    config.samples = dict(every=10, per_class=1)
    config.callbacks = ()
    config.checkpoint = dict(every=5, keep=3, keep_best=0, metric="test_loss_ema")
    flat = {key.replace("__", "."): value for key, value in overrides.items()}
    config.update_from_flattened_dict(flat)
    return config
