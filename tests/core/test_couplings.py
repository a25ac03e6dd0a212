"""Couplings of a batch: permutations inside labels, programs, devices, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from diffusionflow import couplings, losses, objectives, random
from diffusionflow.couplings import Assignment, Independent, Semidiscrete, Sinkhorn
from tests.helpers.coupled_pairs import KEY, ONES, RNG, ZEROS, batch, pair
from tests.helpers.coupled_pairs import same_draws as same_draws
from tests.helpers.parametrize import check_all

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


FITTED = Semidiscrete(ONES, np.zeros(4, np.float32))
MISTAKES = {
    "a name for x": (lambda: Assignment()(KEY, "x", ONES), "x of dtype"),
    "bytes for x": (lambda: Assignment()(KEY, ZEROS, ZEROS), "x of dtype int32"),
    "integers for eps": (lambda: Sinkhorn()(KEY, ONES, ZEROS), "eps of dtype int32"),
    "one number": (lambda: Independent()(KEY, 1.0, 1.0), r"x of shape \(\): must be"),
    "other shapes": (
        lambda: Independent()(KEY, ONES, ONES[:3]),
        r"eps of shape \(3, 2",
    ),
    "a seed for a key": (lambda: Sinkhorn()(0, ONES, ONES), "must be a typed key"),
    "too few keys": (
        lambda: Sinkhorn()(random.example_keys(0, np.arange(3)), ONES, ONES),
        r"keys of shape \(3,\).*each of the 4",
    ),
    "no key": (lambda: Sinkhorn()(None, ONES, ONES), "key=None: .* Sinkhorn draws"),
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
        r"labels \[7\]: no row",
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
        "weights: .* of row .*: each must be",
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
