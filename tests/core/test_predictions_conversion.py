"""Conversions between kinds of prediction, and errors of one in another."""

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import predictions, schedules
from tests.helpers import oracles
from tests.helpers.all_schedules import SCHEDULES as ALL
from tests.helpers.kinds import KINDS, SCHEDULES, case, exact
from tests.helpers.levels import Levels

EPS32 = np.finfo(np.float32).eps


def all_pairs(schedule, values, z):
    """Every kind as every kind, `{(source, target): value}` by name."""
    t = schedule.alpha(0.0)  # of the right shape and dtype, and of no use
    return {
        (str(source), str(target)): predictions.convert(
            values[str(source)],
            source=source,
            target=target,
            z=z,
            t=t,
            schedule=schedule,
        )
        for source, target in itertools.product(KINDS, KINDS)
    }


def there_and_back(schedule, values, z):
    pairs = all_pairs(schedule, values, z)
    back = lambda source, target, value: predictions.convert(
        value,
        source=target,
        target=source,
        z=z,
        t=schedule.alpha(0.0),
        schedule=schedule,
    )
    return {
        (str(source), str(target)): back(
            source, target, pairs[str(source), str(target)]
        )
        for source, target in itertools.product(KINDS, KINDS)
    }


all_pairs, there_and_back = jax.jit(all_pairs), jax.jit(there_and_back)


@pytest.mark.pinned
@pytest.mark.parametrize("name", ALL)
def test_every_kind_becomes_every_kind(name):
    """On N(0.3, 0.4) data: the posterior mean of each kind, from that of any other."""
    schedule = Levels.of(ALL[name], np.array([0.02, 0.3, 0.7, 0.98]))
    levels = schedule.plain()
    alpha, sigma = levels[:2]
    z = alpha * 0.3 + np.random.default_rng(0).normal(size=(4, 6))
    x, eps = oracles.gaussian_denoised(z, alpha, sigma, 0.3, 0.4)
    values = {str(kind): exact(kind, x, eps, *levels) for kind in KINDS}
    with jax.enable_x64(True):
        for pair, found in all_pairs(schedule, values, z).items():
            np.testing.assert_allclose(
                found, values[pair[1]], rtol=1e-9, atol=1e-9, err_msg=str(pair)
            )


@pytest.mark.pinned
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_conversion_takes_the_levels_of_its_time(schedule):
    t = np.array([0.02, 0.3, 0.7, 0.98])
    x, eps, z, levels = case(schedule, t)
    for source, target in (("u", "v"), ("dz_dt", "x"), ("x", "score")):
        value, expected = (exact(kind, x, eps, *levels) for kind in (source, target))
        with jax.enable_x64(True):
            found = predictions.convert(
                value, source=source, target=target, z=z, t=t, schedule=schedule
            )
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_round_trips_in_float32(name):
    """Within 4 eps32 max(1/alpha, 1/sigma) max(alpha, sigma, 1) of the largest value.

    x and eps are of size 1, so only score, dz_dt and v (where sigma is large) are not:
    of them no absolute bound can hold, as z - alpha x is known to eps32 alone, and the
    score is that over sigma^2.
    """
    t = np.array([1e-4, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999, 1 - 1e-4])
    schedule = Levels.of(ALL[name], t, np.float32)
    levels = schedule.plain()
    alpha, sigma = levels[:2]
    resolved = np.minimum(alpha, sigma)[:, 0] > 1e-6  # float32 resolves both in z
    assert resolved.sum() >= 7
    x, eps = np.random.default_rng(0).uniform(-1, 1, (2, t.size, 64))
    with np.errstate(divide="ignore", over="ignore"):
        bound = 4 * EPS32 * np.maximum(1 / alpha, 1 / sigma)
        bound = bound * np.maximum(np.maximum(alpha, sigma), 1)
        values = {
            str(kind): exact(kind, x, eps, *levels).astype(np.float32) for kind in KINDS
        }
    z = (alpha * x + sigma * eps).astype(np.float32)
    for pair, back in there_and_back(schedule, values, z).items():
        assert back.dtype == np.float32
        value = values[pair[0]]
        size = np.maximum(np.abs(value).max(1, keepdims=True), 1)
        with np.errstate(invalid="ignore"):
            error = np.abs(np.asarray(back, np.float64) - value) / size
        assert (error <= bound)[resolved].all(), (
            f"{pair}: {(error / bound)[resolved].max()}"
        )


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
    t=st.floats(1e-3, 1 - 1e-3),
    pair=st.sampled_from(
        list(itertools.permutations(("x", "eps", "v", "u", "score"), 2))
    ),
    schedule=st.sampled_from(SCHEDULES),
    seed=st.integers(0, 100),
)
def test_round_trips_at_any_time(t, pair, schedule, seed):
    x, eps, z, levels = case(schedule, np.full(4, t), seed=seed)
    source, target = pair
    value = exact(source, x, eps, *levels).astype(np.float32)
    arguments = dict(z=z.astype(np.float32), t=np.full(4, t, np.float32))
    there = predictions.convert(
        value, source=source, target=target, schedule=schedule, **arguments
    )
    back = predictions.convert(
        there, source=target, target=source, schedule=schedule, **arguments
    )
    alpha, sigma = levels[0].min(), levels[1].min()
    size = max(np.abs(value).max(), np.abs(x).max(), np.abs(eps).max())
    bound = 4 * EPS32 * max(1 / alpha, 1 / sigma) * max(alpha, sigma, 1) * size
    assert np.abs(back - value).max() <= bound


def all_ratios(schedule):
    t = schedule.alpha(0.0)
    return {
        str(kind): (
            predictions.mse_ratio(kind, t, schedule=schedule),
            predictions.error_ratio(kind, "x", t, schedule=schedule),
        )
        for kind in KINDS
    }


all_ratios = jax.jit(all_ratios)


@pytest.mark.pinned
@pytest.mark.parametrize("name", ALL)
def test_mse_ratio_is_the_table(name):
    """Of each kind, in log-SNR, alpha, sigma and the slope of the log-SNR."""
    schedule, t = ALL[name], np.array([0.05, 0.5, 0.95])
    with jax.enable_x64(True):
        slope = np.asarray(schedule.dlogsnr_dt(t))
        levels = Levels.of(schedule, t)
        found = jax.tree.map(np.asarray, all_ratios(levels))
    alpha, sigma, logsnr = (
        part[:, 0] for part in levels.plain("alpha", "sigma", "logsnr")
    )
    table = {
        "x": np.exp(-logsnr),
        "eps": np.ones(3),
        "v": alpha**2 * (1 + np.exp(-logsnr)) ** 2,
        "u": (1 + np.exp(-logsnr / 2)) ** 2,
        "dz_dt": (sigma * slope / 2) ** 2,
        "score": 1 / sigma**2,
        "edm_f(sigma_data=0.5)": 1 + np.exp(-logsnr) / 0.25,
    }
    for kind, (ratio, to_x) in found.items():
        np.testing.assert_allclose(ratio, table[kind], rtol=1e-9, err_msg=kind)
        np.testing.assert_allclose(to_x, table[kind] / table["x"], rtol=1e-9)


def test_error_ratio_at_the_ends():
    ends, flow = np.array([0.0, 1.0], np.float32), schedules.FlowMatching()
    ratio = lambda kind, source: predictions.error_ratio(
        kind, source, ends, schedule=flow
    )
    np.testing.assert_array_equal(ratio("x", "u"), [0, 1])
    np.testing.assert_array_equal(ratio("eps", "u"), [1, 0])
    np.testing.assert_array_equal(ratio("eps", "x"), [np.inf, 0])
    np.testing.assert_array_equal(ratio("score", "score"), [1, 1])


def test_the_ratio_of_eps_and_score_needs_no_alpha():
    t, schedule = np.array([0.5, 1.0], np.float32), schedules.FlowMatching()
    ratio = predictions.mse_ratio("score", t, schedule=schedule)
    np.testing.assert_array_equal(ratio, [4, 1])
    back = predictions.error_ratio("eps", "score", t, schedule=schedule)
    np.testing.assert_array_equal(back, [0.25, 1])


@pytest.mark.pinned
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_mse_ratio_is_the_ratio_of_errors(kind):
    t = np.array([0.1, 0.5, 0.9])
    for schedule in SCHEDULES:
        x, eps, z, levels = case(schedule, t, (3, 2, 3))
        wrong = eps + 0.1
        implied = (z - levels[1] * wrong) / levels[0]  # x moves so that z stays
        error = exact(kind, implied, wrong, *levels) - exact(kind, x, eps, *levels)
        with jax.enable_x64(True):
            ratio = predictions.mse_ratio(kind, t, schedule=schedule)
        np.testing.assert_allclose(ratio, (error**2).mean((1, 2)) / 0.01, rtol=1e-9)


FINITE = ("v", "u", predictions.edm_f(0.5))


@jax.jit
def at_the_ends(schedule, values, z):
    """x and eps of each kind that is never singular, and the gradient of their sum."""

    def implied(value, kind):
        return predictions.to_denoised(
            value, kind=kind, z=z, t=schedule.alpha(0.0), schedule=schedule
        )

    total = lambda value, kind: sum(jnp.sum(part) for part in implied(value, kind))
    return {
        str(kind): (implied(values[str(kind)], kind), slope)
        for kind in FINITE
        for slope in [jax.grad(total)(values[str(kind)], kind)]
    }


@pytest.mark.parametrize("name", ALL)
def test_v_u_and_f_are_finite_at_both_ends(name):
    t = np.array([0.0, 1e-7, 1 - 1e-7, 1.0], np.float32)
    schedule = Levels.of(ALL[name], t, np.float32)
    alpha, sigma = schedule.plain("alpha", "sigma")
    x, eps = np.random.default_rng(0).normal(size=(2, 4, 6))
    z = (alpha * x + sigma * eps).astype(np.float32)
    values = {
        str(kind): exact(kind, x, eps, alpha, sigma, 0, 0).astype(np.float32)
        for kind in FINITE
    }
    size = 2e-6 * np.maximum(sigma, 1)  # of the rounding of z
    for denoised, slope in at_the_ends(schedule, values, z).values():
        assert (np.abs(np.asarray(denoised.x) - x) <= size).all()
        np.testing.assert_allclose(denoised.eps, eps, atol=2e-6)
        assert np.isfinite(slope).all()


@pytest.mark.parametrize("schedule", SCHEDULES[:2], ids=str)
def test_eps_and_score_need_no_alpha(schedule):
    """At alpha = 0 eps says nothing of x, and everything of the score."""
    z = np.ones((2, 3), np.float32)
    convert = lambda source, target, t: predictions.convert(
        z, source=source, target=target, z=z, t=t, schedule=schedule
    )
    np.testing.assert_array_equal(convert("eps", "score", 1.0), -z)
    np.testing.assert_array_equal(convert("score", "eps", 1.0), -z)
    with pytest.raises(ValueError, match="score does not determine the other at t=0"):
        convert("score", "eps", 0.0)


@pytest.mark.parametrize(
    ("kind", "t"),
    [("eps", 1.0), ("score", 1.0), ("x", 0.0), ("x", np.array([0.5, 0.0]))],
)
def test_impossible_pairs_are_refused(kind, t):
    schedule = schedules.FlowMatching()
    denoise_fn = predictions.denoiser(lambda z, t: z, kind=kind, schedule=schedule)
    z = np.zeros((2, 3), np.float32)
    with pytest.raises(
        ValueError, match=f"prediction of {kind} does not .*predict 'u'"
    ):
        denoise_fn(z, t)
    with pytest.raises(ValueError, match=f"prediction of {kind} does not"):
        predictions.convert(z, source=kind, target="v", z=z, t=t, schedule=schedule)
    denoise_fn(z, np.array([0.3, 0.5]))


@pytest.mark.parametrize(
    ("schedule", "source", "target"),
    [
        (schedules.FlowMatching(), "u", "score"),
        (schedules.LinearBeta(), "v", "dz_dt"),
    ],
)
def test_impossible_targets_are_refused(schedule, source, target):
    z = np.ones((2, 3), np.float32)
    convert = lambda t: predictions.convert(
        z, source=source, target=target, z=z, t=t, schedule=schedule
    )
    with pytest.raises(ValueError, match=f"prediction of {target} is infinite at t=0"):
        convert(np.array([0.5, 0.0], np.float32))
    assert np.isfinite(convert(0.5)).all()


def test_a_score_at_sigma_0_says_nothing_of_eps_under_jit():
    """Where times are traced nothing can be refused, and 0 would be wrong."""
    denoised = jax.jit(
        lambda value, t: predictions.to_denoised(
            value, kind="score", z=value, t=t, schedule=schedules.FlowMatching()
        )
    )
    value = np.ones((2, 3), np.float32)
    at_data, inside = denoised(value, 0.0), denoised(value, 0.5)
    assert np.isnan(at_data.eps).all() and np.isfinite(at_data.x).all()
    np.testing.assert_allclose(inside.eps, -0.5)


@pytest.mark.ci
def test_conversion_is_the_same_single_vmapped_and_jitted():
    schedule = schedules.Cosine()
    generator = np.random.default_rng(0)
    value, z = generator.normal(size=(2, 5, 3)).astype(np.float32)
    t = np.linspace(0.1, 0.9, 5, dtype=np.float32)
    for source, target in itertools.permutations(predictions.NAMES, 2):
        one = lambda value, z, t, source=source, target=target: predictions.convert(
            value, source=source, target=target, z=z, t=t, schedule=schedule
        )
        batched = one(value, z, t)
        single = [one(*example) for example in zip(value, z, t, strict=True)]
        vmapped = jax.jit(jax.vmap(one))(value, z, t)
        np.testing.assert_allclose(batched, np.stack(single), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batched, vmapped, rtol=1e-5, atol=1e-6)


def test_equal_kinds_are_checked_too():
    with pytest.raises(ValueError, match=r"has shape \(2, 3\): must be \(2, 1\)"):
        predictions.convert(
            np.ones((2, 3)),
            source="u",
            target="u",
            z=np.ones((2, 1)),
            t=0.5,
            schedule=schedules.FlowMatching(),
        )
