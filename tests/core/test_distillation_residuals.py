"""The residuals of the flow map: where they vanish, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import distillation, predictions
from diffusionflow.predictions import Denoised
from tests.helpers import all_schedules, fewstep
from tests.helpers.few_step_losses import (
    COSINE,
    EDM_F,
    FLOW,
    MEAN,
    VARIANCE,
    VP,
    case,
    denoise_fn_of,
    in_float64,
    mlp,
    parameters,
)
from tests.helpers.kinds import KINDS
from tests.helpers.parametrize import check_all
from tests.helpers.programs import counted

SOME = ("FM", "cos", "cos_trunc", "vp_lin", "edm_rho", "edm_t")
T, M, S = (
    np.array([0.8, 0.6, 0.95]),
    np.array([0.5, 0.4, 0.3]),
    np.array([0.3, 0.1, 0.02]),
)
Z = np.array([[1.3], [-0.2], [0.7]])


def kinds_on_schedules():
    return {
        f"{kind} on {name}": (kind, all_schedules.SCHEDULES[name])
        for kind in KINDS
        for name in SOME
    }


@pytest.mark.ci
def test_residuals_of_the_exact_flow_map_are_zero():
    check_all(has_no_residual, kinds_on_schedules())


def has_no_residual(kind, schedule):
    with in_float64():
        settings = dict(kind=kind, schedule=schedule)
        net = fewstep.exact_predict_fn(kind, schedule, MEAN, VARIANCE)
        denoise_fn = denoise_fn_of(schedule)
        source, z = denoise_fn(Z, T), jnp.asarray(Z)
        euler = distillation.eulerian_residual(net, z, T, S, source, **settings)
        lagrange = distillation.lagrangian_residual(
            net, z, T, S, denoise_fn, **settings
        )
        second = net(distillation.jump(net(z, T, M), z=z, t=T, s=M, **settings), M, S)
        whole = distillation.compose_jumps(
            net(z, T, M), second, z=z, t=T, m=M, s=S, **settings
        )
        rate = predictions.from_denoised(source, kind="dz_dt", t=T, schedule=schedule)
        size = 1 + np.abs(rate) + np.abs(Z)
        assert np.max(np.abs(euler.residual) / size) < 1e-12
        assert np.max(np.abs(lagrange.residual) / size) < 1e-12
        p = net(z, T, S)
        np.testing.assert_allclose(euler.prediction, p, rtol=1e-13)
        assert np.max(np.abs(whole - p) / (1 + np.abs(p))) < 1e-12


def test_residuals_of_another_map_are_not_zero():
    with in_float64():
        net = lambda z, t, s: 1.01 * exact(z, t, s)
        exact = fewstep.exact_predict_fn("u", FLOW, MEAN, VARIANCE)
        settings = dict(kind="u", schedule=FLOW)
        source = denoise_fn_of(FLOW)(Z, T)
        euler = distillation.eulerian_residual(net, Z, T, S, source, **settings)
        lagrange = distillation.lagrangian_residual(
            net, Z, T, S, denoise_fn_of(FLOW), **settings
        )
        semigroup = distillation.semigroup_loss(net, Z, T, M, S, **settings)
        assert np.abs(euler.residual).min() > 1e-4
        assert np.abs(lagrange.residual).min() > 1e-4
        assert semigroup.shape == (3,)
        # the losses are the squares of these
        loss = distillation.eulerian_loss(net, Z, T, S, source, **settings)
        np.testing.assert_allclose(loss, euler.residual[:, 0] ** 2, rtol=1e-10)
        loss = distillation.lagrangian_loss(
            net, Z, T, S, denoise_fn_of(FLOW), **settings
        )
        np.testing.assert_allclose(loss, lagrange.residual[:, 0] ** 2, rtol=1e-10)


def test_the_gradient_of_the_lagrangian_residual_takes_dz_dt_as_constant():
    """Not that of a teacher with the same parameters, nor through its argument."""
    settings = dict(kind="u", schedule=FLOW)
    teacher_fn = denoise_fn_of(FLOW)

    def total(weights, own):
        scale = weights if own else 0.7
        net = lambda z, t, s: weights * z * (1 + s[:, None])
        denoise_fn = lambda z, t: Denoised(*(scale * x for x in teacher_fn(z, t)))
        found = distillation.lagrangian_residual(net, Z, T, S, denoise_fn, **settings)
        return found.residual.sum(), found.prediction.sum()

    with in_float64():
        for own in (False, True):
            (residual, rate) = jax.jacrev(total)(0.7, own)
            np.testing.assert_allclose(residual, rate, rtol=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in fewstep.names("flow_maps/gaussian_*")
        if "dP_u_dt" in fewstep.value(name)
    ],
)
def test_the_rates_of_the_exact_prediction(name):
    """`dP/dt`, from E = 0: the rates of B, a and b are those of the vectors."""
    given, expected = fewstep.inputs(name), fewstep.value(name)
    schedule = fewstep.SCHEDULES[given["schedule"]]
    unit = fewstep.TOP.get(given["schedule"], 1.0)
    with in_float64():
        z, t, s = (np.array([given[key]]) for key in ("z", "t", "s"))
        t, s = t / unit, s / unit
        source = denoise_fn_of(schedule)(z, t)
        for kind in ("x", "u", "v", EDM_F):
            label = "edm_f" if kind is EDM_F else kind
            p, dp = (
                expected[f"{part}{label}{end}"]
                for part, end in (("P_", ""), ("dP_", "_dt"))
            )
            settings = dict(kind=kind, schedule=schedule)

            def net(z, t, s, p=p, dp=dp, at=t):
                del z, s
                return p + dp * unit * (t - at)

            found = distillation.eulerian_residual(net, z, t, s, source, **settings)
            rate = predictions.from_denoised(
                source, kind="dz_dt", t=t, schedule=schedule
            )
            size = 1 + np.abs(rate) + np.abs(dp * unit)
            assert np.max(np.abs(found.residual) / size) < 1e-11, label


@pytest.mark.parametrize("method", ["eulerian", "lagrangian", "semigroup"])
def test_one_program_for_every_batch(method):
    weights = jax.tree.map(jnp.float32, parameters())
    z, t, s, source = jax.tree.map(jnp.float32, case())
    settings = dict(kind="u", schedule=FLOW)

    @jax.jit
    def step(weights, z, t, s):
        net = mlp(weights)
        match method:
            case "eulerian":
                loss = lambda: distillation.eulerian_loss(
                    net, z, t, s, source, **settings
                )
            case "lagrangian":
                loss = lambda: distillation.lagrangian_loss(
                    net, z, t, s, denoise_fn_of(FLOW), **settings
                )
            case "semigroup":
                loss = lambda: distillation.semigroup_loss(
                    net, z, t, (t + s) / 2, s, **settings
                )
        return jnp.mean(loss())

    step(weights, z, t, s)
    moved = jax.tree.map(lambda w: 2 * w, weights), z + 1, t * 0.9, s * 0.5
    with counted() as programs:
        assert np.isfinite(step(*moved))
    assert programs.compiled == 0 and step._cache_size() == 1


def test_ends_and_gradients_are_finite():
    """At t = 1, s = 0 and near the data, with omega = 1, for u, v and edm_f."""
    x, eps = np.random.default_rng(6).normal(size=(2, 4, 3)).astype(np.float32)
    t = jnp.array([1.0, 1.0, 1e-3, 0.5], jnp.float32)
    s = jnp.array([0.0, 0.5, 0.0, 0.5], jnp.float32)
    for schedule in (FLOW, COSINE):
        level = lambda part: predictions.per_event(part, x)
        z = level(schedule.alpha(t)) * x + level(schedule.sigma(t)) * eps
        for kind in ("u", "v", EDM_F):

            def loss(scale, kind=kind, schedule=schedule, z=z):
                net = lambda z, t, s: scale * jnp.tanh(z)
                return distillation.eulerian_loss(
                    net, z, t, s, Denoised(x, eps), kind=kind, schedule=schedule
                ).sum()

            value, slope = jax.value_and_grad(loss)(jnp.ones(()))
            assert np.isfinite(value) and np.isfinite(slope) and slope != 0


def test_the_residual_is_float32_under_a_network_in_bfloat16():
    z, t, s, source = jax.tree.map(jnp.float32, case())
    weights = jax.tree.map(jnp.bfloat16, parameters())

    def net(z, t, s):
        wide = jnp.concatenate([z, t[:, None], s[:, None]], axis=1)
        hidden = jnp.tanh(wide.astype(jnp.bfloat16) @ weights["in"])
        return hidden @ weights["out"]

    settings = dict(kind="u", schedule=FLOW)
    found = distillation.eulerian_residual(net, z, t, s, source, **settings)
    assert found.prediction.dtype == found.residual.dtype == jnp.float32
    exact = distillation.eulerian_residual(
        mlp(jax.tree.map(jnp.float32, weights)), z, t, s, source, **settings
    )
    np.testing.assert_allclose(found.residual, exact.residual, rtol=0.1, atol=0.05)
    loss = distillation.eulerian_loss(net, z, t, s, source, **settings)
    assert loss.dtype == jnp.float32


@jax.custom_vjp
def fused(z):
    return jnp.tanh(z)


fused.defvjp(lambda z: (fused(z), z), lambda z, g: (g * (1 - jnp.tanh(z) ** 2),))


def test_a_network_without_forward_mode_is_refused():
    z, t, s, source = jax.tree.map(jnp.float32, case())
    settings = dict(kind="u", schedule=FLOW)
    net = lambda z, t, s: fused(z * (1 + t + s)[:, None])
    euler = lambda z: distillation.eulerian_loss(net, z, t, s, source, **settings)
    lagrange = lambda z: distillation.lagrangian_loss(
        net, z, t, s, denoise_fn_of(FLOW), **settings
    )
    for call in (euler, lagrange, jax.jit(euler)):
        with pytest.raises(ValueError, match=r"by jax.jvp.*plain form"):
            call(z)
    free = lambda z: distillation.semigroup_loss(
        net, z, t, t / 2, 0 * t, **settings
    ).sum()
    assert np.isfinite(jax.grad(free)(z)).all()
    with pytest.raises(TypeError, match="missing"):  # other errors stay
        distillation.eulerian_loss(
            lambda z, t, s: fused(q=z), z, t, s, source, **settings
        )


def test_infinite_rates_are_refused():
    z, t, s, source = jax.tree.map(jnp.float32, case())
    net = lambda z, t, s: z
    given = dict(kind="v", schedule=VP)
    euler = lambda t: distillation.eulerian_loss(net, z, t, s, source, **given)
    lagrange = lambda s: distillation.lagrangian_loss(
        net, z, t, s, denoise_fn_of(VP), **given
    )
    assert np.isfinite(euler(t)).all()  # away from the end that is infinite
    for call in (lambda: lagrange(0 * t), lambda: jax.jit(euler)(t)):
        with pytest.raises(ValueError, match=r"t=0\.0.*predictions\.reschedule"):
            call()
    flat = jax.jit(lambda t: distillation.check_rates(FLOW, t) or t)
    assert flat(t) is not None
