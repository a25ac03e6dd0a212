# %% [markdown]
# # Straight or curved
#
# Flow matching is said to have straight paths. Its conditional paths are straight; the
# paths that a sampler follows are those of the mean field, and they are straight for a
# single point of data only. Which of two schedules is straighter depends on the data:
# here on the variance of a Gaussian, where all paths are known.
#
# Source: Gao et al. 2024, "Diffusion Meets Flow Matching", the figure on the variance
# of the data and its text. Two of its statements are corrected in `docs/errata.md`,
# B4 and B11.

# %%
import jax
import numpy as np

from experiments.analysis import gaussian_trajectories
from experiments.visualization import figures
from experiments.visualization.notebook_display import Picture, Table

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## The same particles on two schedules
#
# Data are N(0, v). Left, flow matching: `alpha = 1 - t`, `sigma = t`. Right, the same
# scaled to `alpha^2 + sigma^2 = 1`, so both have the same log-SNR at the same `t`. The
# black lines are nearly exact (DDIM, 255 steps); the others take five steps.

# %%
Picture(figures.paths())

# %% [markdown]
# For narrow data (top) the paths of flow matching are straight but for their end, and
# five steps of Euler's method end close to the black line. For wide data (bottom)
# they bend near the data, and the scaled schedule is the straighter one.
#
# ## How far from straight
#
# The exact path of N(0, v) is `z_t = z_1 sqrt(V_t / V_1)` with `V_t = alpha^2 v +
# sigma^2`. Its largest distance from the chord, per unit of `z_1`, is zero for a
# point (v = 0) on flow matching, and for v = 1 on the other schedule: there `V_t` is
# 1 at every time.

# %%
variances = np.array([0.0, 0.01, 0.0833, 0.25, 1.0, 4.0, 12.01, 100.0])
flow = gaussian_trajectories.scaled_flow(gaussian_trajectories.FLOW)
preserving = gaussian_trajectories.scaled_flow(gaussian_trajectories.PRESERVING)
by_flow = gaussian_trajectories.straightness(variances, flow)
by_other = gaussian_trajectories.straightness(variances, preserving)
assert by_flow[0] < 1e-12
assert by_other[4] < 1e-12
np.testing.assert_allclose(by_flow[4], 1 - np.sqrt(0.5), rtol=1e-12)
straighter = np.where(by_flow < by_other, "flow matching", "variance preserving")
Table(
    {
        "variance": variances,
        "flow matching": by_flow,
        "variance preserving": by_other,
        "straighter": [
            "draw" if np.isclose(a, b, rtol=2e-3) else str(name)
            for a, b, name in zip(by_flow, by_other, straighter, strict=True)
        ],
    }
)

# %% [markdown]
# ## Two crossovers, not one
#
# Flow matching is the straighter one for v below 0.0833, and again for v above 12.01.
# The two numbers are inverse to one another: `z -> z / sqrt(v)` and `t -> 1 - t` turn
# the path of N(0, v) into that of N(0, 1 / v).
#
# Straight is one question, a small error at the end another. After five steps of
# Euler's method in `t` the change is at v = 0.047.

# %%
straight = lambda v, fraction: gaussian_trajectories.straightness(
    v, gaussian_trajectories.scaled_flow(fraction)
)
low = gaussian_trajectories.crossover(straight, 0.02, 0.5)
high = gaussian_trajectories.crossover(straight, 2.0, 50.0)
end = gaussian_trajectories.crossover(gaussian_trajectories.end_error, 0.01, 0.2)
assert abs(low - 0.0833) < 5e-5
assert abs(high - 12.01) < 5e-3
assert abs(low * high - 1) < 1e-5
assert abs(end - 0.047) < 5e-4
Table(
    {
        "flow matching is": ["straighter", "straighter", "nearer at the end"],
        "for variances": [f"below {low:.4f}", f"above {high:.2f}", f"below {end:.3f}"],
    }
)

# %%
Picture(figures.straightness())

# %% [markdown]
# Images and latents are usually scaled to a variance near 1. There the
# variance-preserving path of a Gaussian is the straight one. Real data are no Gaussian,
# and DDIM does not see the scale at all (`01_two_sides_of_one_coin`): a schedule is
# chosen by measuring, as in `docs/choosing.md`.
#
# ## Now change
#
# - `num_steps` of `particles.end_error`: does the crossover of the error move towards
#   that of straightness as steps become many?
# - the schedule: `particles.straightness(variances, schedules.Cosine())`. The cosine
#   schedule preserves variance too, at another pace;
# - the distance from the chord: `diffusionflow.metrics.straightness` takes the mean
#   square of the slopes instead, of any trajectory of any sampler.
