"""Entropic plans, and permutations near them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from diffusionflow import random
from diffusionflow.couplings import Assignment, Sinkhorn
from diffusionflow.couplings.auction import nearly_optimal
from tests.helpers.coupled_pairs import (
    KEY,
    RNG,
    batch,
    pair,
    plan,
    single,
    squared_costs,
    vectors,
)
from tests.helpers.coupled_pairs import same_draws as same_draws
from tests.helpers.parametrize import check_all

auctioned = jax.jit(nearly_optimal)


def test_entropic_plans_are_those_of_the_vectors():
    def check(inputs, value):
        with jax.enable_x64(True):
            cost = inputs["cost_matrix"]
            found = np.asarray(plan(cost, reg=inputs["reg"], num_iterations=400))
        np.testing.assert_allclose(found, value["plan"], rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose((found * cost).sum(), value["cost"], rtol=1e-12)

    check_all(check, vectors("sinkhorn_3x4"))


def test_a_small_regularisation_in_float32_is_the_exact_plan():
    """`exp(-cost / reg)` is 0 wherever the cost is not: nothing is left of the rest."""
    inputs, value = single("exact_plan_3x4")
    cost = np.float32(1000) * inputs["cost_matrix"].astype(np.float32)
    assert (np.exp(-cost / 2) > 0).sum() == 3
    found = plan(cost, reg=2.0, num_iterations=2000)
    np.testing.assert_allclose(12 * found, value["plan_times_12"], atol=1e-3)


@pytest.mark.ci
def test_entropic_covariance_of_gaussians():
    """On a fine grid, where sums over it are integrals."""
    grid = np.linspace(-7, 7, 225)
    mass = scipy.stats.norm.pdf(grid)
    mass /= mass.sum()

    def check(inputs, value):
        x = np.sqrt(inputs["v"]) * grid
        cost = (x[:, None] - grid) ** 2
        with jax.enable_x64(True):
            found = np.asarray(
                plan(
                    cost, reg=inputs["reg"], rows=mass, columns=mass, num_iterations=600
                )
            )
        np.testing.assert_allclose(found.sum(0), mass, rtol=1e-9)
        np.testing.assert_allclose(x @ found @ grid, value, rtol=1e-9)

    check_all(check, vectors("entropic_cov"))


def test_a_plan_has_batches_and_derivatives():
    cost = RNG.standard_normal((3, 4, 5)).astype(np.float32)
    every = plan(cost, reg=1.0)
    for each, one in zip(cost, every, strict=True):
        np.testing.assert_allclose(plan(each, reg=1.0), one, rtol=1e-5)
    np.testing.assert_allclose(every.sum(1), 1 / 5, rtol=1e-5)
    np.testing.assert_allclose(every.sum(2), 1 / 4, rtol=1e-3)
    # the least value of the dual is a function of reg with slope mean KL: by its parts
    value = lambda reg: (lambda p: (p * cost[0]).sum() + reg * entropy(p))(
        plan(cost[0], reg=reg)
    )
    entropy = lambda p: (p * jnp.log(p * 20)).sum()
    slope = jax.grad(value)(1.0)
    np.testing.assert_allclose(slope, entropy(every[0]), rtol=1e-3)


@pytest.mark.parametrize("n", [1, 2, 40])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_an_auction_is_optimal_to_a_step_per_row(n, scale):
    """Also inside blocks: -inf is never taken."""
    value = (scale * RNG.standard_normal((n, n))).astype(np.float32)
    blocks = np.arange(n) % 3
    for allowed in (np.ones((n, n), bool), blocks[:, None] == blocks):
        given = np.where(allowed, value, -np.inf).astype(np.float32)
        column = np.asarray(auctioned(given))
        np.testing.assert_array_equal(np.sort(column), np.arange(n))
        assert allowed[np.arange(n), column].all()
        cost = np.where(allowed, -value, 1e9)
        best = -cost[scipy.optimize.linear_sum_assignment(cost)].sum()
        chosen = value[allowed]
        step = max(0.1, (chosen.max() - chosen.min()) / 1000)
        gap = best - value[np.arange(n), column].sum()
        assert -1e-3 * scale < gap < n * step


@pytest.mark.ci
def test_a_group_of_two_has_the_law_of_its_docstring():
    """Not that of the plan: 20,000 groups of the same costs, four standard errors."""
    n, reg = 20_000, 2.0
    x = np.tile(np.array([-0.5, 0.5], np.float32), n)
    eps = np.tile(np.array([-0.6, 0.8], np.float32), n)
    draw = Sinkhorn(reg, group=2)
    kept = np.asarray(pair(draw, KEY, x, eps).index[::2]) % 2 == 0
    cost = squared_costs(x[:2, None], eps[:2, None])
    a = (cost[0, 1] + cost[1, 0] - cost[0, 0] - cost[1, 1]) / (reg * cost.mean())
    share = np.exp(a) * (np.exp(a) - 1 - a) / (np.exp(a) - 1) ** 2
    error = np.sqrt(share * (1 - share) / n)
    assert abs(kept.mean() - share) < 4 * error + 0.003  # and the step of the auction
    assert 1 / (1 + np.exp(-a / 2)) < share - 0.05


@pytest.mark.ci
def test_a_large_regularisation_draws_uniform_permutations():
    n = 12_000
    x, eps = (np.tile(RNG.standard_normal(3).astype(np.float32), n) for _ in "xe")
    orders = np.asarray(pair(Sinkhorn(1e4, group=3), KEY, x, eps).index) % 3
    number = orders.reshape(n, 3) @ [9, 3, 1]
    counts = np.unique(number, return_counts=True)[1]
    assert len(counts) == 6
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_a_small_regularisation_draws_the_optimum():
    """Where no other permutation is within the step of the auction."""
    x = RNG.permutation(32).astype(np.float32)
    eps = RNG.permutation(32).astype(np.float32) + 0.1
    exact = pair(Assignment(), None, x, eps).index
    drawn = pair(Sinkhorn(1e-4, num_iterations=300), KEY, x, eps).index
    np.testing.assert_array_equal(drawn, exact)


@pytest.mark.ci
def test_large_groups_have_the_correlation_of_the_entropic_plan():
    """Of two normal laws, to the standard error of 4,096 pairs, thrice, or 0.01."""
    x, eps = RNG.standard_normal((2, 4096)).astype(np.float32)
    for reg in (0.25, 1.0):
        pairs = pair(Sinkhorn(reg, group=256), KEY, x, eps)
        absolute = reg * 2  # in units of the mean of |x - eps|^2
        exact = (-absolute + np.sqrt(absolute**2 + 16)) / 4
        found = np.corrcoef(x, pairs.eps)[0, 1]
        assert abs(found - exact) < 3 * (1 - exact**2) / np.sqrt(4096) + 0.002


@pytest.mark.parametrize("features", [1, 8, 64])
def test_groups_have_the_mean_cost_of_their_own_plan(features):
    """Which is biased by the size of the group in high dimension; 32 groups of 64."""
    x, eps = RNG.standard_normal((2, 2048, features)).astype(np.float32)
    pairs = pair(Sinkhorn(0.1, group=64), KEY, x, eps)
    corr, expected = [], []
    for start in range(0, 2048, 64):
        part = slice(start, start + 64)
        cost = squared_costs(x[part], eps[part])
        own = np.asarray(plan(cost, reg=0.1 * cost.mean()))
        expected.append((own * (x[part] @ eps[part].T)).sum() / features)
        corr.append((x[part] * pairs.eps[part]).mean())
    gap = np.array(corr) - expected
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(32) < 0.02
    assert np.mean(expected) > 4 * gap.std()


def test_each_label_has_its_own_plan():
    """Labels of small and of large costs, each near its own optimum."""
    n = 32
    values = RNG.permutation(n).astype(np.float32)
    x = np.concatenate([values, 1e4 * values])
    eps = np.concatenate([values[::-1], 1e4 * values[::-1]]) + np.float32(0.1)
    labels = np.repeat([0, 1], n)
    exact = pair(Assignment(), None, x, eps, labels).index
    drawn = pair(Sinkhorn(1e-4, num_iterations=300), KEY, x, eps, labels).index
    np.testing.assert_array_equal(drawn, exact)


def test_each_example_has_its_own_draws():
    _, x, eps, _ = batch(16)
    keys = random.example_keys(0, np.arange(16))
    first = pair(Sinkhorn(10.0), keys, x, eps).index
    other = pair(Sinkhorn(10.0), random.example_keys(1, np.arange(16)), x, eps).index
    assert (np.asarray(first) != np.asarray(other)).mean() > 0.5
