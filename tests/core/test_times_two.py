"""Pairs of times: their law, and that each example draws its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffusionflow import random, schedules, times

FLOW = schedules.FlowMatching()
COUNT = 20_000
KEYS = random.example_keys(0, np.arange(COUNT))


def draw(two, keys=KEYS, shape=(COUNT,)):
    return map(np.asarray, two.sample(keys, shape, schedule=FLOW))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_law_of_sorted_uniform_pairs(share):
    t, s = draw(times.Two(share=share))
    assert np.all(s <= t)
    same = s == t
    error = np.sqrt(share * (1 - share) / COUNT)
    assert abs(same.mean() - share) <= 4 * error + (share == 0) * 1e-3
    assert stats.kstest(t, lambda t: t**2).pvalue > 1e-3
    if share < 1:
        assert stats.kstest(s[~same], lambda s: 1 - (1 - s) ** 2).pvalue > 1e-3
    if 0 < share < 1:  # which are on the diagonal does not depend on the time
        assert stats.ks_2samp(t[same], t[~same]).pvalue > 1e-3


def test_the_densities_of_both_draws():
    base = times.LogitNormal(-0.4, 1.0)
    t, _ = draw(times.Two(base, share=0.5))
    assert stats.kstest(t, lambda t: base.cdf(t, schedule=FLOW) ** 2).pvalue > 1e-3
    other = times.Uniform(0.0, 0.5)
    t, _ = draw(times.Two(base, second=other))
    both = lambda t: base.cdf(t, schedule=FLOW) * other.cdf(t, schedule=FLOW)
    assert stats.kstest(t, both).pvalue > 1e-3


def test_an_example_draws_the_same_in_every_batch():
    two = times.Two(times.LogitNormal(), share=0.5)
    t, s = draw(two)
    few_t, few_s = draw(two, KEYS[5:9], (4,))
    np.testing.assert_array_equal(few_t, t[5:9])
    np.testing.assert_array_equal(few_s, s[5:9])
    halves = (s == t)[: COUNT // 2], (s == t)[COUNT // 2 :]
    assert abs(halves[0].mean() - halves[1].mean()) < 0.03


def test_one_key_and_one_program_for_every_share():
    sample = jax.jit(lambda key, two: two.sample(key, (64,), schedule=FLOW))
    for share in (0.0, 1.0):
        t, s = sample(jax.random.key(0), times.Two(share=share))
        assert bool(jnp.all(s == t)) == bool(share) and t.dtype == jnp.float32
    assert sample._cache_size() == 1


def test_the_share_is_bounded():
    with pytest.raises(ValueError, match=r"share=1\.5: must be in \[0, 1\]"):
        times.Two(share=1.5)
