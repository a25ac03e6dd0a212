"""DDIM's jump for every kind and schedule, and flow maps as denoisers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    analytic,
    distillation,
    grids,
    guidance,
    predictions,
    samplers,
    schedules,
    testing,
)
from tests.helpers import all_schedules, fewstep
from tests.helpers.kinds import KINDS
from tests.helpers.parametrize import check_all
from tests.helpers.programs import counted

FLOW, COSINE = schedules.FlowMatching(), schedules.Cosine()
EDM_F = predictions.edm_f(0.5)
PLUS = ("x", "score", "edm_f(sigma_data=0.5)")
TIMES = np.linspace(0.02, 0.98, 25)


def kinds_on_schedules():
    return {
        f"{kind} on {name}": (kind, schedule)
        for kind in KINDS
        for name, schedule in all_schedules.SCHEDULES.items()
    }


# ---- the coefficients


@pytest.mark.ci
def test_the_jump_moves_every_pair():
    """By its definition: from z_t with `a x + b eps` it goes to z_s."""
    check_all(moves_pairs, kinds_on_schedules())


def moves_pairs(kind, schedule):
    x, eps = np.random.default_rng(0).normal(size=(2, TIMES.size))
    with jax.enable_x64(True):
        for s in (0.5 * TIMES, TIMES[::-1].copy()):
            mixed = lambda t: np.asarray(
                schedule.alpha(t) * x + schedule.sigma(t) * eps
            )
            p = predictions.from_denoised(
                predictions.Denoised(x, eps), kind=kind, t=TIMES, schedule=schedule
            )
            settings = dict(z=mixed(TIMES), t=TIMES, s=s, kind=kind, schedule=schedule)
            found = distillation.jump(np.asarray(p), **settings)
            size = np.maximum(np.abs(mixed(TIMES)), np.abs(mixed(s))) + 1
            assert np.max(np.abs(found - mixed(s)) / size) < 1e-9
            away = np.abs(TIMES - s) > 1e-3
            back = np.asarray(distillation.inverse_jump(found, **settings))
            error = np.abs(back - p) / (1 + np.abs(p))
            assert np.max(error[away]) < 1e-6


@pytest.mark.ci
def test_the_sign_of_b_is_one_for_each_kind():
    check_all(has_one_sign, kinds_on_schedules())


def has_one_sign(kind, schedule):
    t = np.linspace(0.02, 0.98, 33)[:, None]
    s = np.linspace(0.0, 0.99, 33)[None] * t
    with jax.enable_x64(True):
        _, b = distillation.jump_coefficients(kind, t, s, schedule=schedule)
        later = distillation.jump_coefficients(kind, s[:, 1:], t, schedule=schedule)[1]
        sign = distillation.jump_sign(kind, schedule=schedule)
    assert sign == (1 if str(kind) in PLUS else -1)
    assert np.all(np.sign(b) == sign)
    assert np.all(np.sign(later) == -sign)


def test_the_derivative_of_b_has_no_sign():
    """So dividing by it, as the form of the average velocity suggests, is wrong."""
    b = lambda t: distillation.jump_coefficients("v", t, 0.3, schedule=FLOW)[1]
    slope = jax.vmap(jax.grad(b))(jnp.linspace(0.31, 1.0, 50))
    assert slope.min() < -0.1 and slope.max() > 0.1


def test_the_forms_under_other_names():
    t, s = np.array([1.0, 0.8, 0.31]), np.array([0.0, 0.3, 0.3])
    at = lambda kind, schedule, s=s: distillation.jump_coefficients(
        kind, t, s, schedule=schedule
    )
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-15)
    close(at("u", FLOW), (np.ones(3), s - t))
    h = np.pi / 2 * (t - s)
    close(at("v", COSINE), (np.cos(h), -np.sin(h)))
    close(at("x", FLOW), (s / t, 1 - s - (1 - t) * s / t))
    edm = fewstep.SCHEDULES["edm"]
    root = (80 * t) ** 2 + 0.25
    with jax.enable_x64(True):
        found = at(EDM_F, edm, np.zeros(3))
    np.testing.assert_allclose(found[0], 0.25 / root, rtol=1e-13)
    np.testing.assert_allclose(found[1], 40 * t / np.sqrt(root), rtol=1e-13)


@pytest.mark.parametrize("name", fewstep.names("consistency/boundary_edm_*"))
def test_the_boundary_of_consistency_models(name):
    """Their c_out is B exactly, and their c_skip another choice than A."""
    t, expected = fewstep.inputs(name)["t"], fewstep.value(name)
    with jax.enable_x64(True):
        a, b = distillation.jump_coefficients(
            EDM_F, t / 80, 0.002 / 80, schedule=fewstep.SCHEDULES["edm"]
        )
    np.testing.assert_allclose([a, b], [expected["jump_A"], expected["jump_B"]], 1e-12)
    np.testing.assert_allclose(b, expected["cm_c_out"], rtol=1e-12)
    skip = 0.25 / ((t - 0.002) ** 2 + 0.25)
    np.testing.assert_allclose(skip, expected["cm_c_skip"], rtol=1e-12)
    assert abs(skip / a - 1) > 1e-6


@pytest.mark.parametrize("name", fewstep.names("flow_maps/gaussian_*"))
def test_predictions_of_the_exact_flow_map(name):
    given, expected = fewstep.inputs(name), fewstep.value(name)
    schedule, top = fewstep.SCHEDULES[given["schedule"]], fewstep.TOP
    unit = top.get(given["schedule"], 1.0)
    with jax.enable_x64(True):
        z, t, s = (np.array([given[key]]) for key in ("z", "t", "s"))
        t, s = t / unit, s / unit
        data = analytic.gaussian(np.array(given["mean"]), given["variance"])
        exact = data.denoise_fn(schedule=schedule)(z, t)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)
        close(exact.x, [expected["x_hat"]])
        close(exact.eps, [expected["eps_hat"]])
        as_kind = functools.partial(
            predictions.from_denoised, exact, t=t, schedule=schedule
        )
        close(as_kind(kind="dz_dt") / unit, [expected["dz_dt"]])
        for kind in ("x", "u", "v", EDM_F):
            p = expected["P_edm_f" if kind is EDM_F else f"P_{kind}"]
            settings = dict(z=z, t=t, s=s, kind=kind, schedule=schedule)
            close(distillation.jump(np.array([p]), **settings), [expected["phi"]])
            if t > s:
                phi = np.array([expected["phi"]])
                close(distillation.inverse_jump(phi, **settings), [p], rtol=1e-10)
            else:  # the diagonal is the prediction of one time
                close(as_kind(kind=kind), [p])
        if "mean_dz_dt" in expected:
            mean = (given["z"] - expected["phi"]) / (given["t"] - given["s"])
            close(mean, expected["mean_dz_dt"])


@pytest.mark.ci
def test_the_ends_are_finite():
    check_all(is_finite_at_the_ends, kinds_on_schedules())


def is_finite_at_the_ends(kind, schedule):
    t, s = np.array([1.0, 1.0, 0.5, 0.5]), np.array([0.0, 0.5, 0.0, 0.5])
    at = functools.partial(
        distillation.jump_coefficients, kind, t, s, schedule=schedule
    )
    try:
        predictions.check_determined(kind, t, schedule=schedule)
    except ValueError:
        with pytest.raises(ValueError, match=r"t=1\.0.*predict 'u' or 'v'"):
            at()
        return
    with jax.enable_x64(True):
        a, b = at()
    assert np.isfinite(a).all() and np.isfinite(b).all()
    np.testing.assert_allclose([a[3], b[3]], [1, 0], atol=1e-12)


def test_at_equal_times_nothing_moves():
    """Where the prediction does not determine anything too."""
    for kind, t in (("x", 0.0), ("eps", 1.0), ("u", 1.0), ("v", 0.0), (EDM_F, 0.0)):
        found = distillation.jump_coefficients(kind, t, t, schedule=FLOW)
        assert found == (1, 0), kind
    p, z = jnp.array([7.0]), jnp.array([0.3])
    stay = distillation.jump(p, z=z, t=0.0, s=0.0, kind="x", schedule=FLOW)
    np.testing.assert_array_equal(stay, z)


def test_infinite_coefficients_are_refused():
    one, half = jnp.ones(2), jnp.full(2, 0.5)
    for kind, t in (("eps", 1.0), ("score", 1.0), ("x", 0.0)):
        with pytest.raises(ValueError, match="predict 'u' or 'v'"):
            distillation.jump_coefficients(kind, t, 0.5, schedule=FLOW)
    with pytest.raises(ValueError, match="predict 'u' or 'v'"):
        distillation.jump(one, z=one, t=one, s=half, kind="eps", schedule=FLOW)
    traced = jax.jit(
        lambda t: distillation.jump_coefficients("eps", t, 0.5, schedule=FLOW)
    )
    assert np.isfinite(traced(0.9)).all()
    with pytest.raises(ValueError, match="instance"):
        distillation.jump_coefficients("u", 0.5, 0.1, schedule=schedules.FlowMatching)


def test_concrete_coefficients_are_numpy_and_compile_nothing():
    with counted() as programs:
        found = distillation.jump_coefficients("v", 0.7, [0.1, 0.2], schedule=COSINE)
    assert programs.compiled == 0
    assert all(isinstance(each, np.ndarray) for each in found)
    assert all(each.dtype == np.float64 for each in found)
    mixed = distillation.jump_coefficients("v", jnp.float32(0.7), 0.1, schedule=COSINE)
    assert all(each.dtype == jnp.float32 for each in mixed)


def test_shapes_must_agree():
    z = jnp.ones((3, 2))
    settings = dict(t=0.5, s=0.1, kind="u", schedule=FLOW)
    with pytest.raises(ValueError, match="shape"):
        distillation.jump(z[:2], z=z, **settings)
    with pytest.raises(ValueError, match="shape"):
        distillation.inverse_jump(z[:2], z=z, **settings)


# ---- flow maps as denoisers

MEAN, VARIANCE = 0.4, 0.37
DATA = analytic.gaussian(np.full(2, MEAN), VARIANCE)
Z = jnp.array([[1.3, -0.2], [0.7, 0.1], [-1.0, 2.0]])


def exact_net(z, t, s):
    """u of N(MEAN, VARIANCE) on flow matching, without a ratio of small numbers."""
    v = lambda t: fewstep.variance(FLOW, t, VARIANCE)
    late, early = v(t), v(s)
    root = jnp.sqrt(early / late)
    # (sqrt(V_t) - sqrt(V_s)) / (t - s), by the difference of squares
    slope = (t + s) * (1 + VARIANCE) - 2 * VARIANCE
    slope = slope / (late * (1 + root))
    offset = z - predictions.per_event(jnp.asarray(1 - t), z) * MEAN
    return predictions.per_event(jnp.asarray(slope), z) * offset - MEAN


FLOW_MAP = distillation.flow_map(exact_net, kind="u", schedule=FLOW)


def test_a_flow_map_moves_and_its_diagonal_denoises():
    t, s = jnp.array([1.0, 0.8, 0.5]), jnp.array([0.0, 0.3, 0.5])
    expected = fewstep.gaussian_map(FLOW, MEAN, VARIANCE)(Z, t, s)
    np.testing.assert_allclose(FLOW_MAP(Z, t, s), expected, rtol=1e-5, atol=1e-6)
    exact = DATA.denoise_fn(schedule=FLOW)(Z, t)
    found = FLOW_MAP(Z, t)
    assert isinstance(found, predictions.Denoised)
    np.testing.assert_allclose(found.x, exact.x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.eps, exact.eps, rtol=1e-5, atol=1e-5)
    testing.check_denoiser(FLOW_MAP, Z, schedule=FLOW)


@pytest.mark.parametrize(
    "sampler",
    [samplers.ddim(), samplers.Heun("v"), samplers.DPMSolver(2), samplers.ddpm()],
    ids=str,
)
def test_samplers_work_on_the_diagonal(sampler):
    sample = lambda fn: samplers.sample(
        jax.random.key(0), fn, Z, grids.uniform(6), sampler=sampler, schedule=FLOW
    )
    found, expected = sample(FLOW_MAP), sample(DATA.denoise_fn(schedule=FLOW))
    np.testing.assert_allclose(found.x, expected.x, rtol=2e-5, atol=2e-5)
    assert found.nfe == expected.nfe


def test_guidance_works_on_the_diagonal_and_is_refused_off_it():
    guided = guidance.classifier_free(FLOW_MAP, FLOW_MAP, scale=2.0)
    np.testing.assert_allclose(guided(Z, 0.5).x, FLOW_MAP(Z, 0.5).x, atol=1e-5)
    assert guided.has_second_time()
    for wrapped in (
        guided,
        guidance.static_threshold(FLOW_MAP, schedule=FLOW, low=-1.0, high=1.0),
        lambda z, t: jax.tree.map(lambda part: 2 * part, FLOW_MAP(z, t)),
    ):
        run = functools.partial(samplers.sample, None, wrapped, Z, grids.uniform(1))
        assert run(sampler=samplers.Euler("u"), schedule=FLOW).x.shape == Z.shape
        with pytest.raises(ValueError, match=r"around a flow map.*samplers\.ddim"):
            samplers.sample(
                jax.random.key(0),
                wrapped,
                Z,
                grids.uniform(1),
                sampler=samplers.FlowMap(),
                schedule=FLOW,
            )


def test_functions_around_a_flow_map_keep_its_second_time():
    times = jnp.array([1.0, 0.6, 0.0])
    run = lambda fn: samplers.sample(
        jax.random.key(0), fn, Z, times, sampler=samplers.FlowMap(), schedule=FLOW
    )
    expected = fewstep.gaussian_map(FLOW, MEAN, VARIANCE)(Z, 1.0, 0.0)
    for fn in (FLOW_MAP, jax.jit(FLOW_MAP), lambda z, t: FLOW_MAP(z, t)):
        found = run(fn)
        np.testing.assert_allclose(found.x, expected, rtol=1e-5, atol=1e-5)
        assert found.nfe == 2


def test_a_rescheduled_flow_map_is_one():
    moved = predictions.reschedule(FLOW_MAP, source=FLOW, target=COSINE)
    found = samplers.sample(
        jax.random.key(0),
        moved,
        Z,
        jnp.array([0.9, 0.4, 0.1]),
        sampler=samplers.FlowMap(),
        schedule=COSINE,
        to_data=False,
    )
    expected = fewstep.gaussian_map(COSINE, MEAN, VARIANCE)(Z, 0.9, 0.1)
    np.testing.assert_allclose(found.x, expected, rtol=1e-5, atol=1e-5)
    pair = predictions.denoise_toward(moved, Z, 0.9, 0.1)
    other = predictions.denoise_toward(moved, Z, 0.9, 0.8)
    assert np.abs(pair.x - other.x).max() > 0.01


def test_a_function_without_second_time_ignores_it():
    denoise_fn = DATA.denoise_fn(schedule=FLOW)
    for fn in (denoise_fn, lambda z, t: denoise_fn(z, t)):
        found = predictions.denoise_toward(fn, Z, 0.5, 0.1)
        np.testing.assert_array_equal(found.x, denoise_fn(Z, 0.5).x)


def test_bad_arguments_of_a_flow_map():
    with pytest.raises(ValueError, match=r"predict_fn=.*\(z, t, s\)"):
        distillation.flow_map(FLOW_MAP, kind="u", schedule=FLOW)
    with pytest.raises(ValueError, match="num_network_calls=0"):
        distillation.flow_map(exact_net, kind="u", schedule=FLOW, num_network_calls=0)
    eps = distillation.flow_map(exact_net, kind="eps", schedule=FLOW)
    with pytest.raises(ValueError, match="predict 'u' or 'v'"):
        eps(Z, 1.0, 0.5)
    with pytest.raises(ValueError, match="predict 'u' or 'v'"):
        predictions.denoise_toward(eps, Z, 1.0, 0.5)
    with pytest.raises(ValueError, match="t=1.5"):
        FLOW_MAP(Z, 0.5, 1.5)


def test_one_program_serves_all_times_and_parameters():
    net = jax.tree_util.Partial(lambda scale, z, t, s: scale * z, 0.5)
    move = jax.jit(lambda fn, t, s: fn(Z, t, s))
    for scale in (0.5, 0.7):
        fn = distillation.flow_map(
            jax.tree_util.Partial(net.func, scale), kind="u", schedule=FLOW
        )
        found = move(fn, 0.9, 0.1 * scale)
        np.testing.assert_allclose(found, Z - (0.9 - 0.1 * scale) * scale * Z, 1e-6)
    assert move._cache_size() == 1


# ---- preconditioning


def test_preconditioning_of_two_times():
    times = []

    def net(z, *given):
        times.append([np.asarray(time) for time in given])
        return z

    predict_fn = predictions.precondition(net, schedule=COSINE, sigma_data=0.5)
    t, s = jnp.array([0.9, 0.5, 0.2]), jnp.array([0.4, 0.5, 0.0])
    one, two = predict_fn(Z, t), predict_fn(Z, t, s)
    np.testing.assert_array_equal(one, two)
    assert [len(each) for each in times] == [1, 2]
    np.testing.assert_allclose(times[1][0], COSINE.noise_level(np.asarray(t)), 1e-6)
    np.testing.assert_allclose(times[1][1], COSINE.noise_level(np.asarray(s)), 1e-6)
    np.testing.assert_allclose(two, Z / COSINE.z_std(np.asarray(t), 0.5)[:, None], 1e-6)
    diagonal = distillation.flow_map(predict_fn, kind="v", schedule=COSINE)(Z, 0.5)
    plain = predictions.denoiser(
        lambda z, t: predict_fn(z, t, t), kind="v", schedule=COSINE
    )
    np.testing.assert_array_equal(diagonal.x, plain(Z, 0.5).x)
