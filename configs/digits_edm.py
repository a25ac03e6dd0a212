"""EDM on the digits: its own output F, log-normal levels, its sampler.

    python -m experiments.train --config=configs/digits_edm.py --workdir=runs/digits_edm

All but objective and sampler is as in `digits.py`. Kind and weighting carry sigma_data
as well: with another one change all three. To compare the two, look at
`test_eps_mse_ema`: their losses are in other units.

Measured on two CPU cores that did other work as well in 7 min 30 s: held-out
`test_eps_mse_ema` 0.2033, loss 0.3104, both with the averaged weights; the rows of
the pictures show their digits, a few samples astray.

Source: Karras et al. 2022, arXiv 2206.00364, with the sigma_data of the digits.
"""

import ml_collections

from configs import digits


def get_config() -> ml_collections.ConfigDict:
    """The experiment: plain values."""
    config = digits.get_config()
    config.objective = dict(
        schedule="edm(sigma_min=0.002, sigma_max=80.0, rho=7.0)",
        kind=f"edm_f(sigma_data={config.sigma_data})",
        weighting=f"mse(kind=edm_f(sigma_data={config.sigma_data}))",
        times="log_normal_sigma(mean=-1.2, std=1.2)",
        proposal="",
    )
    config.sampler = dict(name="edm(s_churn=0.0)", num_steps=18, grid="karras(rho=7.0)")
    return config
