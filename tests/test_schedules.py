import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import schedules
from tests import oracles

SCHEDULES = {
    "FM": schedules.FlowMatching(),
    "cos": schedules.Cosine(),
    "cos_trunc": schedules.Cosine(-15.0, 15.0),
    "vp_lin": schedules.LinearBeta(),
}
ENDS = np.array([0.0, 1e-7, 1 - 1e-7, 1.0], np.float32)
every = pytest.mark.parametrize("name", SCHEDULES)


@every
def test_values_against_20_digits(name):
    schedule, rows = SCHEDULES[name], oracles.schedule_rows(name)
    with jax.enable_x64(True):
        for column in ("alpha", "sigma", "logsnr"):
            value = getattr(schedule, column)(rows["t"])
            np.testing.assert_allclose(value, rows[column], rtol=1e-13, atol=1e-13)
        slope = schedules.dlogsnr_dt(schedule, rows["t"])
        np.testing.assert_allclose(slope, rows["dlogsnr_dt"], rtol=1e-12)
        inverse = schedule.inverse_logsnr(rows["logsnr"])
        np.testing.assert_allclose(inverse, rows["t"], rtol=1e-12)
        dalpha, _ = schedules.derivatives(schedule, rows["t"])
        np.testing.assert_allclose(dalpha / rows["alpha"], rows["f"], rtol=1e-12)


@every
def test_float32_agrees_with_float64(name):
    rows, schedule = oracles.schedule_rows(name), SCHEDULES[name]
    t = rows["t"].astype(np.float32)
    for column in ("alpha", "sigma"):
        value = getattr(schedule, column)(t)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, rows[column], rtol=2e-5, atol=1e-7)


@every
def test_logsnr_is_the_ratio_and_falls(name):
    schedule, t = SCHEDULES[name], np.linspace(0.01, 0.99, 99, dtype=np.float32)
    logsnr = schedule.logsnr(t)
    ratio = 2 * jnp.log(schedule.alpha(t) / schedule.sigma(t))
    np.testing.assert_allclose(logsnr, ratio, rtol=1e-5, atol=1e-5)
    assert np.all(np.diff(logsnr) < 0)
    np.testing.assert_allclose(schedule.inverse_logsnr(logsnr), t, rtol=1e-4)


@every
def test_ends_are_finite_and_derivatives_too_where_they_exist(name):
    schedule = SCHEDULES[name]
    alpha, sigma = schedule.alpha(ENDS), schedule.sigma(ENDS)
    assert np.isfinite(alpha).all() and np.isfinite(sigma).all()
    assert np.all(np.diff(alpha) <= 0) and np.all(np.diff(sigma) >= 0)
    dalpha, dsigma = schedules.derivatives(schedule, ENDS)
    assert np.isfinite(dalpha).all()
    infinite = [name == "vp_lin", False, False, False]  # sigma' ~ t^(-1/2) at t = 0
    np.testing.assert_array_equal(~np.isfinite(dsigma), infinite)


def test_exact_ends():
    for name in ("FM", "cos"):
        schedule = SCHEDULES[name]
        assert schedule.alpha(1.0) == 0 and schedule.sigma(0.0) == 0
        assert schedule.logsnr(1.0) == -np.inf and schedule.logsnr(0.0) == np.inf
    bounded = SCHEDULES["cos_trunc"]
    np.testing.assert_allclose(
        bounded.logsnr(np.array([0.0, 1.0])), [15, -15], rtol=1e-6
    )


@every
def test_closed_derivatives_equal_forward_mode(name):
    class Bare:
        def __init__(self, base):
            self.alpha, self.sigma = base.alpha, base.sigma

    t = np.linspace(0.05, 0.95, 19, dtype=np.float32)
    closed = schedules.derivatives(SCHEDULES[name], t)
    derived = schedules.derivatives(Bare(SCHEDULES[name]), t)
    np.testing.assert_allclose(closed, derived, rtol=1e-4)


@every
def test_single_batched_jitted_and_vmapped_agree(name):
    schedule, t = SCHEDULES[name], np.linspace(0.1, 0.9, 5, dtype=np.float32)
    for column in ("alpha", "sigma", "logsnr"):
        batched = getattr(schedule, column)(t)
        method = lambda schedule, t, column=column: getattr(schedule, column)(t)
        single = [method(schedule, time) for time in t]
        mapped = jax.vmap(method, in_axes=(None, 0))(schedule, t)
        np.testing.assert_allclose(batched, single, rtol=1e-6)
        np.testing.assert_allclose(batched, jax.jit(method)(schedule, t), rtol=1e-5)
        np.testing.assert_allclose(batched, mapped, rtol=1e-6)


def test_fields_are_data_under_jit_vmap_and_grad():
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
    many = jax.vmap(lambda high: schedules.LinearBeta(0.1, high).sigma(0.5))
    assert many(jnp.array([10.0, 20.0])).shape == (2,)
    slope = jax.grad(lambda high: schedules.LinearBeta(0.1, high).alpha(1.0))(20.0)
    np.testing.assert_allclose(slope, -np.exp(-20.1 / 4) / 4, rtol=1e-5)


def test_gradients_in_the_fields_are_finite_at_the_ends():
    for t in (0.0, 1.0):
        slope = jax.grad(lambda high, t=t: schedules.LinearBeta(0.1, high).sigma(t))
        expected = 0.0 if t == 0 else np.exp(-10.05) / (4 * np.sqrt(-np.expm1(-10.05)))
        np.testing.assert_allclose(slope(20.0), expected, rtol=2e-3)


def test_half_precision_times_are_computed_in_float32():
    t = jnp.linspace(0.0, 1.0, 65, dtype=jnp.bfloat16)
    for schedule in SCHEDULES.values():
        assert schedule.alpha(t).dtype == jnp.float32
    np.testing.assert_array_equal(
        SCHEDULES["cos"].alpha(t), SCHEDULES["cos"].alpha(t.astype(jnp.float32))
    )


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: schedules.Cosine(1.0, 1.0), "logsnr_min=1.0.*below logsnr_max=1.0"),
        (lambda: schedules.LinearBeta(beta_min=-0.1), "beta_min=-0.1.*positive"),
        (lambda: schedules.LinearBeta(beta_max=0), "beta_max=0.*positive"),
    ],
)
def test_bad_values_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()
