# %% [markdown]
# # From many steps to one
#
# Run a deterministic sampler from noise, keep both of its ends, and train again on
# these pairs. Reflow does it with straight lines between the two ends; to predict the
# sample from its noise directly was one of the first distillations of a diffusion
# model. This notebook makes both exact, says in one formula what progressive
# distillation, consistency models and MeanFlow learn, and ends with digits that are
# drawn in one network call. The commands are in `docs/howto/few_steps.md`.
#
# Source: Gao et al. 2024, "Diffusion Meets Flow Matching", Reflow operator; Liu et al.
# 2022, arXiv 2209.03003; Luhman and Luhman 2021, arXiv 2101.02388; Salimans and Ho
# 2022, arXiv 2202.00512; Geng et al. 2025, arXiv 2505.13447.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

import diffusionflow as df
from diffusionflow import distillation, samplers
from diffusionflow.networks import ResidualMLP
from experiments.data import sklearn_images, toy2d
from experiments.visualization import notebook_figures
from experiments.visualization.notebook_display import Picture, Table

flow = df.schedules.FlowMatching()


def solve(denoise_fn, z, steps, sampler, **options):
    """Runs a sampler on flow matching, on a uniform grid."""
    grid = df.grids.uniform(steps)
    key, settings = jax.random.key(0), dict(sampler=sampler, schedule=flow)
    return samplers.sample(key, denoise_fn, z, grid, **settings, **options)


# %% [markdown]
# ## Reflow
#
# A mixture of two Gaussians on a line, with its exact denoiser. Left, the paths of the
# ODE from noise (t = 1) to data: they bend. Right, what training on the pairs of both
# ends has as its optimum. On a line the ODE keeps the order of particles, so the lines
# that join the pairs do not cross, and the velocity is constant along each: one step of
# Euler's method makes no error.

# %%
mixture = df.analytic.Mixture(
    np.array([0.3, 0.7]), np.array([[-1.0], [1.0]]), np.array([[0.04], [0.04]])
)
grid = df.grids.uniform(200)
noise = jax.random.normal(jax.random.key(0), (1_000, 1))
run = lambda z: solve(
    mixture.denoise_fn(schedule=flow), z, 200, samplers.Heun("u"), trajectory=True
)
curved = np.asarray(jax.jit(run)(noise).trajectory)
straight = curved[0] + (1 - grid[:, None, None]) * (curved[-1] - curved[0])
paths = {"the ODE of the data": curved, "after reflow": straight}
measured = [
    float(np.mean(df.metrics.straightness(each, grid))) for each in paths.values()
]
assert 0.3 < measured[0] < 2 and measured[1] < 1e-6
assert (np.diff(straight[:, np.argsort(noise[:, 0]), 0], axis=1) >= 0).all()
Picture(
    notebook_figures.paths(
        {name: each[:, :60, 0] for name, each in paths.items()}, grid
    )
)

# %% [markdown]
# How far from straight is a number, `int |(z_1 - z_0) - dz/dt|^2 dt`, 0 for a line.

# %%
Table({"paths": list(paths), "straightness": [f"{each:.3f}" for each in measured]})

# %% [markdown]
# The pairs contain the solver. Ten Euler steps of the exact model of N(0, 1/4) make
# pairs whose samples have the standard deviation 0.431, and no student of them can know
# that it should be 0.5. Heun's method in as many steps is much nearer.

# %%
narrow = df.analytic.gaussian(jnp.zeros(1), 0.25).denoise_fn(schedule=flow)
found = {
    name: solve(narrow, jnp.ones((1, 1)), 10, sampler).x.item()
    for name, sampler in (("Euler", samplers.Euler("u")), ("Heun", samplers.Heun("u")))
}
levels = np.linspace(1, 0, 11)
spread = lambda t: (1 - t) ** 2 / 4 + t**2
steps = ((1 - levels[:-1]) * (1 - levels[1:]) / 4 + levels[:-1] * levels[1:]) / spread(
    levels[:-1]
)
np.testing.assert_allclose(found["Euler"], np.prod(steps), rtol=1e-5)
Table({"10 steps of": list(found), "standard deviation": list(found.values())})

# %% [markdown]
# ## One network of two times
#
# A network that is given both t and s can learn more than the velocity at t. Let its
# prediction `P(z, t, s)`, of any type, be what DDIM has to be given at `(z, t)` to land
# exactly at s: `z_s = A z + B P`. At s = t that is the ordinary prediction. With u on
# flow matching P is the average velocity (MeanFlow, shortcut models), with v on the
# cosine schedule it is TrigFlow's F, with x at s = 0 a consistency model.

# %%
rows = [
    (kind, name, *distillation.jump_coefficients(kind, 0.8, 0.2, schedule=schedule))
    for kind, name, schedule in (
        ("u", "flow matching", flow),
        ("v", "cosine", df.schedules.Cosine()),
        ("x", "flow matching", flow),
    )
]
angle = 0.6 * np.pi / 2
np.testing.assert_allclose(rows[0][2:], (1, -0.6), rtol=1e-12)
np.testing.assert_allclose(rows[1][2:], (np.cos(angle), -np.sin(angle)), rtol=1e-12)
kinds, names, scale_z, scale_p = zip(*rows, strict=True)
Table({"type": kinds, "schedule": names, "A": scale_z, "B": scale_p})

# %% [markdown]
# ## What the methods learn
#
# Progressive distillation learns DDIM in as many steps as its first teacher took, and
# nothing else. For N(0, 0.37) the one-step student multiplies the noise by these
# factors; the exact one is 0.6083. So 16 steps or more are a good beginning.


# %%
def ddim_factor(count, variance=0.37):
    """Factor of `count` DDIM steps from t = 1 to t = 0, for N(0, variance)."""
    levels = np.linspace(1, 0, count + 1)
    t, s = levels[:-1], levels[1:]
    of_t = (1 - t) ** 2 * variance + t**2
    return np.prod(((1 - t) * (1 - s) * variance + t * s) / of_t)


counts = (2, 4, 8, 16, 1024)
factors = [ddim_factor(count) for count in counts]
assert abs(factors[-1] - np.sqrt(0.37)) < 1e-3 < np.sqrt(0.37) - factors[-2]
Table({"steps of the first teacher": counts, "factor of one step": factors})

# %% [markdown]
# MeanFlow and its relatives learn the exact map. They use that its derivative along the
# flow is 0. With a pair of data and noise in place of the mean velocity that derivative
# is 0 on average only, so no gradient may pass the target: else the network lowers the
# variance of the derivative, at the price of a wrong map. `distillation.eulerian_loss`
# stops it.
#
# Two moons, and a small network that is given both times. The sinusoids of the time go
# up to 8 radians, as the network is differentiated in t.

# %%
moons = jnp.asarray(toy2d.moons(size=20_000).train.values)
network = ResidualMLP(features=64, num_blocks=3, two_times=True, max_frequency=8.0)
pair_of_times = df.times.Two(df.times.Uniform(), share=0.5)


def predictor(params):
    """The network as `predict_fn(z, t, s)`; a time may be one number for all."""
    full = lambda time, z: jnp.broadcast_to(time, z.shape[:1])
    return lambda z, t, s: network.apply(params, z, full(t, z), second_time=full(s, z))


def meanflow(params, key):
    x_key, eps_key, time_key = jax.random.split(key, 3)
    x = jax.random.choice(x_key, moons, (256,))
    eps = jax.random.normal(eps_key, x.shape)
    t, s = pair_of_times.sample(time_key, (256,), schedule=flow)
    z = df.processes.add_noise(x, eps, t, schedule=flow)
    pair = df.predictions.Denoised(x, eps)
    return distillation.eulerian_loss(
        predictor(params), z, t, s, pair, kind="u", schedule=flow
    ).mean()


# %%
def fit(params, loss_fn, num_steps, rate=2e-3):
    """Trains by Adam with a cosine rate; returns the parameters."""
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, num_steps))

    def step(state, key):
        params, opt_state = state
        gradient = jax.grad(loss_fn)(params, key)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    keys = jax.random.split(jax.random.key(1), num_steps)
    begin = params, optimizer.init(params)
    (params, _), _ = jax.jit(lambda state: jax.lax.scan(step, state, keys))(begin)
    return params


zeros = jnp.zeros(2)
params = network.init(jax.random.key(0), moons[:2], zeros, second_time=zeros)
params = fit(params, meanflow, 1_200)

# %%
flow_map_fn = distillation.flow_map(predictor(params), kind="u", schedule=flow)
start = jax.random.normal(jax.random.key(5), (2_000, 2))
draw = lambda steps, sampler: jax.jit(
    lambda z: solve(flow_map_fn, z, steps, sampler).x
)(start)
clouds = {
    "DDIM, 1 call": draw(1, samplers.ddim()),
    "flow map, 1 call": draw(1, samplers.FlowMap()),
    "flow map, 2 calls": draw(2, samplers.FlowMap()),
    "moons": moons[:2_000],
}
Picture(notebook_figures.clouds(clouds))

# %%
others = np.asarray(moons[-2_000:])
distances = [
    float(df.metrics.energy()(np.asarray(each), others)) for each in clouds.values()
]
assert max(distances[1:]) < 0.02 < distances[0]
Table(
    {
        "samples": list(clouds),
        "energy distance to other moons": [f"{each:.4f}" for each in distances],
    }
)

# %% [markdown]
# `flow_map_fn(z, t)` is an ordinary denoiser, the diagonal of the same network. One
# step of DDIM needs no more than it, and gives the mean of the data; `flow_map_fn(z, t,
# s)` jumps to the moons.
#
# ## Digits in one call
#
# One-step distillation needs pairs alone: the student regresses samples on noise. Here
# the teacher is exact, the denoiser of a mixture with a Gaussian on each of the 8x8
# training digits of a class, and 15 steps of Heun's method make the pairs.

# %%
digits = sklearn_images.digits()
images = np.asarray(digits.transform.to_float(digits.train.values)).reshape(-1, 64)
labels = np.asarray(digits.train.labels)
count = min(np.bincount(labels))  # of each class: one program for all


@jax.jit
def teach(means, z):
    each = df.analytic.Mixture(jnp.ones(count), means, jnp.full((1, 64), 0.03))
    return solve(each.denoise_fn(schedule=flow), z, 15, samplers.Heun("u"))


means = [jnp.asarray(images[labels == digit][:count]) for digit in range(10)]
eps = jax.random.normal(jax.random.key(0), (10, 400, 64))
x = jnp.stack([teach(*each).x for each in zip(means, eps, strict=True)])
eps, x = eps.reshape(-1, 64), x.reshape(-1, 64)
label = jnp.repeat(jnp.arange(10), 400)

# %% [markdown]
# The student is a network of one time that is only called at t = 1, and `jump` makes a
# sample of its prediction u.

# %%
student = ResidualMLP(features=128, num_blocks=3, num_classes=10)


def one_call(params, eps, label):
    t, s = jnp.ones(len(eps)), jnp.zeros(len(eps))
    u = student.apply(params, eps, t, label)
    return distillation.jump(u, z=eps, t=t, s=s, kind="u", schedule=flow)


def regression(params, key):
    i = jax.random.randint(key, (128,), 0, len(eps))
    return ((one_call(params, eps[i], label[i]) - x[i]) ** 2).mean()


params = student.init(jax.random.key(0), eps[:2], jnp.ones(2), label[:2])
params = fit(params, regression, 1_000)

# %% [markdown]
# New noise, 40 for each class. A column of the picture has one of them and one label.

# %%
new = jax.random.normal(jax.random.key(99), (10, 40, 64))
taught = [teach(*each) for each in zip(means, new, strict=True)]
exact = np.stack([each.x for each in taught])
drawn = jax.jit(one_call)(params, new.reshape(-1, 64), jnp.repeat(jnp.arange(10), 40))
drawn = np.asarray(drawn).reshape(exact.shape)
shape = lambda each: each[:, 0].reshape(-1, 8, 8)
rows = {
    f"the teacher, {taught[0].nfe} calls": shape(exact),
    "the student, 1 call": shape(drawn),
}
Picture(notebook_figures.image_rows(rows))

# %%
of_class = np.asarray(x).reshape(10, 400, 64).mean(1, keepdims=True)
difference = lambda each: float(np.sqrt(np.mean((each - exact) ** 2)))
assert difference(drawn) < difference(of_class)
Table(
    {
        "root mean square difference to the teacher": ["student", "mean of the class"],
        "in [-1, 1]": [f"{difference(each):.2f}" for each in (drawn, of_class)],
    }
)

# %% [markdown]
# `docs/howto/few_steps.md` measures students of a U-Net that was trained on the digits.
#
# ## Now change
#
# - `max_frequency` of the moons' network to 1,000, the default of networks of one time:
#   the derivative in t is then far larger than all else;
# - `distillation.eulerian_loss` to `distillation.semigroup_loss`, with a time between t
#   and s;
# - the number of pairs of a class, 400: how far from the teacher is a student of 100?
