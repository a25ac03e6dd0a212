"""Distances between predictions and targets, and what is learned with each."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from diffusionflow import (
    distillation,
)
from tests.helpers import fewstep
from tests.helpers.fewstep import karras

pytestmark = pytest.mark.filterwarnings("ignore:.*below 64")
in_float64 = functools.partial(jax.enable_x64, True)


def learned_mass(metric, count=3000, size=1501):
    """Mass of the atom -1 by consistency training on levels, under a metric.

    Atoms -1 (0.3) and 1 (0.7) on sigma: a fixed point level by level, f the best of its
    two targets and their mean, whose values are weighed by the exact posterior.
    """
    sigma = karras(count)
    right = np.geomspace(1e-3, 600, size)
    grid = np.concatenate([-right[::-1], right])

    def step(values, levels):
        early, late = levels
        share = jax.nn.sigmoid(jnp.log(0.7 / 0.3) + 2 * grid / late**2)
        at = lambda x: jnp.interp(x + early / late * (grid - x), grid, values)
        up, down = at(1.0), at(-1.0)
        candidates = jnp.stack([up, down, share * up + (1 - share) * down])
        cost = lambda f: (
            share * metric(f[:, None], up[:, None], 1)
            + (1 - share) * metric(f[:, None], down[:, None], 1)
        )
        best = jnp.argmin(jnp.stack([cost(f) for f in candidates]), axis=0)
        return jnp.take_along_axis(candidates, best[None], axis=0)[0], None

    values, _ = jax.lax.scan(
        step, jnp.asarray(grid), (jnp.asarray(sigma[:-1]), jnp.asarray(sigma[1:]))
    )
    edge = np.interp(0.0, np.asarray(values), grid)  # f rises
    return special.ndtr(edge / np.hypot(sigma[-1], 0.0))


@pytest.mark.ci
def test_only_squared_error_learns_the_mean():
    """Others learn the flow of the more likely atom in one dimension."""
    expected = fewstep.value("consistency/median_flow")
    exact = special.ndtr(-2 * np.sqrt(np.log(7 / 3) / 2))
    np.testing.assert_allclose(expected, exact, rtol=1e-14)
    with in_float64():
        median = learned_mass(distillation.PseudoHuber(1e-6))
        mean = learned_mass(distillation.squared)
    assert abs(median - expected) < 0.004
    assert abs(mean - 0.3) < 0.004


def fixed_points(metric, dim):
    """Where the mean gradient of a metric crosses 0 upwards, from 0 to 1.

    Coordinates are 1 with probability 0.7 and else -1; the number of those that are 1
    is all that counts.
    """
    number = np.arange(dim + 1)
    mass = np.exp(
        special.gammaln(dim + 1)
        - special.gammaln(number + 1)
        - special.gammaln(dim - number + 1)
        + number * np.log(0.7)
        + (dim - number) * np.log(0.3)
    )
    targets = np.where(np.arange(dim) < number[:, None], 1.0, -1.0)

    def loss(level):
        prediction = jnp.broadcast_to(level, targets.shape)
        return jnp.sum(mass * metric(prediction, jnp.asarray(targets), 1))

    share = np.linspace(0.0005, 0.9995, 1000)
    slope = np.asarray(jax.jit(jax.vmap(jax.grad(loss)))(2 * share - 1))
    place = np.nonzero((slope[:-1] < 0) & (slope[1:] >= 0))[0]
    inside = slope[place] / (slope[place] - slope[place + 1])
    return share[place] + inside * (share[1] - share[0])


FIXED_POINTS = {
    1: (0.999, 0.999, 1.000),
    2: (0.999, 0.999, 1.000),
    8: (0.796, 0.756, 0.732),
    64: (0.706, 0.705, 0.703),
}


@pytest.mark.parametrize("dim", FIXED_POINTS)
def test_adaptive_weights_are_right_in_many_dimensions_alone(dim):
    with in_float64():
        np.testing.assert_allclose(
            fixed_points(distillation.squared, dim), [0.7], atol=1e-3
        )
        columns = (
            distillation.Adaptive(1.0, 0.01),
            distillation.Adaptive(0.75, 0.001),
            distillation.PseudoHuber(),
        )
        for metric, expected in zip(columns, FIXED_POINTS[dim], strict=True):
            found = fixed_points(metric, dim)
            assert np.abs(found - expected).min(initial=1.0 - expected) < 1.5e-3
    text = [line.split("|") for line in distillation.distances.__doc__.splitlines()]
    rows = {cells[1].strip(): cells[2:5] for cells in text if len(cells) > 4}
    printed = [float(cell.split()[0]) for cell in rows[str(dim)]]
    np.testing.assert_allclose(printed, FIXED_POINTS[dim])


def test_metrics_from_their_definitions():
    p, y = np.random.default_rng(0).normal(size=(2, 4, 3, 2))
    total = ((p - y) ** 2).sum((1, 2))
    with in_float64():
        p, y = jnp.asarray(p), jnp.asarray(y)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-12)
        close(distillation.squared(p, y, 1), total / 6)
        close(distillation.PseudoHuber(0.3)(p, y, 1), np.sqrt(total + 0.09) - 0.3)
        c = 0.00054 * np.sqrt(6)
        close(distillation.PseudoHuber()(p, y, 1), np.sqrt(total + c**2) - c)
        close(distillation.Adaptive(0.75, 0.1)(p, y, 1), total * (total + 0.1) ** -0.75)
        step = distillation.Normalized(0.2)(p - y, 1)
        norm = np.sqrt(total)
        close(np.sqrt((step**2).sum((1, 2))), norm / (norm + 0.2))
        slope = jax.grad(lambda p: distillation.Adaptive(1.0, 0.1)(p, y, 1).sum())(p)
        close(slope, 2 * (p - y) / (total + 0.1)[:, None, None])  # the weight is fixed
        for metric in (distillation.PseudoHuber(), distillation.Adaptive()):
            at_zero = jax.grad(lambda p, m=metric: m(p, y, 1).sum())(y)
            assert np.all(np.asarray(at_zero) == 0)
        zero = distillation.Normalized()
        assert np.isfinite(jax.jacrev(lambda p: zero(p - y, 1).sum())(y)).all()


def test_bounds_of_metrics():
    for make, match in (
        (lambda: distillation.PseudoHuber(0.0), "c=0.0"),
        (lambda: distillation.Adaptive(-1.0), "power=-1.0"),
        (lambda: distillation.Adaptive(1.0, 0.0), "c=0.0"),
        (lambda: distillation.Normalized(-0.1), "c=-0.1"),
    ):
        with pytest.raises(ValueError, match=match):
            make()


WARN = {
    "pseudo-Huber": lambda p: distillation.PseudoHuber()(p, 0 * p, 1),
    "adaptive": lambda p: distillation.Adaptive()(p, 0 * p, 1),
    "normalized": lambda p: distillation.Normalized()(p, 1),
}


@pytest.mark.parametrize("name", WARN)
def test_what_moves_the_optimum_below_64_dimensions_warns_there(name):
    with pytest.warns(
        UserWarning, match=f"{name}.* 63 values: with fewer than 64 "
    ) as found:
        WARN[name](np.ones((2, 7, 9), np.float32))
    assert found[0].filename == __file__  # the line that called it
    with warnings.catch_warnings(action="error"):
        WARN[name](np.ones((2, 8, 8), np.float32))
        distillation.Adaptive(0.0)(np.ones((2, 3)), np.zeros((2, 3)), 1)
