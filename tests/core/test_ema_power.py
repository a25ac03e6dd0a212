"""Averages of power profiles against sums, integrals and published pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import ema
from diffusionflow.ema import Profile
from tests.helpers import oracles


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_published_pairs(sigma_rel, gamma):
    """Of arXiv:2312.02696, section 3.1."""
    assert ema.gamma_of(sigma_rel) == pytest.approx(gamma, abs=0.005)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 3.0, 17.0, 400.0])
def test_width_is_the_deviation_of_the_profile(gamma):
    """The k-th moment of (gamma + 1) tau^gamma is (gamma + 1) / (gamma + 1 + k)."""
    first, second = ((gamma + 1) / (gamma + 1 + k) for k in (1, 2))
    width = ema.relative_width(gamma)
    assert width == pytest.approx(np.sqrt(second - first**2), rel=1e-9)
    assert ema.gamma_of(width) == pytest.approx(gamma, rel=1e-6, abs=1e-6)


def track(path, gammas):
    """Averages of every row of a path [n, d] and profile: [n, profiles, d]."""

    def update(state, row):
        number, averages = state
        averages = [
            ema.power_update(average, row, number, gamma=gamma)
            for average, gamma in zip(averages, gammas, strict=True)
        ]
        return (number + 1, averages), jnp.stack(averages)

    start = [ema.init(jnp.full(path.shape[1], 9.0))] * len(gammas)
    return jax.jit(lambda path: jax.lax.scan(update, (0, start), path))(path)[1]


def random_walk(length=512, size=40):
    steps = np.random.default_rng(0).standard_normal((length, size))
    return (np.cumsum(steps, 0) / np.sqrt(length)).astype(np.float32)


def test_the_tracked_average_is_the_integral_and_forgets_the_start():
    path, gammas = random_walk(100), (0.0, 3.0, 16.97)
    tracked = track(path, gammas)
    for number in (1, 2, 17, 100):
        for average, gamma in zip(tracked[number - 1], gammas, strict=True):
            expected = oracles.shares(number, gamma) @ path[:number].astype(np.float64)
            np.testing.assert_allclose(average, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("number", [10**3, 10**6])
def test_the_rate_is_not_lost_to_rounding(number):
    """1 - decay of a float32 decay would be off by percents after 10^6 updates."""
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    average = ema.power_update({"w": jnp.zeros(2)}, params, number, gamma=2.0)["w"]
    expected = -np.expm1(3 * np.log1p(-1 / (number + 1)))
    assert average.dtype == jnp.float32
    np.testing.assert_allclose(average, expected, rtol=2e-6)


def test_inner_products_against_quadrature():
    nodes, weights = np.polynomial.legendre.leggauss(40)
    profile = lambda tau, n, gamma: (gamma + 1) * tau**gamma / n ** (gamma + 1)
    for a in ((3.0, 2.0), (8.0, 5.0)):
        for b in ((3.0, 4.0), (5.0, 0.0), (8.0, 17.0)):
            end = min(a[0], b[0])
            tau = end * (nodes + 1) / 2
            expected = (end / 2 * weights) @ (profile(tau, *a) * profile(tau, *b))
            for one, other in ((a, b), (b, a)):
                found = ema.inner_product(Profile(*one), Profile(*other))
                assert found == pytest.approx(expected, rel=1e-12)


def grid(count, length=512.0, widths=(0.05, 0.1)):
    numbers = np.linspace(length / count, length, count)
    return [Profile(n, ema.gamma_of(width)) for n in numbers for width in widths]


@pytest.mark.parametrize("place", [0, 5, -1])
def test_a_stored_profile_is_itself(place):
    stored = grid(4)
    weights, error = ema.combination(stored, stored[place])
    np.testing.assert_allclose(weights, np.eye(len(stored))[place], atol=1e-7)
    assert error < 1e-6


def test_the_error_is_that_of_the_profiles_and_the_weights_sum_to_one():
    wanted, stored = Profile(450.0, ema.gamma_of(0.15)), grid(4)
    weights, error = ema.combination(stored, wanted)
    tau = (np.arange(200_000) + 0.5) * 512 / 200_000

    def sampled(n, gamma):
        inside = np.minimum(tau / n, 1) ** gamma
        return np.where(tau <= n, (gamma + 1) * inside / n, 0)

    target = sampled(*wanted)
    mixed = sum(
        w * sampled(*profile) for w, profile in zip(weights, stored, strict=True)
    )
    expected = np.linalg.norm(mixed - target) / np.linalg.norm(target)
    assert weights.sum() == pytest.approx(1, abs=1e-9)
    assert error == pytest.approx(expected, rel=1e-3) and error > 0.01


@pytest.mark.parametrize("sigma_rel", [0.07, 0.15, 0.2])
def test_an_average_put_together_nears_the_tracked_one_with_more_of_them(sigma_rel):
    path, widths = random_walk(), (0.05, 0.1, sigma_rel)
    tracked = np.asarray(track(path, tuple(map(ema.gamma_of, widths))))
    wanted = Profile(512.0, ema.gamma_of(sigma_rel))
    errors = []
    for count in (4, 8, 16, 32):
        weights, bound = ema.combination(grid(count), wanted)
        rows = (np.arange(1, count + 1) * 512 // count) - 1
        stored = tracked[rows, :2].reshape(2 * count, -1)
        mixed = ema.combine(weights, list(stored))
        assert mixed.dtype == np.float32
        direct = tracked[-1, 2]
        errors.append(np.linalg.norm(mixed - direct) / np.linalg.norm(direct))
        assert errors[-1] < bound  # for a path much smoother than white noise
    assert errors[-1] < 2e-3 and np.all(np.diff(errors) < 0)


def test_parameters_that_stand_still_come_back():
    weights, _ = ema.combination(grid(2), Profile(300.0, ema.gamma_of(0.25)))
    params = {"w": np.full(3, 0.7, np.float32)}
    mixed = ema.combine(weights, [params] * len(weights))
    np.testing.assert_allclose(mixed["w"], 0.7, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ema.gamma_of(0.0), r"sigma_rel=0.0: must be in \(0, 1 / sqrt"),
        (lambda: ema.gamma_of(0.3), r"sigma_rel=0.3: .*0.2887"),
        (lambda: ema.relative_width(-0.5), "gamma=-0.5: must be at least 0"),
        (lambda: ema.combination([], Profile(1, 1.0)), "at least one average"),
        (
            lambda: ema.combination([Profile(4, 2.0)] * 2, Profile(4, 1.0)),
            "each profile must be there once",
        ),
        (
            lambda: ema.combination([Profile(4, 2.0)], Profile(5, 1.0)),
            "num_updates=5: must be at most 4",
        ),
        (
            lambda: ema.combination([Profile(0, 2.0)], Profile(0, 1.0)),
            "num_updates=0: must be positive",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
