# %% [markdown]
# # Training
#
# What a recipe for training consists of: the output of the network, a weighting, and a
# density of training times. The last two together are one function of the log-SNR, the
# total weight W, and it decides what is learned. Output, schedule and proposal decide
# how well it is estimated.
#
# Source: Gao et al. 2024, "Diffusion Meets Flow Matching", Training; Kingma and Gao
# 2023, arXiv 2303.00848. `docs/errata.md`, B2, B12 and B13, makes three statements
# precise.

# %%
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import (
    analytic,
    losses,
    objectives,
    predictions,
    schedules,
    times,
    weightings,
)
from experiments.analysis import weights
from experiments.visualization import figures, notebook_figures
from experiments.visualization.notebook_display import Picture, Table

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## What the network predicts
#
# Every output is `a x + b eps`, and at fixed `z` its error is a known multiple of the
# error of `eps`. The figure shows the ratio of the squared errors.

# %%
Picture(figures.outputs())

# %%
logsnr = np.array([-8.0, 0.0, 8.0])
ratios = weights.mse_ratios(logsnr)
np.testing.assert_allclose(ratios["x"], np.exp(-logsnr), rtol=1e-10)
np.testing.assert_allclose(ratios["v"], 1 + np.exp(-logsnr), rtol=1e-10)
np.testing.assert_allclose(ratios["u"], (1 + np.exp(-logsnr / 2)) ** 2, rtol=1e-10)
Table({"log-SNR": logsnr, **ratios})

# %% [markdown]
# Near noise (left) an error of `eps` is a huge error of `x`; near data an error of
# `x` is a huge error of `eps`. At the very ends such a network says nothing, and the
# library refuses it instead of dividing by zero. `u`, `v` and EDM's F are good at
# both ends.

# %%
refused = []
for kind, t in (("eps", 1.0), ("x", 0.0)):
    try:
        predictions.check_determined(kind, t, schedule=schedules.FlowMatching())
    except ValueError:
        refused.append((kind, t))
for kind in ("u", "v", predictions.edm_f(0.5)):
    for t in (0.0, 1.0):
        predictions.check_determined(kind, t, schedule=schedules.FlowMatching())
assert refused == [("eps", 1.0), ("x", 0.0)]
Table(dict(zip(("refused output", "at t"), zip(*refused, strict=True), strict=True)))

# %% [markdown]
# ## What is learned
#
# Total weights of five recipes on the squared error of `eps`, each over its largest.

# %%
Picture(figures.weightings())

# %% [markdown]
# Flow matching and `v` on the cosine schedule are one objective: the ratio of their
# weights is `pi / 2` at every log-SNR. SD3 and EDM are alike near their peak, and only
# there: at log-SNR 6 the weight of SD3 is 0.025 of that of EDM.

# %%
same = objectives.same_objective(objectives.flow_matching(), objectives.v_cosine())
assert same.same
assert abs(same.constant - np.pi / 2) < 1e-6
logsnr = np.linspace(-10, 10, 2001)
found = weights.weightings_on_one_axis(logsnr)
gap = np.abs(found["SD3"] - found["EDM"])
tail = np.interp(6.0, logsnr, found["SD3"] / found["EDM"])
assert abs(gap.max() - 0.129) < 5e-4
assert abs(tail - 0.025) < 5e-4
Table(
    {
        "flow matching over v, cosine": [same.constant],
        "SD3 and EDM, largest gap": [gap.max()],
        "at log-SNR": [logsnr[np.argmax(gap)]],
        "SD3 over EDM at log-SNR 6": [tail],
    }
)

# %% [markdown]
# ## What the training schedule changes
#
# Keep W and the ends of the log-SNR. Then the loss is the integral of one function
# over the log-SNR, and the schedule cannot change it, if the network sees the log-SNR
# and an unscaled input. It changes the scatter. Below: W = sigmoid(-logsnr), data
# N(0, 1/4), 65,536 draws on two schedules with ends at -8 and 8. The network is the
# exact denoiser of other data, N(0, 1), so that there is something to lose.

# %%
both = {
    "linear log-SNR": schedules.LinearLogSNR(logsnr_min=-8.0, logsnr_max=8.0),
    "cosine": schedules.Cosine(logsnr_min=-8.0, logsnr_max=8.0),
}
x = 0.5 * jax.random.normal(jax.random.key(0), (2**16, 1))


def wrong(schedule):
    denoise_fn = analytic.gaussian(jnp.zeros(1), 1.0).denoise_fn(schedule=schedule)
    return lambda z, t: denoise_fn(z, t).eps


def weighted(schedule):
    return objectives.Objective(
        schedule, "eps", weightings.Sigmoid(0.0), times.Uniform()
    )


sampled = [
    losses.objective_loss(
        jax.random.key(seed), wrong(schedule), x, objective=weighted(schedule)
    )
    for seed, schedule in enumerate(both.values())
]
mean, std = np.mean(sampled, axis=1), np.std(sampled, axis=1)
error = std / np.sqrt(len(x))
assert abs(mean[0] - mean[1]) < 4 * np.hypot(*error)
assert abs(std[0] / std[1] - 1) > 0.05
Table(
    {"schedule": [*both], "mean": mean, "standard error": error, "deviation": std},
    digits=3,
)

# %% [markdown]
# ## A proposal that learns
#
# `times.AdaptiveTimes` draws more times where the loss is large and divides by what it
# did. The mean stays, the scatter falls. It learns from the terms that a training step
# has anyway.

# %%
schedule = both["cosine"]
objective = weighted(schedule)
proposal = times.AdaptiveTimes(times.Uniform(), logsnr_min=-8.0, logsnr_max=8.0)


@jax.jit
def learn(moments, key):
    adapted = dataclasses.replace(
        objective, proposal=times.with_moments(proposal, moments)
    )
    terms = losses.objective_terms(key, wrong(schedule), x[:4096], objective=adapted)
    return proposal.update(moments, terms, schedule=schedule)


moments = proposal.init()
for key in jax.random.split(jax.random.key(2), 50):
    moments = learn(moments, key)
learned = times.with_moments(proposal, moments)
adapted = dataclasses.replace(objective, proposal=learned)
plain, better = (
    losses.objective_loss(jax.random.key(3), wrong(schedule), x, objective=each)
    for each in (objective, adapted)
)
error = [float(each.std()) / np.sqrt(len(x)) for each in (plain, better)]
assert abs(plain.mean() - better.mean()) < 4 * np.hypot(*error)
assert better.var() < 0.8 * plain.var()
Table(
    {
        "times": ["uniform", "adaptive"],
        "mean loss": [plain.mean(), better.mean()],
        "variance": [plain.var(), better.var()],
    },
    digits=3,
)

# %%
t = np.linspace(0, 1, 801)
density = {
    "uniform": times.Uniform().density(t, schedule=schedule),
    "adaptive, learned": learned.density(t, schedule=schedule),
}
Picture(
    notebook_figures.curves(
        t, density, title="Where times are drawn", xlabel="t", ylabel="density"
    )
)

# %% [markdown]
# ## Now change
#
# - the recipe: `objectives.same_objective` of any two of `objectives.RECIPES`. For
#   whole configs there is `python -m experiments.explain`;
# - the share of the base in `times.AdaptiveTimes(base_fraction=...)`: it bounds the
#   importance weights by its inverse;
# - the weighting of the two schedules: with `weightings.Mse("eps")` the weight W
#   contains the density of times, and the two means differ. Why?
