"""What holds for every schedule of `tests/helpers/all_schedules.py`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusionflow
from diffusionflow import schedules
from tests.helpers import oracles
from tests.helpers.all_schedules import SCHEDULES

VECTORS = [0.013, 0.2, 0.37, 0.5, 0.81, 0.985]  # the times of the 20-digit vectors
INSIDE = [0.0131, 0.2023, 0.3719, 0.5101, 0.8123, 0.9853]  # no node of a table
TIMES = np.sort(
    [0.0, 1e-7, 1e-4, 1e-3, *VECTORS, *INSIDE, 0.6507, 0.999, 1 - 1e-7, 1.0]
)
ENDS = [0, 1, -2, -1]
MIDDLE = slice(2, -2)
METHODS = ("alpha", "sigma", "logsnr")
RATES = ("f", "g2", "dlogsnr_dt")
# exact derivatives that are infinite: (end, of alpha or sigma)
INFINITE = {
    "vp_lin": {(0, "sigma")},
    "iddpm": {(0, "sigma")},
    "vp_lin_shift": {(0, "sigma")},
    "discrete": {(0, "sigma")},
    "from_sde": {(0, "sigma")},
    "sigmoid_abar": {(0, "sigma"), (1, "alpha")},
    "discrete_zero_snr": {(0, "sigma"), (1, "alpha")},
    "laplace": {(0, "sigma"), (0, "alpha"), (1, "sigma"), (1, "alpha")},
}
every = pytest.mark.parametrize("name", SCHEDULES)


@jax.jit
def columns(schedule, t):
    """Everything there is to know at times `t`, as a dict."""
    dalpha, dsigma = schedule.derivatives(t)
    dalpha2, dsigma2 = schedule.square_derivatives(t)
    inverse_slope = jax.vmap(jax.grad(schedule.inverse_logsnr))(schedule.logsnr(t))
    return dict(
        {name: getattr(schedule, name)(t) for name in METHODS + RATES},
        dalpha=dalpha,
        dsigma=dsigma,
        dalpha2=dalpha2,
        dsigma2=dsigma2,
        inverse=schedule.inverse_logsnr(schedule.logsnr(t)),
        inverse_slope=inverse_slope,
    )


@functools.cache
def table(name, dtype):
    """`columns` at `TIMES` as NumPy arrays; float64 runs under x64."""
    with jax.enable_x64(dtype == "float64"):
        values = columns(SCHEDULES[name], TIMES.astype(dtype))
        return {key: np.asarray(value) for key, value in values.items()}


@diffusionflow.register
class Bare(schedules.Schedule):
    """A schedule without closed forms."""

    base: Any

    def alpha(self, t):
        return self.base.alpha(t)

    def sigma(self, t):
        return self.base.sigma(t)


@jax.jit
def derived(schedule, t):
    """The derivatives by forward mode alone."""
    bare = Bare(schedule)
    dalpha, dsigma = bare.derivatives(t)
    slope = jax.jvp(schedule.logsnr, (t,), (jnp.ones_like(t),))[1]
    values = {key: getattr(bare, key)(t) for key in RATES}
    dalpha2, dsigma2 = bare.square_derivatives(t)
    squares = dict(dalpha2=dalpha2, dsigma2=dsigma2)
    return values | dict(dalpha=dalpha, dsigma=dsigma, slope=slope) | squares


def close(values, expected, rtol, atol=0.0, names=None):
    for name in names or expected:
        np.testing.assert_allclose(
            values[name], expected[name], rtol=rtol, atol=atol, err_msg=name
        )


@pytest.mark.pinned
@pytest.mark.parametrize("name", oracles.VECTORS["schedules"])
def test_values_against_20_digits(name):
    rows, values = oracles.schedule_rows(name), table(name, "float64")
    place = np.searchsorted(TIMES, rows["t"])
    np.testing.assert_array_equal(TIMES[place], rows["t"])
    at_rows = {key: value[place] for key, value in values.items()}
    close(at_rows, rows, 1e-12, 1e-13, METHODS + RATES)
    with jax.enable_x64(True):
        inverse = jax.jit(SCHEDULES[name].inverse_logsnr)(rows["logsnr"])
    np.testing.assert_allclose(inverse, rows["t"], rtol=1e-12)


@pytest.mark.pinned
@every
def test_closed_forms_equal_forward_mode(name):
    schedule, t = SCHEDULES[name], np.array(INSIDE)
    with jax.enable_x64(True):
        expected = jax.tree.map(np.asarray, derived(schedule, t))
    place = np.searchsorted(TIMES, t)
    values = {key: value[place] for key, value in table(name, "float64").items()}
    slope = expected.pop("slope")
    close(values, expected, 1e-8, 1e-12)
    np.testing.assert_allclose(values["dlogsnr_dt"], slope, rtol=1e-8)
    np.testing.assert_allclose(values["g2"], -(values["sigma"] ** 2) * slope, rtol=1e-8)
    np.testing.assert_allclose(values["inverse_slope"], 1 / slope, rtol=1e-7)


@every
def test_logsnr_is_the_ratio_falls_and_inverts(name):
    values = table(name, "float64")
    logsnr = values["logsnr"]
    present = (values["alpha"] > 0) & (values["sigma"] > 0)
    assert present[3:-2].all() and (present[2] or name == "cauchy")  # it underflows
    ratio = 2 * np.log(values["alpha"][present]) - 2 * np.log(values["sigma"][present])
    np.testing.assert_allclose(logsnr[present], ratio, rtol=1e-9, atol=1e-10)
    assert np.all(np.diff(logsnr) < 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rounding = 1e-13 * np.maximum(np.abs(logsnr), 1) / -values["dlogsnr_dt"]
    error = np.abs(values["inverse"] - TIMES)
    assert np.all(error <= 1e-12 * TIMES + np.nan_to_num(rounding) + 1e-30)


@pytest.mark.pinned
@every
def test_float32_agrees_with_float64(name):
    values, t = table(name, "float32"), TIMES.astype(np.float32)
    assert all(value.dtype == np.float32 for value in values.values())
    with jax.enable_x64(True):  # at the very times that float32 sees
        exact = jax.tree.map(np.asarray, columns(SCHEDULES[name], t.astype(float)))
    exact = {key: value[MIDDLE] for key, value in exact.items()}
    values = {key: value[MIDDLE] for key, value in values.items()}
    names = {"alpha", "sigma", "g2", "dlogsnr_dt", "dalpha", "dsigma", "f"}
    small_differences = {"from_sde": {"dsigma"}, "fm_as_vp": {"dalpha", "dsigma", "f"}}
    delicate = small_differences.get(name, set())  # of terms of size 1 to 10
    close(values, exact, 4e-5, 1e-12, names - delicate)
    close(values, exact, 4e-5, 2e-5, {*delicate, "alpha"})
    close(values, exact, 2e-6, 4e-6, {"logsnr"})
    rounding = 4e-6 * np.maximum(np.abs(exact["logsnr"]), 1)
    error = np.abs(values["inverse"] - t[MIDDLE])
    assert np.all(error < 2e-6 - rounding / exact["dlogsnr_dt"])


@every
def test_ends_are_finite_and_derivatives_where_they_exist(name):
    values = {key: value[ENDS] for key, value in table(name, "float32").items()}
    t = TIMES[ENDS]
    inverse = values.pop("inverse")
    np.testing.assert_allclose(inverse, t, atol=3e-7)
    slope = values.pop("inverse_slope")
    assert np.all(slope <= 0) or name == "from_sde", slope
    reached = np.isinf(values["logsnr"])
    np.testing.assert_array_equal(slope[reached & ((t == 0) | (t == 1))], 0)
    assert not any(np.isnan(value).any() for value in values.values())
    alpha, sigma = values["alpha"], values["sigma"]
    assert np.isfinite(alpha).all() and np.isfinite(sigma).all()
    assert np.all(np.diff(alpha) <= 0) and np.all(np.diff(sigma) >= -1e-6)
    singular = INFINITE.get(name, set())
    for key in ("alpha", "sigma"):
        expected = [(0, key) in singular, False, False, (1, key) in singular]
        np.testing.assert_array_equal(np.isinf(values["d" + key]), expected)
    vanishing = (alpha == 0) | (sigma == 0)
    if name == "cauchy":  # sigma underflows at 1e-7, its log-SNR is 1e6
        vanishing &= (t == 0) | (t == 1)
    np.testing.assert_array_equal(np.isinf(values["logsnr"]), vanishing)
    np.testing.assert_array_equal(np.isinf(values["dlogsnr_dt"]), vanishing)
    infinite = (t == 1) & (alpha == 0) | (t == 0) & (name == "laplace")
    for key in ("f", "g2"):
        np.testing.assert_array_equal(np.isinf(values[key]), infinite)


def scaled_leaves(schedule, factor):
    """The schedule with every finite leaf times `factor`."""
    grow = lambda leaf: leaf * factor if np.all(np.isfinite(leaf)) else leaf
    return jax.tree.map(grow, schedule)


@every
def test_fields_are_data_with_finite_gradients_at_the_ends(name):
    traces = []

    @jax.jit
    def slopes(schedule):
        traces.append(None)
        t = TIMES[ENDS].astype(np.float32)
        total = lambda schedule: jnp.sum(schedule.alpha(t) + 2 * schedule.sigma(t))
        return jax.grad(total)(schedule)

    for factor in (1, 0.99, 0.98):
        found = jax.tree.leaves(slopes(scaled_leaves(SCHEDULES[name], factor)))
        assert all(np.isfinite(slope).all() for slope in found)
    assert len(traces) == 1


LEARNABLE = [name for name in SCHEDULES if jax.tree.leaves(SCHEDULES[name])]


@pytest.mark.pinned
@pytest.mark.parametrize("name", LEARNABLE)
def test_gradients_in_the_fields_equal_differences(name):
    wide = lambda leaf: np.asarray(leaf, np.float64)
    t, logsnr = np.array(INSIDE), np.linspace(-2.0, 2.0, 5)
    with jax.enable_x64(True):

        def total(factor):
            changed = scaled_leaves(jax.tree.map(wide, SCHEDULES[name]), factor)
            dalpha, dsigma = changed.derivatives(t)
            values = (changed.alpha(t), changed.sigma(t), changed.logsnr(t))
            values += (dalpha, dsigma, changed.inverse_logsnr(logsnr))
            return jnp.stack([jnp.sum(value) for value in values])

        both = jax.jit(lambda factor: jax.jvp(total, (factor,), (1.0,)))
        slope, step = both(1.0)[1], 1e-5
        difference = (both(1 + step)[0] - both(1 - step)[0]) / (2 * step)
        np.testing.assert_allclose(slope, difference, rtol=1e-5, atol=1e-7)


@every
def test_single_and_vmapped_agree_with_batched(name):
    """The batch is jitted; single times run eagerly, pairs of schedules mapped."""
    schedule, values = SCHEDULES[name], table(name, "float32")
    place = 8
    t = TIMES[place].astype(np.float32)
    for key in METHODS:
        single = getattr(schedule, key)(t)
        assert single.shape == ()
        np.testing.assert_allclose(single, values[key][place], rtol=2e-5, atol=1e-5)
    if name not in LEARNABLE:
        return
    pair = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * 2), schedule)
    levels = lambda schedule, t: {key: getattr(schedule, key)(t) for key in METHODS}
    over_times = jax.vmap(levels, in_axes=(None, 0))
    t = TIMES[MIDDLE].astype(np.float32)
    mapped = jax.jit(jax.vmap(over_times, in_axes=(0, None)))(pair, t)
    for key in METHODS:
        assert mapped[key].shape == (2, t.size)
        expected = np.stack([values[key][MIDDLE]] * 2)
        np.testing.assert_allclose(mapped[key], expected, rtol=2e-5, atol=1e-5)


@every
def test_half_precision_times_are_computed_in_float32(name):
    t = jnp.linspace(0.0, 1.0, 9, dtype=jnp.bfloat16)
    schedule = SCHEDULES[name]
    shapes = jax.eval_shape(lambda t: (schedule.alpha(t), schedule.sigma(t)), t)
    assert all(shape.dtype == jnp.float32 for shape in shapes)


@every
def test_families_are_what_they_say(name):
    values = table(name, "float64")
    preserving = np.abs(values["alpha"] ** 2 + values["sigma"] ** 2 - 1).max() < 1e-9
    family = getattr(SCHEDULES[name], "family", None)
    assert (family == "vp") <= preserving
    if preserving and name not in ("from_sde", "fm_as_vp"):
        assert family == "vp"


def test_a_changed_field_changes_the_schedule_without_a_trace():
    traces = []

    @jax.jit
    def end(schedule):
        traces.append(None)
        return schedule.alpha(1.0)

    for beta_max in (10.0, 20.0, 30.0):
        expected = np.exp(-(0.1 + beta_max) / 4)
        np.testing.assert_allclose(
            end(schedules.LinearBeta(0.1, beta_max)), expected, rtol=1e-5
        )
    assert len(traces) == 1
    slope = jax.grad(lambda high: schedules.LinearBeta(0.1, high).alpha(1.0))(20.0)
    np.testing.assert_allclose(slope, -np.exp(-20.1 / 4) / 4, rtol=1e-5)


def test_exact_ends():
    for name in ("FM", "cos", "iddpm", "sigmoid_abar", "laplace", "cauchy"):
        schedule = SCHEDULES[name]
        assert schedule.alpha(1.0) == 0 and schedule.sigma(0.0) == 0
        assert schedule.alpha(0.0) == 1 and schedule.sigma(1.0) == 1
        assert schedule.logsnr(1.0) == -np.inf and schedule.logsnr(0.0) == np.inf
    times = np.array([0.0, 1.0])
    for schedule, ends in (
        (SCHEDULES["cos_trunc"], [15, -15]),
        (SCHEDULES["vdm_linear_logsnr"], [13.3, -5]),
        (SCHEDULES["ve_geo"], [-2 * np.log(0.01), -2 * np.log(50)]),
        (SCHEDULES["edm_rho"], [-2 * np.log(0.002), -2 * np.log(80)]),
    ):
        np.testing.assert_allclose(schedule.logsnr(times), ends, rtol=1e-6)
    assert schedules.FlowMatching(0.1).sigma(0.0) == 0.1
    assert schedules.FlowMatching(0.1).sigma(1.0) == 1


@pytest.mark.pinned
def test_edm_times_are_its_grid_of_noise_levels():
    i, n = np.arange(18), 18  # t_i of the paper, i = 0 the noisiest
    power = 80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))
    with jax.enable_x64(True):
        sigma = SCHEDULES["edm_rho"].sigma(1 - i / (n - 1))
    np.testing.assert_allclose(sigma, power**7, rtol=1e-12)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: schedules.FlowMatching(1.0), r"sigma_min=1.0.*in \[0, 1\)"),
        (lambda: schedules.Cosine(1.0, 1.0), "logsnr_min=1.0.*below logsnr_max=1.0"),
        (lambda: schedules.LinearBeta(beta_min=-0.1), "beta_min=-0.1.*positive"),
        (lambda: schedules.SubVP(beta_max=0), "beta_max=0.*positive"),
        (lambda: schedules.VE(0.0), "sigma_min=0.0.*positive"),
        (lambda: schedules.VE(1.0, 0.5), "sigma_min=1.0.*below sigma_max=0.5"),
        (lambda: schedules.EDM(rho=0), "rho=0.*positive"),
        (lambda: schedules.IDDPMCosine(0.0), r"offset=0.0.*0 is Cosine\(\)"),
        (lambda: schedules.LinearLogSNR(3.0, 2.0), "logsnr_min=3.0.*below"),
        (lambda: schedules.LinearLogSNR(logsnr_max=np.inf), "logsnr_max=inf.*finite"),
        (lambda: schedules.Sigmoid(1.0, 1.0), "start=1.0.*below end=1.0"),
        (lambda: schedules.Sigmoid(temperature=-1), "temperature=-1.*positive"),
        (lambda: schedules.Laplace(scale=0.0), "scale=0.0.*positive"),
        (lambda: schedules.Cauchy(scale=-2.0), "scale=-2.0.*positive"),
        (lambda: schedules.Shifted(SCHEDULES["FM"], 0.0), "k=0.0.*positive"),
        (lambda: schedules.learned(0), "num_units=0.*at least 1"),
        (lambda: schedules.learned(logsnr_min=14.0), "logsnr_min=14.0.*below"),
    ],
)
def test_bad_values_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_small_temperatures_of_the_sigmoid_do_not_overflow():
    """0.03, where y is 100: the logistic function itself in float64."""
    schedule, t = schedules.Sigmoid(temperature=0.03), np.array([0.0, 0.3, 0.5, 0.7, 1])
    y = (-3 + 6 * t) / 0.03
    alpha2, sigma2 = 1 / (1 + np.exp(y)), 1 / (1 + np.exp(-y))
    single = t.astype(np.float32)
    alpha, sigma = (np.asarray(of(single)) for of in (schedule.alpha, schedule.sigma))
    inside = slice(1, -1)
    np.testing.assert_allclose(alpha[inside] ** 2, alpha2[inside], rtol=5e-5)
    np.testing.assert_allclose(sigma[inside] ** 2, sigma2[inside], rtol=5e-5)
    np.testing.assert_array_equal(
        [alpha[0], sigma[0], alpha[-1], sigma[-1]], [1, 0, 0, 1]
    )
    inverse = schedule.inverse_logsnr(np.float32(-y[inside]))
    np.testing.assert_allclose(inverse, t[inside], rtol=1e-5)
    slope = jax.grad(lambda t: schedule.alpha(t) ** 2)(0.5)
    np.testing.assert_allclose(slope, -200 / 4, rtol=1e-5)


@pytest.mark.parametrize("name", ["learned", "interpolated", "vdm_linear_logsnr"])
def test_no_time_reaches_an_infinite_logsnr_past_a_finite_end(name):
    reached = SCHEDULES[name].inverse_logsnr(np.array([np.inf, -np.inf], np.float32))
    if name == "interpolated":  # alpha(1) = 0
        np.testing.assert_array_equal(reached, [-np.inf, 1])
    else:
        np.testing.assert_array_equal(reached, [-np.inf, np.inf])


FALLING = {
    "beta that falls": schedules.LinearBeta(5.0, 1.0),
    "sub-VP that falls": schedules.SubVP(5.0, 1.0),
    "constant beta": schedules.LinearBeta(2.0, 2.0),
}


@pytest.mark.parametrize("name", [*SCHEDULES, *FALLING])
def test_the_inverse_is_a_number_at_infinity_and_outside_beyond_the_ends(name):
    """Neither NaN nor inside (0, 1), whatever the log-SNR that is not reached."""
    schedule = SCHEDULES.get(name, FALLING.get(name))
    first, last = (float(schedule.logsnr(end)) for end in (1.0, 0.0))
    far = np.array([10.0, 200.0, 1e4, np.inf], np.float32)
    noisy = np.where(np.isinf(first), -far, first - far).astype(np.float32)
    clean = np.where(np.isinf(last), far, last + far).astype(np.float32)
    late, early = jax.jit(schedule.inverse_logsnr)(np.stack([noisy, clean]))
    assert late[-1] >= 1 and early[-1] <= 0
    assert np.all(late >= 1 if np.isfinite(first) else (late > 0) & (late <= 1))
    assert np.all(early <= 0 if np.isfinite(last) else (early > -1e-9) & (early < 1))


@pytest.mark.ci
def test_far_log_snrs_of_a_linear_rate_have_their_times():
    """The noise integral is `log1p(e^-l)`, or `2 asinh(e^(-l / 2) / 2)` of sub-VP."""
    logsnr = np.linspace(-1000.0, 60.0, 54)
    noise = {
        schedules.LinearBeta: np.logaddexp(0, -logsnr),
        schedules.SubVP: 2 * np.arcsinh(np.exp(-logsnr / 2) / 2),
    }
    for build, integral in noise.items():
        exact = 2 * integral / (0.1 + np.sqrt(0.01 + 39.8 * integral))
        found = jax.jit(build().inverse_logsnr)(logsnr.astype(np.float32))
        np.testing.assert_allclose(found, exact, rtol=1e-5)
        # a falling rate has the integral 3 at t = 1, from where it goes on at rate 1
        falling = jax.jit(build(5.0, 1.0).inverse_logsnr)(logsnr.astype(np.float32))
        past = integral > 3
        np.testing.assert_allclose(falling[past], integral[past] - 2, rtol=1e-5)
        before = (5 - np.sqrt(25 - 8 * integral[~past])) / 4
        small = integral[~past] < 1e-6
        np.testing.assert_allclose(falling[~past][~small], before[~small], rtol=1e-4)
        np.testing.assert_allclose(
            falling[~past][small], integral[~past][small] / 5, rtol=1e-4
        )
        slopes = jax.vmap(jax.grad(build(5.0, 1.0).inverse_logsnr))
        assert np.all(np.isfinite(slopes(np.array([-np.inf, -50.0, 50.0, np.inf]))))


@pytest.mark.pinned
@every
def test_the_noise_level_and_the_spread_of_z(name):
    t = np.array(INSIDE)
    with jax.enable_x64(True):
        alpha, sigma = (np.asarray(of(t)) for of in levels_of(SCHEDULES[name]))
        level = SCHEDULES[name].noise_level(t)
        spread = SCHEDULES[name].z_std(t, 0.5)
    np.testing.assert_allclose(level, 1 / (1 + alpha / sigma), rtol=1e-12)
    np.testing.assert_allclose(spread**2, alpha**2 / 4 + sigma**2, rtol=1e-12)


def levels_of(schedule):
    return schedule.alpha, schedule.sigma
