"""VDM on the digits: the variational bound, a schedule linear in log-SNR.

    python -m experiments.train --config=configs/digits_vdm.py --workdir=runs/digits_vdm

All but objective and sampler is as in `digits.py`. To compare the two, look at
`test_eps_mse_ema`: their losses are in other units.

Measured on two CPU cores that did other work as well: held-out
`test_eps_mse_ema` 0.1977, loss 5.8032, both with the averaged weights; the rows of
the pictures show their digits, a few samples astray.

Source: Kingma et al. 2021, arXiv 2107.00630, on a fixed schedule.
"""

import ml_collections

from configs import digits


def get_config() -> ml_collections.ConfigDict:
    """The experiment: plain values."""
    config = digits.get_config()
    config.objective = dict(
        schedule="linear_logsnr(logsnr_min=-5.0, logsnr_max=13.3)",
        kind="eps",
        weighting="elbo",
        times="stratified(uniform)",
        proposal="",
    )
    config.sampler = dict(name="ddpm", num_steps=100, grid="uniform")
    return config
