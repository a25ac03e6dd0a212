"""Noise of the rows of a finite data set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from diffusionflow.couplings import Assignment, Semidiscrete
from tests.helpers.coupled_pairs import KEY, ONES, RNG, ZEROS, pair, vectors
from tests.helpers.coupled_pairs import same_draws as same_draws
from tests.helpers.parametrize import check_all


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
    with pytest.raises(ValueError, match="jax.jit: must be .*; fit the coupling"):
        traced(ZEROS)
