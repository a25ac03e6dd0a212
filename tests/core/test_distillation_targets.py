"""Targets of few-step models, and what students of them learn: exact on Gaussians.

On data N(0, v) every map is a factor on z.
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
    metrics,
    predictions,
    random,
    samplers,
)
from diffusionflow.predictions import Denoised, Denoiser
from tests.helpers import fewstep
from tests.helpers.programs import counted

FLOW, COSINE, EDM = (fewstep.SCHEDULES[name] for name in ("flow", "cosine", "edm"))
EDM_F = predictions.edm_f(0.5)
in_float64 = functools.partial(jax.enable_x64, True)


def denoise_fn_of(schedule, v):
    return analytic.gaussian(np.zeros(1), v).denoise_fn(schedule=schedule)


def ddim_factor(schedule, t, s, v):
    """`(alpha_s alpha_t v + sigma_s sigma_t) / V_t`, from the definition."""
    at = lambda t: (np.asarray(schedule.alpha(t)), np.asarray(schedule.sigma(t)))
    (alpha, sigma), (alpha_s, sigma_s) = at(t), at(s)
    total = alpha**2 * v + sigma**2
    return (alpha_s * alpha * v + sigma_s * sigma) / total


# ---- progressive distillation


@pytest.mark.parametrize("name", fewstep.names("progressive_distillation/target_*"))
def test_the_target_after_two_steps(name):
    given, expected = fewstep.inputs(name), fewstep.value(name)
    schedule, v = fewstep.SCHEDULES[given["schedule"]], given["v"]
    with in_float64():
        t, m, s = (np.array([given[key]]) for key in "tms")
        z = np.array([[1.0]])
        for kind, value in expected.items():
            found = distillation.progressive_targets(
                denoise_fn_of(schedule, v), z, t, m, s, kind=kind, schedule=schedule
            )
            np.testing.assert_allclose(found, [[value]], rtol=1e-12, atol=1e-14)


class Students(Denoiser):
    """Denoiser of factors on z, one for each time of a grid `i / n`."""

    def __init__(self, factors, kind, schedule):
        self.factors, self.kind, self.schedule = factors, kind, schedule

    def denoise(self, z, t):
        place = jnp.round(t * (len(self.factors) - 1)).astype(int)
        p = predictions.per_event(self.factors[place], z) * z
        return predictions.to_denoised(
            p, kind=self.kind, z=z, t=t, schedule=self.schedule
        )


def distilled(schedule, kind, v, steps):
    """The factor of the one-step student after all stages, each by least squares."""
    teacher, settings = denoise_fn_of(schedule, v), dict(kind=kind, schedule=schedule)
    some = np.array([-1.3, 0.2, 0.9])
    while steps > 1:
        times = np.arange(steps + 1) / steps
        steps //= 2
        z = np.repeat(some, steps)[:, None]
        t, m, s = (np.tile(times[start:][::2][:steps], 3) for start in (2, 1, 0))
        target = distillation.progressive_targets(teacher, z, t, m, s, **settings)
        inner = jnp.sum((target * z).reshape(3, steps), axis=0)
        factors = jnp.append(jnp.zeros(1), inner / np.sum(some**2))
        teacher = Students(factors, **settings)
    one = jnp.ones((1, 1))
    lands = distillation.jump(factors[-1] * one, z=one, t=1.0, s=0.0, **settings)
    return float(lands[0, 0])


@pytest.mark.ci
@pytest.mark.parametrize("name", fewstep.names("progressive_distillation/one_step_*"))
def test_the_student_of_all_stages_is_ddim(name):
    given, expected = fewstep.inputs(name), fewstep.value(name)
    schedule, v = fewstep.SCHEDULES[given["schedule"]], given["v"]
    steps = int(given["steps"])
    times = np.arange(steps + 1) / steps
    with in_float64():
        found = distilled(schedule, {4: "x", 8: "v"}.get(steps, "u"), v, steps)
        product = np.prod(ddim_factor(schedule, times[1:], times[:-1], v))
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(found, product, rtol=1e-10)


def test_the_usual_weights_are_one_for_v():
    """SNR + 1 of x is |v - v_target|^2 on a variance-preserving schedule."""
    snr = float(np.exp(COSINE.logsnr(0.3)))
    ratio = predictions.error_ratio("v", "x", 0.3, schedule=COSINE)
    np.testing.assert_allclose([snr + 1, ratio], [4.85184, 4.85184], rtol=1e-5)


def test_students_that_cannot_land_are_refused():
    with pytest.raises(ValueError, match="predict 'u' or 'v'"):
        distillation.progressive_targets(
            denoise_fn_of(FLOW, 0.5),
            jnp.ones((1, 1)),
            jnp.array([1.0]),
            jnp.array([0.5]),
            jnp.array([0.0]),
            kind="eps",
            schedule=FLOW,
        )


def test_steps_of_the_grid_are_drawn_evenly():
    keys = random.example_keys(1, np.arange(4000))
    grid = grids.quadratic(8)
    t, m, s = distillation.progressive_times(keys, (4000,), times=grid)
    for i in range(4):
        here = np.asarray(t) == np.float32(grid[2 * i])
        assert abs(here.mean() - 0.25) < 0.03
        np.testing.assert_array_equal(m[here], np.float32(grid[2 * i + 1]))
        np.testing.assert_array_equal(s[here], np.float32(grid[2 * i + 2]))
    few = distillation.progressive_times(keys[7:9], (2,), times=grid)
    np.testing.assert_array_equal(few[0], t[7:9])
    with pytest.raises(ValueError, match="3 steps"):
        distillation.progressive_times(keys, (4000,), times=grids.uniform(3))


METHODS = {
    "progressive": lambda net, z, t, s: distillation.progressive_targets(
        distillation.flow_map(net, kind="u", schedule=FLOW),
        z,
        t,
        (t + s) / 2,
        s,
        kind="v",
        schedule=FLOW,
    ),
    "consistency": lambda net, z, t, s: distillation.consistency_loss(
        net,
        z,
        t,
        0.9 * z,
        (t + s) / 2,
        s,
        kind="v",
        schedule=FLOW,
        metric=distillation.PseudoHuber(),
    ),
    "matching": lambda net, z, t, s: distillation.matching_loss(
        z, net(z, t, s), net(z, t, t), kind="sid"
    ),
    "solver": lambda net, z, t, s: distillation.solver_step(
        distillation.flow_map(net, kind="u", schedule=FLOW),
        z,
        t,
        s,
        schedule=FLOW,
        variable="u",
    ),
}


@pytest.mark.filterwarnings("ignore:.*below 64")
@pytest.mark.parametrize("method", METHODS)
def test_one_program_for_every_batch(method):
    step = jax.jit(
        lambda scale, *given: METHODS[method](lambda z, t, s: scale * z, *given).sum()
    )
    z, t, s = jnp.ones((3, 2)), jnp.array([1.0, 0.8, 0.5]), jnp.array([0.0, 0.1, 0.4])
    assert np.isfinite(step(0.5, z, t, s))
    moved = z + 1, t * 0.9, s * 0.5
    with counted() as programs:
        assert np.isfinite(step(0.7, *moved))
    assert programs.compiled == 0 and step._cache_size() == 1


@pytest.mark.ci
def test_nothing_flows_into_the_teacher():
    z, t, s = jnp.ones((3, 2)), jnp.array([1.0, 0.8, 0.5]), jnp.array([0.0, 0.1, 0.4])

    def pairs(scale):
        fn = distillation.flow_map(lambda z, t, s: scale * z, kind="u", schedule=FLOW)
        return distillation.trajectory_pairs(
            jax.random.key(0),
            fn,
            (3, 2),
            times=grids.uniform(1),
            sampler=samplers.FlowMap(),
            schedule=FLOW,
        ).x.sum()

    step = lambda method: (
        lambda scale: METHODS[method](lambda z, t, s: scale * z, z, t, s).sum()
    )
    for fn in (step("progressive"), step("solver"), pairs):
        assert jax.grad(fn)(0.5) == 0 and abs(fn(0.5) - fn(0.7)) > 1e-3


# ---- shortcut models


@pytest.mark.ci
@pytest.mark.parametrize("name", fewstep.names("flow_maps/shortcut_*"))
def test_a_shortcut_model_is_its_finest_steps(name):
    """Doubled from the diagonal at 1 / M: the optimum of the semigroup loss is DDIM."""
    v, finest = (fewstep.inputs(name)[key] for key in ("v", "M"))
    settings = dict(kind="u", schedule=FLOW)
    with in_float64():
        times = np.arange(int(finest) + 1) / finest
        exact = denoise_fn_of(FLOW, v)(np.ones((int(finest), 1)), times[1:])
        factors = (exact.eps - exact.x)[:, 0]
        while len(factors) > 1:
            t, m, s = times[2::2], times[1::2], times[:-2:2]
            z, late, early = np.ones((len(t), 1)), factors[1::2], factors[::2]

            def net(z, t, s, late=late, early=early, top=t[-1] * 0 + t):
                on_top = jnp.isclose(t, top)
                return jnp.where(on_top, late, early)[:, None] * z

            factors = distillation.semigroup_loss(
                net, z, t, m, s, metric=lambda p, target, ndim: target, **settings
            )[:, 0]
            times = times[::2]
        found = distillation.jump(
            factors[:, None], z=np.ones((1, 1)), t=1.0, s=0.0, **settings
        )
    np.testing.assert_allclose(found, [[fewstep.value(name)]], rtol=1e-10)


# ---- reflow


@pytest.mark.parametrize("name", fewstep.names("reflow/euler_pairs_*"))
def test_pairs_hold_the_solver(name):
    """A student of the pairs learns N Euler steps, not the flow."""
    v, steps = (fewstep.inputs(name)[key] for key in ("v", "steps"))
    with in_float64():
        pairs = distillation.trajectory_pairs(
            random.example_keys(0, np.arange(5)),
            denoise_fn_of(FLOW, v),
            (5, 1),
            times=grids.uniform(int(steps)),
            sampler=samplers.Euler("u"),
            schedule=FLOW,
        )
        student = jnp.sum(pairs.x * pairs.eps) / jnp.sum(pairs.eps**2)
        np.testing.assert_allclose(student, fewstep.value(name), rtol=1e-12, atol=1e-14)
        target = distillation.inverse_jump(
            pairs.x, z=pairs.eps, t=1.0, s=0.0, kind="u", schedule=FLOW
        )
        np.testing.assert_allclose(target, pairs.eps - pairs.x, rtol=1e-12)


@pytest.mark.parametrize("name", fewstep.names("reflow/straightness_1rf_*"))
def test_paths_become_straight_in_one_reflow(name):
    v, times = fewstep.inputs(name)["v"], grids.uniform(2000)
    std = np.sqrt(fewstep.variance(FLOW, times, v))  # the path of z_1 = 1
    found = metrics.straightness(std[:, None, None], times)
    np.testing.assert_allclose(found, [fewstep.value(name)], rtol=1e-5)
    with in_float64():
        pairs = distillation.trajectory_pairs(
            random.example_keys(0, np.arange(6)),
            denoise_fn_of(FLOW, v),
            (6, 1),
            times=grids.uniform(16),
            sampler=samplers.Heun("u"),
            schedule=FLOW,
        )
        factor = float(pairs.x[0, 0] / pairs.eps[0, 0])
        # the second flow: of pairs x = c eps, z_t = (c (1 - t) + t) eps
        net = lambda z, t: z * (1 - factor) / (factor * (1 - t) + t)
        second = samplers.sample(
            None,
            predictions.denoiser(net, kind="u", schedule=FLOW),
            pairs.eps,
            grids.uniform(8),
            sampler=samplers.Euler("u"),
            schedule=FLOW,
            trajectory=True,
        )
        assert np.max(metrics.straightness(second.trajectory, grids.uniform(8))) < 1e-25
        np.testing.assert_allclose(second.x, pairs.x, rtol=1e-12)


def to_the_data(times):
    """A grid that goes on to 0, where the last step of a solver is of first order."""
    return np.concatenate([times, np.geomspace(times[-1], 1e-9, 60)[1:], [0.0]])


MIXTURES = fewstep.names("reflow/mixture_map_*")


def test_the_flow_of_a_mixture_is_its_quantile_map():
    given = fewstep.inputs(MIXTURES[0])
    data = analytic.Mixture(
        np.array(given["pi"]), np.array(given["mu"]), np.array(given["var"])
    )
    z = np.array([fewstep.inputs(name)["z1"] for name in MIXTURES])
    expected = np.array([fewstep.value(name) for name in MIXTURES])
    with in_float64():
        times = to_the_data(grids.uniform(800)[:-4])
        found = samplers.sample(
            None,
            data.denoise_fn(schedule=FLOW),
            z,
            times,
            sampler=samplers.RK4("v"),
            schedule=FLOW,
            trajectory=True,
        ).trajectory
    at = np.asarray(found)[[-1, 600, 400, 200]]  # s = 0, 1/4, 1/2, 3/4
    np.testing.assert_allclose(at.T, expected, rtol=0, atol=2e-7)


def symmetric_root(matrix, power=0.5):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**power) @ vectors.T


@pytest.mark.parametrize("name", fewstep.names("reflow/two_gaussians_2d"))
def test_rectified_flow_between_gaussians_is_not_the_transport(name):
    given, expected = fewstep.inputs(name), fewstep.value(name)
    data, noise = np.array(given["C0"]), np.array(given["C1"])

    def predict_fn(z, t):
        total = (1 - t) ** 2 * data + t**2 * noise
        return z @ jnp.linalg.solve(total, t * noise - (1 - t) * data)

    with in_float64():
        denoise_fn = predictions.denoiser(predict_fn, kind="u", schedule=FLOW)
        ends = samplers.sample(
            None,
            denoise_fn,
            np.eye(2),
            to_the_data(grids.uniform(400)[:-2]),
            sampler=samplers.RK4("u"),
            schedule=FLOW,
        ).x
    flow = np.asarray(ends).T
    np.testing.assert_allclose(flow, expected["rf_map"], rtol=1e-8)
    half = symmetric_root(noise)
    back = symmetric_root(noise, -0.5)
    transport = back @ symmetric_root(half @ data @ half) @ back
    np.testing.assert_allclose(transport, expected["ot_map"], rtol=1e-12)
    cost = lambda map_: np.trace(
        noise + map_ @ noise @ map_.T - map_ @ noise - noise @ map_.T
    )
    np.testing.assert_allclose(cost(flow), expected["cost_rf"], rtol=1e-7)
    np.testing.assert_allclose(cost(transport), expected["cost_ot"], rtol=1e-11)
    np.testing.assert_allclose(
        np.trace(data + noise), expected["cost_independent"], rtol=1e-12
    )
    assert cost(flow) > cost(transport) + 1e-4
    assert np.linalg.eigvals(flow).real.min() > 0  # so paths are straight already


@pytest.mark.parametrize("name", fewstep.names("flow_maps/clipped_velocity"))
def test_a_clipped_velocity_stops_short(name):
    """u = (z - x) / max(t, 0.05) leaves noise on a point mass at 0."""
    net = lambda z, t: z / jnp.maximum(t, 0.05)
    times = np.concatenate(
        [np.linspace(1, 0.05, 401), np.linspace(0.05, 0.01, 101)[1:]]
    )
    times = to_the_data(times)
    with in_float64():
        left = samplers.sample(
            None,
            predictions.denoiser(net, kind="u", schedule=FLOW),
            np.ones(1),
            times,
            sampler=samplers.RK4("u"),
            schedule=FLOW,
            to_data=False,
        ).x
    np.testing.assert_allclose(left, [fewstep.value(name)], rtol=1e-5)


@pytest.mark.ci
def test_pairs_are_the_same_in_every_batch():
    keys = random.example_keys(3, np.arange(6))
    draw = lambda keys: distillation.trajectory_pairs(
        keys,
        denoise_fn_of(EDM, 0.25),
        (len(keys), 1),
        times=grids.uniform(4, t_min=0.01),
        sampler=samplers.ddpm(),
        schedule=EDM,
    )
    whole, few = draw(keys), draw(keys[2:4])
    np.testing.assert_array_equal(few.x, whole.x[2:4])
    np.testing.assert_array_equal(few.eps, whole.eps[2:4])
    assert 0.2 < np.std(whole.eps) < 3  # not times the sigma of the first time


# ---- guidance inside training


@pytest.mark.ci
@pytest.mark.parametrize("name", fewstep.names("flow_maps/guidance_meanflow"))
def test_the_fixed_point_of_guidance_inside(name):
    """omega = 1, kappa = 1/2 is scale 2; improved MeanFlow's w is scale w."""
    expected = fewstep.value(name)
    part = lambda value: Denoised(jnp.full((1, 1), value), jnp.full((1, 1), value))
    pair, negative = part(2.0), part(-0.4)
    with in_float64():
        for scale, kappa, key in ((2.0, 0.5, "meanflow"), (7.5, 1 - 1 / 7.5, "imf")):
            own = pair
            for _ in range(400):
                own = distillation.guided_source(
                    pair, own, negative, scale=scale, kappa=kappa
                )
            np.testing.assert_allclose(own.x, [[expected[key]]], rtol=1e-6)
            np.testing.assert_allclose(own.eps, own.x)
            once = distillation.guided_source(pair, pair, negative, scale=scale)
            np.testing.assert_allclose(once.x, own.x, rtol=1e-6)  # kappa = 0
    none = distillation.guided_source(pair, pair, negative, scale=1.0)
    np.testing.assert_array_equal(none.x, pair.x)
    slope = jax.grad(
        lambda scale: distillation.guided_source(
            pair, pair, negative, scale=scale
        ).x.sum()
    )
    assert slope(2.0) == 0
    many = jnp.ones((2, 1))
    both = distillation.guided_source(
        Denoised(2 * many, many),
        Denoised(many, many),
        Denoised(0 * many, many),
        scale=jnp.array([1.0, 3.0]),
    )
    np.testing.assert_allclose(both.x, [[2], [6]])
