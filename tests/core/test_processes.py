"""(f, g, eta) and (alpha, sigma, epsilon), and the four drifts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from diffusionflow import analytic, losses, processes, schedules
from diffusionflow.predictions import Denoised
from tests.helpers.all_schedules import SCHEDULES

FLOW = schedules.FlowMatching()
INSIDE = np.array([0.0131, 0.2023, 0.3719, 0.5101, 0.8123, 0.9853])
MEAN, VARIANCE = 0.7, 0.3
GAUSSIAN = analytic.gaussian(np.array([MEAN]), np.array(VARIANCE))
every = pytest.mark.parametrize("name", SCHEDULES)


def mean_and_variance_slopes(terms_fn, schedule, t):
    """`(m', V')` in the direction of growing t of an SDE that is linear in z.

    `terms_fn(z, t) -> SdeTerms`, with `drift = a z + b`: `m' = a m + b`, and
    `V' = 2 a V` plus or minus the squared diffusion, as the second value says.
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    m, v = alpha * MEAN, alpha**2 * VARIANCE + sigma**2
    z = jnp.stack([m, m + 1])[..., None]
    at_mean, next_to = (terms_fn(row, t) for row in z)
    slope = next_to.drift[:, 0] - at_mean.drift[:, 0]
    return at_mean.drift[:, 0], 2 * slope * v, at_mean.diffusion**2


@pytest.mark.pinned
@every
def test_every_process_keeps_the_marginals_of_gaussian_data(name):
    """The moment equations of all four processes are those of alpha and sigma."""
    schedule, t = SCHEDULES[name], INSIDE
    with jax.enable_x64(True):
        denoise_fn = analytic.gaussian(np.array([MEAN]), np.array(VARIANCE)).denoise_fn(
            schedule=schedule
        )

        @jax.jit
        def slopes(eta):
            alpha, sigma = schedule.alpha(t), schedule.sigma(t)
            dalpha, dsigma = schedule.derivatives(t)
            g2 = schedule.g2(t)
            epsilon = eta * jnp.sqrt(g2)
            own = dict(schedule=schedule, epsilon=epsilon)
            ways = {  # with the sign of the noise in V', t growing
                "forward": (1, lambda z, t: processes.forward(z, t, schedule=schedule)),
                "reverse": (
                    -1,
                    lambda z, t: processes.reverse(
                        denoise_fn, z, t, schedule=schedule, eta=eta
                    ),
                ),
                "flow": (
                    0,
                    lambda z, t: processes.probability_flow(
                        denoise_fn, z, t, schedule=schedule
                    ),
                ),
                "interpolant": (
                    -1,
                    lambda z, t: processes.interpolant(denoise_fn, z, t, **own),
                ),
                "interpolant_forward": (
                    1,
                    lambda z, t: processes.interpolant(
                        denoise_fn, z, t, direction="forward", **own
                    ),
                ),
            }
            found = {}
            for key, (sign, terms_fn) in ways.items():
                m, v, noise = mean_and_variance_slopes(terms_fn, schedule, t)
                found[key] = m, v + sign * noise, noise
            exact = (
                dalpha * MEAN,
                2 * (alpha * dalpha * VARIANCE + sigma * dsigma),
            )
            return found, exact, eta**2 * g2

        for eta in (0.0, 0.6, 1.0, 1.7):
            found, (mean, variance), noise2 = slopes(eta)
            scale = 1 + np.abs(variance) + np.abs(noise2) + np.abs(found["forward"][2])
            for key, (m, v, _) in found.items():
                error = np.abs(m - mean) / (1 + np.abs(mean))
                assert np.all(error < 1e-9), (key, eta)
                assert np.all(np.abs(v - variance) < 1e-9 * scale), (key, eta)
            # read with dt > 0 the reverse SDE gains 2 eta^2 g^2 too much
            _, v, noise = found["reverse"]
            np.testing.assert_allclose(noise, noise2, rtol=1e-9)
            gain = (v + 2 * noise) - variance
            assert np.all(np.abs(gain - 2 * noise2) < 1e-9 * scale)
            np.testing.assert_allclose(
                found["interpolant"][2], found["reverse"][2], rtol=1e-9
            )


@pytest.mark.pinned
@pytest.mark.parametrize("name", ["FM", "cos", "subvp", "edm_rho", "iddpm", "learned"])
def test_the_forward_moment_equations_end_at_alpha_and_sigma(name):
    """`a' = f a`, `(s^2)' = 2 f s^2 + g^2` from t = 0.1 to 0.9, by an ODE solver."""
    schedule = SCHEDULES[name]
    with jax.enable_x64(True):
        rates = jax.jit(lambda t: (schedule.f(t), schedule.g2(t)))
        levels = jax.jit(lambda t: (schedule.alpha(t), schedule.sigma(t)))

        def slope(t, state):
            f, g2 = map(float, rates(t))
            return [f * state[0], 2 * f * state[1] + g2]

        alpha, sigma = map(float, levels(0.1))
        solved = solve_ivp(
            slope, (0.1, 0.9), [alpha, sigma**2], "DOP853", rtol=1e-11, atol=1e-13
        )
        alpha, sigma = levels(0.9)
        np.testing.assert_allclose(solved.y[:, -1], [alpha, sigma**2], rtol=1e-9)


@pytest.mark.pinned
@pytest.mark.parametrize("name", SCHEDULES)
def test_from_schedule_to_sde_and_back(name):
    """alpha and sigma again from f and g, on the part [0.05, 0.95] of the clock."""
    if name.startswith("discrete"):
        pytest.skip("its g^2 jumps: no quadrature is exact there")
    schedule = SCHEDULES[name]
    inner = lambda t: 0.05 + 0.9 * t
    t = np.array([0.0, 0.2, 0.5, 0.9, 1.0])
    if name == "laplace":  # it has a kink in the middle
        inner = lambda t: 0.05 + 0.4 * t
    width = inner(1.0) - inner(0.0)
    with jax.enable_x64(True):
        back = processes.from_sde(
            lambda t: width * schedule.f(inner(t)),
            lambda t: jnp.sqrt(width * schedule.g2(inner(t))),
            schedule.alpha(0.05),
            schedule.sigma(0.05),
        )
        levels = lambda s, t: jnp.stack([s.alpha(t), s.sigma(t), s.logsnr(t)])
        found, expected = jax.jit(levels)(back, t), levels(schedule, inner(t))
        np.testing.assert_allclose(found, expected, rtol=2e-9, atol=1e-9)


@pytest.mark.pinned
def test_from_sde_has_the_leading_alpha():
    """Linear-beta VP at t = 1; without alpha the value would be 152.167."""
    schedule = SCHEDULES["from_sde"]
    with jax.enable_x64(True):
        np.testing.assert_allclose(schedule.sigma(1.0), 0.999978, atol=5e-7)
        ratio = schedule.sigma(1.0) / schedule.alpha(1.0)
        np.testing.assert_allclose(ratio, 152.167, rtol=1e-6)
        for of in ("alpha", "sigma"):
            t = np.array([0.0, 1e-5, 0.3, 1.0])
            exact = getattr(schedules.LinearBeta(), of)(t)
            np.testing.assert_allclose(getattr(schedule, of)(t), exact, rtol=1e-12)


def test_from_sde_starts_at_the_given_levels_and_is_learnable():
    constant = processes.from_sde(lambda t: -1.0, lambda t: 2.0, 0.8, 0.3)
    t = np.array([0.0, 0.4, 1.0])
    decay = np.exp(-2 * t)  # sigma^2' = -2 sigma^2 + 4
    np.testing.assert_allclose(constant.alpha(t), 0.8 * np.exp(-t), rtol=1e-6)
    sigma = np.sqrt(0.09 * decay + 2 * (1 - decay))
    np.testing.assert_allclose(constant.sigma(t), sigma, rtol=1e-6)

    def end(rate):
        f_fn = jax.tree_util.Partial(lambda rate, t: -rate * t, rate)
        return jax.jit(lambda s: s.alpha(1.0))(processes.from_sde(f_fn, jnp.ones_like))

    np.testing.assert_allclose(jax.grad(end)(0.6), -np.exp(-0.3) / 2, rtol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("g2_fn", "slope"),
    [
        (lambda t: 2 * t / (1.1 - t), (2 / 1.1 / 2) ** 0.5),  # of flow matching
        (lambda t: 3 * (1 - jnp.exp(-t)), 1.5**0.5),
        (lambda t: t * t, 0.0),
        (lambda t: jnp.sqrt(t), np.inf),
        (lambda t: 1 + t, np.inf),
    ],
)
def test_from_sde_whose_noise_starts_at_0(g2_fn, slope):
    """Where `g^2 = c t + ...` and sigma_0 = 0, `sigma = t sqrt(c / 2) + ...`."""
    path = processes.from_sde(
        lambda t: -1 / (1.1 - t), lambda t: jnp.sqrt(g2_fn(t)), alpha_0=1.1
    )
    t = np.array([0.0, 1e-3], np.float32)
    (dalpha, dsigma), rate = jax.jit(
        lambda t: (path.derivatives(t), path.dlogsnr_dt(t))
    )(t)
    np.testing.assert_allclose(dalpha, -1, rtol=1e-5)
    np.testing.assert_allclose(dsigma[0], slope, rtol=1e-4)
    if 0 < slope < np.inf:
        np.testing.assert_allclose(dsigma[1], slope, rtol=5e-3)
    assert rate[0] == -np.inf and np.isfinite(rate[1])
    squares = path.square_derivatives(0.0)
    np.testing.assert_allclose(squares, [-2.2, g2_fn(0.0)], rtol=1e-5)
    x, eps = np.full((1, 2), 0.8, np.float32), np.full((1, 2), -1.5, np.float32)
    if np.isfinite(slope):  # the target is alpha' x + sigma' eps
        loss = losses.cfm_loss(lambda z, t: z, x, t[:1], eps, schedule=path)
        np.testing.assert_allclose(loss, (0.88 + 0.8 + 1.5 * slope) ** 2, rtol=1e-4)


@pytest.mark.pinned
def test_coefficients_both_ways():
    t, eta = INSIDE, 0.7
    with jax.enable_x64(True):
        alpha, sigma, epsilon = processes.to_interpolant(t, schedule=FLOW, eta=eta)
        np.testing.assert_allclose(epsilon, eta * np.sqrt(2 * t / (1 - t)), rtol=1e-12)
        np.testing.assert_allclose([alpha, sigma], [1 - t, t], rtol=1e-14)
        f, g, again = processes.to_sde(t, schedule=FLOW, epsilon=epsilon)
        np.testing.assert_allclose(f, -1 / (1 - t), rtol=1e-13)
        np.testing.assert_allclose(g**2, 2 * t / (1 - t), rtol=1e-12)
        np.testing.assert_allclose(again, eta, rtol=1e-13)
    assert processes.to_sde(1.0, schedule=FLOW, epsilon=2.0).eta == 0
    assert processes.to_interpolant(1.0, schedule=FLOW, eta=0.0).epsilon == 0


def test_any_noise_and_both_directions_of_the_interpolant():
    """The score term is epsilon^2 / 2, its sign that of the direction."""
    schedule, z = schedules.Cosine(), np.array([[0.3], [-1.2]], np.float32)
    t, epsilon = np.array([0.3, 0.8], np.float32), np.array([0.5, 1.5], np.float32)
    denoise_fn = GAUSSIAN.denoise_fn(schedule=schedule)
    drift = lambda direction: (
        processes.interpolant(
            denoise_fn, z, t, schedule=schedule, epsilon=epsilon, direction=direction
        ).drift
    )
    flow = processes.probability_flow(denoise_fn, z, t, schedule=schedule).drift
    score = GAUSSIAN.score(z, schedule.alpha(t), schedule.sigma(t))
    added = epsilon[:, None] ** 2 / 2 * score
    np.testing.assert_allclose(drift("reverse"), flow - added, rtol=1e-5)
    np.testing.assert_allclose(drift("forward"), flow + added, rtol=1e-5)
    with pytest.raises(ValueError, match="unknown direction 'backward'"):
        drift("backward")


@pytest.mark.parametrize("schedule", [FLOW, schedules.Cosine()])
def test_what_is_finite_at_the_ends_is_finite(schedule):
    z, ends = jnp.ones((2, 1)), np.array([0.0, 1.0], np.float32)
    denoise_fn = GAUSSIAN.denoise_fn(schedule=schedule)
    for terms in (
        processes.probability_flow(denoise_fn, z, ends, schedule=schedule),
        processes.interpolant(denoise_fn, z, ends, schedule=schedule, epsilon=0.0),
        processes.interpolant(denoise_fn, z, 1.0, schedule=schedule, epsilon=0.5),
        processes.reverse(denoise_fn, z, 0.0, schedule=schedule, eta=1.0),
    ):
        assert np.isfinite(terms.drift).all() and np.isfinite(terms.diffusion).all()


def test_the_flow_of_flow_matching_is_the_predicted_u():
    denoised = Denoised(jnp.full((2, 3), 0.4), jnp.full((2, 3), -1.5))
    terms = processes.probability_flow(
        lambda z, t: denoised, jnp.zeros((2, 3)), 0.5, schedule=FLOW
    )
    np.testing.assert_allclose(terms.drift, -1.9, rtol=1e-6)
    assert terms.diffusion.shape == ()


@pytest.mark.ci
@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 2, 4)])
def test_single_batched_and_jitted_agree(shape):
    schedule = schedules.LinearBeta()
    data = analytic.gaussian(np.zeros(shape[1:] or (3,)), 0.4)
    batched = len(shape) > 1
    t = np.linspace(0.2, 0.9, shape[0], dtype=np.float32) if batched else 0.6
    z = jax.random.normal(jax.random.key(0), shape)
    run = lambda z, t, eta: processes.reverse(
        data.denoise_fn(schedule=schedule), z, t, schedule=schedule, eta=eta
    )
    eager, jitted = run(z, t, 0.5), jax.jit(run)(z, t, 0.5)
    for one, other in zip(eager, jitted, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-5)
    if batched:
        single = run(z[1], t[1], 0.5)
        np.testing.assert_allclose(single.drift, eager.drift[1], rtol=2e-5, atol=1e-5)


def test_bad_values_and_shapes_are_refused():
    with pytest.raises(ValueError, match="alpha_0=0.0.*positive"):
        processes.from_sde(jnp.zeros_like, jnp.ones_like, 0.0)
    with pytest.raises(ValueError, match="sigma_0=-1.*at least 0"):
        processes.from_sde(jnp.zeros_like, jnp.ones_like, 1.0, -1)
    with pytest.raises(ValueError, match="num_nodes=1.*at least 2"):
        processes.from_sde(jnp.zeros_like, jnp.ones_like, num_nodes=1)
    with pytest.raises(ValueError, match="t of shape"):
        processes.forward(jnp.zeros((4, 2)), np.zeros(3), schedule=FLOW)


def test_no_noise_is_eta_0_where_g_is_0():
    eta = processes.to_sde(np.array([0.0, 0.5]), schedule=FLOW, epsilon=0.0).eta
    np.testing.assert_array_equal(eta, 0)
    assert processes.to_sde(0.0, schedule=FLOW, epsilon=1.0).eta == np.inf


@pytest.mark.parametrize("name", ["vp_lin", "iddpm", "sigmoid_abar"])
def test_an_infinite_slope_at_sigma_0_is_refused(name):
    schedule, z = SCHEDULES[name], jnp.ones((2, 1))
    t = np.array([0.5, 0.0], np.float32)
    denoise_fn = GAUSSIAN.denoise_fn(schedule=schedule)
    for call in (
        processes.probability_flow,
        processes.reverse,
        lambda *args, **kwargs: processes.interpolant(*args, epsilon=0.0, **kwargs),
    ):
        with pytest.raises(
            ValueError, match="t=0.0: sigma is 0 and its slope infinite"
        ):
            call(denoise_fn, z, t, schedule=schedule)
    drift = processes.probability_flow(denoise_fn, z, 0.5, schedule=schedule).drift
    assert np.isfinite(drift).all()


@pytest.mark.ci
def test_terms_are_the_same_single_vmapped_and_jitted():
    schedule = schedules.Cosine()
    denoise_fn = GAUSSIAN.denoise_fn(schedule=schedule)
    z = np.random.default_rng(0).normal(size=(4, 1)).astype(np.float32)
    t = np.linspace(0.2, 0.8, 4, dtype=np.float32)
    ways = (
        lambda z, t: processes.forward(z, t, schedule=schedule),
        lambda z, t: processes.probability_flow(denoise_fn, z, t, schedule=schedule),
        lambda z, t: processes.reverse(denoise_fn, z, t, schedule=schedule, eta=0.7),
        lambda z, t: processes.interpolant(
            denoise_fn, z, t, schedule=schedule, epsilon=0.3
        ),
    )
    for way in ways:
        batched, vmapped = way(z, t), jax.jit(jax.vmap(way))(z, t)
        single = [way(*example) for example in zip(z, t, strict=True)]
        drift = np.stack([terms.drift for terms in single])
        np.testing.assert_allclose(batched.drift, drift, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(batched.drift, vmapped.drift, rtol=2e-5, atol=1e-6)
        diffusion = np.broadcast_to(batched.diffusion, t.shape)
        np.testing.assert_allclose(vmapped.diffusion, diffusion, rtol=2e-5)


@pytest.mark.parametrize(
    ("f_fn", "g_fn", "message"),
    [
        (lambda t: 0 * t, lambda t: 0 * t, "from inf .* to inf .*must fall"),
        (lambda t: np.nan * t, lambda t: 1 + t, "nan.*must fall"),
    ],
    ids=["no noise", "not a number"],
)
def test_from_sde_refuses_functions_without_a_falling_logsnr(f_fn, g_fn, message):
    with pytest.raises(ValueError, match=message):
        processes.from_sde(f_fn, g_fn)
    with pytest.raises(ValueError, match="alpha_0=inf.*finite"):
        processes.from_sde(lambda t: -t, lambda t: 1 + t, float("inf"))
