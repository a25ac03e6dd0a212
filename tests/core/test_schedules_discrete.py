"""Schedules given as a table."""

import jax
import numpy as np
import pytest

from diffusionflow import schedules

DDPM = schedules.Discrete.linear_betas()
TABLE = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
NODES = np.arange(1, 1001) / 1000


def test_the_table_is_exact_at_its_nodes():
    with jax.enable_x64(True):
        alpha, sigma = DDPM.alpha(NODES), DDPM.sigma(NODES)
        np.testing.assert_allclose(alpha**2, TABLE, rtol=1e-13)
        np.testing.assert_allclose(sigma**2, 1 - TABLE, rtol=1e-13)
        logsnr = np.log(TABLE) - np.log(1 - TABLE)
        np.testing.assert_allclose(DDPM.logsnr(NODES), logsnr, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(DDPM.inverse_logsnr(logsnr), NODES, rtol=1e-12)
        assert DDPM.alpha(0.0) == 1 and DDPM.sigma(0.0) == 0
    single = DDPM.logsnr(NODES.astype(np.float32))
    np.testing.assert_allclose(single, logsnr, rtol=2e-5, atol=2e-5)


def test_the_classical_table_and_its_continuous_limit():
    np.testing.assert_allclose(DDPM.logsnr(1e-3), 9.2102, atol=5e-5)
    np.testing.assert_allclose(DDPM.logsnr(1.0), -10.1177, atol=5e-5)
    np.testing.assert_allclose(DDPM.alphas_cumprod[-1], 4.0358e-5, rtol=2e-5)
    with jax.enable_x64(True):
        limit = 2 * np.log(schedules.LinearBeta().alpha(NODES))
    np.testing.assert_allclose(np.abs(np.log(TABLE) - limit).max(), 6.8e-2, atol=5e-4)


def test_between_the_nodes_alpha2_is_linear_and_the_logsnr_falls():
    schedule = schedules.Discrete([0.9, 0.4, 0.1])
    t = np.array([1 / 6, 0.5, 5 / 6])
    with jax.enable_x64(True):
        squares = schedule.alpha(t) ** 2
        np.testing.assert_allclose(squares, [0.95, 0.65, 0.25], rtol=1e-14)
        slope = 2 * schedule.sigma(t) * schedule.derivatives(t)[1]
        np.testing.assert_allclose(slope, [0.3, 1.5, 0.9], rtol=1e-13)
        fine = np.asarray(schedule.logsnr(np.linspace(0, 1, 1001)))
    assert np.all(np.diff(fine) < 0) and fine[0] == np.inf and np.isfinite(fine[-1])


def test_the_slope_at_every_node_is_that_of_the_step_towards_the_noise():
    """Whether or not i / T times T rounds below i, as 0.29 times 100 does."""
    table = np.cumprod(1 - np.linspace(0.01, 0.2, 100))
    gained = -100 * np.diff(table)
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(True):
            rate = schedules.Discrete(table).rate(
                (np.arange(1, 100) / 100).astype(dtype)
            )
        np.testing.assert_allclose(rate, gained, rtol=1e-4)


def test_a_jax_table_is_checked_and_kept_in_float64():
    given = jax.numpy.asarray(TABLE[:3], "float32")
    schedule = schedules.Discrete(given)
    assert schedule.alphas_cumprod.dtype == np.float64
    np.testing.assert_array_equal(schedule.complement, 1 - np.asarray(given, float))
    with pytest.raises(ValueError, match=r"entries 0 and 1"):
        schedules.Discrete(given[::-1])
    for leaf in (None, object(), jax.ShapeDtypeStruct((3,), "float32")):
        jax.tree.map(lambda _, leaf=leaf: leaf, schedule)
    level = lambda schedule: schedule.alpha(0.5)
    assert jax.grad(level)(schedule).alphas_cumprod.shape == (3,)
    assert jax.jit(lambda schedule: schedule)(schedule).alphas_cumprod.shape == (3,)


def test_zero_terminal_snr():
    rescaled = schedules.zero_terminal_snr([0.81, 0.49, 0.09])  # alpha .9 .7 .3
    np.testing.assert_allclose(rescaled, [0.81, 0.36, 0.0], atol=1e-15)
    schedule = schedules.Discrete(rescaled)
    assert schedule.alpha(1.0) == 0 and schedule.sigma(1.0) == 1
    assert schedule.logsnr(1.0) == -np.inf
    np.testing.assert_allclose(schedule.inverse_logsnr(-np.inf), 1.0)
    with jax.enable_x64(True):
        t = np.array([0.9, 0.999, 1 - 1e-9])
        np.testing.assert_allclose(schedule.inverse_logsnr(schedule.logsnr(t)), t)


def test_betas():
    betas = np.array([0.1, 0.5, 1.0])
    np.testing.assert_allclose(
        schedules.Discrete.from_betas(betas).alphas_cumprod, [0.9, 0.45, 0]
    )


def test_a_table_made_inside_a_traced_function_can_be_learned():
    level = lambda low: schedules.Discrete(jax.numpy.stack([0.9, low])).alpha(0.75)
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(
            jax.grad(level)(0.4), 0.25 / np.sqrt(0.65), rtol=1e-6
        )


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_few_levels(count):
    schedule = schedules.Discrete.linear_betas(count, 0.1, 0.9)
    logsnr = schedule.logsnr(np.linspace(0.01, 1, 33, dtype=np.float32))
    assert np.isfinite(logsnr).all() and np.all(np.diff(logsnr) < 0)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: schedules.Discrete([0.5, 0.6]), r"0.5 and 0.6 \(entries 0 and 1\)"),
        (lambda: schedules.Discrete([1.0, 0.6]), r"in \[0, 1\); level 0, the data"),
        (lambda: schedules.Discrete([0.5, -0.1]), r"from 0.5 to -0.1.*in \[0, 1\)"),
        (lambda: schedules.Discrete([]), r"must be \[T\]"),
        (lambda: schedules.Discrete([0.5, np.nan]), r"in \[0, 1\)"),
        (lambda: schedules.Discrete([0.5, 0.1], [0.5]), r"shape \(1,\).*\(2,\)"),
        (lambda: schedules.Discrete([0.5, 0.1], [0.5, 0.1]), "rising"),
        (lambda: schedules.Discrete([0.5, 0.1], [0.5, 1.1]), "to 1.1.*rising"),
        (lambda: schedules.Discrete.from_betas([0.1, 1.2]), r"each in \(0, 1\)"),
        (lambda: schedules.Discrete.from_betas([1.0, 0.2]), r"each in \(0, 1\)"),
        (lambda: schedules.Discrete.linear_betas(0), "num_levels=0.*at least 1"),
        (lambda: schedules.zero_terminal_snr([0.5]), "at least 2 levels"),
    ],
)
def test_bad_tables_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()
