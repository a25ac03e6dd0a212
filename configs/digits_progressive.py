"""Progressive distillation of the digits: from 32 steps to one, halved five times.

    python -m experiments.train --config=configs/digits.py --workdir=runs/digits
    python -m experiments.train --config=configs/digits_progressive.py
        --workdir=runs/digits_progressive

The students of all stages are kept, as checkpoints: that of step 1,600 draws in two
steps, with `experiments.sample --step=1600 --sampler.num_steps=2`.

Measured with a smaller network and 100 steps a stage, by
`python -m benchmarks.few_steps --data=digits --seeds=3`: Frechet distance of 1,000
samples to the training digits, features of a classifier / pixels, mean and standard
deviation of three seeds: 3.13 +- 0.44 / 0.38 +- 0.03 in one call and 1.70 +- 0.18 /
0.29 +- 0.02 in two; its teacher has 1.68 +- 0.15 / 0.37 +- 0.02 in 8 Euler steps.
"""

import ml_collections

from configs import digits


def get_config() -> ml_collections.ConfigDict:
    """The experiment: plain values."""
    config = digits.get_config()
    config.num_steps = 2_000  # five stages of 400
    config.distillation = dict(
        method="progressive(first=32, last=1)",
        teacher="runs/digits",
        weights="ema",
        guidance=1.0,
    )
    config.optimizer.update(learning_rate=1e-3, warmup_steps=20)
    config.eval.every = 0  # the network only jumps: it has no held-out loss
    config.sampler = dict(name="flow_map", num_steps=1, grid="uniform")
    config.checkpoint.update(every=400, keep=5, keep_best=0)
    return config
