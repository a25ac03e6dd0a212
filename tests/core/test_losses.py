import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    analytic,
    losses,
    objectives,
    predictions,
    random,
    schedules,
    times,
    weightings,
)
from tests.helpers import oracles
from tests.helpers.kinds import KINDS, SCHEDULES, case, exact
from tests.helpers.parametrize import in_turn

FLOW = schedules.FlowMatching()


def net(z, t):
    """Any function of z and t that is no solution."""
    return jnp.sin(z) * predictions.per_event(1 + t, z)


@pytest.mark.pinned
@in_turn(kind=KINDS, schedule=SCHEDULES)
def test_plain_losses_are_their_definition(schedule, kind):
    t = np.array([0.1, 0.4, 0.9])
    x, eps, z, levels = case(schedule, t, (3, 2, 3))
    error = np.sin(z) * (1 + t)[:, None, None] - exact(kind, x, eps, *levels)
    with jax.enable_x64(True):
        loss = losses.kind_loss(net, x, t, eps, kind=kind, schedule=schedule)
        np.testing.assert_allclose(loss, (error**2).mean((1, 2)), rtol=1e-9)
        named = {
            "dz_dt": losses.cfm_loss,
            "eps": losses.ddpm_loss,
            "score": losses.dsm_loss,
        }
        if str(kind) in named:
            same = named[str(kind)](net, x, t, eps, schedule=schedule)
            np.testing.assert_array_equal(loss, same)


@pytest.mark.pinned
@in_turn(kind=KINDS, weighted=("x", "eps", "v", "u"))
def test_objective_terms_weigh_the_error_of_another_kind(kind, weighted):
    """The loss equals the error of the converted prediction, whatever is predicted."""
    t = np.array([0.1, 0.4, 0.9])
    for schedule in SCHEDULES:
        x, eps, z, levels = case(schedule, t, (3, 2, 3))
        objective = objectives.Objective(
            schedule, kind, weightings.Mse(weighted), times.Uniform()
        )
        with jax.enable_x64(True):
            terms = losses.objective_terms(
                None, net, x, objective=objective, t=t, eps=eps
            )
            errors = {}
            for target in (weighted, "eps"):
                moved = predictions.convert(
                    net(z, t), source=kind, target=target, z=z, t=t, schedule=schedule
                )
                wrong = (np.asarray(moved) - exact(target, x, eps, *levels)) ** 2
                errors[target] = wrong.mean((1, 2))
            logsnr = schedule.logsnr(t)
        np.testing.assert_allclose(terms.loss, errors[weighted], rtol=1e-8)
        np.testing.assert_allclose(terms.eps_mse, errors["eps"], rtol=1e-8)
        np.testing.assert_allclose(terms.logsnr, logsnr)


def test_the_exact_denoiser_has_the_irreducible_error():
    """Flow matching on N(0, v): E loss = pi / 2 sqrt(v) (math of FM against CFM)."""
    variance, count = 0.37, 200_000
    data = analytic.gaussian(np.zeros(1), variance)
    key, data_key = jax.random.split(jax.random.key(0))
    x = data.sample(data_key, (count,))

    def predict_fn(z, t):
        denoised = data.denoise_fn(schedule=FLOW)(z, t)
        return predictions.from_denoised(denoised, kind="u", t=t, schedule=FLOW)

    loss = losses.objective_loss(
        key, predict_fn, x, objective=objectives.flow_matching()
    )
    error = np.std(loss) / np.sqrt(count)
    np.testing.assert_allclose(
        loss.mean(), np.pi / 2 * np.sqrt(variance), atol=4 * error
    )


def test_a_proposal_leaves_the_mean_and_is_importance_weighted():
    base = objectives.Objective(
        FLOW, "u", weightings.Mse("u"), times.LogitNormal(0.3, 0.8)
    )
    proposed = objectives.Objective(
        FLOW, "u", base.weighting, base.times, proposal=times.Uniform()
    )
    x = jax.random.normal(jax.random.key(1), (100_000, 1))
    plain = losses.objective_terms(jax.random.key(2), net, x, objective=base)
    moved = losses.objective_terms(jax.random.key(3), net, x, objective=proposed)
    np.testing.assert_array_equal(plain.importance, 1)
    assert abs(moved.t.mean() - 0.5) < 0.01 < abs(plain.t.mean() - 0.5)
    spread = np.hypot(np.std(plain.loss), np.std(moved.loss)) / np.sqrt(len(x))
    assert abs(plain.loss.mean() - moved.loss.mean()) < 4 * spread


@pytest.mark.parametrize("kind", ["x", "u", "v", "eps"])
def test_loss_and_gradient_are_finite_at_both_ends(kind):
    t = np.array([0.0, 1e-7, 1 - 1e-7, 1.0], np.float32)
    x = np.ones((4, 3), np.float32)
    for schedule in SCHEDULES:
        objective = objectives.Objective(
            schedule, kind, weightings.Mse(kind), times.Uniform()
        )

        def total(scale, objective=objective):
            predict_fn = lambda z, t: scale * z
            terms = losses.objective_terms(
                None, predict_fn, x, objective=objective, t=t, eps=2 * x
            )
            return terms.loss.sum()

        value, slope = jax.value_and_grad(total)(0.5)
        assert np.isfinite(value) and np.isfinite(slope)


WEIGHTINGS = {
    **{kind: weightings.Mse(kind) for kind in predictions.NAMES},
    "edm_f": weightings.Mse(predictions.edm_f(0.5)),
    "min_snr": weightings.MinSNR(5.0),
    "soft_min_snr": weightings.SoftMinSNR(4.0),
    "truncated_snr": weightings.TruncatedSNR(),
    "p2": weightings.P2(2.0, 1.0),
    "p2_half": weightings.P2(2.0, 0.5),
    "p2_twice": weightings.P2(2.0, 2.0),
    "edm": weightings.EDM(0.5),
}


def implied(kind, p, alpha, sigma, dalpha, dsigma):
    """`(x_hat, eps_hat)` of a prediction p at an end, from the end's definition.

    Where the kind does not say what is asked, None.
    """
    x, eps = 0.8, -1.5
    with np.errstate(divide="ignore", invalid="ignore"):
        match str(kind):
            case "score":
                kind, p = "eps", -sigma * p
            case "dz_dt" if np.isinf(dsigma):
                kind, p = "eps", 0.0
            case "dz_dt":
                kind, p = "mixed", p
        a, b = {
            "x": (1, 0),
            "eps": (0, 1),
            "v": (-sigma, alpha),
            "u": (-1, 1),
            "mixed": (dalpha, dsigma),
            "edm_f(sigma_data=0.5)": (
                sigma / (0.5 * np.hypot(sigma, alpha / 2)),
                -0.5 * alpha / np.hypot(sigma, alpha / 2),
            ),
        }[str(kind)]
    if sigma == 0:  # x_hat = z / alpha = x
        return x, None if b == 0 else (p - a * x) / b
    return None if a == 0 else (p - b * eps) / a, eps


ENDED = (FLOW, schedules.LinearBeta())


@functools.cache
def ends_of(name, place):
    """The losses of a network of one constant value, and their slopes in it."""
    kind = next(kind for kind in KINDS if str(kind) == name)

    def loss(weighting, p, t):
        return losses.objective_loss(
            None,
            lambda z, t: p + 0 * z,
            np.full((1, 2), 0.8, np.float32),
            objective=objectives.Objective(
                ENDED[place], kind, weighting, times.Uniform()
            ),
            t=t,
            eps=np.full((1, 2), -1.5, np.float32),
        )[0]

    def both(p, t):
        pairs = {
            name: jax.value_and_grad(functools.partial(loss, weighting))(p, t)
            for name, weighting in WEIGHTINGS.items()
        }
        return tuple({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))

    return jax.jit(both)


@pytest.mark.parametrize("end", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_weighted_error_at_the_ends_is_its_limit(kind, end):
    """Every kind of network with every weighting, where the exact value is finite."""
    x, eps, p = 0.8, -1.5, 0.3
    for place, schedule in enumerate(ENDED):
        with jax.enable_x64(True):
            levels = schedule.alpha(end), schedule.sigma(end)
            levels += schedule.derivatives(end)
        alpha, sigma, dalpha, dsigma = map(float, levels)
        if alpha * sigma or (place and str(kind) not in ("dz_dt", "score")):
            continue
        x_hat, eps_hat = implied(kind, p, alpha, sigma, dalpha, dsigma)
        x2 = np.inf if x_hat is None else (x_hat - x) ** 2
        eps2 = np.inf if eps_hat is None else (eps_hat - eps) ** 2
        norm2 = np.hypot(sigma, alpha / 2) ** 2
        if end == 0:  # the error of x is (sigma / alpha)^2 that of eps
            exact = {
                "x": 0,
                "eps": eps2,
                "v": eps2 * alpha**2,
                "u": eps2,
                "edm_f": eps2 * alpha**2 / (4 * norm2),
                "min_snr": 0,
                "soft_min_snr": 0,
                "truncated_snr": eps2,
                "p2": 0,
                "p2_half": 0,
                "p2_twice": 0,
                "edm": eps2,
            }
            if str(kind) == "x":  # and that of eps (alpha / sigma)^2 that of x
                error = (p - x) ** 2
                exact = {
                    "x": error,
                    "min_snr": 5 * error,
                    "soft_min_snr": 4 * error,
                    "p2": error,
                    "p2_half": np.inf,
                    "p2_twice": 0,
                }
            if np.isfinite(dsigma):
                exact["dz_dt"] = eps2 * dsigma**2
        else:
            exact = {
                "x": x2,
                "eps": 0,
                "v": x2,
                "u": x2,
                "score": 0,
                "dz_dt": x2 * dalpha**2,
                "edm_f": x2 * 4,
                "min_snr": 0,
                "soft_min_snr": 0,
                "truncated_snr": x2,
                "p2": 0,
                "p2_half": 0,
                "p2_twice": 0,
                "edm": x2 * 4,
            }
            if str(kind) in ("eps", "score"):
                error = (p * (-1 if str(kind) == "score" else 1) - eps) ** 2
                exact = {
                    "eps": error,
                    "score": error,
                    "min_snr": error,
                    "soft_min_snr": error,
                    "p2": error / 2,
                    "p2_half": error / 2**0.5,
                    "p2_twice": error / 4,
                }
        found, slopes = ends_of(str(kind), place)(p, np.full(1, end, np.float32))
        for name, expected in exact.items():
            if not np.isfinite(expected) and name != "p2_half":
                continue
            words = f"{name} of {kind} on {schedule}"
            np.testing.assert_allclose(found[name], expected, 2e-6, 1e-6, err_msg=words)
            if np.isfinite(expected):
                assert np.isfinite(slopes[name]), words


def test_batches_of_one_two_three_and_the_equal_axes_trap():
    objective = objectives.flow_matching()
    jitted = jax.jit(losses.objective_loss, static_argnums=1)
    for batch in (1, 2, 3):
        x = np.ones((batch, 3, 3, 3), np.float32)
        loss = jitted(jax.random.key(0), net, x, objective=objective)
        assert loss.shape == (batch,)
    keys = random.example_keys(0, np.arange(3))
    x = jax.random.normal(jax.random.key(5), (3, 3, 3, 3))
    batched = losses.objective_loss(keys, net, x, objective=objective)
    single = lambda key, x: losses.objective_loss(
        key, net, x, objective=objective, batch_ndim=0
    )
    one_by_one = [single(key, example) for key, example in zip(keys, x, strict=True)]
    np.testing.assert_allclose(batched, one_by_one, rtol=1e-5)
    mapped = jax.jit(jax.vmap(single))
    np.testing.assert_allclose(batched, mapped(keys, x), rtol=1e-5)
    np.testing.assert_allclose(
        batched, jitted(keys, net, x, objective=objective), rtol=1e-5
    )


def test_bad_shapes_and_missing_keys_raise():
    x = np.ones((4, 2), np.float32)
    objective = objectives.flow_matching()
    with pytest.raises(ValueError, match="key=None needs both t and eps"):
        losses.objective_loss(None, net, x, objective=objective, t=np.full(4, 0.5))
    with pytest.raises(ValueError, match="must be scalar or"):
        losses.objective_loss(
            None, net, x, objective=objective, t=np.full((4, 1), 0.5), eps=x
        )
    with pytest.raises(ValueError, match=r"eps.*\(4, 1\).*\(4, 2\)"):
        losses.objective_loss(
            None, net, x, objective=objective, t=np.full(4, 0.5), eps=x[:, :1]
        )
    with pytest.raises(ValueError, match=r"\(4, 1\): must be \(4, 2\)"):
        losses.cfm_loss(lambda z, t: z[:, :1], x, np.full(4, 0.5), x, schedule=FLOW)


MASK = np.arange(6)[None, :, None] < np.array([4, 6, 1])[:, None, None]
MASKED = {
    "kind": functools.partial(losses.kind_loss, kind="v"),
    "cfm": losses.cfm_loss,
    "ddpm": losses.ddpm_loss,
    "dsm": losses.dsm_loss,
    "fm": lambda fn, x, t, eps, **settings: losses.fm_loss(
        fn, lambda z, t: 2 * z, x, t, eps, **settings
    ),
}


def objective_losses(fn, x, t, eps, *, schedule, mask=None):
    """The loss and the error of eps of an objective whose network predicts a score."""
    objective = objectives.Objective(
        schedule, "score", weightings.SoftMinSNR(), times.Uniform()
    )
    terms = losses.objective_terms(
        None, fn, x, objective=objective, t=t, eps=eps, mask=mask
    )
    return jnp.stack([terms.loss, terms.eps_mse], axis=-1)


MASKED["objective"] = objective_losses


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_loss_is_the_loss_of_the_part(name):
    """Of series of 4, 6 and 1 values of the 6; the net acts on each value alone."""
    x, eps = np.random.RandomState(0).standard_normal((2, 3, 6, 2)).astype("f4")
    t, fn = np.array([0.1, 0.5, 0.9], np.float32), MASKED[name]
    found = fn(net, x, t, eps, schedule=FLOW, mask=MASK)
    for i, size in enumerate((4, 6, 1)):
        part = fn(net, x[i, :size], t[i], eps[i, :size], schedule=FLOW)
        np.testing.assert_allclose(found[i], part, rtol=1e-5)
    whole = np.broadcast_to(MASK, x.shape)
    jitted = jax.jit(lambda x, mask: fn(net, x, t, eps, schedule=FLOW, mask=mask))
    np.testing.assert_allclose(jitted(x, whole), found, rtol=1e-5)
    gradient = jax.grad(lambda x: jitted(x, whole).sum())(x)
    assert (gradient[whole] != 0).all() and (gradient[~whole] == 0).all()


def test_a_mask_that_cannot_be_is_refused():
    x, t = np.ones((3, 6, 2), np.float32), np.full(3, 0.5, np.float32)
    loss_fn = functools.partial(losses.cfm_loss, net, x, t, x, schedule=FLOW)
    for mask in (MASK[..., 0], MASK[:2], MASK[:, :3], MASK.astype(np.float32)):
        said = r"must be an array of bool, of the shape \(3, 6, 2\) of x"
        with pytest.raises(ValueError, match=said):
            loss_fn(mask=mask)
    empty = MASK & (np.arange(3) != 1)[:, None, None]
    with pytest.raises(ValueError, match="mask is False for a whole example"):
        loss_fn(mask=empty)
    traced = jax.jit(lambda mask: loss_fn(mask=mask))(empty)
    np.testing.assert_array_equal(np.isnan(traced), [False, True, False])


def gaussian_kl(mean, variance, other_mean, other_variance):
    """KL(N(mean, variance) || N(other_mean, other_variance)), elementwise."""
    ratio = variance / other_variance
    square = (mean - other_mean) ** 2 / other_variance
    return (ratio - 1 - np.log(ratio) + square) / 2


@pytest.mark.pinned
@in_turn(schedule=SCHEDULES, kind=("x", "u"), variance=("posterior", "forward"))
def test_kl_terms_are_the_divergence_of_two_gaussians(schedule, kind, variance):
    """Against q(z_s | z_t, x) by conditioning the joint Gaussian of z_s and z_t."""
    t, s = np.array([0.2, 0.5, 0.9]), np.array([0.1, 0.45, 0.3])
    x, eps, z, levels = case(schedule, t, (3, 2, 3))
    _, _, _, (alpha_s, sigma_s, _, _) = case(schedule, s, (3, 2, 3))
    alpha, sigma = levels[:2]
    with jax.enable_x64(True):
        found = losses.kl_terms(
            net, x, t, s, eps, kind=kind, schedule=schedule, variance=variance
        )
        x_hat = predictions.convert(
            net(z, t), source=kind, target="x", z=z, t=t, schedule=schedule
        )
    gain = alpha / alpha_s  # z_t = gain z_s + noise of variance forward
    forward = sigma**2 - gain**2 * sigma_s**2
    kalman = gain * sigma_s**2 / sigma**2
    mean = lambda x: alpha_s * x + kalman * (z - alpha * x)
    narrow = sigma_s**2 - kalman * gain * sigma_s**2
    wide = narrow if variance == "posterior" else forward
    expected = gaussian_kl(mean(x), narrow, mean(np.asarray(x_hat)), wide)
    np.testing.assert_allclose(found, expected.mean((1, 2)), rtol=1e-9)


@in_turn(
    schedule={
        "flow": FLOW,
        "cosine": schedules.Cosine(),
        "zero_snr": schedules.Discrete(
            schedules.zero_terminal_snr(np.linspace(0.99, 0.02, 10))
        ),
    },
    kind=("x", "u"),
    variance=("posterior", "forward"),
)
def test_kl_terms_of_a_first_step_from_pure_noise(schedule, kind, variance):
    """At alpha_t = 0, q(z_s | z_t, x) is N(alpha_s x, sigma_s^2)."""
    x, eps, s = np.full((1, 3), 0.8), np.full((1, 3), -1.5), np.array([0.9])
    one = np.ones(1)

    def term(scale, t):
        predict_fn = lambda z, t: scale * z
        return losses.kl_terms(
            predict_fn, x, t, s, eps, kind=kind, schedule=schedule, variance=variance
        )[0]

    with jax.enable_x64(True):
        alpha, sigma = (np.asarray(level(s)) for level in levels_of(schedule))
        x_hat = {"x": 0.7, "u": 1 - 0.7}[kind] * eps
        wide = sigma**2 if variance == "posterior" else one
        expected = gaussian_kl(alpha * x, sigma**2, alpha * x_hat, wide).mean()
        np.testing.assert_allclose(term(0.7, one), expected, rtol=1e-12)
    single = jax.jit(jax.value_and_grad(lambda scale: term(scale, np.float32(one))))
    found, slope = single(0.7)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    assert np.isfinite(slope) and slope != 0


@pytest.mark.parametrize("variance", ["posterior", "forward"])
def test_kl_terms_of_a_step_to_the_data_are_infinite(variance):
    """Where sigma_s = 0, q is a point: no Gaussian of another mean is near it."""
    x, t = np.ones((1, 2), np.float32), np.array([0.1], np.float32)
    terms = lambda s: losses.kl_terms(
        net, x, t, s, 2 * x, kind="u", schedule=SCHEDULES[0], variance=variance
    )
    assert SCHEDULES[0].sigma(0.0) == 0
    assert jax.jit(terms)(0 * t) == terms(0 * t) == np.inf
    near = terms(np.full(1, 1e-6, np.float32))
    assert np.isfinite(near) and near > terms(t / 2)


def levels_of(schedule):
    return schedule.alpha, schedule.sigma


def test_kl_terms_under_jit_are_those_outside():
    x = np.ones((3, 4), np.float32)
    t, s = np.array([0.2, 0.5, 0.9], np.float32), np.array([0.1, 0.4, 0.3], np.float32)
    terms = lambda t, s: losses.kl_terms(net, x, t, s, 2 * x, kind="v", schedule=FLOW)
    np.testing.assert_allclose(jax.jit(terms)(t, s), terms(t, s), rtol=2e-5)
    np.testing.assert_array_equal(jax.jit(terms)(t, t), 0)
    for late in (s, t):
        with pytest.raises(
            ValueError, match=r"step from t=0.2.* to s=0.2.*: s must be"
        ):
            terms(np.append(t[:1], s[1:]), np.append(t[:1], late[1:]))
    with pytest.raises(ValueError, match="unknown variance 'fixed'.*posterior"):
        losses.kl_terms(net, x, t, s, x, kind="v", schedule=FLOW, variance="fixed")


@pytest.mark.pinned
def test_prior_kl_is_the_divergence_from_the_prior():
    x = np.random.default_rng(0).normal(size=(3, 2, 3))
    for schedule in SCHEDULES:
        with jax.enable_x64(True):
            found = losses.prior_kl(x, schedule=schedule)
            alpha, sigma = (
                np.asarray(f(1.0)) for f in (schedule.alpha, schedule.sigma)
            )
        expected = gaussian_kl(alpha * x, sigma**2, 0, 1)
        np.testing.assert_allclose(found, expected.mean((1, 2)), rtol=1e-10, atol=1e-15)
    # 20 digits: v = 0.37, log-SNR -5 at the noise end of a variance preserving schedule
    x = np.full((1, 1), np.sqrt(float(oracles.VECTORS["gaussian"]["v"])))
    low = float(oracles.VECTORS["gaussian"]["lmin"])
    with jax.enable_x64(True):
        found = losses.prior_kl(x, schedule=schedules.Cosine(low, 10.0))
    expected = float(oracles.VECTORS["gaussian"]["prior_VP"])
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_fm_loss_takes_a_field_or_a_denoiser_and_vanishes_on_the_exact_one():
    with jax.enable_x64(True):
        data = analytic.gaussian(np.array([0.5, -1.0]), 0.3)
    t = np.array([0.1, 0.4, 0.9])
    for schedule in SCHEDULES:
        oracle = data.denoise_fn(schedule=schedule)
        field = lambda z, t, oracle=oracle, schedule=schedule: (
            predictions.from_denoised(
                oracle(z, t), kind="dz_dt", t=t, schedule=schedule
            )
        )
        x, eps, *_ = case(schedule, t, (3, 2))
        with jax.enable_x64(True):
            exact = losses.fm_loss(field, oracle, x, t, eps, schedule=schedule)
            one = losses.fm_loss(net, oracle, x, t, eps, schedule=schedule)
            two = losses.fm_loss(net, field, x, t, eps, schedule=schedule)
        np.testing.assert_allclose(exact, 0, atol=1e-28)
        np.testing.assert_array_equal(one, two)
        assert (np.asarray(one) > 0).all()


def test_log_variance_is_optimal_at_the_log_of_the_expected_loss():
    """Minimised over s by gradient: s(level) = log E[loss | level], on N(0, v)."""
    variance, levels = 0.37, np.array([0.1, 0.3, 0.5, 0.8])
    exact = variance / ((1 - levels) ** 2 * variance + levels**2)  # of u, on N(0, v)
    with jax.enable_x64(True):
        data = analytic.gaussian(np.zeros(1), variance)
    nodes, mass = np.polynomial.hermite_e.hermegauss(8)
    mass = mass / mass.sum()
    x, eps, t = (
        grid.ravel() for grid in np.meshgrid(np.sqrt(variance) * nodes, nodes, levels)
    )
    weights = np.multiply.outer(mass, mass)[..., None].repeat(len(levels), 2).ravel()
    denoise_fn = data.denoise_fn(schedule=FLOW)
    predict_fn = lambda z, t: predictions.from_denoised(
        denoise_fn(z, t), kind="u", t=t, schedule=FLOW
    )

    def mean(s):
        seen = lambda level: s[jnp.searchsorted(levels + 0.01, level)]
        loss = losses.objective_loss(
            None,
            predict_fn,
            x[:, None],
            objective=objectives.flow_matching(),
            t=t,
            eps=eps[:, None],
            log_variance_fn=seen,
        )
        return (loss * weights).sum()

    with jax.enable_x64(True):
        best = np.log(exact)
        both = jax.jit(jax.value_and_grad(mean))
        value, slope = both(best)
        np.testing.assert_allclose(slope, 0, atol=1e-12)
        np.testing.assert_allclose(value, (1 + best).sum(), rtol=1e-12)
        assert (both(best + 0.1)[1] > 0.05).all()


def test_log_variance_is_inside_the_importance_weight():
    objective = objectives.Objective(
        FLOW, "u", weightings.Mse("u"), times.LogitNormal(), times.Uniform()
    )
    x, t = np.ones((3, 2), np.float32), np.array([0.2, 0.5, 0.9], np.float32)
    arguments = dict(objective=objective, t=t, eps=2 * x)
    plain = losses.objective_terms(None, net, x, **arguments)
    seen = []
    terms = losses.objective_terms(
        None, net, x, log_variance_fn=lambda u: seen.append(u) or 3 * u, **arguments
    )
    np.testing.assert_allclose(seen[0], t)
    expected = plain.loss * np.exp(-3 * t) + plain.importance * 3 * t
    np.testing.assert_allclose(terms.loss, expected, rtol=1e-6)
    np.testing.assert_array_equal(terms.eps_mse, plain.eps_mse)
    with pytest.raises(AssertionError):
        losses.uncertainty_loss(plain.loss, plain.loss[:, None])


def test_times_outside_0_to_1_are_refused():
    """An index 0..999 would otherwise be taken for a time."""
    x = np.ones((2, 3), np.float32)
    schedule = schedules.Discrete.linear_betas()
    for t in ([500.0, 0.5], [0.5, -0.1], [np.nan, 0.5]):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\].*i / T"):
            losses.ddpm_loss(
                lambda z, t: z, x, np.array(t, np.float32), x, schedule=schedule
            )


def test_importance_is_0_where_neither_density_is():
    window = times.Uniform(0.2, 0.8)
    objective = dataclasses.replace(
        objectives.flow_matching(), times=window, proposal=window
    )
    x = np.ones((2, 3), np.float32)
    terms = losses.objective_terms(
        None,
        lambda z, t: z,
        x,
        objective=objective,
        t=np.array([0.1, 0.5], np.float32),
        eps=x,
    )
    np.testing.assert_array_equal(terms.importance, [0, 1])
    assert np.isfinite(terms.loss).all()
