"""ImageNet 256x256 in latents, class-conditional, by flow matching: SiT-XL/2's size.

    python -m experiments.encode --data="folder(path='TRAIN', test_path='VAL',
        size=(256, 256))" --autoencoder=sd-vae-ft-ema --flip --out=PATH/TO/latents
    python -m experiments.train --config=configs/imagenet256_latents.py
        --workdir=runs/imagenet256_latents --config.data.path=PATH/TO/latents
    python -m experiments.sample --workdir=runs/imagenet256_latents --guidance=1.5
        --autoencoder=sd-vae-ft-ema

It has not been trained; it builds, and steps at a reduced size (tests). 675 M
parameters. Linear path, velocity, uniform times, batch, learning rate, average and
label dropout are SiT's (arXiv 2401.08740); the network differs from theirs as
`networks.DiT` says. `sigma_data` is 1 since the autoencoder's factor gives its latents
about unit scale; the run prints what it measures.
"""

import ml_collections

from configs import digits


def get_config() -> ml_collections.ConfigDict:
    """The experiment: plain values."""
    config = digits.get_config()
    config.num_steps = 400_000
    config.batch_size = 256
    config.data = dict(name="latents", path="data/imagenet256_latents")
    config.objective.times = "uniform"
    config.sigma_data = 1.0
    config.label_dropout = 0.1
    config.network = dict(
        name="dit",
        features=1152,
        num_blocks=28,
        num_heads=16,
        patch_size=2,
        dtype="bfloat16",
        remat="nothing_saveable",
        scan=True,
    )
    config.optimizer.update(
        learning_rate=1e-4,
        warmup_steps=0,
        schedule="constant",
        clip_norm=0.0,
        name="adamw(b1=0.9, b2=0.999, weight_decay=0.0)",
    )
    config.ema = dict(
        limit=0.9999, warmup=10.0, sigma_rel=(0.05, 0.1), store_every=10_000
    )
    config.sampler = dict(name="heun(variable='u')", num_steps=50, grid="uniform")
    config.log.every = 500
    config.eval.update(every=25_000, draws=1)
    config.samples.update(every=0)
    config.checkpoint.every = 5_000
    return config
