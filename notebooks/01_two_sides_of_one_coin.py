# %% [markdown]
# # Two sides of one coin
#
# Diffusion with the DDIM sampler and flow matching with Euler's method are one
# algorithm. Here both run on data whose exact denoiser is known, so that "the same"
# means the same to rounding. Then: which other forms that update has, and what a
# scaling of the schedule changes.
#
# Source: Gao et al. 2024, "Diffusion Meets Flow Matching: Two Sides of the Same Coin",
# Overview and Sampling. `docs/equivalences.md` has the same claims, measured.

# %%
import jax
import numpy as np

from diffusionflow import analytic, grids, predictions, samplers, schedules
from experiments.analysis import gaussian_trajectories
from experiments.visualization import figures
from experiments.visualization.notebook_display import Picture, Table

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## The forward process
#
# A noised example is `z_t = alpha_t x + sigma_t eps`, with data `x` and noise `eps`
# drawn from N(0, I). Time runs from `t = 0`, the data, to `t = 1`, noise. A schedule is
# the pair `(alpha_t, sigma_t)`. Flow matching takes `1 - t` and `t`; the cosine
# schedule keeps `alpha^2 + sigma^2 = 1`. What matters of a schedule is its log
# signal-to-noise ratio `logsnr = log(alpha^2 / sigma^2)`, which falls with `t`.

# %%
flow, cosine = schedules.FlowMatching(), schedules.Cosine()
t = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
Table(
    {
        "t": t,
        "flow: alpha": flow.alpha(t),
        "sigma": flow.sigma(t),
        "logsnr": flow.logsnr(t),
        "cosine: alpha": cosine.alpha(t),
        "sigma ": cosine.sigma(t),
        "logsnr ": cosine.logsnr(t),
    },
    digits=3,
)

# %% [markdown]
# Both reach every log-SNR, at different times. At equal log-SNR the two `z` differ by
# a known factor, their scale `sqrt(alpha^2 + sigma^2)`. So one denoiser serves both
# schedules. A denoiser here is a function `(z, t) -> (x_hat, eps_hat)`; the exact one
# of a mixture of Gaussians stands for a trained network.

# %%
data = analytic.Mixture(
    np.array([0.4, 0.6]), np.array([[-1.0], [0.8]]), np.array([[0.36], [0.64]])
)
z = np.linspace(-2, 2, 9)[:, None]
on_flow, on_cosine = data.denoise_fn(schedule=flow), data.denoise_fn(schedule=cosine)
moved = predictions.reschedule(on_flow, source=flow, target=cosine)
gap = np.abs(moved(z, 0.3).x - on_cosine(z, 0.3).x).max()
assert gap < 1e-12
Table({"a denoiser of flow matching on the cosine schedule, error": [gap]})

# %% [markdown]
# ## DDIM is Euler's method on the flow
#
# DDIM goes from `t` to `s < t` by mixing the two estimates again: `z_s = alpha_s x_hat
# + sigma_s eps_hat`. Flow matching predicts `u = eps - x` and steps `z_s = z_t + (s -
# t) u_hat`. With `alpha = 1 - t` and `sigma = t` these are the same number, and it
# does not matter which output the network has: below it predicts `u`, `v = alpha eps
# - sigma x`, or the F of EDM.

# %%
times, key = grids.uniform(10), jax.random.key(0)


def end(sampler, schedule, denoise_fn):
    return samplers.sample(
        key, denoise_fn, z, times, sampler=sampler, schedule=schedule
    ).x


def network(kind):
    predict_fn = lambda z, t: predictions.from_denoised(
        on_flow(z, t), kind=kind, t=t, schedule=flow
    )
    return predictions.denoiser(predict_fn, kind=kind, schedule=flow)


kinds = {"u": "u", "v": "v", "F": predictions.edm_f(0.5)}
by_euler = end(samplers.Euler("dz_dt"), flow, on_flow)
gaps = [
    np.abs(end(samplers.ddim(), flow, network(kind)) - by_euler).max()
    for kind in kinds.values()
]
assert max(gaps) < 1e-12
Table({"network's output": list(kinds), "largest | DDIM - Euler |, 10 steps": gaps})

# %% [markdown]
# ## The table of reparametrisations
#
# DDIM is Euler's method for every output `p = a x + b eps` with constant `a` and `b`,
# on every schedule: divide `z` by a scale, and let a clock replace the time,
#
# `z_s / scale_s = z_t / scale_t + (clock_s - clock_t) p_hat`.
#
# | output | scale | clock |
# |---|---|---|
# | x | sigma | alpha / sigma |
# | eps | alpha | sigma / alpha |
# | u = eps - x | alpha + sigma | sigma / (alpha + sigma) |
#
# A step is linear in `z` and in the prediction. `samplers.coefficients` finds both
# factors by differentiating the sampler; they are those of the table.

# %%
step = np.array([0.7, 0.5])
alpha, sigma = cosine.alpha(step), cosine.sigma(step)
forms = {
    "x": (sigma, alpha / sigma),
    "eps": (alpha, sigma / alpha),
    "u": (alpha + sigma, sigma / (alpha + sigma)),
}
rows = []
for kind, (scale, clock) in forms.items():
    found = samplers.coefficients(samplers.ddim(), step, schedule=cosine, kind=kind)
    gain = scale[1] * (clock[1] - clock[0])
    np.testing.assert_allclose(found.initial, scale[1] / scale[0], rtol=1e-12)
    np.testing.assert_allclose(found.h[0, 0], gain, rtol=1e-12)
    rows.append((found.initial, found.h[0, 0]))
of_z, of_prediction = zip(*rows, strict=True)
Table({"output": [*forms], "factor of z": of_z, "of the prediction": of_prediction})

# %% [markdown]
# For `v` the coefficients `a` and `b` move with time, and no such form exists. On a
# schedule with `alpha^2 + sigma^2 = 1` the step is a rotation instead: by the angle
# between the two times, which for cosine is `pi / 2` times their difference.

# %%
found = samplers.coefficients(samplers.ddim(), step, schedule=cosine, kind="v")
angle = np.pi / 2 * 0.2
np.testing.assert_allclose(found.initial, np.cos(angle), rtol=1e-12)
np.testing.assert_allclose(found.h[0, 0], -np.sin(angle), rtol=1e-12)
Table({"factor of z": [found.initial], "factor of v": [found.h[0, 0]]})

# %% [markdown]
# ## A scaling of the schedule
#
# Multiply `alpha` and `sigma` by one factor `c_t`. The log-SNR stays, and `z` is
# multiplied by `c_t`. Below, flow matching is scaled step by step until it is variance
# preserving; `c` is 1 at both ends. Data are N(0, 1/4), and the black lines are DDIM in
# 255 steps. DDIM in five steps ends at one point in all panels. Euler's method on the
# same ODE in `t` does not.

# %%
Picture(figures.scaling())

# %%
scales = np.linspace(0, 1, 5)  # from flow matching to variance preserving
found = gaussian_trajectories.particles_under_scaling(scales)
unit = found.ddim.z[:, -1, -1] / 2, found.euler.z[:, -1, -1] / 2
np.testing.assert_allclose(unit[0], 24 / 65, rtol=1e-12)  # 5 steps, in closed form
assert np.ptp(unit[1]) > 0.05
Table({"share of the scaling": scales, "DDIM, end / z_1": unit[0], "Euler": unit[1]})

# %% [markdown]
# The exact end is 1/2 per unit of `z_1`: the first column is one error, the second is
# five. On flow matching itself the two methods agree, as above.
#
# ## Now change
#
# - the data: `analytic.Mixture` takes any weights, means and variances;
# - the schedule: `schedules.LinearBeta()`, `schedules.VE()`, or one of your own with
#   four methods. Which rows of the table of factors stay?
# - the sampler: `samplers.Heun("u")` and `samplers.Heun("eps")` differ from one
#   another. Which of them does a scaling leave alone?
