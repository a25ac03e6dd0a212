"""Errors by resampling, and what holds for every metric."""

import json

import jax
import numpy as np
import pytest
import scipy.stats

from diffusionflow import metrics
from tests.helpers import oracles

KEY = jax.random.key(4)
NAMES = dict(features="points", reference="a law")
RNG = np.random.RandomState(0)
X, Y = RNG.standard_normal((12, 2)), 0.5 + RNG.standard_normal((12, 2))

TWO_SETS = {
    "frechet": metrics.Frechet(),
    "extrapolated": metrics.ExtrapolatedFrechet(KEY, levels=(1, 2)),
    "kid": metrics.kid(),
    "energy": metrics.energy(),
    "biased": metrics.energy(unbiased=False),
    "sliced": metrics.SlicedWasserstein2(KEY, 8),
    "exact": metrics.Wasserstein2(),
    "rms": metrics.RMSError(),
}
ONE_SET = {
    "reference": metrics.Frechet(metrics.moments(Y)),
    "mean_error": metrics.MeanError(np.array([0.1, 0.2])),
    "covariance_error": metrics.CovarianceError(np.eye(2)),
}
LINE = {"kolmogorov": metrics.Kolmogorov(scipy.stats.norm.cdf), "mean": metrics.Mean()}
ALL = {
    **{name: (metric, (X, Y)) for name, metric in TWO_SETS.items()},
    **{name: (metric, (X,)) for name, metric in ONE_SET.items()},
    **{name: (metric, (X[:, 0],)) for name, metric in LINE.items()},
}
DEALT = "extrapolated"  # by place, so that order matters
FIRST_ORDER = {"frechet", "reference", "extrapolated"}  # in the counts of rows
WITHOUT_TIES = {"kid", "energy"}  # a row drawn twice is no pair


@pytest.mark.parametrize("name", ALL)
def test_counts_are_repeated_rows(name):
    metric, sets = ALL[name]
    draw = lambda x: np.random.RandomState(len(x)).multinomial(12, [1 / 12] * 12, 3)
    counts = tuple(draw(part) for part in sets)
    found = metric.values(metric.checked(sets), counts)
    assert found.shape == (3,)
    if name in FIRST_ORDER | WITHOUT_TIES:
        return
    for number, value in enumerate(found):
        repeated = [
            np.repeat(part, c[number], axis=0)
            for part, c in zip(sets, counts, strict=True)
        ]
        np.testing.assert_allclose(metric(*repeated), value, rtol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_order_and_shape_of_rows(name):
    metric, sets = ALL[name]
    value = metric(*sets)
    assert isinstance(value, float)
    event = [part.reshape(12, 1, -1).astype(np.float64) for part in sets]
    np.testing.assert_allclose(metric(*event), value, rtol=1e-12)
    if name != DEALT:
        turned = [part[::-1] for part in sets]
        np.testing.assert_allclose(metric(*turned), value, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", ALL)
def test_rows_that_are_not_finite_are_refused(name):
    metric, sets = ALL[name]
    bad = np.array(sets[0])
    bad[3] = np.nan
    with pytest.raises(ValueError, match="1 of 12 rows of set 0 are not finite"):
        metric(bad, *sets[1:])


@pytest.mark.parametrize("name", TWO_SETS)
def test_widths_must_agree(name):
    with pytest.raises(ValueError, match="have .2, 1. features"):
        TWO_SETS[name](X, Y[:, :1])


@pytest.mark.parametrize("name", ALL)
def test_an_estimate_is_deterministic_and_json(name):
    metric, sets = ALL[name]
    found = [
        metrics.measure(KEY, metric, *sets, num_resamples=40, **NAMES) for _ in range(2)
    ]
    assert found[0] == found[1]
    np.testing.assert_allclose(found[0].value, metric(*sets), rtol=1e-12)
    assert found[0].low < found[0].high and found[0].standard_error > 0
    read = metrics.Estimate(**json.loads(json.dumps(found[0]._asdict())))
    assert read == found[0]
    assert not metrics.same_recipe(read.recipe, found[1].recipe)


def test_the_standard_error_of_a_mean():
    """`s sqrt((n - 1) / n) / sqrt(n)` over all resamples; as SciPy's bootstrap."""
    x = np.random.RandomState(1).exponential(size=60)
    found = metrics.measure(KEY, metrics.Mean(), x, num_resamples=4000, **NAMES)
    np.testing.assert_allclose(found.standard_error, x.std() / np.sqrt(60), rtol=0.05)
    other = scipy.stats.bootstrap(
        (x,), np.mean, n_resamples=4000, method="percentile", rng=0, batch=500
    ).confidence_interval
    np.testing.assert_allclose([found.low, found.high], other, atol=0.03)
    np.testing.assert_allclose(found.value, x.mean())


def test_resamples_do_not_depend_on_their_number():
    few, many = (metrics.bootstrap._drawn(KEY, number, 50) for number in (5, 9))
    np.testing.assert_array_equal(few, many[:6])
    assert (few[0] == 1).all() and (few.sum(1) == 50).all()
    assert len({tuple(row) for row in many}) == 10
    other = metrics.bootstrap._drawn(jax.random.key(5), 5, 50)
    assert (other[1:] != few[1:]).any()


def test_pairs_cancel_in_a_difference():
    """b is a moved by little: their difference is known far better than each."""
    rng = np.random.RandomState(2)
    a, data = rng.standard_normal((2, 200, 2))
    b = a + 0.1
    metric = metrics.SquaredMMD(metrics.RBF(1.0))
    options = dict(num_resamples=200, **NAMES)
    alone = [metrics.measure(KEY, metric, part, data, **options) for part in (a, b)]
    found = metrics.difference(KEY, metric, a, b, data, **options)
    np.testing.assert_allclose(found.value, alone[0].value - alone[1].value)
    unpaired = np.hypot(*(part.standard_error for part in alone))
    assert found.standard_error < unpaired / 2
    assert metrics.difference(KEY, metric, a, a, data, **options).high == 0
    only = metrics.same_recipe(found.recipe, alone[0].recipe)
    assert only == {"kind": ("difference", "value")}


def test_a_difference_of_means_has_the_error_of_the_paired_one():
    rng = np.random.RandomState(3)
    a = rng.standard_normal(80)
    b = a + 0.2 + 0.05 * rng.standard_normal(80)
    found = metrics.difference(KEY, metrics.Mean(), a, b, num_resamples=2000, **NAMES)
    exact = (a - b).std() / np.sqrt(80)
    np.testing.assert_allclose(found.standard_error, exact, rtol=0.06)
    np.testing.assert_allclose(found.value, (a - b).mean())


def coverage(metric, draw_fn, truth, count, level=0.9):
    """How many of `count` intervals hold the truth."""
    held = 0
    for seed in range(count):
        rng = np.random.RandomState(seed)
        key = jax.random.key(seed)
        found = metrics.measure(
            key, metric, *draw_fn(rng), num_resamples=79, level=level, **NAMES
        )
        held += found.low <= truth <= found.high
    return held


def inside(held, count, level=0.9):
    """Whether it is what a binomial gives, or 3 points less: samples are finite."""
    low = scipy.stats.binom.ppf(1e-3, count, level - 0.03)
    return low <= held <= scipy.stats.binom.ppf(1 - 1e-3, count, level)


@pytest.mark.ci
def test_the_interval_covers_the_truth_of_a_mean():
    held = coverage(metrics.Mean(), lambda rng: (rng.standard_normal(60),), 0.0, 300)
    assert inside(held, 300)


@pytest.mark.ci
def test_the_interval_covers_the_truth_of_mmd():
    offset, h = np.array([0.8, 0.0]), 1.0
    draw = lambda rng: (
        rng.standard_normal((60, 2)),
        offset + rng.standard_normal((60, 2)),
    )
    metric = metrics.SquaredMMD(metrics.RBF(h))
    assert inside(
        coverage(metric, draw, oracles.exact_mmd(offset, 1.0, 1.0, h), 300), 300
    )


@pytest.mark.slow
def test_the_interval_covers_the_truth_of_extrapolated_frechet():
    draw = lambda rng: (
        rng.standard_normal((90, 2)),
        1 + rng.standard_normal((90, 2)),
    )
    metric = metrics.ExtrapolatedFrechet(KEY, levels=(1, 2))
    assert inside(coverage(metric, draw, 2.0, 80), 80)


def test_halves_are_disjoint():
    x = np.arange(21).reshape(21, 1)
    a, b = metrics.halves(KEY, x)
    assert a.shape == b.shape == (10, 1)
    assert len(set(a.ravel()) | set(b.ravel())) == 20


def test_wrong_settings_are_refused():
    run = lambda **options: metrics.measure(KEY, metrics.Mean(), X[:, 0], **options)
    with pytest.raises(ValueError, match="num_resamples=38: must be .* = 39 at"):
        run(num_resamples=38, **NAMES)
    with pytest.raises(ValueError, match="level=95"):
        run(level=95, **NAMES)
    with pytest.raises(ValueError, match="the same seed"):
        metrics.difference(KEY, metrics.Mean(), X[:, 0], X[:5, 0], **NAMES)
