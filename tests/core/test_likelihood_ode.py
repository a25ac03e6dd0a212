"""Densities by the probability-flow ODE against closed forms, and their probes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from diffusionflow import (
    analytic,
    likelihood,
    predictions,
    random,
    schedules,
)
from diffusionflow.likelihood import Adaptive, Exact, Fixed, Hutchinson
from tests.helpers import oracles

KEY = jax.random.key(0)
VARIANCE = 0.25
DATA = analytic.gaussian(np.zeros(2), VARIANCE)
X = np.array([[0.3, -0.2], [1.0, 0.1], [-0.4, 0.7]])
MIXTURE = analytic.Mixture(
    [0.3, 0.7], np.linspace(-1, 1, 16).reshape(2, 2, 2, 2), np.full((1, 1, 1, 1), 0.2)
)
SCHEDULES = {
    "flow": schedules.FlowMatching(),
    "linear_beta": schedules.LinearBeta(),
    "edm": schedules.EDM(0.01, 20.0),
}


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def levels(schedule, t):
    return float(schedule.alpha(t)), float(schedule.sigma(t))


def exact_flow(schedule, x):
    """Latent, log density of it under N(0, sigma_1^2 I), and log det, on Gaussians."""
    (alpha, sigma), (alpha_1, sigma_1) = (levels(schedule, t) for t in (0.0, 1.0))
    growth = alpha_1**2 * VARIANCE + sigma_1**2
    growth /= alpha**2 * VARIANCE + sigma**2
    z = x * np.sqrt(growth)
    log_prior = scipy.stats.norm.logpdf(z, scale=sigma_1).sum(1)
    return z, log_prior, x.shape[1] / 2 * np.log(growth)


@pytest.mark.ci
@pytest.mark.parametrize(
    "name", ["flow", "edm", pytest.param("linear_beta", marks=pytest.mark.nightly)]
)
def test_encode_is_the_closed_form_and_decode_inverts_it(name):
    """And log p along sampling is log p of the sample."""
    schedule = SCHEDULES[name]
    settings = dict(schedule=schedule, solver=Fixed(100))

    @jax.jit
    def both(x):
        denoise_fn = DATA.denoise_fn(schedule=schedule)
        there = likelihood.encode(None, denoise_fn, x, **settings)
        return there, likelihood.decode(None, denoise_fn, there.z, **settings)

    there, back = both(X)
    z, log_prior, log_det = exact_flow(schedule, X)
    near = lambda found, exact: np.testing.assert_allclose(found, exact, atol=2e-8)
    near(there.z, z)
    near(there.log_prior, log_prior)
    near(there.log_det, np.full(3, log_det))
    near(there.log_p, log_prior + log_det)
    near(back.x, X)
    near(back.log_p, there.log_p)
    assert there.done.all() and not np.any(there.stderr) and there.nfe == 400
    assert there.prior == "standard"
    assert there.prior_alpha == levels(schedule, 1.0)[0]


@pytest.mark.ci
def test_what_the_prior_leaves_out_is_put_back_by_a_given_one():
    schedule = schedules.Cosine(logsnr_min=-3.0, logsnr_max=20.0)
    alpha, sigma = levels(schedule, 1.0)
    settings = dict(schedule=schedule, solver=Fixed(100))
    exact_prior = lambda z: DATA.log_density(z, alpha, sigma)

    @jax.jit
    def both(x):
        encode = lambda prior: likelihood.encode(
            None, DATA.denoise_fn(schedule=schedule), x, prior=prior, **settings
        )
        return encode(exact_prior), encode("unit"), encode("standard")

    given, unit, standard = both(X)
    std = np.hypot(levels(schedule, 0.0)[0] * VARIANCE**0.5, levels(schedule, 0.0)[1])
    exact = scipy.stats.norm.logpdf(X, scale=std).sum(1)
    np.testing.assert_allclose(given.log_p, exact, atol=1e-8)
    assert (given.prior, unit.prior, standard.prior) == ("given", "unit", "standard")
    assert np.abs(standard.log_p - exact).min() > 1e-3
    assert 0 < given.prior_alpha == pytest.approx(alpha)
    for flow, scale in ((unit, 1.0), (standard, sigma)):
        prior = scipy.stats.norm.logpdf(flow.z, scale=scale).sum(1)
        np.testing.assert_allclose(flow.log_prior, prior, rtol=1e-12)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("method", "order", "power"),
    [
        ("rk4", 4, 3.0),
        pytest.param("rk4", 4, 1.0, marks=pytest.mark.nightly),
        pytest.param("heun", 2, 1.0, marks=pytest.mark.nightly),
    ],
)
def test_fixed_steps_converge_with_their_order(method, order, power):
    schedule, counts, errors = schedules.FlowMatching(), (8, 16, 32), []
    exact = scipy.stats.norm.logpdf(X, scale=VARIANCE**0.5).sum(1)
    for count in counts:
        run = lambda x, solver: likelihood.encode(
            None,
            DATA.denoise_fn(schedule=schedule),
            x,
            schedule=schedule,
            solver=solver,
        )
        found = jax.jit(run)(X, Fixed(count, method, power))
        errors.append(np.abs(found.log_p - exact).max())
    assert oracles.order(errors, counts) >= order - 0.15


def test_steps_are_equal_in_a_root_of_the_angle():
    """From the data and towards them; Simpson's rule is exact for their widths."""
    schedule, solver = schedules.FlowMatching(), Fixed(4, power=3.0)
    u = np.arange(4) / 4
    for ends, expected in (((0.0, 1.0), u), ((1.0, 0.0), 1 - u)):
        level, widths = solver._plan(schedule, *ends)
        angle = np.arctan2(level.sin, level.cos)[:, 0]
        np.testing.assert_allclose(angle, np.pi / 2 * expected**3, atol=1e-15)
        total = (widths @ [1 / 6, 1 / 3, 1 / 3, 1 / 6]).sum()
        np.testing.assert_allclose(total, np.pi / 2 * (ends[1] - ends[0]), rtol=1e-14)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_levels_are_the_same_on_the_host_and_traced(name):
    """And finite at both ends, which rounding may not move beyond."""
    plan = lambda schedule: Fixed(400, power=3.0)._plan(schedule, 0.0, 1.0)
    host, traced = plan(SCHEDULES[name]), jax.jit(plan)(SCHEDULES[name])
    for exact, found in zip(*map(jax.tree.leaves, (host, traced)), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-15)


@pytest.mark.ci
def test_adaptive_steps_on_batches_of_one():
    schedule, seen = schedules.FlowMatching(), []

    def denoise_fn(z, t):
        seen.append((z.shape, jnp.shape(t)))
        return DATA.denoise_fn(schedule=schedule)(z, t)

    solver = Adaptive(1e-9, 1e-9)
    run = lambda x: likelihood.encode(
        None, denoise_fn, x, schedule=schedule, solver=solver
    )
    found = jax.jit(run)(X)
    exact = scipy.stats.norm.logpdf(X, scale=VARIANCE**0.5).sum(1)
    np.testing.assert_allclose(found.log_p, exact, atol=1e-7)
    np.testing.assert_allclose(found.z, X / VARIANCE**0.5, atol=1e-7)
    assert found.done.all() and found.nfe.shape == (3,)
    assert {shape for shape, _ in seen} == {(1, 2)}
    assert {shape for _, shape in seen} == {()}


@pytest.mark.slow
def test_adaptive_steps_that_do_not_arrive_are_said_so():
    schedule = schedules.FlowMatching()
    predict_fn = lambda z, t: 1e7 * jnp.sin(1e4 * z) * (z.sum() > 1.5)
    denoise_fn = predictions.denoiser(predict_fn, kind="u", schedule=schedule)
    z = np.array([[0.1, 0.2], [1.0, 1.0]])
    run = lambda z: likelihood.decode(
        None, denoise_fn, z, schedule=schedule, solver=Adaptive(max_steps=50)
    )
    found = jax.jit(run)(z)
    np.testing.assert_array_equal(found.done, [True, False])
    np.testing.assert_allclose(found.x[0], z[0], atol=1e-7)
    assert np.isnan(found.log_p[1]) and np.isinf(found.x[1]).all()
    assert np.isfinite(found.log_p[0])


def test_an_example_that_is_not_finite_spoils_no_other():
    schedule = schedules.FlowMatching()
    x = np.array([[0.3, -0.2], [np.inf, 0.1]])
    run = lambda x: likelihood.encode(
        None, DATA.denoise_fn(schedule=schedule), x, schedule=schedule, solver=Fixed(2)
    )
    found = jax.jit(run)(x)
    np.testing.assert_array_equal(found.done, [True, False])
    np.testing.assert_array_equal(np.isnan(found.log_p), [False, True])


@pytest.mark.ci
def test_events_of_any_shape_and_batches_of_any_rank():
    """The same numbers from images, from vectors, one by one and in two batch axes."""
    schedule, solver = schedules.FlowMatching(), Fixed(2, "heun")
    x = np.random.default_rng(0).normal(size=(2, 2, 2, 2, 2))
    data = MIXTURE
    flat = analytic.Mixture(
        data.weights, data.means.reshape(2, 8), data.variances.reshape(1, 1)
    )

    def encode(data, x, **settings):
        run = lambda x: likelihood.encode(
            None,
            data.denoise_fn(schedule=schedule),
            x,
            schedule=schedule,
            solver=solver,
            **settings,
        )
        return jax.jit(run)(x).log_p

    whole = encode(data, x, batch_ndim=2)
    assert whole.shape == (2, 2)
    vectors = encode(flat, x.reshape(4, 8), trace=Exact(at_once=3))
    np.testing.assert_allclose(whole.ravel(), vectors, rtol=1e-12)
    one = encode(data, x[1, 0], batch_ndim=0)
    np.testing.assert_allclose(one, whole[1, 0], rtol=1e-12)


MATRIX = np.array([[0.3, 0.5, -0.2], [-0.1, 0.2, 0.4], [0.6, 0.0, -0.3]])
SYMMETRIC = (MATRIX + MATRIX.T) / 2
# variance of one probe of the divergence; the angle of the cosine schedule is pi / 2
PROBE_VARIANCE = {
    "normal": 2 * np.sum(SYMMETRIC**2),
    "rademacher": 2 * (np.sum(SYMMETRIC**2) - np.sum(np.diag(SYMMETRIC) ** 2)),
}


def linear(x, key, trace):
    """The flow `dy / dangle = MATRIX y`, whose log det is known."""
    schedule = schedules.Cosine()
    denoise_fn = predictions.denoiser(
        lambda z, t: z @ MATRIX.T, kind="v", schedule=schedule
    )
    return likelihood.encode(
        key,
        denoise_fn,
        x,
        schedule=schedule,
        trace=trace,
        solver=Fixed(8),
    )


def test_the_exact_trace_of_a_linear_flow():
    x = np.random.default_rng(0).normal(size=(5, 3))
    found = jax.jit(linear, static_argnums=1)(x, None, Exact())
    z = x @ scipy.linalg.expm(np.pi / 2 * MATRIX).T
    np.testing.assert_allclose(found.z, z, rtol=1e-4)
    exact = np.pi / 2 * np.trace(MATRIX)
    np.testing.assert_allclose(found.log_det, np.full(5, exact), rtol=1e-12)


@pytest.mark.ci
@pytest.mark.parametrize(
    "law", ["rademacher", pytest.param("normal", marks=pytest.mark.nightly)]
)
def test_hutchinson_is_unbiased_with_the_variance_of_the_formula(law):
    """Its error falls as 1 / sqrt(K), and the intervals cover the truth."""
    run = jax.jit(linear)
    x, exact = np.zeros((4000, 3)), np.pi / 2 * np.trace(MATRIX)
    for count in (1, 16):
        found = run(x, KEY, Hutchinson(count, law))
        variance = (np.pi / 2) ** 2 * PROBE_VARIANCE[law] / count
        error = found.log_det - exact
        assert abs(error.mean()) < 4 * np.sqrt(variance / len(x))
        np.testing.assert_allclose(np.mean(error**2), variance, rtol=0.15)
        assert np.isnan(found.stderr).all() == (count == 1)
    within = scipy.stats.t.ppf(0.975, 15) * found.stderr
    assert 0.92 < np.mean(np.abs(error) < within) < 0.98


@pytest.mark.ci
def test_probes_of_a_key_for_each_example_do_not_depend_on_the_batch():
    keys, x = random.example_keys(1, np.arange(4)), np.ones((4, 3))
    run, trace = jax.jit(linear), Hutchinson(3, "normal")
    whole, part = run(x, keys, trace), run(x[2:3], keys[2:3], trace)
    np.testing.assert_allclose(whole.log_p[2:3], part.log_p, rtol=1e-12)
    assert len(np.unique(whole.log_p)) == 4


@pytest.mark.ci
def test_uniform_data_take_8_bits():
    """The density that is uniform on [-1, 1], with its exact denoiser."""
    schedule = schedules.FlowMatching()

    def denoise_fn(z, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        at_data = sigma == 0
        rho = jnp.where(at_data, 1, sigma / jnp.where(alpha == 0, 1, alpha))
        mean = z / jnp.where(alpha == 0, 1, alpha)
        low, high = (-1 - mean) / rho, (1 - mean) / rho
        pdf = jax.scipy.stats.norm.pdf
        ndtr = jax.scipy.special.ndtr
        mass = ndtr(high) - ndtr(low)
        shift = rho * (pdf(low) - pdf(high)) / mass
        x = jnp.where(at_data, z, jnp.where(alpha == 0, 0, mean + shift))
        eps = jnp.where(at_data, 0, (z - alpha * x) / jnp.where(at_data, 1, sigma))
        return predictions.Denoised(x, eps)

    x = np.linspace(-0.8, 0.8, 9)[:, None]
    run = lambda x: likelihood.encode(
        None, denoise_fn, x, schedule=schedule, solver=Fixed(400)
    )
    found = jax.jit(run)(x)
    np.testing.assert_allclose(found.log_p, -np.log(2), atol=1e-5)
    bits = likelihood.bits_per_dim(
        -found.log_p, dim=1, cell=likelihood.QuantizedLevels(256)
    )
    np.testing.assert_allclose(bits, 8, atol=2e-5)


@pytest.mark.ci
def test_gradients_are_those_of_differences():
    """In what the network is made of and in the data."""
    check_gradients(Fixed(4))


@pytest.mark.slow
def test_gradients_through_adaptive_steps_are_those_of_differences():
    check_gradients(Adaptive(1e-8, 1e-8))


def check_gradients(solver):
    schedule = schedules.FlowMatching()

    def total(theta, x):
        predict_fn = lambda z, t: jnp.tanh(theta * z) + t
        denoise_fn = predictions.denoiser(predict_fn, kind="u", schedule=schedule)
        found = likelihood.encode(None, denoise_fn, x, schedule=schedule, solver=solver)
        return jnp.sum(found.log_p)

    both = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
    _, (of_theta, of_x) = both(0.7, X)
    step = 1e-4
    moved = np.zeros_like(X)
    moved[1, 0] = step
    difference = both(0.7 + step, X)[0] - both(0.7 - step, X)[0]
    np.testing.assert_allclose(of_theta, difference / (2 * step), rtol=1e-4)
    difference = both(0.7, X + moved)[0] - both(0.7, X - moved)[0]
    np.testing.assert_allclose(of_x[1, 0], difference / (2 * step), rtol=1e-4)


def test_it_refuses():
    flow = schedules.FlowMatching()
    settings = dict(schedule=flow)
    net = lambda kind: predictions.denoiser(lambda z, t: z, kind=kind, **settings)
    for kind in ("x", "eps"):
        with pytest.raises(ValueError, match="does not determine both x and eps"):
            likelihood.encode(None, net(kind), X, **settings)
    with pytest.raises(ValueError, match="unknown prior 'normal'"):
        likelihood.encode(None, net("u"), X, prior="normal", **settings)
    with pytest.raises(ValueError, match="0 <= t_min < t_max <= 1"):
        likelihood.encode(None, net("u"), X, t_min=1.0, t_max=0.0, **settings)
    with pytest.raises(ValueError, match="key=None: must be a random key"):
        likelihood.encode(None, net("u"), X, trace=Hutchinson(), **settings)
    for made, message in (
        (lambda: Hutchinson(0), "num_probes=0"),
        (lambda: Hutchinson(1, "uniform"), "unknown law"),
        (lambda: Exact(0), "at_once=0"),
        (lambda: Fixed(0), "num_steps=0"),
        (lambda: Fixed(4, "euler"), "unknown method"),
        (lambda: Fixed(4, power=0.5), "power=0.5"),
        (lambda: Adaptive(rtol=0.0), "rtol=0"),
    ):
        with pytest.raises(ValueError, match=message):
            made()


def test_a_network_that_is_singular_in_the_type_of_the_data_is_refused():
    """The last time is below 1 in float64 and 1 in float32."""
    schedule = schedules.FlowMatching()
    by_eps = predictions.denoiser(lambda z, t: z, kind="eps", schedule=schedule)
    encode = lambda x: likelihood.encode(
        None, by_eps, x, schedule=schedule, t_max=1 - 1e-9, solver=Fixed(2)
    )
    with pytest.raises(ValueError, match=r"rounded to float32: .* at t=1\.0"):
        encode(X.astype(np.float32))
    assert np.isfinite(encode(X).z).all()
