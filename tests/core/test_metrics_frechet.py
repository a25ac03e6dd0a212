"""The Frechet distance: closed forms, other libraries, its bias and what removes it."""

import contextlib
import pathlib
from unittest import mock

import jax
import numpy as np
import ot
import pytest
import scipy.linalg
import scipy.stats

from diffusionflow import metrics
from diffusionflow.metrics import (
    ExtrapolatedFrechet,
    FeatureMoments,
    Frechet,
    frechet,
)

RNG = np.random.RandomState(0)
DOCUMENT = (pathlib.Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


def random_moments(d, rng):
    root = rng.standard_normal((d, d))
    return FeatureMoments(rng.standard_normal(d), root @ root.T / d)


def naive(a, b):
    """The formula, with SciPy's Schur method for the root of the product."""
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    trace = np.trace(a.covariance + b.covariance - 2 * root.real)
    return np.sum((a.mean - b.mean) ** 2) + trace


@pytest.mark.parametrize("d", [1, 2, 7, 40])
def test_against_scipy_and_pot(d):
    a, b = (random_moments(d, np.random.RandomState(seed)) for seed in (1, 2))
    found = metrics.frechet_distance(a, b)
    np.testing.assert_allclose(found, naive(a, b), rtol=1e-9)
    other = ot.gaussian.bures_wasserstein_distance(
        a.mean, b.mean, a.covariance, b.covariance
    )
    np.testing.assert_allclose(found, other**2, rtol=1e-6)


def test_commuting_covariances():
    """W2 of N(m, s^2) and N(n, r^2) is (m - n)^2 + (s - r)^2 along each axis."""
    rotation = np.linalg.qr(np.random.RandomState(1).standard_normal((5, 5)))[0]
    s, r = np.array([1e-8, 0.1, 1, 2, 30]), np.array([3, 0.2, 1e-6, 2, 1])
    rotated = lambda scale: (rotation * scale**2) @ rotation.T
    a, b = (
        FeatureMoments(np.zeros(5), rotated(s)),
        FeatureMoments(np.ones(5), rotated(r)),
    )
    found = metrics.frechet_distance(a, b)
    # eigenvalues are off by 2e-16 of the largest, so the root of the least by 4e-7
    np.testing.assert_allclose(found, 5 + np.sum((s - r) ** 2), rtol=5e-9)


def test_singular_covariances():
    """Of rank 1: the trace of the root is |u . v|, where methods of products fail."""
    u, v = RNG.standard_normal((2, 30))
    a, b = (FeatureMoments(np.zeros(30), np.outer(w, w)) for w in (u, v))
    exact = u @ u + v @ v - 2 * abs(u @ v)
    np.testing.assert_allclose(metrics.frechet_distance(a, b), exact, rtol=1e-7)
    assert abs(metrics.frechet_distance(a, a)) < 1e-10
    point = FeatureMoments(np.zeros(30), np.zeros((30, 30)))
    np.testing.assert_allclose(metrics.frechet_distance(a, point), u @ u)


def test_of_samples_it_is_that_of_numpy_moments():
    x, y = RNG.standard_normal((50, 2, 3)), 1 + RNG.standard_normal((40, 2, 3))
    flat = [part.reshape(len(part), -1) for part in (x, y)]
    a, b = (FeatureMoments(part.mean(0), np.cov(part.T)) for part in flat)
    np.testing.assert_allclose(Frechet()(x, y), naive(a, b), rtol=1e-9)
    np.testing.assert_allclose(Frechet(reference=b)(x), naive(a, b), rtol=1e-9)
    assert abs(Frechet()(x, x[::-1])) < 1e-12


@pytest.mark.parametrize("n", [9, 24, 25, 60])
@pytest.mark.parametrize("m", [12, 80])
def test_it_is_the_formula_below_at_and_above_the_number_of_features(n, m):
    """As pytorch-fid and clean-fid have it: of two covariances, by SciPy's root."""
    rng = np.random.RandomState(n + m)
    x = 0.3 + rng.standard_normal((n, 24)) @ rng.standard_normal((24, 24))
    y = rng.standard_normal((m, 24)) * np.geomspace(0.01, 3, 24)
    a, b = (FeatureMoments(part.mean(0), np.cov(part.T)) for part in (x, y))
    found = Frechet(allow_singular=True)(x, y)
    np.testing.assert_allclose(found, naive(a, b), rtol=1e-6)
    np.testing.assert_allclose(metrics.frechet_distance(a, b), found, rtol=1e-7)
    with mock.patch.object(frechet, "BLOCK", 7):  # of many rows, in parts
        assert Frechet(allow_singular=True)(x, y) == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("n", [5, 30])
def test_resamples_follow_the_derivative_by_the_counts(n):
    """By differences of the formula, with counts that are no whole numbers."""
    rng = np.random.RandomState(n)
    sets = rng.standard_normal((n, 8)), 0.5 + 2 * rng.standard_normal((40, 8))
    once = [np.ones(len(x)) for x in sets]
    steps = [rng.standard_normal(len(x)) for x in sets]
    steps = [1e-4 * (step - step.mean()) for step in steps]

    def weighted(x, count):
        mean = count @ x / len(x)
        return FeatureMoments(mean, (x - mean).T * count @ (x - mean) / (len(x) - 1))

    def at(sign):
        counts = [one + sign * step for one, step in zip(once, steps, strict=True)]
        return metrics.frechet_distance(*map(weighted, sets, counts))

    counts = tuple(
        np.stack([one, one + step]) for one, step in zip(once, steps, strict=True)
    )
    found = Frechet(allow_singular=True).values(sets, counts)
    assert found[1] - found[0] == pytest.approx((at(1) - at(-1)) / 2, rel=1e-3)


def test_the_standard_error_is_the_spread_of_repeated_sets():
    """Where the laws differ; where they do not it is above the spread, by 1.4."""
    rng = np.random.RandomState(7)
    names = dict(features="points", reference="a law", num_resamples=60)
    for shift, low, high in ((0.5, 0.75, 1.3), (0.0, 1.0, 2.0)):
        sets = [
            (shift + rng.standard_normal((300, 6)), rng.standard_normal((300, 6)))
            for _ in range(60)
        ]
        spread = np.std([Frechet()(*each) for each in sets], ddof=1)
        errors = [
            metrics.measure(jax.random.key(0), Frechet(), *each, **names).standard_error
            for each in sets[:10]
        ]
        assert low < np.mean(errors) / spread < high


def test_the_second_set_is_decomposed_once():
    x, y = RNG.standard_normal((30, 4)), RNG.standard_normal((50, 4))
    names = dict(features="points", reference="a law", num_resamples=39)
    memo, key = metrics.Memo(), jax.random.key(0)
    fresh = [metrics.measure(key, Frechet(), part, y, **names) for part in (x, -x)]
    with mock.patch.object(frechet, "factored", wraps=frechet.factored) as called:
        again = [
            metrics.measure_resampled(key, Frechet(), part, y, **names, memo=memo)[0]
            for part in (x, -x)
        ]
    assert called.call_count == 3 and again == fresh


@pytest.mark.parametrize("n", [9, 24, 60])
def test_what_is_decomposed_is_as_large_as_the_fewer_of_rows_and_features(n):
    """One SVD of [min(n, d), min(m, d)], however many resamples; a QR of rows > d."""
    d, m, called = 24, 80, {}
    x, y = RNG.standard_normal((n, d)), RNG.standard_normal((m, d))
    names = dict(features="points", reference="a law")
    with contextlib.ExitStack() as stack:
        for name in ("svd", "qr", "eigh", "eigvalsh", "cholesky", "inv"):
            spy = mock.patch.object(np.linalg, name, wraps=getattr(np.linalg, name))
            called[name] = stack.enter_context(spy)
        for resamples in (39, 390):
            metrics.measure(
                jax.random.key(0), Frechet(allow_singular=True), x, y,
                num_resamples=resamples, **names,
            )  # fmt: skip
            shapes = {
                name: sorted(call.args[0].shape for call in spy.call_args_list)
                for name, spy in called.items()
                if spy.called
            }
            triangles = ([(n, d)] if n > d else []) + [(m, d)]
            assert shapes == {"svd": [(min(n, d), d)], "qr": triangles}
            for spy in called.values():
                spy.reset_mock()


def test_too_few_rows_are_refused():
    x = RNG.standard_normal((10, 10))
    with pytest.raises(ValueError, match=r"10 rows for 10 features.*11 at least"):
        Frechet()(x, x)
    assert np.isfinite(Frechet(allow_singular=True)(x, -x))
    with pytest.raises(ValueError, match=r"6 rows for 10 features"):
        ExtrapolatedFrechet(jax.random.key(0), levels=(1, 4))(
            RNG.standard_normal((24, 10)), RNG.standard_normal((90, 10))
        )


def test_what_is_no_covariance_is_refused():
    good = FeatureMoments(np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="smallest eigenvalue -1"):
        metrics.frechet_distance(
            good, FeatureMoments(np.zeros(2), np.diag([1.0, -1.0]))
        )
    with pytest.raises(ValueError, match="shapes"):
        metrics.frechet_distance(good, FeatureMoments(np.zeros(3), np.eye(3)))
    with pytest.raises(ValueError, match="1 sets"):
        Frechet()(np.ones((5, 2)))
    with pytest.raises(ValueError, match="levels"):
        ExtrapolatedFrechet(jax.random.key(0), levels=(2,))


def expected_bias(d, n):
    """Of n rows of N(m, I) against exact moments of covariance I, to order 1 / n.

    `E |mean error|^2 = d / n`; the trace is `|covariance error|^2 / 4` to leading
    order, whose expectation is Wishart's `(d^2 + d) / (4 n)`.
    """
    return (d + d * (d + 1) / 4) / n


def repeated(d, n, shift, count):
    """Raw distances and fits of sets of n rows of N(shift, I), against N(0, I)."""
    exact = FeatureMoments(np.zeros(d), np.eye(d))
    metric = ExtrapolatedFrechet(jax.random.key(0), reference=exact)
    rng = np.random.RandomState(5)
    sets = [shift + rng.standard_normal((n, d)) for _ in range(count)]
    return np.array([Frechet(exact)(x) for x in sets]), [metric.fit(x) for x in sets]


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_bias_falls_as_1_over_n_and_the_extrapolation_has_none(shift):
    d, n, count = 6, 400, 150
    raw, fits = repeated(d, n, shift, count)
    truth, bias = d * shift**2, expected_bias(d, n)
    error = np.array([fit.intercept for fit in fits]) - truth
    spread = error.std() / np.sqrt(count)
    raw_spread = (raw - truth).std() / np.sqrt(count)
    np.testing.assert_allclose(raw.mean() - truth, bias, atol=4 * raw_spread)
    if not shift:
        assert f"{raw.mean():.4f} ± {raw_spread:.4f}, {count} sets" in DOCUMENT
        assert f"{error.mean():.4f} ± {spread:.4f}" in DOCUMENT
    assert abs(error.mean()) < 4 * spread + 0.06 * bias  # of order 1 / n^2
    assert abs(error.mean()) < 0.25 * (raw.mean() - truth) or shift
    slopes = np.array([fit.slope for fit in fits])
    error = 4 * slopes.std() / np.sqrt(count)
    np.testing.assert_allclose(slopes.mean() / n, bias, rtol=0.1, atol=error / n)


def test_extrapolation_is_nearer_to_the_truth_set_by_set():
    raw, fits = repeated(6, 400, 0.0, 60)
    mean_square = lambda error: np.mean(np.square(error))
    assert mean_square([fit.intercept for fit in fits]) < mean_square(raw) / 4


def test_of_two_sets_both_biases_go():
    rng = np.random.RandomState(3)
    metric = ExtrapolatedFrechet(jax.random.key(0))
    pairs = [rng.standard_normal((2, 300, 4)) for _ in range(60)]
    raw = np.mean([Frechet()(*pair) for pair in pairs])
    left = np.array([metric(*pair) for pair in pairs])
    np.testing.assert_allclose(raw, 2 * expected_bias(4, 300), rtol=0.1)
    assert abs(left.mean()) < 4 * left.std() / np.sqrt(len(left)) + 0.06 * raw
    assert abs(left.mean()) < 0.25 * raw


def test_the_line_is_the_line_of_its_points():
    x, y = RNG.standard_normal((2, 120, 3))
    metric = ExtrapolatedFrechet(jax.random.key(0), levels=(1, 2, 5))
    fit = metric.fit(x, y)
    np.testing.assert_allclose(fit.inverse_count, np.array([1, 2, 5]) / 120)
    np.testing.assert_allclose(fit.distance[0], Frechet()(x, y))
    line = scipy.stats.linregress(fit.inverse_count, fit.distance)
    np.testing.assert_allclose(
        [fit.slope, fit.intercept], [line.slope, line.intercept], atol=1e-12
    )
    assert metric(x, y) == fit.intercept
