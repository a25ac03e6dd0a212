"""Every schedule, once: tests that hold for all of them run over `SCHEDULES`.

The first names are those of the 20-digit vectors (`oracles.VECTORS["schedules"]`).
"""

import jax.numpy as jnp

from diffusionflow import processes, schedules

FLOW = schedules.FlowMatching()
SCHEDULES = {
    "FM": FLOW,
    "cos": schedules.Cosine(),
    "cos_trunc": schedules.Cosine(-15.0, 15.0),
    "vp_lin": schedules.LinearBeta(),
    "subvp": schedules.SubVP(),
    "ve_geo": schedules.VE(),
    "edm_rho": schedules.EDM(),
    "edm_t": schedules.Interpolated(jnp.ones_like, lambda t: t),
    "iddpm": schedules.IDDPMCosine(),
    "vdm_linear_logsnr": schedules.LinearLogSNR(),
    "sigmoid_abar": schedules.Sigmoid(),
    "laplace": schedules.Laplace(0.3, 0.5),
    "cauchy": schedules.Cauchy(0.3, 0.5),
    "fm_shift": schedules.Shifted(FLOW, 3.0),
    "fm_sigmin": schedules.FlowMatching(1e-3),
    "cos_shift": schedules.Shifted(schedules.Cosine(), 4.0),
    "vp_lin_shift": schedules.Shifted(schedules.LinearBeta(), 0.5),
    "ve_shift": schedules.Shifted(schedules.VE(), 2.0),
    "fm_sigmin_shift": schedules.Shifted(schedules.FlowMatching(1e-3), 3.0),
    "fm_as_vp": schedules.Scaled(FLOW, lambda t: 1 / jnp.sqrt((1 - t) ** 2 + t**2)),
    "discrete": schedules.Discrete.linear_betas(),
    "discrete_zero_snr": schedules.Discrete(
        schedules.zero_terminal_snr(
            schedules.Discrete.linear_betas(50, 0.002, 0.4).alphas_cumprod
        )
    ),
    "interpolated": schedules.Interpolated(
        lambda t: 1 - t**2, lambda t: 0.01 + 0.99 * t
    ),
    "learned": schedules.learned(8),
    "from_sde": processes.from_sde(
        lambda t: -0.5 * (0.1 + 19.9 * t), lambda t: jnp.sqrt(0.1 + 19.9 * t)
    ),
}
