# %% [markdown]
# # The three algorithms of a lecture
#
# A lecture on flow and diffusion models gives three training algorithms. Here all
# three are run from data to samples on points in the plane, in the lecture's own
# convention: `z` is data, `x = alpha z + beta eps` is the noised example, and **its
# time runs the other way**, from noise at `tau = 0` to data at `tau = 1`. One
# wrapper, `predictions.flip_time`, translates.
#
# Source: "Generative AI with Stochastic Differential Equations", MIT 2025, lecture 3,
# algorithms 1 to 3. `docs/lecture.md` compares each loss with the printed formula;
# `docs/errata.md`, L1 to L6, says what is imprecise.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusionflow import (
    grids,
    losses,
    objectives,
    predictions,
    samplers,
    schedules,
    times,
    weightings,
)
from diffusionflow.networks.mlp import ResidualMLP
from experiments.visualization import notebook_figures
from experiments.visualization.notebook_display import Picture, Table

data = (
    notebook_figures.THREE
)  # three Gaussians in the plane; its exact denoiser is known
flow, cosine = schedules.FlowMatching(), schedules.Cosine()
net = ResidualMLP(features=64, num_blocks=2)
params = net.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))

# %% [markdown]
# One loop for all: Adam, 2,000 steps of 256 fresh points. A loss takes the network's
# parameters, a key and data.


# %%
def train(loss_fn, num_steps=2000):
    optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, num_steps))

    def step(state, key):
        params, opt_state = state
        data_key, loss_key = jax.random.split(key)
        z = data.sample(data_key, (256,))
        loss, gradient = jax.value_and_grad(loss_fn)(params, loss_key, z)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    keys = jax.random.split(jax.random.key(1), num_steps)
    (trained, _), history = jax.jit(lambda state: jax.lax.scan(step, state, keys))(
        (params, optimizer.init(params))
    )
    return trained, history


def field(params):  # the lecture's u or s, of x and its time
    return lambda x, tau: net.apply(params, x, tau)


# %% [markdown]
# ## Algorithm 1: flow matching on a Gaussian path
#
# Regress on the conditional field `alpha' z + beta' eps`. Any schedule gives a path;
# this is the cosine one. In this library the field is the kind `"dz_dt"`.


# %%
def loss_1(params, key, z):
    tau_key, eps_key = jax.random.split(key)
    tau = jax.random.uniform(tau_key, z.shape[:1])
    eps = jax.random.normal(eps_key, z.shape)
    predict_fn = predictions.flip_time(field(params), kind="dz_dt")
    return losses.cfm_loss(predict_fn, z, 1 - tau, eps, schedule=cosine).mean()


params_1, history_1 = train(loss_1)

# %% [markdown]
# ## Algorithm 2: straight conditional paths
#
# `x = tau z + (1 - tau) eps` with the field `z - eps`, which is minus our `u`. With a
# key the library draws time and noise itself.

# %%
straight = objectives.flow_matching()


def loss_2(params, key, z):
    predict_fn = predictions.flip_time(field(params), kind="u")
    return losses.objective_loss(key, predict_fn, z, objective=straight).mean()


params_2, history_2 = train(loss_2)

# %% [markdown]
# The loss does not go to zero. Its minimum is the mean variance of `u` given `x`, the
# loss of the exact field, and a network is measured by its excess over that.

# %%
key, fresh = jax.random.key(2), data.sample(jax.random.key(3), (20_000,))
exact = data.denoise_fn(schedule=flow)
exact_u = lambda z, t: predictions.from_denoised(
    exact(z, t), kind="u", t=t, schedule=flow
)
u_fn = predictions.flip_time(field(params_2), kind="u")
minimum, reached = (
    losses.objective_loss(key, fn, fresh, objective=straight).mean()
    for fn in (exact_u, u_fn)
)
assert minimum < reached < 1.05 * minimum
pair = [minimum, reached]
Table({"": ["exact field", "network"], "loss, same draws": pair}, digits=3)

# %% [markdown]
# ## Algorithm 3: denoising score matching
#
# `|s(x) + eps / beta|^2`. As printed, with times up to the data, its mean is
# infinite. Weighted with `beta^2` it is the error of the noise: below an objective
# for a network that predicts the score, at times with `beta >= 0.02`. The output is
# divided by `beta`, since a score grows like that.

# %%
denoising = objectives.Objective(
    flow, "score", weightings.Mse("eps"), times.Uniform(0.02, 1.0)
)


def score(params):
    return lambda x, tau: net.apply(params, x, tau) / (1 - tau[:, None])


def loss_3(params, key, z):
    predict_fn = predictions.flip_time(score(params), kind="score")
    return losses.objective_loss(key, predict_fn, z, objective=denoising).mean()


params_3, history_3 = train(loss_3)

# %% [markdown]
# ## Samples
#
# The fields are followed by Heun's method in 50 steps. A field and a score are both
# linear in `z` and `eps`, so one network gives the other: the network of algorithm 2
# also drives an SDE. Where `alpha = 0` a score says nothing of the data, so that
# sampler starts at `t = 0.98`.

# %%
start, noise = jax.random.split(jax.random.key(4))


def draw(field_fn, kind, schedule, sampler, t_min=0.0, t_max=1.0):
    predict_fn = predictions.flip_time(field_fn, kind=kind)
    denoise_fn = predictions.denoiser(
        lambda z, t: predict_fn(z, jnp.broadcast_to(t, z.shape[:1])),
        kind=kind,
        schedule=schedule,
    )
    grid = grids.uniform(50, t_min=t_min, t_max=t_max)
    z = samplers.prior(start, (2000, 2), schedule=schedule, t=t_max)
    sample = lambda z: samplers.sample(
        noise, denoise_fn, z, grid, sampler=sampler, schedule=schedule
    )
    return jax.jit(lambda z: sample(z).x)(z)


heun, sde = samplers.Heun("u"), samplers.EulerMaruyama()
clouds = {
    "data": data.sample(jax.random.key(5), (2000,)),
    "1, ODE": draw(field(params_1), "dz_dt", cosine, heun),
    "2, ODE": draw(field(params_2), "u", flow, heun),
    "2, SDE": draw(field(params_2), "u", flow, sde),
    "3, ODE": draw(score(params_3), "score", flow, heun, 0.02, 0.98),
}
Picture(notebook_figures.clouds(clouds))

# %%
means = {name: np.mean(points, axis=0) for name, points in clouds.items()}
exact_mean = data.weights @ data.means
assert all(np.abs(mean - exact_mean).max() < 0.2 for mean in means.values())
Table(
    {
        "samples": ["exact", *clouds],
        "mean, first coordinate": [exact_mean[0], *(m[0] for m in means.values())],
        "second": [exact_mean[1], *(m[1] for m in means.values())],
    },
    digits=2,
)

# %% [markdown]
# ## Now change
#
# - the path of algorithm 1: any schedule, such as `schedules.LinearBeta()`;
# - the times of algorithm 2: `objectives.sd3()` draws them from a logit-normal density,
#   which is another objective;
# - the weight of algorithm 3: `weightings.Mse("score")` is the printed loss. Watch
#   `history_3`, and move the lower end of the times to zero.
