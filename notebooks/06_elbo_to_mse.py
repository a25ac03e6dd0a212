# %% [markdown]
# # From the ELBO to squared errors
#
# A diffusion model has a bound on `-log p(x)`, the negative ELBO. Training minimises
# a squared error. This notebook computes the bound on real digits, shows that its KL
# terms are squared errors with weights, and shows what happens without the weights:
# the gradients are then not those of the bound.
#
# Source: the article "From ELBO to MSE" (in Chinese) on how diffusion models part with
# the ELBO, after Song et al. 2021 and Ho et al. 2020. Six of its statements are made
# precise in `docs/errata.md`, A1 to A6.

# %%
import jax
import numpy as np

from diffusionflow import (
    analytic,
    grids,
    likelihood,
    losses,
    objectives,
    schedules,
    times,
    weightings,
)
from experiments.data import sklearn_images
from experiments.visualization.notebook_display import Table

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## A model whose likelihood is known
#
# The digits are 8x8 images with 17 grey levels. The model is a mixture of ten
# Gaussians, one for each class, with the class's mean and variances. It is a poor
# model of digits, but its denoiser is exact, and so is its density: the bound can be
# checked.

# %%
digits = sklearn_images.digits()
to_float = lambda values: np.asarray(digits.transform.to_float(values), np.float64)
train, test = to_float(digits.train.values), to_float(digits.test.values)
classes = [train[digits.train.labels == label] for label in range(10)]
model = analytic.Mixture(
    np.ones(10) / 10,
    np.stack([each.mean(0) for each in classes]),
    np.stack([each.var(0) for each in classes]) + 0.01,
)
schedule = schedules.LinearLogSNR(logsnr_min=-9.0, logsnr_max=10.0)
denoise_fn = model.denoise_fn(schedule=schedule)
x = test[:100]

# %% [markdown]
# ## Three terms
#
# `-log p(x) <= reconstruction + diffusion + prior`. The first is the data given the
# least noisy `z_0`, the second is a sum over steps, and the last compares the noisiest
# `z_1` with N(0, I); no network has a part in it. As the step becomes small the sum
# becomes an integral over the log-SNR.
#
# First as a density of continuous data. The reverse process of an exact denoiser is
# exact, so that the bound in continuous time is met with equality, but for the small
# term of the prior.

# %%
bound = jax.jit(
    lambda key, x: likelihood.continuous_bound(
        key, denoise_fn, x, schedule=schedule, num_times=8, num_draws=8
    )
)(jax.random.key(0), x)
width = np.sqrt(2 * np.exp(-10.0))  # the noise of z_0, and that of its decoder
exact = -model.log_density(x, 1.0, width)
gap = likelihood.summarise(bound.total - exact)
assert abs(gap.mean) < 4 * gap.stderr + 0.05
recon = likelihood.gaussian_nats(10.0, 64)
np.testing.assert_allclose(bound.recon.mean(), recon, rtol=0.02)
Table(
    {
        "nats, mean of 100 digits": [
            "reconstruction",
            "diffusion",
            "prior",
            "total",
            "exact -log p",
            "total - exact",
            "its standard error",
        ],
        "value": [
            bound.recon.mean(),
            bound.diffusion.mean(),
            bound.prior.mean(),
            bound.total.mean(),
            exact.mean(),
            gap.mean,
            gap.stderr,
        ],
    }
)

# %% [markdown]
# ## Bits per dimension
#
# The data are levels; a probability of levels is given in bits: nats over `d log 2`.
# With fewer steps the bound is looser.

# %%
levels = likelihood.QuantizedLevels.between(17, -1.0, 1.0)
rows = {}
for num_steps in (10, 30, 100):
    terms = jax.jit(
        lambda key, x, num_steps=num_steps: likelihood.discrete_bound(
            key,
            denoise_fn,
            x,
            times=grids.uniform(num_steps),
            schedule=schedule,
            levels=levels,
        )
    )(jax.random.key(1), x)
    bits = [
        likelihood.bits_per_dim(part.mean(), dim=64, cell="discrete")
        for part in (terms.recon, terms.diffusion, terms.prior, terms.total)
    ]
    rows[num_steps] = [float(each) for each in bits]
total = [row[3] for row in rows.values()]
assert total[0] > total[1] > total[2]
names = ("reconstruction", "diffusion", "prior", "total")
parts = dict(zip(names, zip(*rows.values(), strict=True), strict=True))
Table({"steps": [*rows], **parts}, digits=3)

# %% [markdown]
# ## A KL term is a squared error
#
# The KL divergence of one step between two Gaussians of the same variance is
# `1/2 expm1(logsnr_s - logsnr_t) |eps_hat - eps|^2`, in closed form and with nothing
# added. The weights are far from constant.

# %%
t, s = np.array([0.1, 0.5, 0.9]), np.array([0.09, 0.49, 0.89])
eps = np.asarray(jax.random.normal(jax.random.key(2), x[:3].shape))
predict_fn = lambda z, t: denoise_fn(z, t).eps
cosine = schedules.Cosine()
kl = losses.kl_terms(predict_fn, x[:3], t, s, eps, kind="eps", schedule=cosine)
error = losses.ddpm_loss(predict_fn, x[:3], t, eps, schedule=cosine)
weight = np.expm1(cosine.logsnr(s) - cosine.logsnr(t)) / 2
np.testing.assert_allclose(kl, weight * error, rtol=1e-9)
Table({"t": t, "s": s, "weight": weight, "squared error": error, "KL": kl})

# %% [markdown]
# ## Gradients with and without the weights
#
# The error of the score with weight `g^2 / 2` is the bound's integrand, example by
# example. So are the gradients. To see what happens without weights, take a model that
# cannot be exact: `eps_hat = theta z`, on data N(0, 1/4), with the linear-beta schedule
# and `t > 0.001`.

# %%
vp, window = schedules.LinearBeta(), times.Uniform(1e-3, 1.0)
reach = times.UniformLogSNR(float(vp.logsnr(1.0)), float(vp.logsnr(9e-4)))
data = 0.5 * jax.random.normal(jax.random.key(3), (2**17, 1))
kinds = {
    "bound": ("eps", weightings.ELBO()),
    "score error, weight g^2": ("score", weightings.Likelihood()),
    "eps error, no weight": ("eps", weightings.Mse("eps")),
    "score error, no weight": ("score", weightings.Mse("score")),
}


def mean_loss(theta, kind, weighting):
    objective = objectives.Objective(vp, kind, weighting, window, reach)
    eps_fn = lambda z, t: theta * z
    score_fn = lambda z, t: -theta * z / vp.sigma(t)[:, None]
    return losses.objective_loss(
        jax.random.key(4),
        score_fn if kind == "score" else eps_fn,
        data,
        objective=objective,
    ).mean()


slopes, best = [], []
for kind, weighting in kinds.values():
    slope = jax.grad(mean_loss)
    slopes.append(float(slope(0.7, kind, weighting)))
    start, curve = slope(0.0, kind, weighting), slope(1.0, kind, weighting)
    best.append(float(start / (start - curve)))  # the loss is quadratic in theta
np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-9)
np.testing.assert_allclose(best, [0.9259, 0.9259, 1.0161, 0.3030], atol=0.03)
assert slopes[3] * slopes[0] < 0
Table({"loss": [*kinds], "slope at theta = 0.7": slopes, "best theta": best}, digits=3)

# %% [markdown]
# The first two rows are one. The third has another optimum, and the slope of the last
# has the other sign: a step down the unweighted score error is a step up the bound.
# (By quadrature the optima are 0.9259, 1.0161 and 0.3030, as in
# `docs/equivalences.md`.) Only a model without limits has one optimum under all
# weights.
#
# ## Now change
#
# - the model: more components (a k-means of each class), and watch the bits;
# - `logsnr_max` of the schedule to 5: which of the three terms grows, and why?
# - the end of the times, `1e-3`: the best theta of the unweighted score error moves,
#   that of the bound hardly does.
