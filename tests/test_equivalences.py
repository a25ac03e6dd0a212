"""The equivalences that the library is built on, each measured.

`measure_*` returns named numbers, computed in float64 against closed forms and
quadrature; the test of the same name says how small they must be.
`python -m tests.test_equivalences` prints all of them; `docs/equivalences.md` is the
table.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    analytic,
    grids,
    losses,
    objectives,
    predictions,
    samplers,
    schedules,
    times,
    weightings,
)
from diffusionflow._dataclass import register

FLOW, COSINE, VP = (
    schedules.FlowMatching(),
    schedules.Cosine(),
    schedules.LinearBeta(),
)


def in_float64(measure):
    """Runs a measurement with x64 on and gives Python numbers back."""

    def measured():
        with jax.enable_x64(True):
            return {name: float(value) for name, value in measure().items()}

    return measured


def legendre(low, high, count):
    """Nodes and weights of the integral over [low, high]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return low + (high - low) * (nodes + 1) / 2, weights * (high - low) / 2


def hermite(count):
    """Nodes and weights of the mean over N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / weights.sum()


class Expectation:
    """The mean over x, eps and the integral over a clock, as one weighted batch.

    x ~ sum_k p_k N(m_k, v_k) in one dimension, eps ~ N(0, 1), both by Gauss-Hermite
    quadrature; the clock by the nodes and weights that are given.
    """

    def __init__(self, data, clock, count):
        probability, mean, variance = (np.asarray(part) for part in data)
        nodes, mass = hermite(count)
        x = mean[:, None] + np.sqrt(variance)[:, None] * nodes
        x_mass = probability[:, None] * mass
        x, x_mass, (clock, clock_mass) = x.ravel(), x_mass.ravel(), clock
        grid = np.meshgrid(clock, x, nodes, indexing="ij")
        self.clock, self.x, self.eps = (axis.ravel() for axis in grid)
        self.x, self.eps = self.x[:, None], self.eps[:, None]
        weights = clock_mass[:, None, None] * x_mass[:, None] * mass
        self.weights = weights.ravel()

    def mean(self, loss):
        return jnp.sum(loss * self.weights)


# Overlapping components: the exact field is smooth, and quadrature converges fast.
MIXTURE = ((0.4, 0.6), (-1.0, 0.8), (0.36, 0.64))
NARROW = ((1.0,), (0.0,), (0.25,))  # N(0, 1/4), the data of the article's witness


def oracle(data, schedule):
    weights, means, variances = (np.asarray(part) for part in data)
    return analytic.Mixture(weights, means[:, None], variances[:, None]).denoise_fn(
        schedule
    )


def linear(kind):
    """The restricted model of the witnesses: `prediction = theta z`, for any kind."""
    del kind
    return lambda theta: lambda z, t: theta * z


# --- samplers -----------------------------------------------------------------


@in_float64
def measure_ddim_is_flow_matching_euler():
    """DDIM with any output on a mixture, against Euler's method on dz/dt = u."""
    grid = np.linspace(1, 0, 11)
    z = np.linspace(-2, 2, 9)[:, None]
    exact = oracle(MIXTURE, FLOW)
    euler = z
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        denoised = exact(euler, t)
        euler = euler + (s - t) * (denoised.eps - denoised.x)
    found = {}
    for kind in ("u", "v", predictions.edm_f(0.5)):
        predict_fn = lambda z, t, kind=kind: predictions.from_denoised(
            exact(z, t), kind=kind, t=t, schedule=FLOW
        )
        denoise_fn = predictions.denoiser(predict_fn, kind=kind, schedule=FLOW)
        ddim = samplers.sample(
            jax.random.key(0),
            denoise_fn,
            z,
            grid,
            sampler=samplers.ddim(),
            schedule=FLOW,
        )
        found[f"max |DDIM - Euler|, output {kind}"] = np.abs(ddim.x - euler).max()
    return found


def test_ddim_is_flow_matching_euler():
    for value in measure_ddim_is_flow_matching_euler().values():
        assert value < 1e-13


# --- objectives ---------------------------------------------------------------


@in_float64
def measure_flow_matching_is_v_mse_on_the_cosine_schedule():
    """The ratio of total weights on [-20, 20], and that of the losses themselves."""
    found = objectives.same_objective(
        objectives.flow_matching(), objectives.v_cosine(), (-20.0, 20.0)
    )
    logsnr = np.linspace(-8, 8, 33)
    loss = {}
    for name, objective in (
        ("u", objectives.flow_matching()),
        ("v", objectives.v_cosine()),
    ):
        schedule, t = objective.schedule, objective.schedule.inverse_logsnr(logsnr)
        scale = schedule.alpha(t)
        net = lambda z, t, name=name, scale=scale, schedule=schedule: (
            predictions.from_denoised(
                predictions.to_denoised(
                    0.3 * jnp.sin(z / scale[:, None]),
                    kind="eps",
                    z=z,
                    t=t,
                    schedule=schedule,
                ),
                kind=name,
                t=t,
                schedule=schedule,
            )
        )
        x, eps = np.full((33, 1), 0.7), np.full((33, 1), -1.1)
        error = losses.objective_loss(None, net, x, objective=objective, t=t, eps=eps)
        loss[name] = error / jnp.abs(schedules.dlogsnr_dt(schedule, t))
    return {
        "constant W_FM / W_v / (pi / 2) - 1": found.constant / (np.pi / 2) - 1,
        "max deviation of the ratio": found.deviation,
        "max |loss_FM / loss_v / (pi / 2) - 1|": np.abs(
            loss["u"] / loss["v"] / (np.pi / 2) - 1
        ).max(),
    }


def test_flow_matching_is_v_mse_on_the_cosine_schedule():
    for value in measure_flow_matching_is_v_mse_on_the_cosine_schedule().values():
        assert abs(value) < 1e-11


# --- the bound ----------------------------------------------------------------


@in_float64
def measure_kl_terms_are_weighted_eps_errors():
    """DDPM's 1000 steps: the KL of each, against its eps error times Ho's weight."""
    beta = np.linspace(1e-4, 0.02, 1000)
    abar = np.cumprod(1 - beta)
    posterior = beta[1:] * (1 - abar[:-1]) / (1 - abar[1:])
    schedule = Nodes(jnp.asarray(np.log(abar / (1 - abar))))
    net = lambda z, t: 0.7 * z
    index = np.arange(1, 1000)
    x, eps = np.full((999, 1), 0.7), np.full((999, 1), -1.1)
    terms = dict(kind="eps", schedule=schedule)
    error = losses.ddpm_loss(net, x, index, eps, schedule=schedule)
    found, weight = {}, {}
    for variance, of_p in (("posterior", posterior), ("forward", beta[1:])):
        kl = losses.kl_terms(net, x, index, index - 1, eps, variance=variance, **terms)
        ratio = posterior / of_p
        constant = (ratio - 1 - np.log(ratio)) / 2
        weight[variance] = beta[1:] ** 2 / (2 * of_p * (1 - beta[1:]) * (1 - abar[1:]))
        gap = (kl - constant) / (weight[variance] * error) - 1
        found[f"max |KL / (weight eps error) - 1|, {variance}"] = np.abs(gap).max()
    kl = weight["posterior"]
    found["largest weight over smallest"] = kl.max() / kl.min()
    for step in (2, 100, 500, 1000):
        found[f"weight of t = {step}"] = kl[step - 2]
    return found


@register
class Nodes:
    """A variance preserving table of log-SNR; the time is its index."""

    table: jax.Array

    def alpha(self, t):
        return jnp.sqrt(jax.nn.sigmoid(self.logsnr(t)))

    def sigma(self, t):
        return jnp.sqrt(jax.nn.sigmoid(-self.logsnr(t)))

    def logsnr(self, t):
        return jnp.asarray(self.table)[jnp.asarray(t, int)]


def test_kl_terms_are_weighted_eps_errors():
    found = measure_kl_terms_are_weighted_eps_errors()
    for variance in ("posterior", "forward"):
        assert found[f"max |KL / (weight eps error) - 1|, {variance}"] < 1e-9
    # The sheet's witness that the weights are far from constant.
    assert found["largest weight over smallest"] == pytest.approx(120, rel=0.01)
    for step, value in ((2, 0.600), (100, 0.0103), (500, 0.0055), (1000, 0.0102)):
        assert found[f"weight of t = {step}"] == pytest.approx(value, rel=0.01)
