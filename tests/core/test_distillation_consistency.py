"""Consistency losses, their curricula and metrics, and their exact optima.

On data N(0, v) every map is a factor on z. The optimum of a regression on z is found
from the gradient of the library's own loss, over pairs by a quadrature that is exact.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from diffusionflow import (
    analytic,
    distillation,
    grids,
    predictions,
    random,
    samplers,
)
from tests.helpers import fewstep

FLOW, COSINE, EDM = (fewstep.SCHEDULES[name] for name in ("flow", "cosine", "edm"))
EDM_F = predictions.edm_f(0.5)
in_float64 = functools.partial(jax.enable_x64, True)


def denoise_fn_of(schedule, v):
    return analytic.gaussian(np.zeros(1), v).denoise_fn(schedule=schedule)


# ---- consistency


def slopes(schedule, kind, v, t, early, s):
    """Regression of `f(z, l) = z`, l < t, on z_t, by the gradient of the loss.

    One map for each pair of times, `f(z, t) = h z`; with squared error the loss is
    quadratic in h, and four pairs (x, eps) give its mean.
    """
    x, eps = (np.sqrt(v) * np.array([1, 1, -1, -1.0]), np.array([1, -1, 1, -1.0]))
    level = lambda at, fn: np.asarray(fn(at))[:, None]
    z = lambda at: level(at, schedule.alpha) * x + level(at, schedule.sigma) * eps
    settings = dict(kind=kind, schedule=schedule)

    def as_prediction(z, t, s, h):
        a, b = distillation.jump_coefficients(kind, t, s, schedule=schedule)
        rest = jnp.where(b == 0, 1.0, b)
        return ((h - a) / rest)[:, None] * z

    def loss(h):
        return jnp.sum(
            distillation.consistency_loss(
                lambda z, t, s: as_prediction(z, t, s, h),
                z(t),
                t,
                z(early),
                early,
                s,
                target_fn=lambda z, t, s: as_prediction(z, t, s, jnp.ones_like(t)),
                **settings,
            )
        )

    slope = jax.jit(jax.grad(loss))
    zero, one = (slope(jnp.full(len(t), part)) for part in (0.0, 1.0))
    return np.asarray(-zero / (one - zero))


def karras(count):
    rho = np.linspace(0.002 ** (1 / 7), 80 ** (1 / 7), count)
    return rho**7


@pytest.mark.parametrize("name", fewstep.names("consistency/ct_fixed_point_*"))
def test_the_fixed_point_of_consistency_training(name):
    """DDIM on the levels; on 11 it is 24.7 % too narrow."""
    given, expected = fewstep.inputs(name), fewstep.value(name)
    times = karras(int(given["N"])) / 80
    with in_float64():
        first = np.full(len(times) - 1, times[0])
        found = np.prod(slopes(EDM, EDM_F, given["v"], times[1:], times[:-1], first))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    exact = fewstep.value("consistency/consistency_function_edm")
    error = {11: -0.247, 21: -0.132, 161: -0.0176, 1281: -0.00222}[int(given["N"])]
    np.testing.assert_allclose(found / exact - 1, error, rtol=4e-3)


def test_the_consistency_function_of_gaussian_data():
    with in_float64():
        move = fewstep.gaussian_map(EDM, 0.0, 0.25)
        found = move(np.array([1.0]), np.array([1.0]), np.array([0.002 / 80]))
    expected = fewstep.value("consistency/consistency_function_edm")
    np.testing.assert_allclose(found, [expected], rtol=1e-12)


@pytest.mark.parametrize("name", fewstep.names("flow_maps/discrete_consistency_*"))
def test_the_fixed_point_at_a_fixed_ratio(name):
    """`l = t - r (t - s)`, pairs: DDIM on the geometric grid, so r is in the result."""
    r, v = (fewstep.inputs(name)[key] for key in ("r", "v"))
    count = int(np.ceil(np.log(1e-17) / np.log(1 - r)))
    with in_float64():
        t = (1 - r) ** np.arange(count)
        found = np.prod(slopes(FLOW, "u", v, t, t * (1 - r), 0 * t))
    np.testing.assert_allclose(found, fewstep.value(name), rtol=1e-9)


@pytest.mark.parametrize(("count", "error"), [(18, 0.055), (40, 0.0098)])
def test_consistency_distillation_with_heun(count, error):
    """The product of the steps of the solver, with an exact teacher."""
    times = karras(count) / 80
    with in_float64():
        z = np.ones((count - 1, 1))
        found = distillation.solver_step(
            denoise_fn_of(EDM, 0.25),
            z,
            times[1:],
            times[:-1],
            schedule=EDM,
            variable="eps",
        )
        exact = fewstep.value("consistency/consistency_function_edm")
        np.testing.assert_allclose(np.prod(found) / exact - 1, error, rtol=0.02)
    late, early = 80 * times[1:], 80 * times[:-1]
    slope = late / (0.25 + late**2)  # d z / d sigma = sigma z / (v + sigma^2)
    euler = 1 + (early - late) * slope
    heun = 1 + (early - late) * (slope + early / (0.25 + early**2) * euler) / 2
    np.testing.assert_allclose(found[:, 0], heun, rtol=1e-12)


@pytest.mark.parametrize("variable", [None, "u", "v", "dz_dt"])
def test_a_step_of_the_solver_is_that_of_the_sampler(variable):
    """With one time for all; and each example has its own."""
    data = analytic.gaussian(np.array([0.5, -1.0]), 0.25).denoise_fn(schedule=COSINE)
    z = jnp.array([[0.3, 1.0], [-1.2, 0.4]])
    step = functools.partial(
        distillation.solver_step, data, schedule=COSINE, variable=variable
    )
    sampler = samplers.ddim() if variable is None else samplers.Heun(variable)
    for t, s in ((1.0, 0.6), (0.5, 0.2)):
        expected = samplers.sample(
            jax.random.key(0),
            data,
            z,
            np.array([t, s]),
            sampler=sampler,
            schedule=COSINE,
            to_data=False,
        ).x
        found = step(z, jnp.full(2, t), jnp.full(2, s))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    both = step(z, jnp.array([1.0, 0.5]), jnp.array([0.6, 0.2]))
    np.testing.assert_allclose(both[1], found[1], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="unknown variable"):
        distillation.solver_step(
            data, z, 0.5, 0.2, schedule=COSINE, variable="velocity"
        )


def test_a_consistency_model_keeps_its_boundary():
    """At t = s it is the identity, whatever the network predicts."""
    z, t = jnp.array([[0.3], [2.0]]), jnp.array([0.0, 0.4])
    for kind in ("x", "u", "v", EDM_F):
        loss = distillation.consistency_loss(
            lambda z, t, s: 7 + 0 * z,
            z,
            t,
            z,
            t,
            t,
            kind=kind,
            schedule=COSINE,
            metric=lambda lands, target, ndim: lands,
        )
        np.testing.assert_allclose(loss, z, atol=1e-6)


def test_the_target_of_consistency_is_a_constant():
    z, t = jnp.array([[0.3], [2.0]]), jnp.array([0.9, 0.4])

    def loss(scale, both):
        net = lambda z, t, s: scale * z
        return distillation.consistency_loss(
            net,
            z,
            t,
            0.9 * z,
            0.5 * t,
            target_fn=None if both else lambda z, t, s: 0.5 * z,
            kind="u",
            schedule=FLOW,
        ).sum()

    half = jnp.float32(0.5)
    assert loss(half, True) == loss(half, False)
    np.testing.assert_array_equal(
        jax.grad(loss)(half, True), jax.grad(loss)(half, False)
    )
    weighted = distillation.consistency_loss(
        lambda z, t, s: z,
        z,
        t,
        0.9 * z,
        0.5 * t,
        kind="u",
        schedule=FLOW,
        weight_fn=distillation.InverseGap(FLOW),
        metric=lambda lands, target, ndim: jnp.ones(2),
    )
    rho = lambda t: t / (1 - t)
    np.testing.assert_allclose(weighted, 1 / (rho(t) - rho(t / 2)), rtol=1e-5)
    assert distillation.InverseGap(FLOW)(jnp.float32(1), jnp.float32(0.5)) == 0


# ---- metrics that are not squared error


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


# ---- curricula


@pytest.mark.parametrize("traced", [False, True])
def test_numbers_of_levels(traced):
    run = (lambda fn, k: jax.jit(fn)(jnp.float32(k))) if traced else lambda fn, k: fn(k)
    cm = [run(distillation.cm_levels, k) for k in (0, 2e5, 4e5, 8e5)]
    assert cm == fewstep.value("consistency/cm_curriculum")
    steps = (0, 5e4, 1e5, 3.5e5, 4e5)
    ict = [run(distillation.ict_levels, k) for k in steps]
    assert ict == fewstep.value("consistency/ict_curriculum")
    decay = distillation.cm_decay(np.array([2.0, 151.0]), initial=0.9)
    np.testing.assert_allclose(decay, [0.9, 0.9 ** (2 / 151)], rtol=1e-12)
    warm = distillation.tangent_warmup(np.array([0, 2500, 1e4, 1e5]))
    np.testing.assert_allclose(warm, [0, 0.25, 1, 1])


def test_levels_and_probabilities_of_improved_training():
    expected = fewstep.value("consistency/ict_levels_N11")
    sigma = karras(11)
    np.testing.assert_allclose(sigma, expected["sigma"], rtol=1e-12)
    found = distillation.ict_probabilities(np.array(expected["sigma"]))
    np.testing.assert_allclose(found, expected["probability"], rtol=1e-10)
    keys = random.example_keys(0, np.arange(20_000))
    times = EDM.inverse_logsnr(-2 * np.log(sigma))
    t, early = distillation.level_pairs(keys, (20_000,), times=times, probability=found)
    edges = np.sort(np.asarray(times, np.float32))
    place = np.searchsorted(edges, np.asarray(early))
    np.testing.assert_array_equal(t, edges[place + 1])
    share = np.bincount(place, minlength=10) / 20_000
    np.testing.assert_allclose(share, found, atol=4 * np.sqrt(0.25 / 20_000))
    t, early = distillation.level_pairs(jax.random.key(0), (9,), times=grids.uniform(1))
    assert np.all(t == 1) and np.all(early == 0)
    few, _ = distillation.level_pairs(keys[3:5], (2,), times=times, probability=found)
    assert few.shape == (2,)


def test_the_mapping_of_easy_consistency_tuning():
    sigma = np.array([0.5, np.log(7), 3, 10, 80])
    found = [distillation.ect_partner(sigma, a) for a in (1, 2, 4, 8)]
    expected = fewstep.value("consistency/ect_mapping_q2")
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
