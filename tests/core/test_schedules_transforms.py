"""`Scaled`, `Shifted` and `Interpolated`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import schedules

T = np.array([0.0, 0.02, 0.3, 0.5, 0.77, 0.99])
FLOW, COSINE = schedules.FlowMatching(), schedules.Cosine()


def time_change(t, k):
    return k * t / (1 + (k - 1) * t)


def levels(schedule, t):
    return np.stack([schedule.alpha(t), schedule.sigma(t)])


@pytest.mark.parametrize("k", [0.01, 0.5, 1.0, 3.0, 40.0])
def test_the_shift_of_flow_matching_is_a_change_of_time(k):
    with jax.enable_x64(True):
        shifted = schedules.Shifted(FLOW, k)
        later = time_change(T, k)
        ends = levels(shifted, np.array([0.0, 1.0]))
        np.testing.assert_allclose(ends, [[1, 0], [0, 1]], atol=1e-15)
        np.testing.assert_allclose(levels(shifted, T), levels(FLOW, later), rtol=1e-12)
        inverse = shifted.inverse_logsnr(FLOW.logsnr(later[1:]))
        np.testing.assert_allclose(inverse, T[1:], rtol=1e-12)
    single = np.stack(shifted.derivatives(T.astype(np.float32)))
    expected = k / (1 + (k - 1) * T) ** 2  # d t' / d t
    np.testing.assert_allclose(single, [-expected, expected], rtol=2e-6)


@pytest.mark.parametrize("base", [COSINE, schedules.LinearBeta(), schedules.SubVP()])
def test_elsewhere_the_shift_is_no_such_change_of_time(base):
    shifted = schedules.Shifted(base, 3.0)
    t = T[2:-1].astype(np.float32)
    gap = shifted.logsnr(t) - base.logsnr(time_change(t, np.float32(3)))
    assert np.abs(gap).max() > 0.05
    np.testing.assert_allclose(
        shifted.logsnr(t), base.logsnr(t) - 2 * float(np.log(3)), 1e-5
    )
    ratio = 2 * jnp.log(shifted.alpha(t) / shifted.sigma(t))
    np.testing.assert_allclose(ratio, shifted.logsnr(t), rtol=1e-5, atol=1e-5)


@pytest.mark.pinned
def test_the_shift_keeps_the_family():
    with jax.enable_x64(True):
        alpha, sigma = levels(schedules.Shifted(COSINE, 4.0), T)
        np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-14)
        tangent = 4 * np.tan(np.pi * T / 2)
        np.testing.assert_allclose(sigma / alpha, tangent, rtol=1e-13)
        alpha, sigma = levels(schedules.Shifted(FLOW, 4.0), T)
        np.testing.assert_allclose(alpha + sigma, 1, rtol=1e-14)
        for base in (schedules.VE(), schedules.SubVP()):
            shifted = levels(schedules.Shifted(base, 4.0), T)
            expected = levels(base, T) * [[1], [4]]
            np.testing.assert_allclose(shifted, expected, rtol=1e-14)
        twice = schedules.Shifted(schedules.Shifted(COSINE, 4.0), 0.25)
        np.testing.assert_allclose(levels(twice, T), levels(COSINE, T), atol=1e-14)


def test_flow_matching_scaled_to_preserve_variance_is_not_the_cosine():
    norm = lambda t: 1 / jnp.sqrt((1 - t) ** 2 + t**2)  # with the root
    scaled, t = schedules.Scaled(FLOW, norm), T[1:]
    with jax.enable_x64(True):
        alpha, sigma = levels(scaled, t)
        np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-14)
        np.testing.assert_allclose(scaled.logsnr(t), FLOW.logsnr(t), rtol=1e-15)
        np.testing.assert_allclose(scaled.inverse_logsnr(FLOW.logsnr(t)), t, 1e-13)
        assert np.abs(scaled.logsnr(t) - COSINE.logsnr(t)).max() > 0.1
        # f + c' / c and c^2 g^2, with c' / c = (1 - 2 t) c^2
        scale2 = 1 / ((1 - t) ** 2 + t**2)
        f = -1 / (1 - t) + (1 - 2 * t) * scale2
        np.testing.assert_allclose(scaled.f(t), f, rtol=1e-13)
        g2 = 2 * t / (1 - t) * scale2
        np.testing.assert_allclose(scaled.g2(t), g2, rtol=1e-13)
        np.testing.assert_allclose(f, -g2 / 2, rtol=1e-10)  # as in every VP process


def test_interpolated_is_the_schedule_of_its_functions():
    copy = schedules.Interpolated(lambda t: 1 - t, lambda t: t)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(levels(copy, T), levels(FLOW, T))
        for name in ("f", "g2", "dlogsnr_dt"):
            ours, closed = (getattr(schedule, name)(T) for schedule in (copy, FLOW))
            np.testing.assert_allclose(ours, closed, rtol=1e-14)
        t = np.array([1e-12, 1e-5, 0.3, 0.9, 1 - 1e-9])
        inverse = jax.jit(copy.inverse_logsnr)
        np.testing.assert_allclose(inverse(FLOW.logsnr(t)), t, rtol=1e-13)
        ends = inverse(np.array([np.inf, -np.inf]))
        np.testing.assert_array_equal(ends, [0, 1])


def test_beyond_a_finite_end_the_inverse_goes_on_in_a_straight_line():
    """A time outside [0, 1], as the closed inverses give, and not a silent clip."""
    linear = schedules.LinearLogSNR(-4.0, 6.0)
    copy = schedules.Interpolated(linear.alpha, linear.sigma)
    logsnr = np.array([-7.0, -4.0, 1.0, 6.0, 8.0], np.float32)
    np.testing.assert_allclose(
        copy.inverse_logsnr(logsnr), linear.inverse_logsnr(logsnr), atol=2e-5
    )


def test_the_inverse_is_differentiable_in_what_the_functions_close_over():
    def time(low):
        sigma_fn = jax.tree_util.Partial(lambda low, t: low + (1 - low) * t, low)
        return schedules.Interpolated(lambda t: 1 - t, sigma_fn).inverse_logsnr(1.0)

    closed = lambda low: schedules.FlowMatching(low).inverse_logsnr(1.0)
    np.testing.assert_allclose(jax.grad(time)(0.1), jax.grad(closed)(0.1), rtol=1e-4)


def test_constant_functions_have_the_shape_of_the_times():
    schedule = schedules.Interpolated(lambda t: 1.0, lambda t: 2 * t)
    assert schedule.alpha(np.zeros((2, 3))).shape == (2, 3)
    assert schedule.f(0.5) == 0


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: schedules.Interpolated(lambda t: t, lambda t: 1 - t),
            "goes from -inf at t=0.0 .* write 1 - t",
        ),
        (
            lambda: schedules.Interpolated(lambda t: 1 - t, lambda t: 0.5 * (1 - t)),
            "it must fall",
        ),
        (
            lambda: schedules.Interpolated(lambda t: 0.5 - t, lambda t: t),
            r"alpha_fn\(0.50.*at least 0",
        ),
        (
            lambda: schedules.Interpolated(
                jax.tree_util.Partial(lambda low, t: low + t, 0.1), lambda t: 1 - t
            ),
            "write 1 - t",
        ),
        (
            lambda: schedules.Scaled(FLOW, lambda t: t - 0.5),
            r"scale_fn\(0.0\)=-0.5: must be positive",
        ),
    ],
)
def test_functions_that_make_no_schedule_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_a_schedule_is_rebuilt_with_any_leaves():
    """Around tracers, gradients, placeholders and stacks; a closure may be traced."""
    alpha_fn, line = lambda t: 1 - t, lambda low, t: low + t
    build = lambda low: schedules.Interpolated(
        alpha_fn, jax.tree_util.Partial(line, low)
    )
    for leaf in (None, object(), jax.ShapeDtypeStruct((), "float32")):
        jax.tree.map(lambda _, leaf=leaf: leaf, build(0.1))
    level = lambda schedule: schedule.alpha(0.5) - schedule.sigma(0.5)
    slope = jax.grad(level)(build(jnp.float32(0.1)))  # -1 is no good value
    assert jax.tree.leaves(slope) == [-1]
    stack = jax.vmap(build)(jnp.linspace(0.1, 0.2, 3))
    assert jax.vmap(level)(stack).shape == (3,)
    traces = []

    @jax.jit
    def traced(schedule):
        traces.append(None)
        return level(schedule)

    for low in (0.1, 0.2):
        traced(build(low))
    assert len(traces) == 1

    @jax.jit
    def closed(low):
        schedule = schedules.Interpolated(lambda t: 1 - t, lambda t: low + t)
        return level(schedules.Scaled(schedule, lambda t: low + t))

    assert np.isfinite(closed(0.1))


@pytest.mark.parametrize(
    ("alpha_fn", "sigma_fn", "message"),
    [
        (
            lambda t: jnp.cos(jnp.pi / 2 * t),
            lambda t: jnp.sin(jnp.pi / 2 * t),
            r"alpha_fn\(1.0\)=-4.37.*float32.*sin",
        ),
        (lambda t: 1 + t, lambda t: 3 * t, "alpha_fn goes from.*must not rise"),
    ],
    ids=["below 0 in float32 alone", "alpha rises"],
)
def test_interpolated_refuses_what_float32_or_the_data_end_would_show(
    alpha_fn, sigma_fn, message
):
    with pytest.raises(ValueError, match=message):
        schedules.Interpolated(alpha_fn, sigma_fn)
    schedules.Interpolated(
        lambda t: jnp.sin(jnp.pi / 2 * (1 - t)), lambda t: jnp.sin(jnp.pi / 2 * t)
    )
