"""ImageNet 64x64 from a folder, class-conditional, by flow matching: ADM's size.

    python -m experiments.train --config=configs/imagenet64.py --workdir=runs/imagenet64
        --config.data.path=PATH/TO/train --config.data.test_path=PATH/TO/val

The folders hold a subfolder for each class. It has not been trained; it builds, and
steps at a reduced size (tests). For memory see docs/performance.md. 277 M parameters;
channels, blocks and places of attention are ADM's (arXiv 2105.05233), which has heads
of 64 channels each, residual blocks that resample, and 296 M.
"""

import ml_collections

from configs import digits


def get_config() -> ml_collections.ConfigDict:
    """The experiment: plain values."""
    config = digits.get_config()
    config.num_steps = 500_000
    config.batch_size = 1_024
    config.data = dict(
        name="folder",
        path="data/imagenet/train",
        test_path="data/imagenet/val",
        size=(64, 64),
        channels=3,
        flips=True,
    )
    config.sigma_data = 0.5
    config.network.update(
        channels=192,
        multipliers=(1, 2, 3, 4),
        num_blocks=3,
        attention_resolutions=(32, 16, 8),
        num_heads=8,
        dropout=0.1,
        dtype="bfloat16",
        remat="nothing_saveable",
    )
    config.optimizer.update(
        learning_rate=1e-4,
        warmup_steps=10_000,
        name="adamw(b1=0.9, b2=0.99, weight_decay=0.0)",
    )
    config.ema = dict(
        limit=0.9999, warmup=10.0, sigma_rel=(0.05, 0.1), store_every=10_000
    )
    config.sharding.fsdp = 1
    config.log.every = 500
    config.eval.update(every=25_000, draws=1)
    config.samples.update(every=25_000, per_class=1)
    config.checkpoint.every = 5_000
    return config
