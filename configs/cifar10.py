"""CIFAR-10, class-conditional, by flow matching: a U-Net of the size of DDPM++.

    python -m experiments.train --config=configs/cifar10.py --workdir=runs/cifar10
        --config.data.path=PATH/TO/cifar-10-batches-bin

The data are the published binary files, `data_batch_1.bin` to `test_batch.bin`. It has
not been trained; it builds, and steps at a reduced size (tests). For memory see
docs/performance.md. 57.6 M parameters. Batch, dropout and learning rate are those of
EDM's training of DDPM++ (arXiv 2206.00364), which has some 56 M and other blocks.
"""

import ml_collections

from configs import digits


def get_config() -> ml_collections.ConfigDict:
    """The experiment: plain values."""
    config = digits.get_config()
    config.num_steps = 200_000
    config.batch_size = 512
    config.data = dict(name="cifar10", path="data/cifar-10-batches-bin", flips=True)
    config.sigma_data = 0.5
    config.network.update(
        channels=128,
        multipliers=(2, 2, 2),
        num_blocks=4,
        attention_resolutions=(16,),
        num_heads=1,
        dropout=0.13,
        dtype="bfloat16",
    )
    config.optimizer.update(
        learning_rate=1e-3,
        warmup_steps=5_000,
        name="adamw(b1=0.9, b2=0.999, weight_decay=0.0)",
    )
    config.ema = dict(
        limit=0.9999, warmup=10.0, sigma_rel=(0.05, 0.1), store_every=10_000
    )
    config.log.every = 500
    config.eval.update(every=10_000, draws=1)
    config.samples.every = 10_000
    config.checkpoint.every = 5_000
    return config
