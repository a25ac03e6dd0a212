"""Concrete numbers: NumPy float64, no program compiled, and the values of `jit`."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import grids, objectives, schedules, times
from tests.helpers.all_densities import CASES
from tests.helpers.all_schedules import SCHEDULES
from tests.helpers.all_weightings import ALL as WEIGHTINGS
from tests.helpers.programs import counted

USERS = {"edm_t", "fm_as_vp", "interpolated", "from_sde"}  # functions in `jax.numpy`
RATES = ("f", "g2", "dlogsnr_dt", "noise_level", "z_std")
METHODS = ("alpha", "sigma", "logsnr", "derivatives", "square_derivatives", *RATES)
T = np.array([0.0131, 0.2023, 0.3719, 0.5101, 0.8123, 0.9853], np.float32)
T64 = T.astype(np.float64)
FLOW = schedules.FlowMatching()
every = pytest.mark.parametrize("name", SCHEDULES)


@pytest.fixture(autouse=True, scope="module")
def no_programs_of_other_files():
    """A program that is in memory already would not be counted."""
    jax.clear_caches()


@contextlib.contextmanager
def compiles(expected):
    """Checks how many programs are compiled inside; None for any number."""
    with counted() as programs:
        yield
    assert expected in (None, programs.compiled), f"{programs.compiled} programs"


def assert_host(values, shape=None):
    """Every leaf is a NumPy float64 array or number."""
    for value in jax.tree.leaves(values):
        assert isinstance(value, (np.ndarray, np.float64)), type(value)
        assert value.dtype == np.float64
        assert shape is None or value.shape == shape


def assert_device(values):
    """Every leaf is a float32 array of JAX."""
    for value in jax.tree.leaves(values):
        assert isinstance(value, jax.Array) and value.dtype == jnp.float32


def close(found, expected, rtol=4e-5, atol=2e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
        found,
        expected,
    )


@pytest.mark.ci
def test_the_count_sees_a_program():
    with pytest.raises(AssertionError, match="1 programs"), compiles(0):
        jax.jit(lambda x: jnp.sinh(x) * 1.2345)(np.float32(0.3))


def levels(schedule, t):
    return {name: getattr(schedule, name)(t) for name in METHODS}


@every
def test_schedules(name):
    schedule = SCHEDULES[name]
    with compiles(None if name in USERS else 0):
        exact = levels(schedule, T64)
        logsnr = exact["logsnr"]
        times_again = schedule.inverse_logsnr(logsnr)
        low, high = schedule.logsnr_range()
        assert_host((exact, times_again), T.shape)
        for number in (0.25, np.float32(0.25), np.float64(0.25)):
            assert_host(levels(schedule, number), ())
        levels(schedule, np.array([0.0, 1.0]))
        if name != "learned":  # Newton's step beyond a finite end is JAX's
            schedule.inverse_logsnr(np.array([-np.inf, -20.0, 20.0, np.inf]))
        schedules.check_same_schedule(schedule, schedule)
    assert type(low) is type(high) is float and low < logsnr[-1] < logsnr[0] < high
    np.testing.assert_allclose(times_again, T64, rtol=1e-10)

    found = jax.jit(levels)(schedule, T)
    inverse = jax.jit(lambda schedule, logsnr: schedule.inverse_logsnr(logsnr))
    again = inverse(schedule, logsnr.astype(np.float32))
    assert_device((found, again))
    close(found, exact)
    slope = np.maximum(np.abs(logsnr), 1) / -exact["dlogsnr_dt"]
    assert np.all(np.abs(again - T64) < 2e-6 + 4e-6 * slope)
    eager = schedule.alpha(jnp.asarray(T)), schedule.logsnr(jnp.asarray(T))
    assert_device(eager)
    close(eager, (exact["alpha"], exact["logsnr"]))


@pytest.mark.parametrize("name", CASES)
def test_densities(name):
    density, schedule, _ = CASES[name]

    def values(density, schedule, t):
        return {
            use: getattr(density, use)(t, schedule=schedule)
            for use in ("density", "cdf", "quantile")
        }

    with compiles(0):
        exact = values(density, schedule, T64)
        assert_host(exact, T.shape)
        assert_host(values(density, schedule, 0.25), ())
        values(density, schedule, np.array([0.0, 1.0]))
    found = jax.jit(lambda t: values(density, schedule, t))(T)
    assert_device(found)
    close(found, exact, rtol=1e-4)
    drawn = density.sample(jax.random.key(0), (3,), schedule=schedule)
    assert_device(drawn)


@pytest.mark.ci
@pytest.mark.parametrize("on", ["FM", "cos", "vp_lin", "discrete"])
def test_weightings(on):
    schedule = SCHEDULES[on]
    users = {"user's factor", "user's"}
    for name, weighting in WEIGHTINGS.items():
        with compiles(None if name in users else 0):
            exact = weighting(T64, schedule=schedule)
            assert_host(exact, T.shape)
            assert_host(weighting(0.25, schedule=schedule), ())
            weighting(np.array([0.0, 1.0]), schedule=schedule)
        found = jax.jit(lambda t, w=weighting: w(t, schedule=schedule))(T)
        assert_device(found)
        close(found, exact)


@pytest.mark.parametrize("recipe", objectives.RECIPES, ids=lambda f: f.__name__)
def test_objectives(recipe):
    logsnr = np.linspace(-4.0, 4.0, 9)
    with compiles(0):
        objective = recipe()
        exact = objectives.total_weight(objective, logsnr)
        assert_host(exact, logsnr.shape)
        assert_host(objectives.total_weight(objective, 1.5), ())
        assert objectives.same_objective(objective, recipe(), (-4.0, 4.0)).same
        other = objectives.flow_matching()
        objectives.same_objective(objective, other, (-4.0, 4.0))
        objectives.check_support(objective)
    found = jax.jit(objectives.total_weight)(objective, logsnr.astype(np.float32))
    assert_device(found)
    close(found, exact, rtol=1e-4)


GRIDS = {
    "uniform": lambda: grids.uniform(7),
    "quadratic": lambda: grids.quadratic(7, t_max=0.9),
    "cosine": lambda: grids.cosine(7, t_min=0.01),
    "shifted": lambda: grids.shifted(7, k=3.0),
    "discrete": lambda: grids.discrete(7),
}
ON_A_SCHEDULE = {
    "logsnr_uniform": lambda schedule: grids.logsnr_uniform(
        7, schedule=schedule, logsnr_min=0.5, logsnr_max=4.0
    ),
    "karras": lambda schedule: grids.karras(
        7, schedule=schedule, ratio_min=0.15, ratio_max=0.75
    ),
}


@pytest.mark.parametrize("name", GRIDS)
def test_grids(name):
    with compiles(0):
        assert_host(GRIDS[name](), (8,))


@pytest.mark.parametrize("grid", ON_A_SCHEDULE)
@every
def test_grids_on_a_schedule(name, grid):
    schedule = SCHEDULES[name]
    with compiles(None if name in USERS else 0):
        exact = ON_A_SCHEDULE[grid](schedule)
        assert_host(exact, (8,))
    if jax.tree.leaves(schedule):
        close(jax.jit(ON_A_SCHEDULE[grid])(schedule), exact)


def test_numbers_of_jax_stay_jax_arrays():
    """One `jax.Array`, in the time or in a field, and all is computed by JAX."""
    half = jnp.float32(0.5)
    assert_device(FLOW.g2(half))
    assert_device(schedules.LinearBeta(half, 20.0).derivatives(0.5))
    assert_device(times.LogitNormal(half).density(0.3, schedule=FLOW))
    assert_device(times.UniformOn(SCHEDULES["vp_lin"]).cdf(half, schedule=FLOW))
    moments = times.AdaptiveTimes(times.Uniform()).init()
    learned = times.AdaptiveTimes(times.Uniform(), moments=moments)
    assert_device(learned.density(0.3, schedule=FLOW))
