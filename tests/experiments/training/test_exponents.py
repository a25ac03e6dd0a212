"""How time grows with work: `benchmarks/exponents.py`."""

import numpy as np
import pytest

from benchmarks import exponents, sized_programs


@pytest.mark.parametrize("power", [0.0, 1.0, 1.7])
def test_a_power_law_is_found(power):
    x = [1.0, 2.0, 4.0, 8.0, 16.0]
    found = exponents.fit(x, [3.0 * each**power for each in x])
    np.testing.assert_allclose(found, (power, 0.0, power), atol=1e-7)


def test_the_error_is_that_of_a_regression():
    """NumPy's covariance of the coefficients, with the residuals' own variance."""
    rng = np.random.RandomState(0)
    x = np.geomspace(1, 16, 5)
    y = x * np.exp(0.1 * rng.standard_normal(5))
    (slope, _), covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    found = exponents.fit(list(x), list(y))
    np.testing.assert_allclose(found[:2], (slope, np.sqrt(covariance[0, 0])))


def test_only_an_exponent_above_the_bound_is_marked():
    assert exponents.cell(exponents.Fit(1.05, 0.01, 1.0)) == "1.05 (0.01)"
    assert exponents.cell(exponents.Fit(1.06, 0.01, 1.0)) == "1.06 (0.01) *"


def test_pairs_are_the_work_of_a_kernel_metric():
    """Against as few data as there are samples: three halves of a square."""
    few, many = (
        sized_programs.Size(count=n, data=n, features=99) for n in (100, 1_000)
    )
    ratio = sized_programs.mmd(many).flops / sized_programs.mmd(few).flops
    assert ratio == pytest.approx(100)
    pairs = sum(1 for i in range(100) for j in range(i)) + 100 * 100
    of_a_pair = 2 * (
        99 + sized_programs.RESAMPLES + 1
    )  # a product, weights of resamples
    assert sized_programs.mmd(few).flops == pytest.approx(pairs * of_a_pair, rel=0.01)
