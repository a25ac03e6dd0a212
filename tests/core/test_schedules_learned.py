"""The learned schedule keeps its ends and its monotony whatever its parameters are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import schedules

T = np.concatenate([[0.0], np.linspace(0.001, 0.999, 301), [1.0]]).astype(np.float32)


def check(schedule):
    logsnr, slope = evaluate(schedule)
    assert logsnr[0] == schedule.logsnr_max and logsnr[-1] == schedule.logsnr_min
    assert np.all(np.diff(logsnr) < 1e-6) and np.isfinite(slope).all()
    assert np.all(slope <= 0)


@jax.jit
def evaluate(schedule):
    return schedule.logsnr(T), schedule.dlogsnr_dt(T)


@jax.jit
def updated(schedule, key):
    """A random step of size 0.3 in every leaf, as an optimizer makes them."""
    leaves, treedef = jax.tree.flatten(schedule)
    keys = jax.random.split(key, len(leaves))
    step = lambda leaf, key: leaf + 0.3 * jax.random.normal(key, leaf.shape, leaf.dtype)
    return treedef.unflatten(list(map(step, leaves, keys)))


@pytest.mark.ci
@pytest.mark.parametrize("seed", [0, 1])
def test_ends_and_monotony_after_100_random_updates(seed):
    schedule = schedules.learned(8, logsnr_min=-7.5, logsnr_max=11.0)
    check(schedule)
    before = evaluate(schedule)[0]
    for key in jax.random.split(jax.random.key(seed), 100):
        schedule = updated(schedule, key)
    check(schedule)
    assert np.abs(evaluate(schedule)[0] - before).max() > 0.1
    logsnr = np.linspace(-7, 10, 9, dtype=np.float32)
    t = jax.jit(lambda schedule: schedule.inverse_logsnr(logsnr))(schedule)
    np.testing.assert_allclose(jax.jit(schedule.logsnr)(t), logsnr, atol=2e-4)


def test_it_starts_nearly_linear():
    line = schedules.LinearLogSNR(-5.0, 13.3).logsnr(T)
    assert np.abs(evaluate(schedules.learned(16))[0] - line).max() < 0.3


def adam(params, state, slope, rate=0.05):
    """One step of Adam, and what it keeps."""
    count, first, second = state
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slope)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, slope)
    scale = rate * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    move = lambda x, m, v: x - scale * m / (jnp.sqrt(v) + 1e-8)
    return jax.tree.map(move, params, first, second), (count + 1, first, second)


@pytest.mark.ci
def test_it_learns_another_schedule():
    """Adam on its leaves moves it towards the cosine's log-SNR within the ends."""
    target = schedules.Cosine(-6.0, 6.0).logsnr(T)

    @jax.jit
    def step(schedule, state):
        error = lambda schedule: jnp.mean((schedule.logsnr(T) - target) ** 2)
        value, slope = jax.value_and_grad(error)(schedule)
        return *adam(schedule, state, slope), value

    schedule = schedules.learned(8, logsnr_min=-6.0, logsnr_max=6.0)
    zeros = jax.tree.map(jnp.zeros_like, schedule)
    schedule, state, first = step(schedule, (jnp.float32(1), zeros, zeros))
    for _ in range(200):
        schedule, state, last = step(schedule, state)
    assert last < 0.1 * first
    check(schedule)


def test_the_ends_are_no_leaves():
    schedule = schedules.learned(4)
    assert [np.shape(leaf) for leaf in jax.tree.leaves(schedule)] == [(5,), (4,), (4,)]
