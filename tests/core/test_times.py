import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffusionflow import random, schedules, times
from tests.helpers.all_densities import CASES, CUT, FLOW, LEARNED, beta_time
from tests.helpers.all_schedules import SCHEDULES


def jitted(density, method, schedule):
    """One compilation instead of one for each operation."""
    return jax.jit(lambda value: getattr(density, method)(value, schedule=schedule))


@pytest.mark.pinned
@pytest.mark.parametrize("name", CASES)
def test_cdf_quantile_and_density_belong_together(name):
    """`cdf` runs from 0 to 1, `quantile` inverts it, `density` is its derivative."""
    density, schedule, exact = CASES[name]
    u = np.concatenate([[0.0], np.linspace(0.003, 0.998, 76), [1.0]])
    with jax.enable_x64(True):
        t = np.array(jitted(density, "quantile", schedule)(u))
        assert np.all(t >= 0) and np.all(t <= 1)
        cdf = jitted(density, "cdf", schedule)
        np.testing.assert_allclose(cdf(t), u, rtol=0, atol=1e-11)
        if exact is not None:
            np.testing.assert_allclose(exact(t[1:-1]), u[1:-1], rtol=0, atol=1e-11)
        t[0], t[-1] = 0, 1
        np.testing.assert_allclose(cdf(t)[jnp.array([0, -1])], [0, 1], atol=1e-12)
        t = t[1:-1]
        slope = jax.jit(lambda t: jax.jvp(cdf, (t,), (jnp.ones_like(t),))[1])(t)
        values = jitted(density, "density", schedule)(t)
        np.testing.assert_allclose(values, slope, rtol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_density_integrates_to_one_and_samples_follow_it(name):
    """Kolmogorov-Smirnov against the density, integrated numerically."""
    density, schedule, _ = CASES[name]
    count = 200_000
    with jax.enable_x64(True):
        middle = (np.arange(count) + 0.5) / count
        values = np.asarray(jitted(density, "density", schedule)(middle))
    rough = 2e-4 if "end" in name else 3e-5  # an infinite density at the ends
    np.testing.assert_allclose(values.mean(), 1, rtol=rough)
    edges = np.arange(count + 1) / count
    cdf = np.concatenate([[0], np.cumsum(values) / count])
    law = lambda t: np.interp(t, edges, cdf)
    for stratified in (False, True):
        drawn = times.Stratified(density) if stratified else density
        sample = jax.jit(
            lambda key, d=drawn: d.sample(key, (20_000,), schedule=schedule)
        )
        t = np.asarray(sample(jax.random.key(0)))
        assert t.dtype == np.float32 and t.min() > 0 and t.max() < 1
        distance, chance = stats.kstest(t, law)
        if stratified:  # far closer to the law than chance
            assert distance < 2 / 20_000 + rough
        else:
            assert chance > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_single_equals_batched_and_the_ends_are_finite(name):
    density, schedule, _ = CASES[name]
    t = np.array([0.0, 1e-7, 0.3, 1 - 1e-7, 1.0], np.float32)
    call = jitted(density, "density", schedule)
    values = call(t)
    assert np.all(np.isfinite(values)) and np.all(values >= 0)
    np.testing.assert_array_equal(call(t[2]), values[2])
    np.testing.assert_allclose(jax.vmap(call)(t), values, rtol=1e-6)
    slope = jax.jit(jax.vmap(jax.grad(call)))(t)
    assert np.all(np.isfinite(slope))


def test_density_is_zero_outside():
    density = times.Uniform(0.2, 0.7).density(
        np.array([0.1, 0.2, 0.7, 0.8]), schedule=FLOW
    )
    np.testing.assert_allclose(density, [0, 2, 2, 0], rtol=1e-6)
    ends = times.LogitNormal().density(np.array([0.0, 1.0]), schedule=FLOW)
    np.testing.assert_array_equal(ends, 0)
    cut = times.Truncated(times.Uniform(), 0.5).density(
        np.array([0.4, 0.6]), schedule=FLOW
    )
    np.testing.assert_allclose(cut, [0, 2])


@pytest.mark.parametrize("name", [*CASES, "uniform log-SNR, wide"])
def test_no_time_is_drawn_where_the_density_is_zero(name):
    """At the first and last thousand of all numbers that a draw starts from."""
    wide = times.UniformLogSNR(-10.0, 10.0), FLOW
    density, schedule, *_ = CASES.get(name, wide)
    numbers = np.arange(1000, dtype=np.uint32)
    numbers = np.concatenate([numbers, random.LATTICE - 1 - numbers])
    t = jitted(density, "quantile", schedule)(random.from_lattice(jnp.array(numbers)))
    assert np.all((t >= 0) & (t <= 1))
    assert np.all(jitted(density, "density", schedule)(t) > 0)


@pytest.mark.parametrize(
    ("density", "schedule"),
    [
        (times.LogNormalSigma(12.0, 0.5), schedules.EDM()),
        (times.LogNormalSigma(-30.0), CUT),
        (times.Truncated(times.Uniform(), logsnr_min=10.0), schedules.VE()),
        (times.Truncated(times.Uniform(), 0.9, logsnr_min=0.0), FLOW),
    ],
)
def test_a_density_without_levels_on_the_schedule_is_refused(density, schedule):
    for use in ("density", "quantile", "cdf"):
        with pytest.raises(ValueError, match=r"a fraction of .*at least 0.001"):
            getattr(density, use)(0.5, schedule=schedule)
    with pytest.raises(ValueError, match="a fraction of"):
        jax.jit(lambda u: density.quantile(u, schedule=schedule))(0.5)


@pytest.mark.parametrize("schedule", [FLOW, schedules.Cosine()])
def test_uniform_on_a_schedule_that_ends_before_the_other(schedule):
    """The fraction of levels is the other's time, 1 where the other does not reach."""
    t = np.array([0.0, 0.2, 0.7, 0.999, 1.0], np.float32)
    wide = t.astype(float)
    ratio = (
        wide / np.maximum(1 - wide, 1e-30)
        if schedule == FLOW
        else np.tan(np.pi / 2 * wide)
    )
    integral = 2 * np.arcsinh(ratio / 2)  # B of sub-VP where sigma / alpha is `ratio`
    on_sub_vp = times.UniformOn(schedules.SubVP())
    np.testing.assert_allclose(
        on_sub_vp.cdf(t, schedule=schedule),
        np.minimum(beta_time(integral), 1),
        rtol=1e-5,
    )
    falling = times.Truncated(times.UniformOn(schedules.LinearBeta(5.0, 1.0)), 0.1)
    density = np.array(falling.density(t, schedule=schedule))
    assert density[0] == density[-1] == 0 and np.all(np.isfinite(density))


def test_truncated_takes_a_level_that_a_falling_rate_does_not_reach():
    density = times.Truncated(times.Uniform(), logsnr_min=-10.0)
    found = density.quantile(0.25, schedule=schedules.LinearBeta(5.0, 1.0))
    np.testing.assert_allclose(found, 0.25)


@pytest.mark.ci
@pytest.mark.pinned
def test_mode_is_the_published_map_read_backwards():
    """And its density has a derivative in time and scale (finite differences)."""
    u, scale = np.linspace(0, 1, 21), 1.29
    published = 1 - u - scale * (np.cos(np.pi * u / 2) ** 2 - 1 + u)
    with jax.enable_x64(True):
        t = times.Mode(scale).quantile(1 - u, schedule=FLOW)
        np.testing.assert_allclose(t, published, atol=1e-15)
        value = lambda t, scale: times.Mode(scale).density(t, schedule=FLOW)
        for argument in (0, 1):
            slope = jax.grad(value, argument)(0.3, 0.8)
            step = np.eye(2)[argument] * 1e-5
            up, down = (value(0.3 + s * step[0], 0.8 + s * step[1]) for s in (1, -1))
            np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=1e-7)


def test_uniform_log_snr_refuses_what_a_schedule_does_not_reach():
    density = times.UniformLogSNR(-12.0, 3.0)
    with pytest.raises(ValueError, match=r"\[-12, 3\].*LinearBeta.*\[-10.05, inf\]"):
        density.sample(jax.random.key(0), (3,), schedule=schedules.LinearBeta())
    with pytest.raises(ValueError, match=r"reaches \[-5, 7\] only"):
        density.density(0.5, schedule=CUT)
    times.UniformLogSNR(-5.0, 7.0).density(
        0.5, schedule=CUT
    )  # its own range, to rounding


def test_one_trace_for_changed_numbers():
    traces = []

    @jax.jit
    def draw(density, key):
        traces.append(None)
        return density.sample(key, (4,), schedule=FLOW)

    for scale in (0.1, 0.2, 0.3):
        moments = times.LossMoments(LEARNED.count * np.float32(scale), LEARNED.square)
        base = times.Truncated(times.Mode(scale), scale)
        draw(
            times.AdaptiveTimes(base, -4.0, 4.0, 4, moments=moments), jax.random.key(0)
        )
    assert len(traces) == 1


def test_keys_per_example_fix_the_times():
    keys = random.example_keys(0, np.arange(8))
    whole = times.LogitNormal().sample(keys, (8,), schedule=FLOW)
    np.testing.assert_array_equal(
        times.LogitNormal().sample(keys[3:5], (2,), schedule=FLOW), whole[3:5]
    )


def test_stratified_fills_every_stratum_once_and_each_time_is_uniform():
    stratified = times.Stratified(times.Uniform())
    for count in (1, 2, 3, 128):
        t = np.sort(stratified.sample(jax.random.key(count), (count,), schedule=FLOW))
        np.testing.assert_allclose(np.diff(t), 1 / count, atol=1e-6)
    batches = jax.vmap(lambda key: stratified.sample(key, (3,), schedule=FLOW))
    t = np.asarray(batches(jax.random.split(jax.random.key(0), 4000)))
    for place in range(3):
        assert stats.kstest(t[:, place], "uniform").pvalue > 1e-3
    keys = random.example_keys(0, np.arange(6).reshape(2, 3))
    assert stratified.sample(keys, (2, 3), schedule=FLOW).shape == (2, 3)


def test_stratified_mean_has_the_variance_of_a_shifted_lattice():
    """For t^2 the mean over n moves by u / n with u uniform, to first order."""
    draw = lambda key: (
        times.Stratified(times.Uniform()).sample(key, (64,), schedule=FLOW) ** 2
    )
    means = jax.vmap(lambda key: draw(key).mean())(
        jax.random.split(jax.random.key(0), 2000)
    )
    np.testing.assert_allclose(means.std(), 1 / (64 * np.sqrt(12)), rtol=0.05)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: times.Uniform(t_min=-0.1), r"t_min=-0.1.*\[0, 1\)"),
        (lambda: times.Uniform(0.5, 0.5), r"t_max=0.5.*\(0.5, 1\]"),
        (lambda: times.LogitNormal(std=0.0), "std=0.0.*positive"),
        (lambda: times.Mode(2.0), r"scale=2.0.*\[-1, 1.75194\]"),
        (lambda: times.LogNormalSigma(std=-1.0), "std=-1.0.*positive"),
        (lambda: times.UniformLogSNR(1.0, 1.0), "logsnr_min=1.0.*below"),
        (lambda: times.UniformLogSNR(-1.0, np.inf), "logsnr_max=inf.*finite"),
        (lambda: times.Truncated(times.Uniform(), 0.5, 0.5), "t_max=0.5"),
        (lambda: times.Truncated(times.Stratified(times.Uniform())), "Stratified[(]T"),
        (
            lambda: times.Truncated(times.AdaptiveTimes(times.Uniform())),
            "AdaptiveTimes[(]Trunc",
        ),
        (
            lambda: times.AdaptiveTimes(times.Stratified(times.Uniform())),
            "Stratified[(]A",
        ),
        (
            lambda: times.AdaptiveTimes(times.Uniform(), base_fraction=0.0),
            "base_fraction=0.0",
        ),
        (lambda: times.AdaptiveTimes(times.Uniform(), decay=1.0), "decay=1.0"),
        (lambda: times.AdaptiveTimes(times.Uniform(), num_bins=0), "num_bins=0"),
        (lambda: times.AdaptiveTimes(times.Uniform(), 1.0, 0.0), "logsnr_min=1.0"),
    ],
)
def test_bad_values_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.pinned
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize(
    "density",
    [
        times.LogNormalSigma(),
        times.UniformLogSNR(-5.0, 5.0),
        times.UniformOn(schedules.Cosine()),
        times.Truncated(times.LogitNormal(), logsnr_min=-4.0),
        times.AdaptiveTimes(times.Uniform(), moments=None),
    ],
    ids=lambda density: type(density).__name__,
)
def test_float32_times_stay_float32_under_x64(density, x64):
    """Drawn times, and what is asked at them, under strict promotion."""
    with jax.enable_x64(x64):
        t = density.sample(jax.random.key(0), (4,), schedule=schedules.FlowMatching())
        values = [fn(t, schedule=FLOW) for fn in (density.cdf, density.density)]
    assert all(value.dtype == np.float32 for value in (t, *values))


@pytest.mark.parametrize(
    "density", [times.Uniform(), times.LogitNormal(), times.CosMap(), times.Mode()]
)
def test_no_times_are_outside(density):
    found = density.cdf(np.array([-0.1, 0.0, 1.0, 1.1], np.float32), schedule=FLOW)
    np.testing.assert_allclose(found, [0, 0, 1, 1], atol=1e-6)


DENSITIES = {
    "sigma": times.LogNormalSigma(),
    "on cosine": times.UniformOn(schedules.Cosine()),
    "window": times.Truncated(times.Uniform(), logsnr_max=4.0),
    "other window": times.Truncated(times.LogitNormal(), logsnr_min=-4.0),
}
CHEAP = ["vp_lin", "sigmoid_abar", "edm_rho"]


@pytest.mark.ci
@pytest.mark.pinned
@pytest.mark.parametrize(
    "name",
    [
        *CHEAP,
        *(
            pytest.param(name, marks=pytest.mark.nightly)
            for name in SCHEDULES
            if jax.tree.leaves(SCHEDULES[name]) and name not in CHEAP
        ),
    ],
)
def test_gradients_in_the_fields_of_a_schedule_equal_differences(name):
    """Where the log-SNR is infinite at an end, and where a density goes beyond one."""
    wide = lambda leaf: np.asarray(leaf, np.float64)
    t, u = np.array([0.0, 0.3, 0.55, 0.7, 1.0]), np.array([0.01, 0.31, 0.6, 0.99])
    other = schedules.Cosine(-5.5, 7.5)
    with jax.enable_x64(True):
        base = jax.tree.map(wide, SCHEDULES[name])

        def values(factor):
            grow = lambda leaf: leaf * factor if np.all(np.isfinite(leaf)) else leaf
            schedule = jax.tree.map(grow, base)
            on_it = times.UniformOn(schedule)
            found = {
                "on it": (
                    on_it.cdf(t, schedule=FLOW),
                    on_it.quantile(u, schedule=other),
                )
            }
            for words, density in DENSITIES.items():
                found[words] = (
                    density.quantile(u, schedule=schedule),
                    density.cdf(t, schedule=schedule),
                    density.density(t, schedule=schedule),
                )
            return found

        both = jax.jit(lambda factor: jax.jvp(values, (factor,), (1.0,)))
        slopes, step = both(1.0)[1], 1e-6
        up, down = both(1 + step)[0], both(1 - step)[0]
    for words, slope in slopes.items():
        for part, after, before in zip(slope, up[words], down[words], strict=True):
            difference = (np.asarray(after) - np.asarray(before)) / (2 * step)
            np.testing.assert_allclose(part, difference, 1e-5, 1e-5, err_msg=words)


def test_infinite_parameters_are_refused():
    for make in (times.LogitNormal, times.LogNormalSigma):
        with pytest.raises(ValueError, match="std=inf.*finite"):
            make(0.0, np.inf)
        with pytest.raises(ValueError, match="mean=nan.*finite"):
            make(np.nan)
    for make in (schedules.VE, schedules.EDM):
        with pytest.raises(ValueError, match="sigma_max=inf.*finite"):
            make(0.01, np.inf)
    with pytest.raises(ValueError, match=r"sigma_min=.*2\.0.*in \[0, 1\)"):
        schedules.FlowMatching(np.float32(2.0))
