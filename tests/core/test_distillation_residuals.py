"""The residuals of the flow map, their losses, and what these are worth at the optimum.

The numbers of the sheet come from quadrature over pairs: exact for losses that are
quadratic in x and eps, two nodes each, and a Gauss-Legendre rule in time.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, distillation, losses, predictions
from diffusionflow.predictions import Denoised
from tests.helpers import all_schedules, fewstep
from tests.helpers.kinds import KINDS
from tests.helpers.parametrize import check_all
from tests.helpers.programs import counted

FLOW, COSINE, VP = (fewstep.SCHEDULES[name] for name in ("flow", "cosine", "vp"))
EDM_F = predictions.edm_f(0.5)
MEAN, VARIANCE = 0.4, 0.37
SOME = ("FM", "cos", "cos_trunc", "vp_lin", "edm_rho", "edm_t")
T, M, S = (
    np.array([0.8, 0.6, 0.95]),
    np.array([0.5, 0.4, 0.3]),
    np.array([0.3, 0.1, 0.02]),
)
Z = np.array([[1.3], [-0.2], [0.7]])
in_float64 = functools.partial(jax.enable_x64, True)


def denoise_fn_of(schedule, mean=MEAN, v=VARIANCE):
    return analytic.gaussian(np.array([mean]), v).denoise_fn(schedule=schedule)


def target(prediction, target, batch_ndim):
    """A metric that shows the target."""
    del prediction, batch_ndim
    return target


# ---- they vanish at the flow map


def kinds_on_schedules():
    return {
        f"{kind} on {name}": (kind, all_schedules.SCHEDULES[name])
        for kind in KINDS
        for name in SOME
    }


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


# ---- published targets from the one loss


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


def test_a_network_told_the_difference_of_times():
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


# ---- the value at the optimum, and the optimum


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


# ---- gradients


def parameters():
    rng = np.random.default_rng(3)
    return {"in": rng.normal(size=(5, 7)) / 2, "out": rng.normal(size=(7, 3)) / 2}


def mlp(weights):
    def predict_fn(z, t, s):
        t, s = jnp.broadcast_to(t, z.shape[:1]), jnp.broadcast_to(s, z.shape[:1])
        given = jnp.concatenate([z, t[:, None], s[:, None]], axis=1)
        return jnp.tanh(given @ weights["in"]) @ weights["out"]

    return predict_fn


def case():
    x, eps = np.random.default_rng(4).normal(size=(2, 4, 3))
    t, s = np.array([0.9, 0.7, 0.5, 0.5]), np.array([0.1, 0.3, 0.5, 0.0])
    z = np.cos(np.pi / 2 * t)[:, None] * x + np.sin(np.pi / 2 * t)[:, None] * eps
    return z, t, s, Denoised(x, eps)


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


# ---- numerics and errors


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
        with pytest.raises(ValueError, match=r"forward mode.*plain form"):
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
