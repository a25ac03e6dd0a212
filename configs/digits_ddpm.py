"""DDPM on the digits: noise as output, its plain error, linear betas.

    python -m experiments.train --config=configs/digits_ddpm.py
        --workdir=runs/digits_ddpm

All but objective and sampler is as in `digits.py`. To compare the two, look at
`test_eps_mse_ema`: their losses are in other units.

Measured on two CPU cores that did other work as well: held-out
`test_eps_mse_ema` 0.1979, loss 0.0637, both with the averaged weights; the rows of
the pictures show their digits, a few samples astray.

Source: Ho et al. 2020, arXiv 2006.11239, in continuous time, times stratified.
"""

import ml_collections

from configs import digits


def get_config() -> ml_collections.ConfigDict:
    """The experiment: plain values."""
    config = digits.get_config()
    config.objective = dict(
        schedule="linear_beta(beta_min=0.1, beta_max=20.0)",
        kind="eps",
        weighting="mse(kind='eps')",
        times="stratified(uniform)",
        proposal="",
    )
    config.sampler = dict(name="ddpm", num_steps=100, grid="uniform")
    return config
