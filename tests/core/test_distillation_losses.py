"""Losses of flow maps: published targets, the diagonal, and their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import distillation, losses, predictions
from diffusionflow.predictions import Denoised
from tests.helpers import fewstep
from tests.helpers.few_step_losses import (
    COSINE,
    EDM_F,
    FLOW,
    MEAN,
    VARIANCE,
    case,
    denoise_fn_of,
    in_float64,
    mlp,
    parameters,
)


def target(prediction, target, batch_ndim):
    """A metric that shows the target."""
    del prediction, batch_ndim
    return target


def small_net(z, t, s):
    weights = jax.random.normal(jax.random.key(1), (z.shape[1], z.shape[1])) / 2
    return jnp.tanh(z @ weights + t[:, None]) * (1 + s[:, None])


def pairs(count=6):
    x, eps = np.random.default_rng(2).normal(size=(2, count, 5))
    return x, eps, np.linspace(0.3, 0.95, count)


def test_the_target_is_that_of_meanflow():
    """`v - (t - s) dU/dt`, with the derivative along (v, 1, 0)."""
    with in_float64():
        x, eps, t = pairs()
        s = 0.4 * t
        z = (1 - t[:, None]) * x + t[:, None] * eps
        _, du = jax.jvp(
            lambda z, t: small_net(z, t, s), (z, t), (eps - x, np.ones_like(t))
        )
        found = distillation.eulerian_loss(
            small_net, z, t, s, Denoised(x, eps), kind="u", schedule=FLOW, metric=target
        )
        expected = eps - x - (t - s)[:, None] * du
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
def test_the_target_is_that_of_trigflow(warmup):
    """sCM's tangent, per radian: -cos^2 (F - dz) - r cos sin (z + dF)."""
    with in_float64():
        x, eps, t = pairs()
        s, angle = np.zeros_like(t), np.pi / 2 * t
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        z, dz = cos * x + sin * eps, cos * eps - sin * x
        f, df = jax.jvp(
            lambda z, angle: small_net(z, angle * 2 / np.pi, s),
            (z, angle),
            (dz, np.ones_like(t)),
        )
        tangent = -(cos**2) * (f - dz) - warmup * cos * sin * (z + df)
        found = distillation.eulerian_loss(
            small_net,
            z,
            t,
            s,
            Denoised(x, eps),
            kind="v",
            schedule=COSINE,
            omega_fn=lambda t, s: jnp.cos(np.pi / 2 * t) / (np.pi / 2),
            warmup=warmup,
            metric=target,
        )
        np.testing.assert_allclose(found, f + tangent, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", fewstep.names("consistency/trigflow_*"))
def test_the_tangent_of_trigflow_on_gaussian_data(name):
    given, expected = fewstep.inputs(name), fewstep.value(name)
    with in_float64():
        angle, z, x = (np.array([[given[key]]]) for key in ("t", "z", "x"))
        t, s = angle[0] * 2 / np.pi, np.zeros(1)
        net = fewstep.exact_predict_fn("v", COSINE, 0.0, given["v"])
        eps = (z - np.cos(angle) * x) / np.sin(angle)
        np.testing.assert_allclose(net(z, t, s), [[expected["F"]]], rtol=1e-12)
        for source, key in (
            (denoise_fn_of(COSINE, 0.0, given["v"])(z, t), "tangent_marginal"),
            (Denoised(x, eps), "tangent_conditional"),
        ):
            found = distillation.eulerian_residual(
                net, z, t, s, source, kind="v", schedule=COSINE
            )
            step = found.residual * np.cos(angle) / (np.pi / 2)
            np.testing.assert_allclose(step, [[expected[key]]], rtol=1e-11, atol=1e-14)


def test_the_target_of_shortcut_models_is_the_mean_of_two_velocities():
    with in_float64():
        x, eps, t = pairs()
        z, s, m = (1 - t[:, None]) * x + t[:, None] * eps, 0.2 * t, 0.5 * t
        first = small_net(z, t, m)
        second = small_net(z - (t - m)[:, None] * first, m, s)
        share = ((t - m) / (t - s))[:, None]
        found = distillation.semigroup_loss(
            small_net, z, t, m, s, kind="u", schedule=FLOW, metric=target
        )
        expected = share * first + (1 - share) * second
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_the_target_of_the_lagrangian_loss():
    """`U - (t - s) dU/ds` against the velocity of the network where it lands."""
    with in_float64():
        x, eps, t = pairs()
        z, s = (1 - t[:, None]) * x + t[:, None] * eps, 0.2 * t
        own = distillation.flow_map(small_net, kind="u", schedule=FLOW)
        lands = z - (t - s)[:, None] * small_net(z, t, s)
        settings = dict(kind="u", schedule=FLOW)
        found = distillation.lagrangian_loss(
            small_net, z, t, s, own, metric=target, **settings
        )
        np.testing.assert_allclose(found, small_net(lands, s, s), rtol=0, atol=1e-12)
        _, du = jax.jvp(lambda s: small_net(z, t, s), (s,), (np.ones_like(s),))
        rate = distillation.lagrangian_residual(small_net, z, t, s, own, **settings)
        expected = small_net(z, t, s) - (t - s)[:, None] * du
        np.testing.assert_allclose(rate.prediction, expected, rtol=0, atol=1e-12)


def test_on_the_diagonal_they_are_the_ordinary_objective():
    with in_float64():
        x, eps, t = pairs()
        z, source = (1 - t[:, None]) * x + t[:, None] * eps, Denoised(x, eps)
        for kind in ("u", "v", EDM_F):
            found = distillation.eulerian_loss(
                small_net, z, t, t, source, kind=kind, schedule=FLOW, metric=target
            )
            p = small_net(z, t, t)
            now = predictions.from_denoised(source, kind=kind, t=t, schedule=FLOW)
            early = distillation.jump_coefficients(kind, t, t - 1e-6, schedule=FLOW)
            slope = np.abs(early[1])[:, None] / 1e-6  # the step is |B'| to the pair
            np.testing.assert_allclose(found, p - slope * (p - now), atol=1e-5)
        plain = losses.kind_loss(
            lambda z, t: small_net(z, t, t), x, t, eps, kind="u", schedule=FLOW
        )
        found = distillation.eulerian_loss(
            small_net, z, t, t, source, kind="u", schedule=FLOW
        )
        np.testing.assert_allclose(found, plain, rtol=1e-12)


@pytest.mark.ci
def test_the_semigroup_loss_is_nothing_on_the_diagonal():
    x, _, t = jax.tree.map(jnp.float32, pairs())

    def loss(scale, s):
        net = lambda z, t, s: scale * small_net(z, t, s)
        m = (t + s) / 2
        return distillation.semigroup_loss(
            net, x, t, m, s, kind="v", schedule=COSINE
        ).sum()

    one = jnp.ones(())
    assert loss(one, t) == 0 and jax.grad(loss)(one, t) == 0
    assert loss(one, t / 2) > 0 and np.isfinite(jax.grad(loss)(one, t / 2))


def test_a_network_given_the_difference_of_times():
    """Its derivative is along (w, 1, 1): forgetting h gives the wrong target."""
    expected = fewstep.value("flow_maps/forgotten_h")
    with in_float64():
        exact = fewstep.exact_predict_fn("u", FLOW, MEAN, VARIANCE)
        of_h = lambda z, t, h: exact(z, t, t - h)
        z, t, s = np.array([[1.0]]), np.array([0.8]), np.array([0.3])
        source = denoise_fn_of(FLOW)(z, t)
        show = lambda net: distillation.eulerian_loss(
            net, z, t, s, source, kind="u", schedule=FLOW, metric=target
        )
        right = show(lambda z, t, s: of_h(z, t, t - s))
        wrong = show(lambda z, t, s: of_h(z, t, jax.lax.stop_gradient(t - s)))
    np.testing.assert_allclose(right, [[expected["U"]]], rtol=1e-12)
    np.testing.assert_allclose(wrong, [[expected["wrong"]]], rtol=1e-11)


def difference_quotient(fn, weights, direction):
    step = 1e-5
    move = lambda sign: jax.tree.map(
        lambda w, d: w + sign * step * d, weights, direction
    )
    return (fn(move(1)) - fn(move(-1))) / (2 * step)


@pytest.mark.parametrize("method", ["eulerian", "lagrangian", "semigroup", "residual"])
def test_gradients_are_difference_quotients(method):
    """Reverse mode over the forward-mode pass, with targets that are constants."""
    with in_float64():
        z, t, s, source = case()
        weights, settings = parameters(), dict(kind="v", schedule=COSINE)
        direction = jax.tree.map(
            lambda w: np.random.default_rng(5).normal(size=w.shape), weights
        )
        teacher = denoise_fn_of(COSINE)

        def loss(weights, metric):
            net = mlp(weights)
            match method:
                case "eulerian":
                    return distillation.eulerian_loss(
                        net, z, t, s, source, metric=metric, **settings
                    )
                case "lagrangian":
                    return distillation.lagrangian_loss(
                        net, z, t, s, teacher, metric=metric, **settings
                    )
                case "semigroup":
                    return distillation.semigroup_loss(
                        net, z, t, (t + 2 * s) / 3, 0 * s, metric=metric, **settings
                    )
            found = distillation.eulerian_residual(net, z, t, s, source, **settings)
            return metric(found.residual, jnp.zeros_like(found.residual), 1)

        constant = 0.0 if method == "residual" else loss(weights, target)

        def frozen(weights):
            error = lambda p, target, ndim: jnp.mean((p - constant) ** 2)
            return loss(weights, error)

        whole = lambda weights: jnp.mean(loss(weights, distillation.squared))
        slope = jax.grad(whole)(weights)
        found = sum(jnp.sum(slope[name] * direction[name]) for name in slope)
        expected = difference_quotient(frozen, weights, direction)
        np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_the_derivative_along_the_flow_is_a_difference_quotient():
    with in_float64():
        z, t, s, source = case()
        net, step = mlp(parameters()), 1e-6
        rate = predictions.from_denoised(source, kind="dz_dt", t=t, schedule=COSINE)

        def phi(step):
            at = t + step
            p = net(z + step * rate, at, s)
            return distillation.jump(
                p, z=z + step * rate, t=at, s=s, kind="v", schedule=COSINE
            )

        expected = (phi(step) - phi(-step)) / (2 * step)
        found = distillation.eulerian_residual(
            net, z, t, s, source, kind="v", schedule=COSINE
        )
        np.testing.assert_allclose(found.residual, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.ci
def test_nothing_flows_into_the_teacher():
    z, t, s, source = jax.tree.map(jnp.float32, case())
    net, settings = mlp(jax.tree.map(jnp.float32, parameters())), dict(kind="v")
    settings["schedule"] = COSINE

    def euler(scale):
        scaled = jax.tree.map(lambda part: scale * part, source)
        return distillation.eulerian_loss(net, z, t, s, scaled, **settings).sum()

    def lagrange(scale):
        denoise_fn = lambda z, t: jax.tree.map(
            lambda part: scale * part, denoise_fn_of(COSINE)(z, t)
        )
        return distillation.lagrangian_loss(net, z, t, s, denoise_fn, **settings).sum()

    def semigroup(scale):
        other = lambda z, t, s: scale * net(z, t, s)
        return distillation.semigroup_loss(
            net, z, t, t / 2, 0 * t, target_fn=other, **settings
        ).sum()

    def residual(scale):
        denoise_fn = lambda z, t: jax.tree.map(
            lambda part: scale * part, denoise_fn_of(COSINE)(z, t)
        )
        found = distillation.lagrangian_residual(net, z, t, s, denoise_fn, **settings)
        return jnp.sum(found.residual**2)

    for loss_fn in (euler, lagrange, semigroup, residual):
        one = jnp.ones(())
        assert jax.grad(loss_fn)(one) == 0
        assert abs(loss_fn(one) - loss_fn(2 * one)) > 1e-3


@pytest.mark.filterwarnings("ignore:.*below 64")
def test_weights_steps_and_shapes():
    z, t, s, source = jax.tree.map(jnp.float32, case())
    net, settings = mlp(jax.tree.map(jnp.float32, parameters())), dict(kind="u")
    settings["schedule"] = FLOW
    loss = functools.partial(
        distillation.eulerian_loss, net, z, t, s, source, **settings
    )
    half = loss(weight_fn=lambda t, s: 0.5 * (1 + 0 * t))
    np.testing.assert_allclose(half, loss() / 2, rtol=1e-6)
    twice = loss(omega_fn=lambda t, s: 2 + 0 * t)
    np.testing.assert_allclose(twice, 4 * loss(), rtol=1e-5)
    step = loss(step_fn=distillation.Normalized(0.1)) * 3
    norm = np.sqrt(np.asarray(loss()) * 3)
    np.testing.assert_allclose(np.sqrt(step), norm / (norm + 0.1), rtol=1e-5)
    one = distillation.eulerian_loss(
        lambda z, t, s: net(z[None], t[None], s[None])[0],
        z[0],
        t[0],
        s[0],
        jax.tree.map(lambda part: part[0], source),
        **settings,
    )
    np.testing.assert_allclose(one, loss()[0], rtol=1e-6)
    with pytest.raises(ValueError, match="shape"):
        distillation.eulerian_loss(lambda z, t, s: z[:2], z, t, s, source, **settings)
