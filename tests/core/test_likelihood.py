"""Bounds, levels, bits and summaries against closed forms and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import expit

from diffusionflow import (
    analytic,
    grids,
    likelihood,
    predictions,
    random,
    schedules,
    times,
)
from tests.helpers import oracles
from tests.helpers.likelihood import At, Given

KEY = jax.random.key(0)
FIXED = {
    name: float(value)
    for name, value in oracles.VECTORS["gaussian"].items()
    if name != "LT"
}
VARIANCE = FIXED["v"]
VDM = schedules.LinearLogSNR(FIXED["lmin"], FIXED["lmax"])
GAUSSIAN = analytic.gaussian(np.zeros(1), VARIANCE)
# of a linear denoiser the error is quadratic in x and eps: two nodes each are exact
X = np.sqrt(VARIANCE) * np.array([1.0, 1.0, -1.0, -1.0])[:, None]
EPS = np.array([1.0, -1.0, 1.0, -1.0])[:, None]


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def over_time(denoise_fn, x, eps, schedule, num_nodes, t_min=0.0, t_max=1.0):
    """The diffusion term at given x and eps, by Gauss-Legendre quadrature in t."""
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    nodes = t_min + (t_max - t_min) * (nodes + 1) / 2
    settings = dict(schedule=schedule, noise=Given(eps), t_min=t_min, t_max=t_max)

    def rate(t):
        return likelihood.continuous_bound(
            KEY, denoise_fn, x, density=At(t), **settings
        ).diffusion

    rates = jax.jit(lambda nodes: jax.lax.map(rate, nodes))(nodes)
    return np.tensordot(weights / 2 * (t_max - t_min), rates, 1)


def grid_of_normals(spacing, reach=7.0):
    """Nodes and weights of the trapezoidal rule against N(0, 1)."""
    nodes = np.arange(-reach, reach + spacing / 2, spacing)
    weights = scipy.stats.norm.pdf(nodes)
    return nodes, weights / weights.sum()


def l_inf(schedule, t_min=0.0, t_max=1.0):
    """`1/2 [softplus(logsnr + log v)]` between two times."""
    high, low = (float(schedule.logsnr(t)) for t in (t_min, t_max))
    softplus = lambda level: np.logaddexp(0, level + np.log(VARIANCE))
    return (softplus(high) - softplus(low)) / 2


def steps_bound(count):
    data = analytic.gaussian(jnp.zeros(1), VARIANCE)  # in the precision at hand
    x, eps = jnp.asarray(X), jnp.asarray(EPS)
    run = lambda x: likelihood.discrete_bound(
        None,
        data.denoise_fn(schedule=VDM),
        x,
        times=grids.uniform(count),
        schedule=VDM,
        prior="unit",
        noise=Given(eps),
    )
    return jax.tree.map(np.mean, jax.jit(run)(x))


def test_every_term_of_t_steps_is_the_closed_form_and_the_gap_falls_as_one_over_t():
    gaps, counts = [], (100, 1000, 10000)
    for count in counts:
        bound = steps_bound(count)
        np.testing.assert_allclose(bound.recon, FIXED["recon"], rtol=1e-12)
        np.testing.assert_allclose(bound.prior, FIXED["prior_VP"], rtol=1e-11)
        gaps.append(bound.diffusion - FIXED["L_inf"])
        total = bound.recon + bound.diffusion + bound.prior
        np.testing.assert_allclose(bound.total, total, rtol=1e-12)
        assert bound.total > FIXED["entropy"]
    for gap, count in zip(gaps[:2], counts[:2], strict=True):
        exact = float(oracles.VECTORS["gaussian"]["LT"][str(count)])
        np.testing.assert_allclose(gap, exact - FIXED["L_inf"], rtol=1e-9)
    np.testing.assert_allclose(gaps, [0.5487574, 0.05202671, 0.005175399], 2e-7)
    slopes = -np.diff(np.log(gaps)) / np.log(10)
    assert np.all(np.abs(slopes - 1) < [0.03, 0.003]), slopes


def test_the_continuous_bound_on_a_gaussian_is_the_closed_form_with_its_gap():
    denoise_fn = GAUSSIAN.denoise_fn(schedule=VDM)
    diffusion = over_time(denoise_fn, X, EPS, VDM, 64).mean()
    np.testing.assert_allclose(diffusion, FIXED["L_inf"], rtol=1e-11)
    settings = dict(schedule=VDM, noise=Given(EPS), density=At(0.5), prior="unit")
    bound = likelihood.continuous_bound(KEY, denoise_fn, X, **settings)
    recon, prior = np.mean(bound.recon), np.mean(bound.prior)
    np.testing.assert_allclose(recon, FIXED["recon"], rtol=1e-12)
    total = recon + diffusion + prior
    np.testing.assert_allclose(total, 0.921819, atol=5e-7)
    gap = total - FIXED["entropy"]
    np.testing.assert_allclose(gap, 6.720e-6, atol=5e-10)


@pytest.mark.parametrize(
    ("schedule", "window"),
    [
        (schedules.FlowMatching(), (0.01, 0.99)),
        pytest.param(
            schedules.Cosine(logsnr_min=-8.0, logsnr_max=9.0),
            (0.0, 1.0),
            marks=pytest.mark.nightly,
        ),
    ],
    ids=["flow", "cosine"],
)
def test_the_diffusion_term_depends_on_the_ends_of_the_log_snr_alone(schedule, window):
    found = over_time(
        GAUSSIAN.denoise_fn(schedule=schedule), X, EPS, schedule, 200, *window
    )
    np.testing.assert_allclose(found.mean(), l_inf(schedule, *window), rtol=1e-9)


@pytest.mark.ci
def test_the_bound_on_a_mixture_and_its_gap_above_the_entropy():
    table = oracles.VECTORS["gmm"]
    share, mean, variance = (
        np.array(table[name], float) for name in ("pi", "mu", "var")
    )
    schedule = schedules.LinearLogSNR(-9.0, 14.0)
    data = analytic.Mixture(share, mean[:, None], variance[:, None])
    nodes, weights = grid_of_normals(0.25)
    fine, of_fine = grid_of_normals(0.06)  # narrow components among wide ones
    x = (mean[:, None] + np.sqrt(variance)[:, None] * fine).ravel()
    of_x = (share[:, None] * of_fine).ravel()
    pairs = [part.reshape(-1, 1) for part in np.meshgrid(x, nodes, indexing="ij")]
    diffusion = over_time(data.denoise_fn(schedule=schedule), *pairs, schedule, 96)
    diffusion = diffusion.reshape(x.size, nodes.size) @ weights
    ends = likelihood.continuous_bound(
        KEY,
        data.denoise_fn(schedule=schedule),
        x[:, None],
        schedule=schedule,
        density=At(0.5),
        prior="unit",
    )
    total = np.asarray(ends.recon) + diffusion + np.asarray(ends.prior)
    normal = scipy.stats.norm.pdf(x[:, None], mean, np.sqrt(variance))
    nll = -np.log(normal @ share)
    np.testing.assert_allclose(of_x @ total, 1.15814082, atol=2e-8)
    np.testing.assert_allclose(of_x @ nll, 1.15812472, atol=2e-8)
    np.testing.assert_allclose(of_x @ (total - nll), 1.610e-5, atol=1e-8)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("count", "exact"), [(16, 4), pytest.param(256, 8, marks=pytest.mark.nightly)]
)
def test_levels_that_are_equally_likely_take_their_bits(count, exact):
    levels, schedule = (
        likelihood.QuantizedLevels(count),
        schedules.LinearLogSNR(-15.0, 13.3),
    )
    centres = np.asarray(levels.values(np.arange(float(count))))
    data = analytic.Mixture(np.ones(count), centres[:, None], 0.0)
    nodes, weights = grid_of_normals(0.25, 6.5)
    pairs = np.meshgrid(
        centres[: count // 2], nodes, indexing="ij"
    )  # the rest by symmetry
    x, eps = (part.reshape(-1, 1) for part in pairs)
    diffusion = over_time(data.denoise_fn(schedule=schedule), x, eps, schedule, 80)
    ends = likelihood.continuous_bound(
        KEY,
        data.denoise_fn(schedule=schedule),
        x,
        schedule=schedule,
        levels=levels,
        noise=Given(eps),
        density=At(0.5),
    )
    total = np.asarray(ends.recon) + diffusion + np.asarray(ends.prior)
    nats = (total.reshape(count // 2, -1) @ weights).mean()
    bits = likelihood.bits_per_dim(nats, dim=1, cell="discrete")
    np.testing.assert_allclose(bits, exact, atol=1e-4)


@pytest.mark.parametrize(
    ("logsnr", "interior", "edge"),
    [(13.3, 7.2456e-3, 3.6228e-3), (10.0, 1.2710, 0.6927), (8.0, 2.2710, 1.4474)],
)
def test_reconstruction_of_bytes(logsnr, interior, edge):
    levels = likelihood.QuantizedLevels(256)
    nodes, weights = grid_of_normals(0.05, 9.0)
    for number, exact in ((0, edge), (128, interior), (255, edge)):
        x = np.full((nodes.size, 1), levels.values(float(number)))
        found = weights @ np.asarray(levels.nats(x, nodes[:, None], logsnr))
        np.testing.assert_allclose(found, exact, rtol=8e-5)


@pytest.mark.ci
@pytest.mark.parametrize(
    "density",
    [
        times.UniformLogSNR(-5.0, 13.3),
        pytest.param(None, marks=pytest.mark.nightly),
    ],
    ids=["logsnr", "uniform"],
)
def test_random_times_are_unbiased_and_their_errors_are_what_is_said(density):
    x = np.tile(X[::2], (1000, 1))
    run = lambda key, x: likelihood.continuous_bound(
        key,
        GAUSSIAN.denoise_fn(schedule=VDM),
        x,
        schedule=VDM,
        density=density,
        num_times=4,
        num_draws=8,
    )
    bound = jax.jit(run)(KEY, x)
    _check_estimates(bound.diffusion, bound.stderr, FIXED["L_inf"], 8)


def test_random_steps_are_unbiased_and_their_errors_are_what_is_said():
    x = np.tile(X[::2], (1000, 1))
    run = lambda key, x: likelihood.discrete_bound(
        key,
        GAUSSIAN.denoise_fn(schedule=VDM),
        x,
        times=grids.uniform(100),
        schedule=VDM,
        num_times=4,
        num_draws=8,
    )
    bound = jax.jit(run)(KEY, x)
    exact = float(oracles.VECTORS["gaussian"]["LT"]["100"])
    _check_estimates(bound.diffusion, bound.stderr, exact, 8)


def _check_estimates(values, stderr, exact, draws):
    mean, error, count = likelihood.summarise(values)
    assert count == len(values) and abs(mean - exact) < 4 * error
    within = scipy.stats.t.ppf(0.975, draws - 1) * stderr
    covered = np.mean(np.abs(values - exact) < within)
    assert 0.91 < covered < 0.98, covered


def test_standard_prior_and_vdm_prior():
    schedule = schedules.VE(0.01, 50.0)
    settings = dict(schedule=schedule, noise=Given(EPS), density=At(0.5))
    found = [
        likelihood.continuous_bound(
            KEY, GAUSSIAN.denoise_fn(schedule=schedule), X, prior=prior, **settings
        ).prior
        for prior in ("standard", "unit")
    ]
    default = likelihood.continuous_bound(
        KEY, GAUSSIAN.denoise_fn(schedule=schedule), X, **settings
    )
    np.testing.assert_array_equal(default.prior, found[0])
    np.testing.assert_allclose(found[0], VARIANCE / 2 / 2500, rtol=1e-6)
    unit = (VARIANCE + 2500 - 1 - np.log(2500)) / 2
    np.testing.assert_allclose(found[1], unit, rtol=1e-6)


@pytest.mark.ci
def test_gradients_of_the_bounds_are_those_of_differences():
    def total(theta):
        denoise_fn = predictions.denoiser(
            lambda z, t: theta * z, kind="eps", schedule=VDM
        )
        settings = dict(schedule=VDM, num_times=2)
        grid = grids.uniform(5)
        bounds = (
            likelihood.discrete_bound(KEY, denoise_fn, X, times=grid, **settings),
            likelihood.continuous_bound(KEY, denoise_fn, X, **settings),
        )
        return sum(jnp.sum(bound.total) for bound in bounds)

    both = jax.jit(jax.value_and_grad(total))
    _, slope = both(0.7)
    difference = (both(0.7 + 1e-5)[0] - both(0.7 - 1e-5)[0]) / 2e-5
    np.testing.assert_allclose(slope, difference, rtol=1e-7)


@pytest.mark.ci
def test_a_key_for_each_example_makes_it_the_same_in_every_batch():
    keys = random.example_keys(3, np.arange(4))
    run = jax.jit(
        lambda keys, x: likelihood.continuous_bound(
            keys,
            GAUSSIAN.denoise_fn(schedule=VDM),
            x,
            schedule=VDM,
            num_times=3,
            levels=likelihood.QuantizedLevels.between(
                2, -(VARIANCE**0.5), VARIANCE**0.5
            ),
        )
    )
    whole, part = run(keys, X), run(keys[2:3], X[2:3])
    for name in ("recon", "diffusion", "total"):
        np.testing.assert_array_equal(getattr(whole, name)[2:3], getattr(part, name))


def test_bounds_refuse():
    flow = schedules.FlowMatching()
    denoise_fn, settings = GAUSSIAN.denoise_fn(schedule=flow), dict(schedule=flow)
    with pytest.raises(ValueError, match=r"t_min=0.0.*inf.*finite ends.*t_min, t_max"):
        likelihood.continuous_bound(KEY, denoise_fn, X, **settings)
    with pytest.raises(ValueError, match=r"t_max=1.0.*-inf"):
        likelihood.continuous_bound(KEY, denoise_fn, X, t_min=0.1, **settings)
    with pytest.raises(ValueError, match=r"times\[-1\]=0.0.*a grid that ends above 0"):
        likelihood.discrete_bound(
            KEY, denoise_fn, X, times=grids.uniform(4), **settings
        )
    eps_fn = predictions.denoiser(lambda z, t: z, kind="eps", schedule=flow)
    with pytest.raises(ValueError, match="does not determine both x and eps"):
        likelihood.discrete_bound(
            KEY, eps_fn, X, times=grids.uniform(4, t_min=0.1), **settings
        )
    close = [1 - 1e-9, 0.5, 0.1]  # a list is a grid too
    with jax.enable_x64(False), pytest.raises(ValueError, match="rounded to float32"):
        likelihood.discrete_bound(KEY, eps_fn, X, times=close, **settings)
    with pytest.raises(ValueError, match="reschedule"):
        likelihood.continuous_bound(KEY, denoise_fn, X, schedule=VDM)
    denoise_fn, settings = GAUSSIAN.denoise_fn(schedule=VDM), dict(schedule=VDM)
    with pytest.raises(ValueError, match="unknown prior"):
        likelihood.continuous_bound(KEY, denoise_fn, X, prior="normal", **settings)
    with pytest.raises(ValueError, match="num_draws=0"):
        likelihood.continuous_bound(KEY, denoise_fn, X, num_draws=0, **settings)
    with pytest.raises(ValueError, match="key=None"):
        likelihood.continuous_bound(None, denoise_fn, X, **settings)
    few = random.Recorded(np.zeros((3, 1, *X.shape)))
    with pytest.raises(ValueError, match="noise for 3 steps: must be 8"):
        likelihood.discrete_bound(  # a draw for each of 4 steps, twice
            None,
            denoise_fn,
            X,
            times=grids.uniform(4),
            num_draws=2,
            noise=few,
            **settings,
        )
    narrow, levels = times.UniformLogSNR(-4.0, 13.3), likelihood.QuantizedLevels(256)
    with pytest.raises(ValueError, match="never draws"):
        likelihood.continuous_bound(KEY, denoise_fn, X, density=narrow, **settings)
    with pytest.raises(ValueError, match="must be one of the 256 values"):
        likelihood.continuous_bound(KEY, denoise_fn, X, levels=levels, **settings)


def test_a_flow_that_ends_at_pure_noise_has_a_bound_of_t_steps():
    """alpha = 0 at the first time: the KL of the first step is finite, and exact."""
    schedule, grid = schedules.FlowMatching(), grids.uniform(4, t_min=0.1)
    run = lambda x: likelihood.discrete_bound(
        None,
        GAUSSIAN.denoise_fn(schedule=schedule),
        x,
        times=grid,
        schedule=schedule,
        noise=Given(EPS),
    )
    bound = jax.tree.map(np.mean, jax.jit(run)(X))
    snr = ((1 - grid) / grid) ** 2
    error = VARIANCE * expit(-np.log(np.maximum(snr[:-1], 1e-300)) - np.log(VARIANCE))
    np.testing.assert_allclose(bound.diffusion, np.diff(snr) @ error / 2, rtol=1e-10)
    np.testing.assert_allclose(bound.prior, 0, atol=1e-12)


def test_levels():
    levels = likelihood.QuantizedLevels.between(17, -1.0, 1.0)
    numbers = np.arange(17)
    values = np.asarray(levels.values(numbers))
    np.testing.assert_allclose(values, 2 * numbers / 16 - 1, atol=1e-6)
    np.testing.assert_array_equal(levels.numbers(values), numbers)
    x = np.tile(values, (500, 1))
    noisy = np.asarray(jax.jit(levels.dequantise)(KEY, x))
    shares = (noisy - x) / (2 / 16) + 0.5
    assert scipy.stats.kstest(shares.ravel(), "uniform").pvalue > 1e-3
    for bad in (1.125, -1.125, 0.3):
        with pytest.raises(ValueError, match=r"one of the 17 values.*Levels\.between"):
            levels.numbers(np.array([0.0, bad]))
    traced = jax.jit(lambda x: levels.nats(x, jnp.zeros_like(x), 5.0))
    assert np.isnan(traced(np.array([[0.3], [0.0]]))).tolist() == [True, False]
    for arguments in ((1,), (4, 1.0, 1.0), (4, -np.inf, 1.0)):
        with pytest.raises(ValueError, match="count=1|low="):
            likelihood.QuantizedLevels(*arguments)
    with pytest.raises(ValueError, match="count=1"):
        likelihood.QuantizedLevels.between(1, -1.0, 1.0)


def test_bits_need_to_know_what_the_floats_are():
    nats = 3 * np.log(2)  # the uniform density on [-1, 1]^3
    for cell in (likelihood.QuantizedLevels(256), 1 / 128):
        assert likelihood.bits_per_dim(nats, dim=3, cell=cell) == pytest.approx(8.0)
    assert likelihood.bits_per_dim(nats, dim=3, cell="discrete") == pytest.approx(1.0)
    # standardised bytes: the density of (raw - 100) / 50 loses log 50 a coordinate
    raw = scipy.stats.norm.logpdf(7.0, 100, 50) / -np.log(2)
    scaled = -scipy.stats.norm.logpdf((7.0 - 100) / 50)
    found = likelihood.bits_per_dim(scaled, dim=1, cell=1 / 50)
    np.testing.assert_allclose(found, raw, rtol=1e-12)
    for cell in (None, "bytes", 0.0):
        with pytest.raises(ValueError, match="cell="):
            likelihood.bits_per_dim(nats, dim=3, cell=cell)
    with pytest.raises(ValueError, match="dim=0"):
        likelihood.bits_per_dim(nats, dim=0, cell="discrete")


def test_summaries_leave_padding_out():
    values = np.random.default_rng(0).normal(size=7)
    padded = np.append(values, [np.nan, np.inf])
    found = likelihood.summarise(padded, np.arange(9) < 7)
    np.testing.assert_allclose(found.mean, values.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.stderr, scipy.stats.sem(values), rtol=1e-12)
    assert found.count == 7 and np.isnan(likelihood.summarise(values[:1]).stderr)
    slope = jax.grad(lambda v: likelihood.summarise(v, np.arange(9) < 7).mean)(padded)
    np.testing.assert_allclose(slope, (np.arange(9) < 7) / 7, rtol=1e-12)
    with pytest.raises(AssertionError):
        likelihood.summarise(values, np.ones(3, bool))


def test_float32_is_close_to_the_closed_forms():
    """Its tables are those of float64; its sums are not."""
    with jax.enable_x64(False):
        found = steps_bound(100)
    exact = float(oracles.VECTORS["gaussian"]["LT"]["100"])
    assert found.total.dtype == np.float32
    np.testing.assert_allclose(found.diffusion, exact, rtol=1e-5)
    np.testing.assert_allclose(found.recon, FIXED["recon"], rtol=1e-6)
    np.testing.assert_allclose(found.prior, FIXED["prior_VP"], rtol=1e-5)
