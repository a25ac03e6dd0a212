"""MeanFlow on the digits, from scratch: samples in one or two network calls.

    python -m experiments.train --config=configs/digits_meanflow.py
        --workdir=runs/digits_meanflow

With --config.distillation.teacher=DIRECTORY the network starts from a trained one and
learns from its velocity; that must have been trained with the same
`network.max_frequency`.
"""

import ml_collections

from configs import digits


def get_config() -> ml_collections.ConfigDict:
    """The experiment: plain values."""
    config = digits.get_config()
    config.label_dropout = 0.0  # guidance of a flow map means nothing
    config.network.update(two_times=True, max_frequency=16.0)
    config.distillation = dict(
        method="meanflow(share=0.5)", teacher="", weights="ema", guidance=1.0
    )
    config.sampler = dict(name="flow_map", num_steps=2, grid="uniform")
    return config
