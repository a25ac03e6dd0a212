"""Witnesses of the slips that `docs/errata.md` lists, where no other test is one.

The truth is a closed form each time, next to what the printed formula gives.
"""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    analytic,
    losses,
    predictions,
    processes,
    samplers,
    schedules,
)
from experiments.analysis import gaussian_trajectories, weights
from tests.helpers.parametrize import check_all

FLOW, COSINE = schedules.FlowMatching(), schedules.Cosine()
X, EPS = 0.7, -1.1  # an example
ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "errata.md").read_text()
ROWS = re.findall(r"^\| ([A-Z]\d+) \|(.+)\|$", TEXT, re.M)


def unit(mean, variance):
    return analytic.gaussian(np.full(1, mean), variance)


def legendre(low, high, count=200):
    nodes, mass = np.polynomial.legendre.leggauss(count)
    return low + (high - low) * (nodes + 1) / 2, mass * (high - low) / 2


def hermite(count=8):
    nodes, mass = np.polynomial.hermite_e.hermegauss(count)
    return nodes, mass / mass.sum()


# --- the table ----------------------------------------------------------------


def test_every_slip_has_a_row():
    expected = {"B": 15, "A": 6, "L": 6, "P": 8}
    names = [f"{kind}{i + 1}" for kind, count in expected.items() for i in range(count)]
    assert [name for name, _ in ROWS] == names


def cited(row):
    """The file and name of each test of a row; this file where none is named."""
    found = re.findall(r"`(test_\w+)`(?: in `tests/([\w/]+/test_\w+\.py)`)?", row)
    return [(file or "docs/test_errata.py", name) for name, file in found]


def test_the_tests_that_a_row_names_exist():
    check_all(names_tests, {name: (row,) for name, row in ROWS})


def names_tests(row):
    assert cited(row), "no test is named"
    for file, test in cited(row):
        assert re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text(), re.M)


def test_every_witness_of_this_file_is_named():
    own = re.findall(r"^def (test_\w+)", pathlib.Path(__file__).read_text(), re.M)
    named = {test for _, row in ROWS for _, test in cited(row)}
    assert set(own[own.index("test_the_loss_needs_minus_the_slope") :]) <= named


# --- the blog -----------------------------------------------------------------


def test_the_loss_needs_minus_the_slope():
    """w = 1, N(0, 1), log-SNR in [-10, 10]: E|eps_hat - eps|^2 = sigmoid(logsnr)."""
    schedule = schedules.LinearLogSNR(-10.0, 10.0)
    t, mass = legendre(0.0, 1.0)
    (eps, eps_mass), (x, x_mass) = hermite(), hermite()
    at, x, eps = (part.ravel() for part in np.meshgrid(t, x, eps, indexing="ij"))
    both = (mass[:, None, None] * x_mass[:, None] * eps_mass).ravel()
    with jax.enable_x64(True):
        exact = unit(0.0, 1.0).denoise_fn(schedule=schedule)
        net = lambda z, t: exact(z, t).eps
        loss = losses.ddpm_loss(net, x[:, None], at, eps[:, None], schedule=schedule)
        printed = np.sum(both * schedule.dlogsnr_dt(at) * loss)
    np.testing.assert_allclose(-printed, np.log1p(np.exp(10)) - np.log1p(np.exp(-10)))
    assert printed == pytest.approx(-10)


def test_the_scale_that_preserves_variance_has_a_root():
    square = lambda t: (1 - t) ** 2 + t**2
    for scale_fn, total in (
        (lambda t: 1 / jnp.sqrt(square(t)), 1.0),
        (lambda t: 1 / square(t), 2.0),
    ):
        schedule = schedules.Scaled(FLOW, scale_fn)
        found = schedule.alpha(0.5) ** 2 + schedule.sigma(0.5) ** 2
        assert float(found) == pytest.approx(total, rel=1e-6)


@pytest.mark.ci
def test_the_ground_truth_of_the_figures_is_ddim_in_255_steps():
    """Per unit of z_1 the exact flow ends at sqrt(v)."""
    for variance, end in ((0.25, 0.49710), (0.01, 0.09826)):
        found = gaussian_trajectories.particles_under_scaling(
            0.0, variance=variance, starts=[1.0]
        )
        assert len(found.fine.t) == 256 and len(found.ddim.t) == 6
        assert found.fine.z[-1, 0] == pytest.approx(end, abs=5e-6)
        exact = gaussian_trajectories.exact_path(variance, FLOW, [0.0])
        np.testing.assert_allclose(exact, np.sqrt(variance))


@pytest.mark.ci
def test_the_weights_of_ddim_are_nearly_equal_and_not_all():
    found = weights.churn_weights(np.array([0.0, 0.5]))
    assert (found.h < 0).all()
    assert -found.h[0, 0] == pytest.approx(0.015506, abs=5e-7)
    assert -found.h[0, -1] == pytest.approx(0.015696, abs=5e-7)
    np.testing.assert_allclose(found.initial, [0.98776, 0.00055], atol=5e-6)


def test_u_is_the_velocity_of_flow_matching_alone():
    t = np.float32(0.4)
    for schedule, expected in ((FLOW, -1.8), (COSINE, -2.0442)):
        slopes = schedule.derivatives(t)
        found = slopes[0] * X + slopes[1] * EPS
        assert float(found) == pytest.approx(expected, abs=5e-5)
    u = predictions.from_denoised(
        predictions.Denoised(jnp.full(1, X), jnp.full(1, EPS)),
        kind="u",
        t=t,
        schedule=COSINE,
    )
    assert float(u[0]) == pytest.approx(-1.8)


def closed_gap(step):
    """At log-SNR 0, V = 5/8: x_hat = sqrt(2) z / 5, eps_hat = 4 sqrt(2) z / 5."""
    alpha, sigma = (1 / np.sqrt(1 + np.exp(sign * step)) for sign in (-1, 1))
    ddim = np.sqrt(2) / 5 * (alpha + 4 * sigma)
    return sigma**2 / 4 + alpha**2 - (2 - ddim) ** 2 * 5 / 8


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_generative_sde_runs_backwards(eta):
    """With dt > 0 the variance would grow too fast by 2 eta^2 g^2."""
    variance, t = 0.25, 0.4
    with jax.enable_x64(True):
        g2 = float(COSINE.g2(t))
        slopes = COSINE.derivatives(t)
        alpha, sigma = COSINE.alpha(t), COSINE.sigma(t)
        total = alpha**2 * variance + sigma**2
        truth = 2 * (alpha * slopes[0] * variance + sigma * slopes[1])
        terms = processes.reverse(
            unit(0.0, variance).denoise_fn(schedule=COSINE),
            jnp.ones((1, 1)),
            t,
            schedule=COSINE,
            eta=eta,
        )
        rate = terms.drift[0, 0]  # the drift is linear in z
        forward = 2 * rate * total + terms.diffusion**2
        backward = 2 * rate * total - terms.diffusion**2
        np.testing.assert_allclose(forward - truth, 2 * eta**2 * g2, rtol=1e-12)
        np.testing.assert_allclose(backward, truth, rtol=1e-12)


def test_fixedlarge_is_not_ddim_and_renoising():
    """From log-SNR 1/2 to 1: the variance of the noise is 1.404 times as large."""
    times = np.asarray(COSINE.inverse_logsnr(np.array([0.5, 1.0])))
    noise = [
        samplers.plan(samplers.ddpm(variance), times, schedule=COSINE)["noise"]
        for variance in ("posterior", "forward")
    ]
    np.testing.assert_allclose((noise[1] / noise[0]) ** 2, 1.404, atol=5e-4)


def test_a_reversed_ddim_step_is_a_diffusion_step_to_first_order():
    """N(0, 1/4) at log-SNR 0, variance preserving: the gap falls with the square."""
    variance, gaps = 0.25, []
    with jax.enable_x64(True):
        exact = unit(0.0, variance).denoise_fn(schedule=COSINE)
        t = COSINE.inverse_logsnr(jnp.zeros(()))
        law = lambda t: COSINE.alpha(t) ** 2 * variance + COSINE.sigma(t) ** 2
        for step in (0.2, 0.1, 0.05):
            s, far = (COSINE.inverse_logsnr(jnp.asarray(by)) for by in (step, -step))
            row = samplers.plan(samplers.ddim(), np.array([t, s]), schedule=COSINE)
            unit_z = exact(jnp.ones((1, 1)), t)
            ddim = row["x"][0] * unit_z.x[0, 0] + row["eps"][0] * unit_z.eps[0, 0]
            gaps.append(float(law(far) - (2 - ddim) ** 2 * law(t)))
    np.testing.assert_allclose(gaps, [closed_gap(by) for by in (0.2, 0.1, 0.05)], 1e-9)
    np.testing.assert_allclose(gaps, [-2.21e-3, -5.43e-4, -1.34e-4], rtol=0.003)
    np.testing.assert_allclose(np.divide(gaps[:-1], gaps[1:]), 4, rtol=0.1)


# --- the article --------------------------------------------------------------


def example(t, schedule):
    """`(predict_fn of a constant, x, t, eps)` of one example."""
    net = lambda z, t: jnp.full_like(z, 0.3)
    return net, np.full((1, 1), X), np.full(1, t), np.full((1, 1), EPS)


def test_the_score_error_is_the_eps_error_over_the_variance():
    """L_MSE with eps_hat = -sigma s: sigma^2 |s - score|^2, not |s - score|^2."""
    t = 0.4
    with jax.enable_x64(True):
        net, *arguments = example(t, COSINE)
        score = lambda z, t: -net(z, t) / predictions.per_event(COSINE.sigma(t), z)
        eps_error = losses.ddpm_loss(net, *arguments, schedule=COSINE)
        score_error = losses.dsm_loss(score, *arguments, schedule=COSINE)
        factor = COSINE.sigma(t) ** 2
        np.testing.assert_allclose(factor * score_error, eps_error, rtol=1e-12)
    assert abs(float(eps_error[0] / score_error[0]) - 1) > 0.5


def test_the_conditional_velocity_depends_on_the_path():
    """In the article's clock, tau = 0.4 with the data at 1, and in ours."""
    printed = lambda z, clock: (X - z) / (1 - clock)
    tau = 0.4
    with jax.enable_x64(True):
        t = 1 - tau
        alpha, sigma = COSINE.alpha(t), COSINE.sigma(t)
        slopes = COSINE.derivatives(t)
        z = alpha * X + sigma * EPS
        own = -(slopes[0] * X + slopes[1] * EPS)
        closed = -slopes[0] * (X - alpha * z) / (1 - alpha**2)
    np.testing.assert_allclose(own, closed, rtol=1e-12)
    np.testing.assert_allclose([own, printed(z, tau)], [1.9052, 1.9641], atol=5e-5)
    z = (1 - tau) * X + tau * EPS  # flow matching, t = 0 at the data: u is eps - x
    np.testing.assert_allclose([printed(z, tau), (z - X) / tau], [1.2, EPS - X])


def test_the_posterior_mean_takes_the_noise_that_is_in_z():
    """`(z - beta eps / sigma_t) / sqrt(1 - beta)` is the mean given z and x."""
    schedule, times = schedules.LinearBeta(), np.array([0.5, 0.499])
    row = samplers.plan(samplers.ddpm(), times, schedule=schedule)
    with jax.enable_x64(True):
        (alpha, alpha_s), (sigma, _) = schedule.alpha(times), schedule.sigma(times)
        ratio = alpha / alpha_s
        z = alpha * X + sigma * EPS
        mean = row["x"][0] * X + row["eps"][0] * EPS
        printed = lambda eps: (z - (1 - ratio**2) / sigma * eps) / ratio
        np.testing.assert_allclose(printed((z - alpha * X) / sigma), mean, rtol=1e-9)
        assert abs(printed(0.8) - mean) > 1e-2  # another draw of noise


def test_flow_matching_has_another_optimum_than_the_bound():
    """eps_hat = theta z on N(0, 1/4), linear beta, t > 0.001.

    theta = int W sigma / int W V over the log-SNR; 0.9259 for the bound, W = 1.
    """
    schedule = schedules.LinearBeta()
    with jax.enable_x64(True):
        ends = (float(schedule.logsnr(t)) for t in (1.0, 1e-3))
        logsnr, mass = legendre(*ends)
        t = schedule.inverse_logsnr(logsnr)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        total = alpha**2 / 4 + sigma**2
        optimum = lambda w: float(np.sum(mass * w * sigma) / np.sum(mass * w * total))
        assert optimum(np.exp(-logsnr / 2)) == pytest.approx(1.0012, abs=5e-5)
        assert optimum(np.ones_like(logsnr)) == pytest.approx(0.9259, abs=5e-5)


# --- the lecture --------------------------------------------------------------


def test_the_two_flow_matching_losses_differ_by_half_pi():
    """N(0, 1), any network: the mean of v / V over t."""
    t, mass = legendre(0.0, 1.0, 40)
    (x, x_mass), (eps, eps_mass) = hermite(), hermite()
    at, x, eps = (part.ravel() for part in np.meshgrid(t, x, eps, indexing="ij"))
    both = (mass[:, None, None] * x_mass[:, None] * eps_mass).ravel()
    with jax.enable_x64(True):
        net = lambda z, t: 0.3 * z
        arguments = x[:, None], at, eps[:, None]
        exact = unit(0.0, 1.0).denoise_fn(schedule=FLOW)
        gap = losses.cfm_loss(net, *arguments, schedule=FLOW) - losses.fm_loss(
            net, exact, *arguments, schedule=FLOW
        )
    np.testing.assert_allclose(np.sum(both * np.asarray(gap)), np.pi / 2, rtol=1e-9)


def test_the_unweighted_score_loss_is_infinite():
    """Of the exact score, N(0, 1), t in [d, 1]: `1/d - 1 - pi/4 + atan(2 d - 1)`.

    Weighted by sigma^2 it is bounded: 1/2 on [0, 1].
    """
    found, cuts = [], np.array([0.1, 0.01, 0.001])
    for cut in cuts:
        log_t, mass = legendre(np.log(cut), 0.0, 60)
        (x, x_mass), (eps, eps_mass) = hermite(4), hermite(4)
        grid = np.meshgrid(np.exp(log_t), x, eps, indexing="ij")
        at, x, eps = (part.ravel() for part in grid)
        both = (mass[:, None, None] * x_mass[:, None] * eps_mass).ravel() * at
        with jax.enable_x64(True):
            score = lambda z, t: unit(0.0, 1.0).score(z, FLOW.alpha(t), FLOW.sigma(t))
            loss = losses.dsm_loss(score, x[:, None], at, eps[:, None], schedule=FLOW)
        loss = np.asarray(loss)
        found.append((np.sum(both * loss), np.sum(both * at**2 * loss)))
    plain, weighted = np.transpose(found)
    closed = 1 / cuts - 1 - np.pi / 4 + np.arctan(2 * cuts - 1)
    np.testing.assert_allclose(plain, closed, rtol=1e-7)
    np.testing.assert_allclose(plain, [7.5, 97, 997], atol=0.5)
    np.testing.assert_allclose(0.5 - weighted, cuts, rtol=0.02)
