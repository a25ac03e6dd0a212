"""Pairs of data and noise: optimal, entropic and semidiscrete, inside labels."""

import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from jax.sharding import Mesh, PartitionSpec

from diffusionflow import couplings, losses, metrics, objectives, random, schedules
from diffusionflow.couplings import Assignment, Independent, Semidiscrete, Sinkhorn
from diffusionflow.couplings.auction import nearly_optimal
from tests.helpers.parametrize import check_all

DATA = pathlib.Path(__file__).parents[1] / "data"
VECTORS = json.loads((DATA / "testvectors_fewstep.json").read_text())["couplings"]
KEY = jax.random.key(0)
RNG = np.random.RandomState(0)


@pytest.fixture(autouse=True)
def same_draws():
    """Whatever ran before."""
    RNG.seed(0)


pair = jax.jit(lambda coupling, *arguments: coupling(*arguments))


def vectors(prefix):
    """`(inputs, value)` of the entries whose names begin so, numbers in float64."""

    def number(entry):
        if isinstance(entry, dict):
            return {name: number(part) for name, part in entry.items()}
        return np.array(entry, np.float64)[()]

    found = {name: entry for name, entry in VECTORS.items() if name.startswith(prefix)}
    assert found
    return {
        name: (number(entry["inputs"]), number(entry["value"]))
        for name, entry in found.items()
    }


def single(prefix):
    (entry,) = vectors(prefix).values()
    return entry


def batch(n, features=3, num_labels=4):
    x, eps = RNG.standard_normal((2, n, features)).astype(np.float32)
    keys = random.example_keys(0, np.arange(n))
    return keys, x, eps, RNG.randint(num_labels, size=n)


def squared_costs(x, eps):
    return ((x[:, None] - eps[None]) ** 2).sum(-1)


# ---- every coupling of a batch

PERMUTATIONS = {
    "independent": Independent(),
    "assignment": Assignment(group=16),
    "sinkhorn": Sinkhorn(group=16),
}


@pytest.mark.parametrize("name", PERMUTATIONS)
@pytest.mark.parametrize("inside", [False, True], ids=["", "labels"])
def test_pairs_are_a_permutation_of_the_noise_inside_groups_and_labels(name, inside):
    keys, x, eps, labels = batch(64)
    labels = labels if inside else None
    pairs = pair(PERMUTATIONS[name], keys, x, eps, labels)
    index = np.asarray(pairs.index)
    assert pairs.index.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(index), np.arange(64))
    np.testing.assert_array_equal(index // 16, np.arange(64) // 16)
    np.testing.assert_array_equal(pairs.eps, eps[index])
    np.testing.assert_array_equal(pairs.x, x)
    if inside:
        np.testing.assert_array_equal(pairs.labels, labels)
        np.testing.assert_array_equal(labels[index], labels)
    else:
        assert pairs.labels is None
    moved = (index != np.arange(64)).mean()
    assert moved == 0 if name == "independent" else moved > 0.3


@pytest.mark.parametrize("name", PERMUTATIONS)
def test_pairs_are_the_same_in_any_program_and_for_any_cut_into_batches(name):
    arguments = batch(64)
    coupling = PERMUTATIONS[name]
    eager = coupling(*arguments)
    assert jax.tree.all(jax.tree.map(np.array_equal, eager, pair(coupling, *arguments)))
    cut = lambda array: array.reshape(2, 32, *array.shape[1:])
    both = jax.jit(jax.vmap(coupling))(*map(cut, arguments))
    np.testing.assert_array_equal(np.concatenate(both.eps), eager.eps)
    for start in (0, 16, 32, 48):
        part = [array[start : start + 16] for array in arguments]
        np.testing.assert_array_equal(
            pair(coupling, *part).eps, eager.eps[start : start + 16]
        )


@pytest.mark.parametrize("name", PERMUTATIONS)
@pytest.mark.parametrize("check_vma", [False, True])
def test_pairs_are_the_same_for_any_number_of_devices(name, check_vma):
    arguments = jax.tree.map(jnp.asarray, batch(64))
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    cut = PartitionSpec("data")
    noise = lambda *arguments: PERMUTATIONS[name](*arguments).eps
    each = jax.shard_map(
        noise, mesh=mesh, in_specs=cut, out_specs=cut, check_vma=check_vma
    )
    whole = pair(PERMUTATIONS[name], *arguments).eps
    np.testing.assert_array_equal(jax.jit(each)(*arguments), whole)


@pytest.mark.parametrize("name", PERMUTATIONS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_types_and_shapes_are_those_of_the_arguments(name, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        for shape in ((6,), (6, 2, 2)):
            x, eps = jnp.asarray(RNG.standard_normal((2, *shape)), dtype)
            labels = np.array([0, 0, 1, 1, 1, 1])
            pairs = pair(PERMUTATIONS[name], KEY, x, eps, labels)
            assert pairs.x.dtype == pairs.eps.dtype == dtype
            assert pairs.x.shape == pairs.eps.shape == shape
            assert pairs.index.dtype == jnp.int32


@pytest.mark.parametrize("name", PERMUTATIONS)
def test_a_row_that_is_not_finite_takes_noise_of_its_label(name):
    """And the program ends, so that the trainer can count the step."""
    keys, x, eps, labels = batch(16)
    x[3] = np.nan, np.inf, -np.inf
    index = np.asarray(pair(PERMUTATIONS[name], keys, x, eps, labels).index)
    np.testing.assert_array_equal(np.sort(index), np.arange(16))
    np.testing.assert_array_equal(labels[index], labels)


@pytest.mark.parametrize("name", PERMUTATIONS)
def test_a_loss_of_pairs_has_derivatives(name):
    """Those of the pairs as they are: which noise is chosen is not differentiated."""
    _, x, eps, labels = batch(16)

    @jax.jit
    def loss(x, scale):
        pairs = PERMUTATIONS[name](KEY, x, eps, labels)
        terms = losses.objective_loss(
            None,
            lambda z, t: scale * z,
            pairs.x,
            objective=objectives.flow_matching(),
            t=jnp.full(16, 0.25),
            eps=pairs.eps,
        )
        return terms.sum()

    chosen = np.asarray(pair(PERMUTATIONS[name], KEY, x, eps, labels).eps)
    found = jax.grad(loss, argnums=(0, 1))(x, 0.5)
    z = 0.75 * x + 0.25 * chosen
    error = 2 / 3 * (0.5 * z - (chosen - x))
    np.testing.assert_allclose(found[0], error * (0.5 * 0.75 + 1), atol=1e-5)
    np.testing.assert_allclose(found[1], (error * z).sum(), rtol=1e-4)


def test_a_regularisation_is_data():
    keys, x, eps, _ = batch(16)
    draw = jax.jit(lambda coupling: coupling(keys, x, eps).index)
    for reg in (0.01, 0.1, 1.0):
        draw(Sinkhorn(reg))
    assert draw._cache_size() == 1


ONES = np.ones((4, 2), np.float32)
ZEROS = np.zeros(4, np.int32)
FITTED = Semidiscrete(ONES, np.zeros(4, np.float32))
MISTAKES = {
    "a name for x": (lambda: Assignment()(KEY, "x", ONES), "x of dtype"),
    "bytes for x": (lambda: Assignment()(KEY, ZEROS, ZEROS), "x of dtype int32"),
    "integers for eps": (lambda: Sinkhorn()(KEY, ONES, ZEROS), "eps of dtype int32"),
    "one number": (lambda: Independent()(KEY, 1.0, 1.0), "x is one number"),
    "other shapes": (
        lambda: Independent()(KEY, ONES, ONES[:3]),
        r"eps of shape \(3, 2",
    ),
    "a seed for a key": (lambda: Sinkhorn()(0, ONES, ONES), "must be a typed key"),
    "too few keys": (
        lambda: Sinkhorn()(random.example_keys(0, np.arange(3)), ONES, ONES),
        r"keys of shape \(3,\).*each of the 4",
    ),
    "no key": (lambda: Sinkhorn()(None, ONES, ONES), "key=None: Sinkhorn draws"),
    "too few labels": (
        lambda: Assignment()(KEY, ONES, ONES, ZEROS[:3]),
        r"labels of shape \(3,\).*integers of shape \(4,\)",
    ),
    "floating labels": (
        lambda: Assignment()(KEY, ONES, ONES, ONES[:, 0]),
        "type float32: must be integers",
    ),
    "a name for labels": (lambda: Assignment()(KEY, ONES, ONES, "1234"), "labels of"),
    "groups that do not fit": (
        lambda: Assignment(group=3)(KEY, ONES, ONES),
        "4 examples in groups of group=3: must be a whole number",
    ),
    "no group": (lambda: Assignment(group=0), "group=0: must be at least 1"),
    "no group of Sinkhorn": (lambda: Sinkhorn(group=-1), "group=-1"),
    "no regularisation": (lambda: Sinkhorn(reg=0.0), "reg=0.0: must be positive"),
    "an infinite one": (lambda: Sinkhorn(reg=np.inf), "reg=inf: must be positive"),
    "a name for it": (lambda: Sinkhorn(reg="auto"), "reg='auto'"),
    "no iterations": (lambda: Sinkhorn(num_iterations=0), "num_iterations=0"),
    "no regularisation of a plan": (
        lambda: couplings.sinkhorn_plan(ONES, reg=-1.0),
        "reg=-1.0: must be positive",
    ),
    "no iterations of a plan": (
        lambda: couplings.sinkhorn_plan(ONES, reg=1.0, num_iterations=0),
        "num_iterations=0",
    ),
    "a marginal of another size": (
        lambda: couplings.sinkhorn_plan(ONES, reg=1.0, rows=ONES[:3, 0]),
        r"rows of shape \(3,\): must be \(4,\)",
    ),
    "a vector of costs": (
        lambda: couplings.sinkhorn_plan(ONES[0], reg=1.0),
        r"cost of shape \(2,\): must be",
    ),
    "costs that are not square": (lambda: couplings.assign(ONES), r"cost of shape \(4"),
    "integer costs": (
        lambda: couplings.assign(np.zeros((2, 2), np.int32)),
        "cost of dtype int32",
    ),
    "other events than the data": (
        lambda: FITTED(KEY, ONES[:, :1], ONES[:, :1]),
        r"one eps of shape \(1,\).*one row of data",
    ),
    "labels of unlabelled data": (
        lambda: FITTED(KEY, ONES, ONES, ZEROS),
        "called with labels, and fitted without",
    ),
    "no labels": (
        lambda: Semidiscrete(ONES, ONES[:, 0], ZEROS)(KEY, ONES, ONES),
        "called without labels, and fitted with",
    ),
    "a label of no row": (
        lambda: Semidiscrete(ONES, ONES[:, 0], ZEROS)(KEY, ONES, ONES, ZEROS + 7),
        r"labels \[7\] have no row",
    ),
    "potentials of another size": (
        lambda: Semidiscrete(ONES, ONES[:3, 0])(KEY, ONES, ONES),
        r"potentials of shape \(3,\): must be \(4,\)",
    ),
    "bytes for data": (
        lambda: Semidiscrete.fit(KEY, np.ones((3, 2), np.uint8)),
        "data of dtype uint8",
    ),
    "no data": (lambda: Semidiscrete.fit(KEY, ONES[:0]), "must be .N"),
    "labels of other data": (
        lambda: Semidiscrete.fit(KEY, ONES, ZEROS[:2]),
        r"labels of shape \(2,\)",
    ),
    "a weight of 0": (
        lambda: Semidiscrete.fit(KEY, ONES, weights=np.array([0.0, 1, 1, 1])),
        "a weight is not positive",
    ),
    "a rate of 0": (lambda: Semidiscrete.fit(KEY, ONES, rate=0.0), "rate=0.0"),
    "no steps": (lambda: Semidiscrete.fit(KEY, ONES, num_steps=0), "num_steps=0"),
}


def is_refused_while_tracing(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        jax.eval_shape(call)
    assert "\n" not in str(caught.value)


def test_mistakes_are_one_sentence_each():
    check_all(is_refused_while_tracing, MISTAKES)


# ---- optimal assignment


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


def test_the_correlation_of_a_batch_is_that_of_its_size():
    """Exactly: pairs depend on ranks only, given which the mean of a draw is known."""

    def check(inputs, value):
        n = int(inputs["n"])
        x, eps = (RNG.permutation(order_means(n)).astype(np.float32) for _ in "xe")
        pairs = pair(Assignment(), None, x, eps)
        np.testing.assert_allclose((x * pairs.eps).mean(), value, rtol=2e-6)

    check_all(check, vectors("minibatch_corr_"))


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


# ---- what a correlation does to flow matching

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


# ---- entropic plans

auctioned = jax.jit(nearly_optimal)
plan = jax.jit(couplings.sinkhorn_plan, static_argnames="num_iterations")


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


# ---- permutations near entropic plans


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


# ---- a finite data set


def edges_of_line(atoms, weights):
    """Edges of the cells, and `g_(j+1) - g_j`: (q - x)^2 - g is equal on both sides."""
    edges = scipy.special.ndtri(np.cumsum(weights)[:-1] / np.sum(weights))
    return edges, (edges - atoms[1:]) ** 2 - (edges - atoms[:-1]) ** 2


ATOMS = np.array([-1.0, 1.0], np.float32)


def test_two_atoms_are_cut_where_their_weights_say():
    def check(inputs, value):
        potentials = np.array([value["potential_difference"], 0], np.float32)
        coupling = Semidiscrete(ATOMS, potentials)
        near = np.float32(value["edge"]) + np.float32([-1e-5, 1e-5])
        np.testing.assert_array_equal(pair(coupling, None, near, near).x, [-1, 1])
        eps = np.linspace(-8, 8, 20_001, dtype=np.float32)
        mass = scipy.stats.norm.pdf(eps.astype(np.float64))
        pairs = pair(coupling, None, eps, eps)
        np.testing.assert_array_equal(pairs.eps, eps)
        np.testing.assert_array_equal(pairs.x, ATOMS[pairs.index])
        low = (mass * (np.asarray(pairs.x) < 0)).sum() / mass.sum()
        np.testing.assert_allclose(low, inputs["w"], atol=3e-4)
        cost = (mass * np.asarray(pairs.x - eps) ** 2).sum() / mass.sum()
        np.testing.assert_allclose(cost, value["w2_squared"], atol=1e-5)

    check_all(check, vectors("semidiscrete_two_atoms"))


fit = jax.jit(
    lambda key, data, weights: Semidiscrete.fit(key, data, weights=weights).potentials
)


def test_potentials_of_two_atoms_are_found():
    """To four standard errors of the shares of 256 draws in 1,000 steps."""

    def check(inputs, value):
        w = inputs["w"]
        found = fit(KEY, ATOMS, jnp.array([w, 1 - w]))
        first, second = np.asarray(found, np.float64)
        slope = scipy.stats.norm.pdf(value["edge"]) / 4  # of a share in a potential
        error = np.sqrt(w * (1 - w) / 256_000) / slope
        exact = value["potential_difference"]
        assert abs(first - second - exact) < 4 * error < 0.06
        np.testing.assert_allclose(first + second, 0, atol=1e-5)

    check_all(check, vectors("semidiscrete_two_atoms"))


def test_potentials_are_found_inside_labels():
    """Two labels in turn, as if each were alone; labels are any integers."""
    data = np.array([-2.0, -1.0, -0.5, 0.0, 0.0, 3.0, 1.0, 4.0], np.float32)
    labels = np.array([9, -5] * 4)
    weights = np.array([1.0, 1, 1, 2, 1, 1, 2, 1])
    coupling = Semidiscrete.fit(KEY, data, labels, weights=weights)
    eps = RNG.standard_normal(20_000).astype(np.float32)
    asked = RNG.choice([-5, 9], 20_000)
    pairs = pair(coupling, None, eps, eps, asked)
    np.testing.assert_array_equal(labels[np.asarray(pairs.index)], asked)
    np.testing.assert_array_equal(pairs.x, data[np.asarray(pairs.index)])
    for label in (-5, 9):
        own = labels == label
        edges, steps = edges_of_line(data[own], weights[own])
        found = np.asarray(coupling.potentials)[own]
        np.testing.assert_allclose(np.diff(found), steps, atol=0.1)
        np.testing.assert_allclose(found.mean(), 0, atol=1e-5)
        chosen = np.searchsorted(np.sort(data[own]), pairs.x[asked == label])
        near = np.abs(eps[asked == label][:, None] - edges).min(1) < 0.05
        expected = np.searchsorted(edges, eps[asked == label])
        np.testing.assert_array_equal(chosen[~near], expected[~near])


def test_equal_rows_share_their_noise():
    """The cell of two equal rows has the weight of both."""
    data = np.array([-1.0, 1.0, 1.0], np.float32)
    _, exact = vectors("semidiscrete_two_atoms_w0.5")["semidiscrete_two_atoms_w0.5"]
    coupling = Semidiscrete.fit(KEY, data, weights=np.array([2.0, 1.0, 1.0]))
    g = np.asarray(coupling.potentials)
    np.testing.assert_allclose(g[0] - g[1], exact["potential_difference"], atol=0.05)
    assert g[1] == g[2]


def test_a_semidiscrete_plan_beats_a_batch():
    """Noise has its law whatever the potentials; images of rows are the rows."""
    data = RNG.standard_normal((40, 2, 2)).astype(np.float32)
    coupling = Semidiscrete.fit(KEY, data, num_steps=1000)
    x, eps = np.zeros((4000, 2, 2), np.float32), RNG.standard_normal((4000, 2, 2))
    pairs = pair(coupling, None, x, eps.astype(np.float32))
    np.testing.assert_array_equal(pairs.x, data[np.asarray(pairs.index)])
    shares = np.bincount(pairs.index, minlength=40) / 4000
    assert scipy.stats.chisquare(4000 * shares).pvalue > 1e-4
    cost = np.square(pairs.x - pairs.eps).sum((1, 2)).mean()
    drawn = data[RNG.randint(40, size=4000)]
    matched = pair(Assignment(group=40), None, drawn, eps.astype(np.float32))
    assert cost < np.square(matched.x - matched.eps).sum((1, 2)).mean() - 0.2


def test_a_traced_label_of_no_row_has_no_data():
    coupling = Semidiscrete(ONES, np.zeros(4, np.float32), np.array([0, 0, 1, 1]))
    pairs = pair(coupling, None, ONES, ONES, np.array([0, 1, 2, 0]))
    np.testing.assert_array_equal(np.isnan(pairs.x).all(1), [False, False, True, False])
    traced = jax.jit(lambda labels: Semidiscrete.fit(KEY, ONES, labels).potentials)
    with pytest.raises(ValueError, match="traced: fit outside of jit"):
        traced(ZEROS)
