"""MeanFlow on the digits, from scratch: samples in one or two network calls.

    python -m experiments.train --config=configs/digits_meanflow.py
        --workdir=runs/digits_meanflow

With --config.distillation.teacher=DIRECTORY the network starts from a trained one and
learns from its velocity; that must have been trained with the same
`network.max_frequency`.

Measured with a smaller network, 800 steps and a teacher, by
`python -m benchmarks.few_steps --data=digits --seeds=3`: Frechet distance of 1,000
samples to the training digits, features of a classifier / pixels, mean and standard
deviation of three seeds: 5.24 +- 0.87 / 0.50 +- 0.02 in one call, 1.77 +- 0.21 /
0.30 +- 0.03 in two and 1.08 +- 0.16 / 0.25 +- 0.02 in four.
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
