"""The equivalences that the library is built on, each measured.

`measure_*` returns named numbers, computed in float64 against closed forms and
quadrature; the test of the same name says how small they must be.
`python -m tests.core.test_equivalences` prints all of them;
`docs/equivalences.md` is the table.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    losses,
    objectives,
    predictions,
    samplers,
    schedules,
    times,
    weightings,
)
from diffusionflow._dataclass import register
from tests.helpers.quadrature import (
    MIXTURE,
    NARROW,
    Expectation,
    in_float64,
    legendre,
    oracle,
)

FLOW, COSINE, VP = (
    schedules.FlowMatching(),
    schedules.Cosine(),
    schedules.LinearBeta(),
)


# --- samplers -----------------------------------------------------------------


@in_float64
def measure_ddim_is_flow_matching_euler():
    """DDIM with any output on a mixture, against Euler's method on dz/dt = u."""
    grid = np.linspace(1, 0, 11)
    z = np.linspace(-2, 2, 9)[:, None]
    exact = oracle(MIXTURE, FLOW)
    euler = z
    for t, s in itertools.pairwise(grid):
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


@pytest.mark.ci
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
        loss[name] = error / jnp.abs(schedule.dlogsnr_dt(t))
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
    t, s = np.arange(1, 1000) / 1000, np.arange(999) / 1000
    x, eps = np.full((999, 1), 0.7), np.full((999, 1), -1.1)
    terms = dict(kind="eps", schedule=schedule)
    error = losses.ddpm_loss(net, x, t, eps, schedule=schedule)
    found, weight = {}, {}
    for variance, of_p in (("posterior", posterior), ("forward", beta[1:])):
        kl = losses.kl_terms(net, x, t, s, eps, variance=variance, **terms)
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
class Nodes(schedules.Schedule):
    """A variance preserving table of log-SNR; the time is its index over 1000."""

    table: jax.Array

    def alpha(self, t):
        return jnp.sqrt(jax.nn.sigmoid(self.logsnr(t)))

    def sigma(self, t):
        return jnp.sqrt(jax.nn.sigmoid(-self.logsnr(t)))

    def logsnr(self, t):
        return jnp.asarray(self.table)[jnp.round(1000 * jnp.asarray(t)).astype(int)]


def test_kl_terms_are_weighted_eps_errors():
    found = measure_kl_terms_are_weighted_eps_errors()
    for variance in ("posterior", "forward"):
        assert found[f"max |KL / (weight eps error) - 1|, {variance}"] < 1e-9
    # The weights are far from constant.
    assert found["largest weight over smallest"] == pytest.approx(120, rel=0.01)
    for step, value in ((2, 0.600), (100, 0.0103), (500, 0.0055), (1000, 0.0102)):
        assert found[f"weight of t = {step}"] == pytest.approx(value, rel=0.01)


# --- score matching and the bound ---------------------------------------------


@in_float64
def measure_score_matching_and_the_bound():
    """The restricted model eps_hat = theta z on N(0, 1/4), linear beta, t > 0.001.

    The bound's diffusion term is an integral over the log-SNR, 1/2 E||.||^2, and
    knows no time; the losses are integrals over time.
    """
    low, theta = 1e-3, 0.7
    clock = legendre(np.log(low), 0.0, 60)  # in log t, for the steep end
    batch = Expectation(NARROW, clock, 4)
    t = np.exp(batch.clock)
    g2 = VP.g2(t)

    def over_time(loss, weight, theta):
        value = loss(theta, t, batch.x, batch.eps)
        return batch.mean(value * weight * t)  # dt = t dlog t

    def simple(theta, t, x, eps):
        net = lambda z, t: theta * z
        return losses.ddpm_loss(net, x, t, eps, schedule=VP)

    def score(theta, t, x, eps):
        net = lambda z, t: -theta * z / predictions.per_event(VP.sigma(t), z)
        return losses.dsm_loss(net, x, t, eps, schedule=VP)

    ends = VP.logsnr(1.0), VP.logsnr(low)
    levels = Expectation(NARROW, legendre(*map(float, ends), 60), 4)

    def bound(theta):
        t = VP.inverse_logsnr(levels.clock)
        return levels.mean(simple(theta, t, levels.x, levels.eps)) / 2

    likelihood = lambda theta: over_time(score, g2 / 2, theta)
    unweighted = lambda theta: over_time(score, 1.0, theta)
    losses_of_theta = {
        "L_simple": lambda theta: over_time(simple, 1.0, theta),
        "the bound": bound,
        "unweighted score matching": unweighted,
    }
    found = {
        "gradient of DSM g^2/2 over that of the bound, - 1": (
            jax.grad(likelihood)(theta) / jax.grad(bound)(theta) - 1
        ),
        "gradient of unweighted DSM over that of the bound": (
            jax.grad(unweighted)(theta) / jax.grad(bound)(theta)
        ),
    }
    for name, loss in losses_of_theta.items():  # quadratic: one Newton step is exact
        slope, curve = jax.grad(loss)(0.0), jax.grad(jax.grad(loss))(0.0)
        found[f"theta that minimises {name}"] = -slope / curve
    return found


def test_score_matching_and_the_bound():
    found = measure_score_matching_and_the_bound()
    assert abs(found["gradient of DSM g^2/2 over that of the bound, - 1"]) < 1e-9
    # Of opposite sign: a step down the one is a step up the other.
    assert found["gradient of unweighted DSM over that of the bound"] < 0
    witness = {
        "L_simple": 1.0161,
        "the bound": 0.9259,
        "unweighted score matching": 0.3030,
    }
    for name, theta in witness.items():
        assert found[f"theta that minimises {name}"] == pytest.approx(theta, abs=6e-5)


# --- flow matching and conditional flow matching -------------------------------


@in_float64
def measure_cfm_is_fm_and_a_constant():
    """A restricted field theta_0 z + theta_1 on a mixture and on N(0, 1/4)."""
    found = {}
    for name, data, count in (("mixture", MIXTURE, 48), ("Gaussian", NARROW, 4)):
        batch = Expectation(data, legendre(0.05, 1.0, 24), count)
        field = oracle(data, FLOW)
        arguments = batch.x, batch.clock, batch.eps

        def value(loss, theta, batch=batch, arguments=arguments):
            net = lambda z, t: theta[0] * z + theta[1]
            return batch.mean(loss(net, *arguments))

        cfm = lambda theta, value=value: value(
            lambda net, *a: losses.cfm_loss(net, *a, schedule=FLOW), theta
        )
        fm = lambda theta, value=value, field=field: value(
            lambda net, *a: losses.fm_loss(net, field, *a, schedule=FLOW), theta
        )
        one, two = np.array([0.3, -0.2]), np.array([-1.1, 0.8])
        gap = cfm(one) - fm(one)
        found[f"C of the {name}"] = gap
        found[f"C at another theta, less C, {name}"] = cfm(two) - fm(two) - gap
        slope = np.asarray(jax.grad(cfm)(one)) - np.asarray(jax.grad(fm)(one))
        found[f"max |difference of gradients|, {name}"] = np.abs(slope).max()
    t, weights = legendre(0.05, 1.0, 24)
    variance = NARROW[2][0] / ((1 - t) ** 2 * NARROW[2][0] + t**2)  # of u given z
    found["C of the Gaussian in closed form"] = np.sum(weights * variance)
    return found


@pytest.mark.ci
def test_cfm_is_fm_and_a_constant():
    found = measure_cfm_is_fm_and_a_constant()
    closed = found["C of the Gaussian in closed form"]
    assert found["C of the Gaussian"] == pytest.approx(closed, rel=1e-12)
    assert found["C of the mixture"] > 0.5
    for name in ("mixture", "Gaussian"):
        assert abs(found[f"C at another theta, less C, {name}"]) < 1e-8
        assert found[f"max |difference of gradients|, {name}"] < 1e-8


# --- the training schedule ----------------------------------------------------

ENDS = (-8.0, 8.0)
TRAINING = {
    "linear log-SNR": schedules.LinearLogSNR(*ENDS),
    "cosine": schedules.Cosine(*ENDS),
    "twice the linear one": schedules.Scaled(
        schedules.LinearLogSNR(*ENDS), lambda t: 2 + 0 * t
    ),
}


def fixed_weight(schedule):
    """W = sigmoid(-logsnr) whatever the schedule; the network predicts eps."""
    return objectives.Objective(
        schedule, "eps", weightings.Sigmoid(0.0), times.Uniform()
    )


def unscaled_model(schedule):
    """Some function of z in unit scale and of the log-SNR, whatever the schedule."""
    net = lambda z, level: jnp.tanh(z) * predictions.per_event(0.3 + level, z)
    return predictions.precondition(net, schedule=schedule)


@in_float64
def measure_the_training_schedule():
    """Mean and standard deviation of the loss over t, x and eps, by quadrature."""
    found, mean, std = {}, {}, {}
    for name, schedule in TRAINING.items():
        batch = Expectation(NARROW, legendre(0.0, 1.0, 80), 40)
        loss = losses.objective_loss(
            None,
            unscaled_model(schedule),
            batch.x,
            objective=fixed_weight(schedule),
            t=batch.clock,
            eps=batch.eps,
        )
        mean[name] = batch.mean(loss)
        std[name] = jnp.sqrt(batch.mean(loss**2) - mean[name] ** 2)
        found[f"mean, {name}"] = mean[name]
        found[f"standard deviation, {name}"] = std[name]
    values = list(mean.values())
    found["largest relative difference of the means"] = (
        max(values) - min(values)
    ) / values[0]
    return found


@pytest.mark.ci
def test_the_training_schedule():
    found = measure_the_training_schedule()
    assert found["largest relative difference of the means"] < 1e-8
    linear, cosine, scaled = (
        found[f"standard deviation, {name}"]
        for name in ("linear log-SNR", "cosine", "twice the linear one")
    )
    assert scaled == pytest.approx(linear, rel=1e-9)  # a scale changes nothing at all
    assert abs(cosine / linear - 1) > 0.05


@pytest.mark.ci
def test_the_training_schedule_by_monte_carlo():
    """The means of 2^16 random losses differ by less than 4 standard errors."""
    count, mean, error = 2**16, {}, {}
    for seed, (name, schedule) in enumerate(list(TRAINING.items())[:2]):
        data_key, key = jax.random.split(jax.random.key(seed))
        x = 0.5 * jax.random.normal(data_key, (count, 1))
        loss = losses.objective_loss(
            key, unscaled_model(schedule), x, objective=fixed_weight(schedule)
        )
        mean[name], error[name] = loss.mean(), loss.std() / np.sqrt(count)
    one, two = mean.values()
    assert abs(one - two) < 4 * np.hypot(*error.values())
    exact = measure_the_training_schedule()
    for name in mean:
        assert abs(mean[name] - exact[f"mean, {name}"]) < 4 * error[name]


# --- min-SNR ------------------------------------------------------------------


@in_float64
def measure_min_snr_is_one_weighting():
    """Hang et al.'s three factors, each on the error of its own kind, against ours."""
    gamma, schedule = 5.0, COSINE
    logsnr = np.linspace(-9, 9, 37)
    t = schedule.inverse_logsnr(logsnr)
    snr = np.exp(logsnr)
    least = np.minimum(snr, gamma)
    factors = {"eps": least / snr, "x": least, "v": least / (snr + 1)}
    found, x, eps = {}, np.full((37, 1), 0.7), np.full((37, 1), -1.1)
    for kind, factor in factors.items():
        net = lambda z, t: jnp.sin(2 * z)
        objective = objectives.Objective(
            schedule, kind, weightings.MinSNR(gamma), times.Uniform()
        )
        loss = losses.objective_loss(None, net, x, objective=objective, t=t, eps=eps)
        plain = losses.kind_loss(net, x, t, eps, kind=kind, schedule=schedule)
        found[f"max |ratio - 1|, a network of {kind}"] = jnp.abs(
            loss / (factor * plain) - 1
        ).max()
        ratio = predictions.mse_ratio(kind, t, schedule=schedule)
        gap = factor * ratio / np.minimum(1, gamma / snr) - 1
        found[f"max |W / min(1, gamma / SNR) - 1|, {kind}"] = jnp.abs(gap).max()
    return found


def test_min_snr_is_one_weighting():
    for value in measure_min_snr_is_one_weighting().values():
        assert value < 1e-10


def measurements():
    return {
        name.removeprefix("measure_"): value
        for name, value in globals().items()
        if name.startswith("measure_")
    }


if __name__ == "__main__":
    for title, measure in measurements().items():
        print(f"test_{title}")
        for name, value in measure().items():
            print(f"    {name}: {value:.6g}")
