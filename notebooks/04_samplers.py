# %% [markdown]
# # Samplers
#
# How DDIM, DDPM and everything between are related: a DDPM step is a DDIM step of twice
# the length, half undone by fresh noise. Then what noise does to particles and to the
# weights of the predictions in a sample, and the error of several samplers against the
# number of function evaluations (NFE).
#
# Source: Gao et al. 2024, "Diffusion Meets Flow Matching", Diving deeper into samplers.
# Four of its statements are made precise in `docs/errata.md`: B5, B9, B10 and B14.

# %%
import jax
import numpy as np

from diffusionflow import analytic, samplers, schedules
from experiments.analysis import sampler_error, sde_noise, weights
from experiments.visualization import figures, notebook_figures
from experiments.visualization.notebook_display import Picture, Table

jax.config.update("jax_enable_x64", True)
cosine = schedules.Cosine()

# %% [markdown]
# ## DDPM is DDIM and fresh noise
#
# All steps here have one form: `z_s = a x_hat + b eps_hat + c xi`, with fresh noise
# `xi`. `samplers.plan` computes `a`, `b` and `c`. From log-SNR 1/2 to 1, DDPM has the
# numbers of a DDIM step to 3/2, followed by the forward process back to 1. The
# forward process multiplies `z` by a ratio of alphas and adds what is missing in
# variance.

# %%
t, s, far = np.asarray(cosine.inverse_logsnr(np.array([0.5, 1.0, 1.5])))
ddpm = samplers.plan(samplers.ddpm(), np.array([t, s]), schedule=cosine)
ddim = samplers.plan(samplers.ddim(), np.array([t, far]), schedule=cosine)
ratio = cosine.alpha(s) / cosine.alpha(far)
kept = {name: ratio * ddim[name][0] for name in ("x", "eps")}
added = np.sqrt(cosine.sigma(s) ** 2 - (ratio * cosine.sigma(far)) ** 2)
np.testing.assert_allclose(ddpm["x"][0], kept["x"], rtol=1e-12)
np.testing.assert_allclose(ddpm["eps"][0], kept["eps"], rtol=1e-12)
np.testing.assert_allclose(ddpm["noise"][0], added, rtol=1e-12)

large = samplers.plan(samplers.ddpm("forward"), np.array([t, s]), schedule=cosine)
excess = (large["noise"][0] / ddpm["noise"][0]) ** 2
assert abs(excess - 1.404) < 5e-4
Table(
    {
        "step": ["DDPM", "DDIM and noise", "DDPM, variance of the forward step"],
        "a": [ddpm["x"][0], kept["x"], large["x"][0]],
        "b": [ddpm["eps"][0], kept["eps"], large["eps"][0]],
        "c": [ddpm["noise"][0], added, large["noise"][0]],
    }
)

# %% [markdown]
# The first two rows are equal. The third, DDPM with the variance of the forward step
# ("fixedlarge"), is not of this kind: its noise has 1.404 times the variance.
#
# ## One particle and all of them
#
# Left, a small DDIM step with its sign reversed: every particle is pushed away from the
# modes (arrows three times as long). Right, a step of the forward process: every
# particle goes its own way. Contours are the density before the step, that of three
# Gaussians at log-SNR 1.5 on a schedule with `alpha = 1`.

# %%
Picture(notebook_figures.small_step())

# %% [markdown]
# Together the particles have the same law after both, to first order in the step. For
# N(0, 1/4) the reversed step multiplies `z` by a number, so both variances are known.
# Their difference falls with the square of the step.

# %%
narrow, steps = analytic.gaussian(np.zeros(1), 0.25), (0.2, 0.1, 0.05)
gaps = []
for step in steps:
    found = sde_noise.small_step(narrow, schedule=cosine, step=step, num_particles=4)
    factor = (found.reversed / found.before)[0, 0]
    far, now = cosine.inverse_logsnr(np.array([-step, 0.0]))
    law = [cosine.alpha(t) ** 2 / 4 + cosine.sigma(t) ** 2 for t in (far, now)]
    gaps.append(law[0] - factor**2 * law[1])
np.testing.assert_allclose(gaps, [-2.21e-3, -5.43e-4, -1.34e-4], rtol=0.003)
Table({"step in log-SNR": steps, "variance, diffused minus reversed": gaps}, digits=3)

# %% [markdown]
# ## Churn
#
# How much of each step is undone is free. `samplers.Churn(c)` undoes the fraction c: 0
# is DDIM, 1/2 is DDPM. Below, nine particles start at the same places with three
# churns, over the density of `z` (a mixture, cosine schedule, 100 steps).

# %%
Picture(figures.trajectories())

# %% [markdown]
# The literature has three other numbers for the same thing, all called eta. One step
# from log-SNR 1/2 to 1:

# %%
churns = (0.0, 0.2, 0.5)
etas = {
    name: [samplers.churn_to_eta(c, convention=name, step=0.5) for c in churns]
    for name in ("blog", "sde", "ddim")
}
np.testing.assert_allclose(np.square(etas["blog"]), etas["sde"], rtol=1e-12)
np.testing.assert_allclose([etas[name][2] for name in etas], 1, rtol=1e-12)
Table(
    {
        "churn": churns,
        "eta, eta^2 = c / (1 - c)": etas["blog"],
        "eta, SDE-DPM-Solver++": etas["sde"],
        "eta, DDIM paper": etas["ddim"],
    }
)

# %% [markdown]
# ## The weights of the predictions
#
# With the predictions held fixed, a sample is a sum: a share of the first `z_1`, of
# every prediction `v_i` with a weight `h_i`, and of noise. Noise makes the sampler
# forget its early predictions. With `v = alpha eps - sigma x` the weights are
# negative; shown is `-h`.

# %%
Picture(figures.churn())

# %%
found = weights.churn_weights(np.array([0.0, 0.5]))
angle = (np.arctan(np.exp(7.5)) - np.arctan(np.exp(-7.5))) / 100
closed = np.sin(angle) * np.cos(angle) ** (99 - np.arange(100))
np.testing.assert_allclose(-found.h[0], closed, rtol=1e-10)
np.testing.assert_allclose(found.initial[0], np.cos(angle) ** 100, rtol=1e-10)
np.testing.assert_allclose(found.initial, [0.98776, 0.00055], atol=5e-6)
Table(
    {
        "sampler": ["DDIM", "DDPM"],
        "weight of the first prediction": -found.h[:, 0],
        "of the last": -found.h[:, -1],
        "of z_1": found.initial,
    }
)

# %% [markdown]
# The weights of DDIM are nearly equal, not equal: `sin(d) cos(d)^(99 - i)` with `d` the
# angle of a step. And a sample is not made of predictions alone: DDIM keeps 0.988 of
# `z_1`.
#
# ## Error against NFE
#
# The mixture again, with its exact denoiser on flow matching. The error is the
# Wasserstein-2 distance to the data. Deterministic samplers start from quantiles of the
# prior, so the error is that of the steps alone; DDPM has the sampling error of 20,000
# independent draws as well.

# %%
chosen = {
    "DDIM": samplers.ddim(),
    "DDPM": samplers.ddpm(),
    "Heun, in t": samplers.Heun("dz_dt"),
    "UniPC-2": samplers.UniPC(2),
}
points = {
    name: sampler_error.errors_against_nfe(
        sampler, sampler_error.mixture(), num_steps=(5, 10, 20)
    )
    for name, sampler in chosen.items()
}
Picture(notebook_figures.errors(points))

# %%
documented = {  # docs/samplers.md
    "DDIM": [0.57, 0.35, 0.22],
    "Heun, in t": [0.19, 0.063, 0.021],
    "UniPC-2": [0.34, 0.096, 0.027],
}
for name, errors in documented.items():
    found = [point.error for point in points[name]]
    np.testing.assert_allclose(found, errors, rtol=0.03)
rows = [(name, *point) for name, each in points.items() for point in each]
names, nfe, errors = zip(*rows, strict=True)
Table({"sampler": names, "NFE": nfe, "error": errors}, digits=2)

# %% [markdown]
# ## Now change
#
# - the churn of `draw.trajectories((0.0, 0.7, 0.9))`: how many steps does it take until
#   particles reach the narrow mode?
# - the kind of `weights.churn_weights(0.5, kind="eps", schedule=schedules.VE())`: the
#   weights belong to what the network predicts;
# - the sampler and the grid of `sampler_error.errors_against_nfe`, or its data:
#   `docs/samplers.md` has 19 samplers, `docs/choosing.md` seven grids.
