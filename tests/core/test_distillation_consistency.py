"""Consistency losses, their curricula, and their exact optima.

On data N(0, v) every map is a factor on z. The optimum of a regression on z is found
from the gradient of the library's own loss, over pairs by a quadrature that is exact.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    analytic,
    distillation,
    grids,
    predictions,
    random,
    samplers,
)
from tests.helpers import fewstep
from tests.helpers.fewstep import karras

in_float64 = functools.partial(jax.enable_x64, True)


FLOW, COSINE, EDM = (fewstep.SCHEDULES[name] for name in ("flow", "cosine", "edm"))
EDM_F = predictions.edm_f(0.5)


def denoise_fn_of(schedule, v):
    return analytic.gaussian(np.zeros(1), v).denoise_fn(schedule=schedule)


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


@pytest.mark.ci
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
