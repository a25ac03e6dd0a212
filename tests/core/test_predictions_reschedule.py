"""A model on another schedule: `predictions.reschedule`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, predictions, samplers, schedules
from tests.helpers.all_schedules import SCHEDULES as ALL


def mixture():
    means = np.array([[-1.0, 0.5], [0.8, 1.5]])
    return analytic.Mixture(np.array([0.3, 0.7]), means, np.array([[0.2], [0.5]]))


RANGE = {  # schedules that reach [-4, 4] of log-SNR: source and target of the tests
    name: ALL[name]
    for name in ("FM", "cos", "vp_lin", "subvp", "ve_geo", "discrete", "interpolated")
}


@pytest.mark.pinned
@pytest.mark.parametrize(
    ("source", "target"),
    [
        *(("FM", name) for name in RANGE if name != "FM"),
        *((name, "FM") for name in RANGE if name != "FM"),
        ("cos", "ve_geo"),
        ("subvp", "discrete"),
    ],
)
def test_a_rescheduled_model_is_the_model_of_the_other_schedule(source, target):
    """The exact denoiser of a mixture on `source` becomes the one on `target`."""
    source, target = RANGE[source], RANGE[target]
    z = np.random.default_rng(0).normal(size=(5, 2))
    with jax.enable_x64(True):
        t = target.inverse_logsnr(np.linspace(-4.0, 4.0, 5))
        denoise_fn = predictions.reschedule(
            mixture().denoise_fn(schedule=source), source=source, target=target
        )
        found, expected = denoise_fn(z, t), mixture().denoise_fn(schedule=target)(z, t)
        for value, exact in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, exact, rtol=1e-9)


@pytest.mark.ci
def test_reschedule_at_the_ends_and_from_outside():
    """Infinite ends go to infinite ends; a scale changes z, never x and eps."""
    flow, t = schedules.FlowMatching(), np.array([0.0, 1.0], np.float32)
    z = np.array([[0.3, -1.0], [1.2, 0.4]], np.float32)
    for name in ("cos", "iddpm", "laplace", "fm_shift", "fm_as_vp", "cos_shift"):
        exact = mixture().denoise_fn(schedule=flow)
        denoise_fn = predictions.reschedule(exact, source=flow, target=ALL[name])
        for times in (t, jnp.asarray(t)):
            found, expected = denoise_fn(z, times), exact(z, times)
            jax.tree.map(np.testing.assert_array_equal, found, expected)
        back = predictions.reschedule(denoise_fn, source=ALL[name], target=flow)
        jax.tree.map(np.testing.assert_array_equal, back(z, t), exact(z, t))
    scaled = schedules.Scaled(flow, lambda t: 3 + t)
    half = predictions.reschedule(exact, source=flow, target=scaled)(3.5 * z, 0.5)
    jax.tree.map(
        lambda found, exact: np.testing.assert_allclose(found, exact, rtol=1e-5),
        half,
        exact(z, 0.5),
    )


@pytest.mark.ci
def test_a_target_outside_the_source_is_refused():
    """At concrete times with a ValueError, and at traced ones with NaN."""
    narrow, flow = schedules.Cosine(-5.0, 5.0), schedules.FlowMatching()
    denoise_fn = predictions.reschedule(
        mixture().denoise_fn(schedule=narrow), source=narrow, target=flow
    )
    z = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match=r"t=0.999.*is outside.*\[-5.*, 5"):
        denoise_fn(z, np.array([0.5, 0.999], np.float32))
    with pytest.raises(ValueError, match=r"t=0.0 is outside"):
        denoise_fn.check_times(np.array([0.5, 0.0]))
    jitted = jax.jit(lambda fn, z, t: fn(z, t))
    found = jitted(denoise_fn, z, np.array([0.5, 0.999], np.float32))
    for part in found:
        assert np.isfinite(part[0]).all() and np.isnan(part[1]).all()
    ends = np.array([0.0, 1.0], np.float32)
    same = predictions.reschedule(
        mixture().denoise_fn(schedule=narrow), source=narrow, target=narrow
    )
    np.testing.assert_allclose(
        same(z, ends).x, mixture().denoise_fn(schedule=narrow)(z, ends).x, rtol=1e-6
    )
    assert np.isfinite(jitted(same, z, ends).x).all()


@pytest.mark.parametrize(
    ("name", "end"), [("learned", 0.0), ("learned", 1.0), ("from_sde", 1.0)]
)
def test_a_finite_end_found_by_bisection_refuses_an_infinite_target(name, end):
    source, flow = ALL[name], schedules.FlowMatching()
    denoise_fn = predictions.reschedule(
        mixture().denoise_fn(schedule=source), source=source, target=flow
    )
    with pytest.raises(ValueError, match=f"t={end} is outside"):
        denoise_fn.check_times(end)


END = {  # source, target, and the end of the source that is reached on the target
    "steep": (schedules.LinearLogSNR(-18.0, 10.0), schedules.FlowMatching(), -18.0),
    "cosine": (schedules.LinearLogSNR(-15.0, 10.0), schedules.Cosine(), -15.0),
    "exploding": (schedules.VE(0.01, 2000.0), schedules.FlowMatching(), None),
    "rounds to 1": (
        schedules.LinearLogSNR(-36.0, 10.0),
        schedules.FlowMatching(),
        -36.0,
    ),
    "data": (schedules.LinearLogSNR(), schedules.FlowMatching(), 13.3),
}


@pytest.mark.parametrize(("source", "target", "end"), END.values(), ids=END)
def test_reschedule_at_the_end_of_the_source_in_float32(source, target, end):
    """A time rounded to float32 is at the end, or not far beyond, on steep targets."""
    end = -2 * np.log(2000.0) if end is None else end
    inwards = 0.5 * np.sign(end)
    with jax.enable_x64(True):
        times = np.asarray(target.inverse_logsnr([end, end - inwards, end + inwards]))
    exact = mixture()
    denoise_fn = predictions.reschedule(
        exact.denoise_fn(schedule=source), source=source, target=target
    )
    jitted = jax.jit(lambda z, t: denoise_fn(z, t))
    z = np.array([[0.3, -1.0]], np.float32)
    for t in times[:2].astype(np.float32):
        denoise_fn.check_times(t)
        expected = exact.denoise_fn(schedule=target)(z, t).x
        for fn in (denoise_fn, jitted):
            np.testing.assert_allclose(fn(z, t).x, expected, rtol=1e-3)
    denoise_fn.check_times(times[:2])
    if times[2].astype(np.float32) < 1:
        with pytest.raises(ValueError, match="is outside"):
            denoise_fn.check_times(times[2])
        assert np.isnan(jitted(z, times[2].astype(np.float32)).x).all()


@pytest.mark.ci
def test_the_derivative_in_time_at_the_ends_of_a_rescheduled_model():
    """x_hat of a Gaussian, a smooth function of t: one-sided differences agree."""
    cosine, target = schedules.Cosine(-5.0, 5.0), schedules.LinearLogSNR(-5.0, 5.0)
    denoise_fn = predictions.reschedule(
        mixture().denoise_fn(schedule=cosine), source=cosine, target=target
    )
    with jax.enable_x64(True):
        z, step = np.array([[0.3, -1.0]]), 1e-6
        x = jax.jit(lambda t: denoise_fn(z, t).x[0, 0])
        for t, other in ((0.0, step), (1.0, 1 - step)):
            quotient = (x(other) - x(t)) / (other - t)
            slope = jax.grad(x)(t)
            np.testing.assert_allclose(slope, quotient, rtol=1e-4)


def test_a_source_that_lacks_the_middle_of_the_target_is_sampled():
    """At the log-SNRs that it has, and DDIM to sigma = 0, which evaluates nothing."""
    source, target = schedules.Cosine(0.0, 15.0), schedules.FlowMatching()
    exact = mixture()
    denoise_fn = predictions.reschedule(
        exact.denoise_fn(schedule=source), source=source, target=target
    )
    times = np.array([0.4, 0.2, 0.1, 0.0])  # the source begins at t = 1/2
    z = np.array([[0.3, -1.0]], np.float32)
    draw = lambda fn: samplers.sample(
        None, fn, z, times, sampler=samplers.Euler("u"), schedule=target
    )
    found = draw(denoise_fn)
    expected = draw(exact.denoise_fn(schedule=target))
    np.testing.assert_allclose(found.x, expected.x, rtol=1e-4)
    assert found.nfe == expected.nfe == 3


@pytest.mark.ci
def test_a_rescheduled_network_is_sampled():
    """DDIM on flow matching of a network of the cosine schedule: the same samples."""
    cosine, flow = schedules.Cosine(), schedules.FlowMatching()
    net = lambda z, t: jnp.tanh(z) * predictions.per_event(1 + t, z)
    original = predictions.denoiser(net, kind="v", schedule=cosine)
    moved = predictions.reschedule(original, source=cosine, target=flow)
    assert moved.num_network_calls(0.5) == 1
    times = np.linspace(1.0, 0.0, 9)
    with jax.enable_x64(True):
        grid = np.asarray(flow.inverse_logsnr(cosine.logsnr(times)))
        z = np.random.default_rng(0).normal(size=(4, 3))
        arguments = dict(sampler=samplers.ddim())
        one = samplers.sample(
            jax.random.key(0), original, z, times, schedule=cosine, **arguments
        )
        two = samplers.sample(
            jax.random.key(0), moved, z, grid, schedule=flow, **arguments
        )
        np.testing.assert_allclose(one.x, two.x, rtol=1e-10)
