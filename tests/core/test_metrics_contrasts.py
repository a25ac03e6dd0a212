"""Differences of methods on the same rows: `metrics/contrasts.py`."""

import itertools

import jax
import numpy as np
import pytest
import scipy.stats

from diffusionflow import metrics

KEY = jax.random.key(0)
NAMES = dict(features="points", reference="test")


@pytest.mark.ci
def test_one_repetition_of_many_rows_has_the_paired_t_interval():
    rng = np.random.RandomState(0)
    common = 5 * rng.standard_normal(2_000)
    a, b = common + rng.standard_normal(2_000), common + rng.standard_normal(2_000)
    found = metrics.mean_difference(KEY, a[None], b[None], num_resamples=4_000)
    test = scipy.stats.ttest_rel(a, b)
    expected = test.confidence_interval(0.95)
    assert found.value == pytest.approx((a - b).mean())
    np.testing.assert_allclose(
        [found.low, found.high], expected, atol=0.05 * (expected.high - expected.low)
    )
    error = (a - b).std(ddof=1) / np.sqrt(2_000)
    assert found.standard_error == pytest.approx(error, rel=0.04)
    assert not found.recipe["repetitions_in_error"]
    assert found == metrics.mean_difference(KEY, a[None], b[None], num_resamples=4_000)


def test_repetitions_of_rows_all_alike_have_the_t_interval():
    values = np.array([1.0, 1.3, 0.8, 1.1])
    found = metrics.mean_difference(KEY, np.tile(values[:, None], 10))
    low, high = scipy.stats.t.interval(
        0.95, 3, values.mean(), values.std(ddof=1) / np.sqrt(4)
    )
    np.testing.assert_allclose([found.low, found.high], [low, high], rtol=0.03)
    assert found.standard_error == pytest.approx(values.std(ddof=1) / 2)
    assert found.recipe["repetitions"] == [4]


@pytest.mark.parametrize(
    ("counts", "scales"), [((3, 7), (1.0, 0.1)), ((8, 2), (0.3, 1.0)), ((5, 5), (1, 1))]
)
def test_groups_of_different_size_have_the_interval_of_welch(counts, scales):
    """SciPy's, where the rows have no error; also of rows all alike.

    Of 2 degrees the ends of t move by 2 % in 20,000 draws.
    """
    rng = np.random.RandomState(sum(counts))
    a, b = (
        scale * rng.standard_normal(count)
        for count, scale in zip(counts, scales, strict=True)
    )
    test = scipy.stats.ttest_ind(a, b, equal_var=False)
    expected = test.confidence_interval(0.95)
    half = (expected.high - expected.low) / 2
    found = metrics.contrasts.contrast(KEY, a, b, resamples=np.zeros(39))
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.06 * half)
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert found.standard_error == pytest.approx(found.value / test.statistic)
    rows = [np.tile(each[:, None], 10) for each in (a, b)]
    same = metrics.mean_difference(KEY, *rows)
    assert same[:4] == pytest.approx(found[:4], abs=1e-9)


@pytest.mark.slow
def test_three_repetitions_drawn_again_cover_81_per_cent_and_these_95():
    """Of normal ones, all resamples of each set; 5 standard errors about both."""
    again = np.array(list(itertools.product(range(3), repeat=3)))
    rng = np.random.RandomState(0)
    sets = rng.standard_normal((3_000, 2, 3))
    means = sets[..., again].mean(-1)
    differences = means[:, 0, :, None] - means[:, 1, None]
    low, high = np.quantile(differences.reshape(len(sets), -1), [0.025, 0.975], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(0.81, abs=0.036)
    covered = 0
    for a, b in sets[:300]:
        found = metrics.contrasts.contrast(KEY, a, b, resamples=np.zeros(39))
        covered += found.low <= 0 <= found.high
    assert covered / 300 >= 0.95 - 0.03  # Welch's covers a little more


@pytest.mark.slow
@pytest.mark.parametrize("repetitions", [1, 3])
def test_the_interval_covers_the_truth(repetitions):
    """Rows that both share, seeds of each, and what is left; truth 0.3."""
    covered, shorter, count = 0, 0, 200
    for number in range(count):
        rng = np.random.RandomState(number)
        rows, shift = rng.standard_normal((2, 60))
        scale = 0.2 if repetitions > 1 else 0.0
        a, b = (
            rows
            + sign * (0.15 + 0.3 * shift)
            + scale * rng.standard_normal((repetitions, 1))
            + 0.5 * rng.standard_normal((repetitions, 60))
            for sign in (1, -1)
        )
        found = metrics.mean_difference(KEY, a, b, num_resamples=199)
        covered += found.low <= 0.3 <= found.high
        again = [
            a[rng.randint(repetitions, size=repetitions)].mean()
            - b[rng.randint(repetitions, size=repetitions)].mean()
            for _ in range(199)
        ]
        low, high = np.quantile(again, [0.025, 0.975])
        shorter += low <= 0.3 <= high
    assert 0.91 <= covered / count <= 0.985
    assert shorter / count < 0.9  # repetitions alone, drawn again


@pytest.mark.parametrize("name", ["energy", "frechet"])
def test_subtracted_estimates_are_the_paired_difference(name):
    """Of one repetition each, to the last digit, without the samples."""
    metric = {"energy": metrics.energy(), "frechet": metrics.Frechet()}[name]
    rng = np.random.RandomState(0)
    a = rng.standard_normal((50, 2))
    b, data = a + 0.3 * rng.standard_normal((50, 2)), rng.standard_normal((70, 2))
    direct = metrics.difference(KEY, metric, a, b, data, num_resamples=50, **NAMES)
    each = [
        metrics.measure_resampled(KEY, metric, x, data, num_resamples=50, **NAMES)
        for x in (a, b)
    ]
    found = metrics.subtract(KEY, each[:1], each[1:])
    for field in ("value", "standard_error", "low", "high"):
        assert getattr(found, field) == pytest.approx(getattr(direct, field), rel=1e-9)
    alone = metrics.subtract(KEY, each[:1])
    assert alone[:4] == pytest.approx(each[0][0][:4])
    assert found.standard_error < 0.8 * np.hypot(
        each[0][0].standard_error, each[1][0].standard_error
    )


def test_different_recipes_are_not_subtracted():
    x, data = np.random.RandomState(0).standard_normal((2, 50, 2))
    each = [
        metrics.measure_resampled(
            KEY, metric, x, data, num_resamples=50, features="points", reference="test"
        )
        for metric in (metrics.energy(), metrics.kid())
    ]
    with pytest.raises(ValueError, match=r"recipes differ in metric\.kernel"):
        metrics.subtract(KEY, each[:1], each[1:])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.ones((1, 4)), np.ones((1, 5))),
        (np.ones(4), None),
        (np.ones((1, 1)), None),
        (np.ones((0, 4)), None),
        (np.full((1, 4), np.nan), None),
    ],
)
def test_rows_that_do_not_pair_are_refused(a, b):
    with pytest.raises(ValueError, match="must be finite, .repetitions, rows."):
        metrics.mean_difference(KEY, a, b)


def test_resamples_that_are_too_few_are_refused():
    with pytest.raises(ValueError, match="num_resamples"):
        metrics.mean_difference(KEY, np.ones((1, 4)), num_resamples=10)
