"""Optimal assignment: plans, laws of labels, and what a correlation does to a flow."""

import itertools

import jax
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from diffusionflow import couplings, losses, metrics, schedules
from diffusionflow.couplings import Assignment
from tests.helpers.coupled_pairs import (
    RNG,
    batch,
    pair,
    single,
    squared_costs,
    vectors,
)
from tests.helpers.coupled_pairs import same_draws as same_draws
from tests.helpers.parametrize import check_all


def test_assignments_are_those_of_the_vectors():
    inputs, value = single("assignment_4")
    x, eps = inputs["x"].astype(np.float32), inputs["eps"].astype(np.float32)
    pairs = pair(Assignment(), None, x, eps)
    np.testing.assert_array_equal(pairs.index, value["index"])
    np.testing.assert_allclose(((x - pairs.eps) ** 2).mean(), value["cost"], rtol=1e-6)
    cost = squared_costs(x[:, None], eps[:, None])
    np.testing.assert_array_equal(couplings.assign(cost), value["index"])


def test_a_plan_of_unequal_sizes_is_an_assignment_of_copies():
    """3 rows of mass 4/12 and 4 columns of mass 3/12: 12 copies of 1/12 each."""
    inputs, value = single("exact_plan_3x4")
    copies = inputs["cost_matrix"].repeat(4, axis=0).repeat(3, axis=1)
    column = np.asarray(couplings.assign(copies.astype(np.float32)))
    plan = np.zeros((3, 4))
    np.add.at(plan, (np.arange(12) // 4, column // 3), 1)
    np.testing.assert_array_equal(plan, value["plan_times_12"])
    np.testing.assert_allclose((plan * inputs["cost_matrix"]).sum() / 12, value["cost"])


def test_no_permutation_costs_less():
    x, eps = RNG.standard_normal((2, 6, 2)).astype(np.float32)
    pairs = pair(Assignment(), None, x, eps)
    costs = [
        ((x - eps[list(order)]) ** 2).sum()
        for order in itertools.permutations(range(6))
    ]
    np.testing.assert_allclose(((x - pairs.eps) ** 2).sum(), min(costs), rtol=1e-6)


def test_labels_are_matched_as_if_each_were_alone():
    _, x, eps, labels = batch(64)
    index = np.asarray(pair(Assignment(), None, x, eps, labels).index)
    for label in range(4):
        (rows,) = np.nonzero(labels == label)
        alone = pair(Assignment(), None, x[rows], eps[rows])
        np.testing.assert_array_equal(index[rows], rows[np.asarray(alone.index)])


def test_assign_under_vmap_and_jit():
    cost = RNG.standard_normal((2, 3, 7, 7)).astype(np.float32)
    expected = [
        [scipy.optimize.linear_sum_assignment(each)[1] for each in part]
        for part in cost
    ]
    for fn in (couplings.assign, jax.jit(jax.vmap(couplings.assign))):
        np.testing.assert_array_equal(fn(cost), expected)


def order_means(n):
    """`E[xi_(i)]` of n normal draws, i = 1..n, by quadrature."""
    z = np.linspace(-12, 12, 40_001)
    i = np.arange(1, n + 1)[:, None]
    density = scipy.stats.beta.pdf(scipy.special.ndtr(z), i, n + 1 - i)
    return (z * density * scipy.stats.norm.pdf(z)).sum(1) * (z[1] - z[0])


@pytest.mark.ci
def test_the_correlation_of_a_batch_is_that_of_its_size():
    """Exactly: pairs depend on ranks only, given which the mean of a draw is known."""

    def check(inputs, value):
        n = int(inputs["n"])
        x, eps = (RNG.permutation(order_means(n)).astype(np.float32) for _ in "xe")
        pairs = pair(Assignment(), None, x, eps)
        np.testing.assert_allclose((x * pairs.eps).mean(), value, rtol=2e-6)

    check_all(check, vectors("minibatch_corr_"))


@pytest.mark.ci
def test_the_correlation_of_groups_of_4_by_monte_carlo():
    """Of 20,000 groups, to four standard errors; marginals are kept to rounding."""
    x, eps = RNG.standard_normal((2, 80_000)).astype(np.float32)
    pairs = pair(Assignment(group=4), None, x, eps)
    products = np.asarray(x * pairs.eps, np.float64).reshape(-1, 4).mean(1)
    error = products.std() / np.sqrt(len(products))
    assert error < 0.01
    _, exact = vectors("minibatch_corr_4")["minibatch_corr_4"]
    assert abs(products.mean() - exact) < 4 * error
    np.testing.assert_array_equal(np.sort(pairs.eps), np.sort(eps))


def mean_noise_of_plus(labels):
    """E[eps | x = +1] over groups of 2 with x = -1 or 1, exactly, as above."""
    products, shares = [], []
    for x in itertools.product((-1.0, 1.0), repeat=2):
        for eps in itertools.permutations(order_means(2)):
            x, eps = np.array(x, np.float32), np.array(eps, np.float32)
            inside = x.astype(np.int32) if labels else None
            pairs = pair(Assignment(), None, x, eps, inside)
            products.append(np.where(x > 0, pairs.eps, 0).mean())
            shares.append((x > 0).mean())
    return np.sum(products) / np.sum(shares)


def test_noise_of_a_class_is_biased_unless_labels_are_given():
    _, bias = single("class_bias_minibatch_2")
    np.testing.assert_allclose(mean_noise_of_plus(labels=False), bias, rtol=1e-6)
    np.testing.assert_allclose(mean_noise_of_plus(labels=True), 0, atol=1e-7)


def test_noise_of_a_class_in_a_large_group():
    _, bias = single("class_bias_exact_ot")
    n = 600
    x = np.where(np.arange(n) % 2, 1, -1).astype(np.float32)
    quantiles = scipy.special.ndtri((np.arange(n) + 0.5) / n)
    eps = RNG.permutation(quantiles).astype(np.float32)
    pairs = pair(Assignment(group=n), None, x, eps)
    np.testing.assert_allclose(pairs.eps[x > 0].mean(), bias, rtol=3e-3)
    pairs = pair(Assignment(group=n), None, x, eps, x.astype(np.int32))
    np.testing.assert_array_equal(np.sort(pairs.eps[x > 0]), np.sort(eps[x > 0]))


NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(4)
NODE_WEIGHTS /= NODE_WEIGHTS.sum()


def test_cost_floor_and_straightness_of_gaussian_pairs():
    check_all(gaussian_pairs_are_as_said, vectors("gaussian_v"))


def gaussian_pairs_are_as_said(inputs, value):
    """Loss of the exact network and its paths, by quadrature that is exact here."""
    v, corr = inputs["v"], inputs["corr"]
    first, second = (part.ravel() for part in np.meshgrid(NODES, NODES))
    weights = np.outer(NODE_WEIGHTS, NODE_WEIGHTS).ravel()
    x = np.sqrt(v) * first
    eps = corr * first + np.sqrt(1 - corr**2) * second
    np.testing.assert_allclose(weights @ (x - eps) ** 2, value["cost"], rtol=1e-9)

    cross = 2 * corr * np.sqrt(v)
    variance = lambda t: (1 - t) ** 2 * v + t**2 + t * (1 - t) * cross
    slope = lambda t: 2 * t - 2 * (1 - t) * v + (1 - 2 * t) * cross
    exact = lambda z, t: (slope(t) / (2 * variance(t)))[:, None] * z
    times, time_weights = np.polynomial.legendre.leggauss(60)
    times, time_weights = (times + 1) / 2, time_weights / 2
    np.testing.assert_allclose(
        time_weights @ (1 / variance(times)), value["int_inverse_V"], rtol=1e-9
    )
    every = lambda values: np.repeat(values, len(times))[:, None]
    with jax.enable_x64(True):
        loss = losses.cfm_loss(
            exact,
            every(x),
            np.tile(times, len(x)),
            every(eps),
            schedule=schedules.FlowMatching(),
        )
    floor = weights @ np.asarray(loss).reshape(len(x), -1) @ time_weights
    np.testing.assert_allclose(floor, value["cfm_floor"], rtol=1e-9)

    grid = np.linspace(0, 1, 4001)  # z_t = sqrt(V_t) z_1, and E z_1^2 = 1
    path = np.sqrt(variance(grid))[:, None, None]
    found = metrics.straightness(path, grid)[0]
    np.testing.assert_allclose(found, value["straightness"], rtol=1e-5, atol=1e-8)
