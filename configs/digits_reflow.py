"""Reflow of the digits: flow matching on the teacher's pairs of noise and sample.

    python -m experiments.train --config=configs/digits.py --workdir=runs/digits
    python -m experiments.pairs --workdir=runs/digits --num_pairs=20000
        --out=runs/digits/pairs
    python -m experiments.train --config=configs/digits_reflow.py
        --workdir=runs/digits_reflow

Paths become straight, so that few steps of any sampler do.
"""

import ml_collections

from configs import digits


def get_config() -> ml_collections.ConfigDict:
    """The experiment: plain values."""
    config = digits.get_config()
    config.data = dict(name="pairs", path="runs/digits/pairs.npz")
    config.distillation = dict(
        method="reflow", teacher="runs/digits", weights="ema", guidance=1.0
    )
    config.optimizer.update(learning_rate=1e-3, warmup_steps=20)
    config.sampler = dict(name="ddim", num_steps=2, grid="uniform")
    return config
