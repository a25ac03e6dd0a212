# %% [markdown]
# # One loss in your project
#
# You have a training program and want one loss of this library in it. A loss needs a
# function `predict_fn(z, t) -> array` and nothing else: how its parameters are kept is
# your affair. Here the same loss trains a network in plain JAX, Flax Linen, Flax NNX
# and Equinox.
#
# Source: `docs/choosing.md` for what to choose; `tests/networks/test_outside.py` holds
# that all four train.

# %%
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from diffusionflow import grids, losses, objectives, predictions, samplers
from experiments.visualization import notebook_figures
from experiments.visualization.notebook_display import Picture, Table

objective = objectives.flow_matching()  # the network predicts u = eps - x
data = notebook_figures.THREE  # three Gaussians in the plane


def joined(z, t):
    """What all four networks see."""
    return jnp.append(z, jnp.broadcast_to(t, z.shape[:1])[:, None], axis=1)


# %% [markdown]
# The program, the same for all four: `network(params)` is the `predict_fn`. The call of
# `objective_loss` is the only line that knows the library.


# %%
def fit(params, network, num_steps=1500):
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, num_steps))

    def step(state, key):
        params, opt_state = state
        data_key, loss_key = jax.random.split(key)
        x = data.sample(data_key, (256,))
        loss_fn = lambda params: losses.objective_loss(
            loss_key, network(params), x, objective=objective
        ).mean()
        loss, gradient = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    keys = jax.random.split(jax.random.key(1), num_steps)
    start = params, optimizer.init(params)
    (params, _), history = jax.jit(lambda state: jax.lax.scan(step, state, keys))(start)
    return network(params), history


# %% [markdown]
# ## Plain JAX
#
# Parameters are a list of arrays.


# %%
def plain(weights):
    def predict_fn(z, t):
        h = jnp.tanh(joined(z, t) @ weights[0] + weights[1])
        h = jnp.tanh(h @ weights[2] + weights[3])
        return h @ weights[4]

    return predict_fn


shapes = [(3, 64), (64,), (64, 64), (64,), (64, 2)]
keys = jax.random.split(jax.random.key(0), len(shapes))
weights = [
    jax.random.normal(key, shape) / shape[0] ** 0.5
    for key, shape in zip(keys, shapes, strict=True)
]
trained = {"plain JAX": fit(weights, plain)}

# %% [markdown]
# ## Flax Linen
#
# Parameters come from `init` and go into `apply`.

# %%
linen = nn.Sequential([nn.Dense(64), nn.tanh, nn.Dense(64), nn.tanh, nn.Dense(2)])
variables = linen.init(jax.random.key(0), jnp.zeros((1, 3)))
trained["Linen"] = fit(
    variables, lambda variables: lambda z, t: linen.apply(variables, joined(z, t))
)

# %% [markdown]
# ## Flax NNX
#
# A model is split into its graph and its state, and merged again inside the loss.

# %%
rngs = nnx.Rngs(0)
model = nnx.Sequential(
    nnx.Linear(3, 64, rngs=rngs),
    jnp.tanh,
    nnx.Linear(64, 64, rngs=rngs),
    jnp.tanh,
    nnx.Linear(64, 2, rngs=rngs),
)
graph, state = nnx.split(model)
trained["NNX"] = fit(
    state, lambda state: lambda z, t: nnx.merge(graph, state)(joined(z, t))
)

# %% [markdown]
# ## Equinox
#
# A model is a pytree, parted into its arrays and the rest.

# %%
mlp = eqx.nn.MLP(3, 2, 64, 2, activation=jnp.tanh, key=jax.random.key(0))
arrays, rest = eqx.partition(mlp, eqx.is_array)
trained["Equinox"] = fit(
    arrays,
    lambda arrays: lambda z, t: jax.vmap(eqx.combine(arrays, rest))(joined(z, t)),
)

# %% [markdown]
# ## The four losses, and samples
#
# The minimum is the loss of the exact field, on the same draws: no network can be below
# it but by chance.

# %%
fresh, key = data.sample(jax.random.key(2), (20_000,)), jax.random.key(3)
exact = data.denoise_fn(schedule=objective.schedule)
exact_u = lambda z, t: predictions.from_denoised(
    exact(z, t), kind="u", t=t, schedule=objective.schedule
)
held_out = {
    name: losses.objective_loss(key, predict_fn, fresh, objective=objective).mean()
    for name, predict_fn in {
        "the exact field": exact_u,
        **{name: predict_fn for name, (predict_fn, _) in trained.items()},
    }.items()
}
minimum = held_out["the exact field"]
assert all(minimum <= loss < 1.1 * minimum for loss in held_out.values())
Table({"network": [*held_out], "loss": [*held_out.values()]}, digits=3)

# %%
clouds = {}
for name, (predict_fn, _) in trained.items():
    denoise_fn = predictions.denoiser(predict_fn, kind="u", schedule=objective.schedule)
    z = samplers.prior(jax.random.key(4), (1000, 2), schedule=objective.schedule)
    clouds[name] = samplers.sample(
        None,
        denoise_fn,
        z,
        grids.uniform(20),
        sampler=samplers.Heun("u"),
        schedule=objective.schedule,
    ).x
Picture(notebook_figures.clouds(clouds))

# %% [markdown]
# ## Now change
#
# - the objective: `objectives.edm()`, `objectives.sd3()`, `objectives.vdm()`; its
#   `kind` says what the network has to predict, and `denoiser` is given the same;
# - the network's time: one trained with `t = 1` at the data is wrapped by
#   `predictions.flip_time`;
# - the pieces: `losses.cfm_loss` and its neighbours take `t` and `eps` from you, and
#   draw nothing.
