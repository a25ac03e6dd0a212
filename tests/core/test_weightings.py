import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import losses, objectives, predictions, schedules, times, weightings
from tests.helpers import oracles
from tests.helpers.all_schedules import SCHEDULES
from tests.helpers.all_weightings import ALL, FREE, ON_EPS, UNIFORM, sigmoid

FLOW, COSINE = schedules.FlowMatching(), schedules.Cosine()
L = np.linspace(-6.0, 6.0, 25)  # log-SNRs
ENDS = np.array([0.0, 1e-7, 1 - 1e-7, 1.0], np.float32)


def weights_on_eps(some, schedule, logsnr):
    """W of each and p(logsnr) at uniform times, float64, in one program."""

    def all_of_them(logsnr):
        t = schedule.inverse_logsnr(logsnr)
        weights = [
            weightings.weight_on_eps(weighting, UNIFORM, t, schedule=schedule)
            for weighting in some
        ]
        return weights, 1 / jnp.abs(schedule.dlogsnr_dt(t))

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(all_of_them)(logsnr))


def total_weight(objective, logsnr):
    with jax.enable_x64(True):
        return np.asarray(objectives.total_weight(objective, logsnr))


def weight_on_eps(weighting, schedule, logsnr):
    """As above, for one."""
    (weight,), density = weights_on_eps([weighting], schedule, logsnr)
    return weight, density


@pytest.mark.parametrize("name", ["FM", "cos", "vp_lin", "subvp", "ve_geo", "fm_shift"])
def test_each_is_its_formula_on_every_kind_of_schedule(name):
    rows = ON_EPS | FREE
    some = [weighting for weighting, _ in rows.values()]
    weights, density = weights_on_eps(some, SCHEDULES[name], L)
    for row, weight in zip(rows, weights, strict=True):
        expected = rows[row][1](L) * (density if row in ON_EPS else 1)
        np.testing.assert_allclose(weight, expected, rtol=1e-10, err_msg=row)


@pytest.mark.parametrize(
    ("vector", "weighting"),
    [
        ("softmin_g4", weightings.SoftMinSNR(4.0)),
        ("minsnr5_factor", weightings.MinSNR(5.0)),
        ("trunc_factor", weightings.TruncatedSNR()),
        ("P2_factor", weightings.P2(1.0, 1.0)),
        ("sigmoid_b0", weightings.Sigmoid(0.0)),
    ],
)
def test_against_20_digits(vector, weighting):
    logsnr, expected = oracles.weights(vector)
    weight, density = weight_on_eps(weighting, COSINE, logsnr)
    if vector != "sigmoid_b0":  # free of the density of times
        weight = weight / density
    np.testing.assert_allclose(weight, expected, rtol=1e-11)


@pytest.mark.pinned
def test_the_factor_multiplies_the_error_of_the_kind_that_is_named():
    """As printed by the sources, on a variance-preserving schedule."""
    with jax.enable_x64(True):
        t = COSINE.inverse_logsnr(L)
        slope = -np.asarray(COSINE.dlogsnr_dt(t))
        snr = np.exp(L)
        mse = {
            name: np.asarray(
                predictions.mse_ratio(weighting.kind, t, schedule=COSINE)
                * weighting(t, schedule=COSINE)
            )
            for name, weighting in ALL.items()
        }
    on_x, on_v = np.exp(L), 1 / (1 + np.exp(-L))  # from the eps error
    np.testing.assert_allclose(mse["min-snr"] * on_x, np.minimum(snr, 5), rtol=1e-10)
    np.testing.assert_allclose(
        mse["min-snr"] * on_v, np.minimum(snr, 5) / (snr + 1), rtol=1e-10
    )
    np.testing.assert_allclose(mse["truncated"] * on_x, np.maximum(snr, 1), rtol=1e-10)
    # sigma sd / R^2 squared on the error of F, R^2 = rho^2 + sd^2, sd = 1/2
    rho, total = np.exp(-L / 2), np.exp(-L) + 0.25
    on_f = 1 / (1 + np.exp(-L) / 0.25)
    np.testing.assert_allclose(mse["soft"] * on_f, (rho * 0.5 / total) ** 2, rtol=1e-10)
    on_x_sigmoid = np.exp(-1.5) * sigmoid(L + 1.5) * slope
    np.testing.assert_allclose(mse["sigmoid"] * on_x, on_x_sigmoid, rtol=1e-10)
    np.testing.assert_allclose(mse["elbo"], slope, rtol=1e-10)


@pytest.mark.pinned
@pytest.mark.parametrize("name", ["min-snr", "soft"])
def test_one_weighting_in_implied_x_for_every_kind(name):
    """The gradient with respect to the implied x is the same whatever is predicted."""
    rng = np.random.RandomState(0)
    x, eps, x_hat = rng.standard_normal((3, 9, 4))
    t = np.linspace(0.05, 0.95, 9)
    gradients = {}
    with jax.enable_x64(True):
        for kind in ("eps", "x", "v", "u", "score", predictions.edm_f(0.5)):
            objective = objectives.Objective(COSINE, kind, ALL[name], UNIFORM)

            def loss(x_hat, kind=kind, objective=objective):
                def predict_fn(z, t):
                    return predictions.convert(
                        x_hat, source="x", target=kind, z=z, t=t, schedule=COSINE
                    )

                terms = losses.objective_terms(
                    None, predict_fn, x, objective=objective, t=t, eps=eps
                )
                return terms.loss.sum()

            gradients[str(kind)] = np.asarray(jax.jit(jax.grad(loss))(x_hat))
    snr = 1 / np.tan(np.pi * t / 2) ** 2
    factor = np.minimum(snr, 5) if name == "min-snr" else 4 * snr / (4 + snr)
    exact = factor[:, None] * 2 * (x_hat - x) / 4
    for gradient in gradients.values():
        np.testing.assert_allclose(gradient, exact, rtol=1e-8)


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["x", "v", "u", "eps"])
@pytest.mark.parametrize("schedule", [FLOW, COSINE, SCHEDULES["vp_lin"]], ids=str)
def test_ends_are_finite_where_the_mathematics_is(schedule, kind):
    """Wherever the weighted error has a limit, its value at the end is the limit."""
    printed = {"edm", "likelihood"}  # in the sources' form, which their docs say

    def factors(t):
        return {
            name: ALL[name](t, schedule=schedule)
            * predictions.error_ratio(ALL[name].kind, kind, t, schedule=schedule)
            for name in ALL
        }

    ends = jax.jit(factors)(np.array([0.0, 1.0], np.float32))
    with jax.enable_x64(True):
        near, nearer = (
            jax.tree.map(np.asarray, jax.jit(factors)(np.array([gap, 1 - gap])))
            for gap in (1e-8, 1e-9)
        )
    finite = 0
    for name in ALL:
        for end in range(2):
            limit = nearer[name][end]
            trivial = kind == "eps" and end == 1 and schedule.alpha(1.0) == 0
            on_v = kind == "x" and end == 0 and str(ALL[name].kind) == "v"
            if name in printed or trivial or on_v:
                continue  # that kind says nothing of x there, or of eps
            if limit < 1e4 and abs(limit - near[name][end]) < 1e-3 * (1 + limit):
                np.testing.assert_allclose(
                    ends[name][end], limit, rtol=1e-4, atol=1e-4, err_msg=name
                )
                finite += 1
    assert finite >= 8


DIFFERENTIABLE = ("min-snr", "soft", "truncated", "p2", "sigmoid", "user's factor")


@pytest.mark.parametrize("name", [*DIFFERENTIABLE, "user's", "monotone", "monotone x"])
def test_derivatives_at_the_ends_are_finite(name):
    slope = jax.vmap(jax.grad(lambda t: ALL[name](t, schedule=FLOW)))(ENDS)
    assert np.all(np.isfinite(slope))


def test_a_function_of_the_level_may_be_zero_or_one_at_infinity():
    """`Sigmoid` again, with its derivative, also where the log-SNR is infinite."""
    noisy = lambda logsnr: jax.nn.sigmoid(-logsnr)
    t = np.array([0.0, 0.3, 1.0], np.float32)
    for schedule in (FLOW, COSINE):
        (ours, slope), (theirs, exact) = (
            jax.vmap(
                jax.value_and_grad(lambda t, w=weighting, s=schedule: w(t, schedule=s))
            )(t)
            for weighting in (weightings.LogSNR(noisy), weightings.Sigmoid())
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(slope[1:], exact[1:], rtol=1e-5, atol=1e-7)
        assert np.isfinite(slope[0])  # there the value alone is the limit
    # sigma underflows long before the end of a Cauchy schedule
    far = weightings.LogSNR(noisy)(ENDS, schedule=schedules.Cauchy())
    np.testing.assert_array_equal(far, 0)


ROOTS = {  # alpha falls to 0 as a root, and (alpha^2)' there
    "sigmoid_abar": -6 * sigmoid(3) * sigmoid(-3) / (sigmoid(3) - sigmoid(-3)),
    "discrete_zero_snr": -50 * SCHEDULES["discrete_zero_snr"].alphas_cumprod[-2],
}


@pytest.mark.parametrize("name", ROOTS)
def test_at_alpha_0_with_an_infinite_slope_the_weight_is_its_limit(name):
    """`-l' alpha^2 = -(alpha^2)'` there: of v, x, u and dz_dt alike, as sigma = 1."""
    schedule = SCHEDULES[name]
    noisy = weightings.LogSNR(lambda logsnr: jax.nn.sigmoid(-logsnr))
    rows = {
        "elbo": weightings.ELBO(),
        "sigmoid": weightings.Sigmoid(),
        "user's": noisy,
        "likelihood": weightings.Likelihood(),
        "monotone": weightings.Monotone(weightings.ELBO(), UNIFORM, num_points=11),
    }
    t = np.array([0.9995, 1.0], np.float32)
    for row, weighting in rows.items():
        for kind in ("v", "x"):
            weight = weightings.weight_on(weighting, kind, t, schedule=schedule)
            np.testing.assert_allclose(weight[1], -ROOTS[name], 2e-5, err_msg=row)
            np.testing.assert_allclose(weight[0], weight[1], 0.02, err_msg=row)
    bare = weightings.Mse("dz_dt")  # an error of x times (alpha')^2, not 0
    weight = weightings.weight_on(bare, "v", t, schedule=schedule)
    assert weight[1] == np.inf


@pytest.mark.ci
def test_a_training_level_without_signal_has_the_loss_of_its_limit():
    """t = T / T of a table that ends at alpha = 0: `-(alpha^2)' (v_hat - v)^2`."""
    name = "discrete_zero_snr"
    for weighting in (weightings.ELBO(), weightings.Sigmoid(), weightings.Likelihood()):
        objective = objectives.Objective(SCHEDULES[name], "v", weighting, UNIFORM)
        loss = lambda scale, objective=objective: losses.objective_loss(
            None,
            lambda z, t: scale * jnp.ones_like(z),
            jnp.full((1, 2), 0.8),
            objective=objective,
            t=jnp.ones(1),
            eps=jnp.full((1, 2), -1.5),
        )[0]
        value, slope = jax.jit(jax.value_and_grad(loss))(0.3)  # v = -x
        np.testing.assert_allclose(value, -ROOTS[name] * 1.1**2, rtol=2e-5)
        np.testing.assert_allclose(slope, -ROOTS[name] * 2.2, rtol=2e-5)


@pytest.mark.ci
def test_monotone_is_flat_left_of_the_peak_and_the_same_right_of_it():
    edm = objectives.Objective(
        FLOW, "u", weightings.Mse(predictions.edm_f(0.5)), times.LogNormalSigma()
    )
    monotone = objectives.Objective(
        FLOW, "u", weightings.Monotone(edm.weighting, edm.times), edm.times
    )
    logsnr = np.linspace(-8.0, 12.0, 401)
    with jax.enable_x64(True):
        plain, flat = (
            np.asarray(
                jax.jit(lambda lam, o=o: objectives.total_weight(o, lam))(logsnr)
            )
            for o in (edm, monotone)
        )
    formula = (1 + 4 * np.exp(-logsnr)) * np.exp(-(((logsnr - 2.4) / 2.4) ** 2) / 2)
    formula /= 2.4 * np.sqrt(2 * np.pi)
    np.testing.assert_allclose(plain, formula, rtol=1e-10)
    peak = -3.308  # from an independent evaluation, to three digits
    right = logsnr > peak + 0.01
    np.testing.assert_allclose(flat[right], plain[right], rtol=1e-10)
    fine = np.linspace(-3.4, -3.2, 20_001)
    height = (1 + 4 * np.exp(-fine)) * np.exp(-(((fine - 2.4) / 2.4) ** 2) / 2)
    height = height.max() / (2.4 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(flat[~right], height, rtol=1e-5)
    assert np.all(np.diff(flat) <= 1e-12)


def test_monotone_with_truncated_times_is_finite_and_zero_outside():
    """W = sech(l / 4)^2 / 8 / 0.6 inside, so 1 / 4.8 of it where l < 0 and t < 0.8."""
    window = times.Uniform(0.2, 0.8)
    weighting = weightings.Monotone(weightings.Mse("eps"), window)
    objective = objectives.Objective(FLOW, "v", weighting, window)
    t = np.array([0.1, 0.25, 0.45, 0.55, 0.75, 0.9])
    weight = total_weight(objective, 2 * np.log((1 - t) / t))
    peak = 1 / 8 / 0.6
    right = 4 * t * (1 - t) * peak  # sech(l / 4)^2 is 4 t (1 - t)
    np.testing.assert_allclose(weight[[0, 5]], 0)
    np.testing.assert_allclose(weight[1:3], right[1:3], rtol=1e-5)
    np.testing.assert_allclose(weight[3:5], peak, rtol=1e-5)

    elbo = lambda t: 2 * (1 - t) / (t * (t**2 + (1 - t) ** 2) ** 2)
    both = jax.vmap(jax.value_and_grad(lambda t: weighting(t, schedule=FLOW)))
    factor, slope = both(np.array([*ENDS, 0.1, 0.9, 0.55, 0.75], np.float32))
    np.testing.assert_array_equal(factor[:6], 0)
    np.testing.assert_array_equal(slope[:6], 0)
    inside = np.array([0.55, 0.75])
    np.testing.assert_allclose(factor[6:], elbo(inside) / 8, rtol=1e-5)
    by_hand = (elbo(inside + 1e-6) - elbo(inside - 1e-6)) / 2e-6 / 8
    np.testing.assert_allclose(slope[6:], by_hand, rtol=1e-4)


@pytest.mark.parametrize(
    ("base", "density"),
    [
        (weightings.Mse(predictions.edm_f(0.5)), UNIFORM),
        (weightings.EDM(), times.LogNormalSigma()),  # infinite where no times are
        (weightings.Mse("u"), times.LogitNormal()),
        (
            weightings.Mse("u"),
            times.Stratified(times.Truncated(times.CosMap(), t_min=0.3)),
        ),
    ],
    ids=["uniform", "log-normal", "logit-normal", "truncated"],
)
def test_monotone_is_finite_wherever_times_are(base, density):
    weighting = weightings.Monotone(base, density)
    t = np.array([*ENDS, 0.29, 0.31, 0.99], np.float32)
    factor = jax.value_and_grad(lambda t: weighting(t, schedule=FLOW))
    value, slope = jax.jit(jax.vmap(factor))(t)
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(slope))
    exact = jax.jit(lambda t: density.density(t, schedule=FLOW))(t)  # it underflows
    assert np.all((value > 0) == (exact > 0))


def test_a_monotone_weight_is_unchanged():
    weighting = weightings.Monotone(weightings.Mse("u"), UNIFORM)
    weight, _ = weight_on_eps(weighting, FLOW, L)
    np.testing.assert_allclose(weight, np.exp(-L / 2) / 2, rtol=1e-10)


def test_numbers_are_data_and_kinds_are_names():
    assert str(weightings.Mse("v").kind) == "v"
    with pytest.raises(ValueError, match="ambiguous"):
        weightings.Mse("velocity")
    with pytest.raises(ValueError, match="unknown kind"):
        weightings.Factor(jnp.cos, "w")
    traces = []

    @jax.jit
    def factor(weighting, t):
        traces.append(None)
        return weighting(t, schedule=COSINE)

    values = [factor(weightings.MinSNR(gamma), np.float32(0.1)) for gamma in (1.0, 5.0)]
    np.testing.assert_allclose(values, [1, 5])
    assert len(traces) == 1
    slope = jax.grad(lambda k: weightings.P2(k, 1.0)(0.5, schedule=COSINE))(1.0)
    np.testing.assert_allclose(slope, -0.25, rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: weightings.EDM(0.0), "sigma_data=0.0.*positive"),
        (lambda: weightings.P2(k=0.0), "k=0.0.*positive"),
        (lambda: weightings.P2(gamma=-1.0), "gamma=-1.0.*at least 0"),
        (lambda: weightings.MinSNR(0.0), "gamma=0.0.*positive"),
        (lambda: weightings.SoftMinSNR(-1.0), "gamma=-1.0.*positive"),
        (
            lambda: weightings.Monotone(weightings.ELBO(), UNIFORM, num_points=1),
            "num_points=1",
        ),
        (
            lambda: weightings.Monotone(weightings.ELBO(), UNIFORM, 3.0, 3.0),
            "logsnr_min=3.0.*below",
        ),
    ],
)
def test_bad_values_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()
