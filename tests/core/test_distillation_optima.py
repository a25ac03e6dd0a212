"""What losses of flow maps are worth at their optimum, and where that is.

The numbers of the sheet come from quadrature over pairs: exact for losses that are
quadratic in x and eps, two nodes each, and a Gauss-Legendre rule in time.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import distillation
from diffusionflow.predictions import Denoised
from tests.helpers import fewstep
from tests.helpers.few_step_losses import (
    COSINE,
    EDM_F,
    FLOW,
    VARIANCE,
    denoise_fn_of,
    in_float64,
)


def quadrature(v, count=40):
    """`(t, x, eps, weights)`: exact means over Gaussian pairs of quadratics."""
    nodes, mass = np.polynomial.legendre.leggauss(count)
    t, x, eps = np.meshgrid((nodes + 1) / 2, [-1.0, 1.0], [-1.0, 1.0], indexing="ij")
    weights = np.repeat(mass / 8, 4)
    return t.ravel(), np.sqrt(v) * x.ravel()[:, None], eps.ravel()[:, None], weights


@pytest.mark.parametrize("name", fewstep.names("flow_maps/meanflow_loss_*"))
def test_the_loss_at_the_optimum(name):
    v, expected = fewstep.inputs(name)["v"], fewstep.value(name)
    with in_float64():
        net = fewstep.exact_predict_fn("u", FLOW, 0.0, v)

        def loss(t, s, own=False):
            _, x, eps, _ = quadrature(v, 1)
            t, s = np.full(4, t), np.full(4, s)
            z = (1 - t)[:, None] * x + t[:, None] * eps
            tangent = denoise_fn_of(FLOW, 0.0, v)(z, t) if own else None
            return jnp.mean(
                distillation.eulerian_loss(
                    net, z, t, s, Denoised(x, eps), tangent=tangent, **settings
                )
            )

        settings = dict(kind="u", schedule=FLOW)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-11)
        close(loss(0.8, 0.3), expected["at_0.8_0.3"])
        close(loss(0.8, 0.3, own=True), expected["imf_at_0.8"])
        t, x, eps, weights = quadrature(v)
        z = (1 - t)[:, None] * x + t[:, None] * eps
        found = distillation.eulerian_loss(
            net, z, t, 0 * t, Denoised(x, eps), **settings
        )
        close(np.sum(weights * found), expected["mean_s0"])


@pytest.mark.parametrize("name", fewstep.names("flow_maps/fmm_optimum"))
def test_the_variance_of_the_velocity_is_the_floor(name):
    """With the marginal tangent the loss is `Var(u|z)` for every s."""
    v = fewstep.inputs(name)["v"]
    with in_float64():
        net = fewstep.exact_predict_fn("u", FLOW, 0.0, v)
        t, x, eps, weights = quadrature(v)
        z = (1 - t)[:, None] * x + t[:, None] * eps
        found = distillation.eulerian_loss(
            net,
            z,
            t,
            0.3 * t,
            Denoised(x, eps),
            tangent=denoise_fn_of(FLOW, 0.0, v)(z, t),
            kind="u",
            schedule=FLOW,
        )
        mean = np.sum(weights * found)
    np.testing.assert_allclose(mean, fewstep.value(name), rtol=1e-12)


def chebyshev(count):
    """`net(parameters)(z, t, s) = z sum_k parameters_k T_k(2 t - 1)`."""

    def net(parameters):
        def predict_fn(z, t, s):
            del s
            angle = jnp.outer(jnp.arccos(2 * t - 1), jnp.arange(count, dtype=t.dtype))
            return z * (jnp.cos(angle) @ parameters)[:, None]

        return predict_fn

    return net


def optimum(loss_fn, count):
    """Where the gradient of a loss is 0, and its slope: it is affine in the parameters.

    By its values, since the derivative of a stopped target would be 0.
    """
    slope = jax.jit(jax.vmap(jax.grad(loss_fn)))
    values = slope(jnp.concatenate([jnp.zeros((1, count)), jnp.eye(count)]))
    matrix = (values[1:] - values[:1]).T
    return jnp.linalg.solve(matrix, -values[0]), matrix


FULL = {
    0.25: 0.241453,
    1.0: fewstep.value("flow_maps/meanflow_full_gradient_v1"),
    0.37: fewstep.value("flow_maps/meanflow_full_gradient_v0.37"),
    4.0: 0.560100,
}


@pytest.mark.parametrize("v", FULL)
def test_with_its_gradient_kept_e_of_pairs_has_another_optimum(v):
    """Over all maps h(t) z to s = 0: sqrt(v) with the stopped target, as it must be."""
    count = 24
    with in_float64():
        t, x, eps, weights = quadrature(v)
        z = (1 - t)[:, None] * x + t[:, None] * eps
        given = z, t, 0 * t, Denoised(x, eps)
        settings = dict(kind="u", schedule=FLOW)
        net = chebyshev(count)

        def stopped(parameters):
            loss = distillation.eulerian_loss(net(parameters), *given, **settings)
            return jnp.sum(weights * loss)

        def kept(parameters):
            found = distillation.eulerian_residual(net(parameters), *given, **settings)
            return jnp.sum(weights * found.residual[:, 0] ** 2)

        right, wrong = (1 - jnp.sum(optimum(fn, count)[0]) for fn in (stopped, kept))
        half = jnp.ones(count) / 7
        np.testing.assert_allclose(stopped(half), kept(half), rtol=1e-12)
    np.testing.assert_allclose(right, np.sqrt(v), rtol=1e-9)
    exact = np.sqrt(v) / (np.sqrt(v) + np.pi / 2)
    np.testing.assert_allclose(wrong, exact, rtol=1e-9)
    np.testing.assert_allclose(wrong, FULL[v], rtol=2e-6)


def test_kept_gradients_are_right_with_the_marginal_tangent_and_in_l():
    """Their minimum is 0, at the flow map of the teacher."""
    v, count = VARIANCE, 24
    with in_float64():
        t, x, eps, weights = quadrature(v)
        z = (1 - t)[:, None] * x + t[:, None] * eps
        teacher, net = denoise_fn_of(FLOW, 0.0, v), chebyshev(count)
        given = z, t, 0 * t, teacher(z, t)

        def euler(parameters):
            found = distillation.eulerian_residual(
                net(parameters), *given, kind="u", schedule=FLOW
            )
            return jnp.sum(weights * found.residual[:, 0] ** 2)

        found, _ = optimum(euler, count)
        np.testing.assert_allclose(1 - jnp.sum(found), np.sqrt(v), rtol=1e-9)
        assert euler(found) < 1e-12


@pytest.mark.parametrize("schedule", [FLOW, COSINE], ids=["flow", "cosine"])
@pytest.mark.parametrize("kind", ["u", "v", EDM_F], ids=str)
def test_the_sign_of_the_step_makes_training_stable(kind, schedule):
    """Semi-gradient descent contracts with `-sign(B)`, and not with the other sign."""
    v, count = VARIANCE, 6
    with in_float64():
        t, x, eps, weights = quadrature(v)
        mix = lambda level, part: np.asarray(level(t))[:, None] * part
        z = mix(schedule.alpha, x) + mix(schedule.sigma, eps)
        net = chebyshev(count)

        def semi(sign):
            def loss_fn(parameters):
                loss = distillation.eulerian_loss(
                    net(parameters),
                    z,
                    t,
                    0 * t,
                    denoise_fn_of(schedule, 0.0, v)(z, t),
                    kind=kind,
                    schedule=schedule,
                    step_fn=lambda step, ndim: sign * step,
                )
                return jnp.sum(weights * loss)

            return np.linalg.eigvals(optimum(loss_fn, count)[1]).real

        assert semi(1.0).min() > 0
        assert semi(-1.0).max() < 0


def test_dividing_by_the_rate_of_b_fails():
    """It vanishes at (1, 0) of v on cosine, and for x at every t with s = 0."""

    def rate(kind, schedule, t):
        b = lambda t: distillation.jump_coefficients(kind, t, 0.0, schedule=schedule)[1]
        return jax.grad(b)(jnp.float32(t))

    assert abs(rate("v", COSINE, 1.0)) < 1e-6
    assert all(abs(rate("x", FLOW, t)) < 1e-6 for t in (0.3, 0.7, 1.0))
    edm = fewstep.SCHEDULES["edm"]
    assert abs(rate(EDM_F, edm, 1.0)) < 1e-4 * abs(rate(EDM_F, edm, 0.001))
