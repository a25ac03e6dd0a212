"""Stable Diffusion 3 on the digits: flow matching at logit-normal times.

    python -m experiments.train --config=configs/digits_sd3.py --workdir=runs/digits_sd3

All but objective and sampler is as in `digits.py`. To compare the two, look at
`test_eps_mse_ema`: their losses are in other units.

Measured on two CPU cores that did other work as well: held-out
`test_eps_mse_ema` 0.2060, loss 0.3235, both with the averaged weights; the rows of
the pictures show their digits, a few samples astray.

Source: Esser et al. 2024, arXiv 2403.03206, times stratified.
"""

import ml_collections

from configs import digits


def get_config() -> ml_collections.ConfigDict:
    """The experiment: plain values."""
    config = digits.get_config()
    config.objective = dict(
        schedule="flow_matching",
        kind="u",
        weighting="mse(kind='u')",
        times="stratified(logit_normal(mean=0.0, std=1.0))",
        proposal="",
    )
    config.sampler = dict(name="euler(variable='u')", num_steps=28, grid="uniform")
    return config
