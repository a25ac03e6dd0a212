"""v on the cosine schedule on the digits: flow matching in other variables.

    python -m experiments.train --config=configs/digits_vcosine.py
        --workdir=runs/digits_vcosine

All but objective and sampler is as in `digits.py`. To compare the two, look at
`test_eps_mse_ema`: their losses are in other units.

Measured on two CPU cores that did other work as well: held-out
`test_eps_mse_ema` 0.1955, loss 0.2121, both with the averaged weights; the rows of
the pictures show their digits, a few samples astray.

Source: Salimans and Ho 2022, arXiv 2202.00512, times stratified.
"""

import ml_collections

from configs import digits


def get_config() -> ml_collections.ConfigDict:
    """The experiment: plain values."""
    config = digits.get_config()
    config.objective = dict(
        schedule="cosine",
        kind="v",
        weighting="mse(kind='v')",
        times="stratified(uniform)",
        proposal="",
    )
    config.sampler = dict(name="ddim", num_steps=50, grid="uniform")
    return config
