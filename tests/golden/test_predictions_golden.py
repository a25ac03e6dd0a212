"""Conversions and changes of schedule, against what other libraries recorded.

Their t = 1 is data where the family says so: `1 - t` here, and velocities change sign.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import losses, predictions, schedules
from tests.helpers import golden, golden_schedules


def close(found, recorded, rtol=1e-10, atol=1e-10):
    np.testing.assert_allclose(found, recorded, rtol=rtol, atol=atol)


def converter(z, t, schedule):
    return lambda value, source, target: np.asarray(
        predictions.convert(
            value, source=source, target=target, z=z, t=t, schedule=schedule
        )
    )


@golden.each("path", "flow_matching", 7)
def test_paths_of_flow_matching(case):
    """Levels, slopes, inverse, every conversion, and the loss of the exact field."""
    a, t, schedule = case.a, 1 - case.a["t"], golden_schedules.of(case)
    with jax.enable_x64(True):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        slopes = schedule.derivatives(t)
        close(alpha, a["alpha"])
        close(sigma, a["sigma"])
        close(-slopes[0], a["d_alpha"])
        close(-slopes[1], a["d_sigma"])
        inverse = 1 - np.asarray(schedule.inverse_logsnr(schedule.logsnr(t)))
        close(inverse, a["snr_inverse_of_alpha_over_sigma"], rtol=1e-10)
        x, eps, z = a["x1"], a["x0"], a["x_t"]
        close(alpha[:, None] * x + sigma[:, None] * eps, z)
        pair = predictions.Denoised(x, eps)
        target = predictions.from_denoised(pair, kind="dz_dt", t=t, schedule=schedule)
        close(-target, a["dx_t"])
        convert = converter(z, t, schedule)
        close(-convert(a["x1_hat"], "x", "dz_dt"), a["velocity_from_x1"])
        close(-convert(a["x0_hat"], "eps", "dz_dt"), a["velocity_from_x0"])
        close(convert(a["x0_hat"], "eps", "x"), a["x1_from_x0"])
        close(convert(a["x1_hat"], "x", "eps"), a["x0_from_x1"])
        velocity = -a["velocity_from_x1"]
        close(convert(velocity, "dz_dt", "x"), a["x1_from_velocity"])
        close(convert(velocity, "dz_dt", "eps"), a["x0_from_velocity"])
        recorded = lambda z, t: jnp.asarray(velocity)
        loss = losses.cfm_loss(recorded, x, t, eps, schedule=schedule)
        close(np.mean(loss), a["cfm_loss"])


@golden.each("path", "sit", 3)
def test_paths_of_sit(case):
    """The interpolant's slope, and velocity, score and noise from one another."""
    a, t, schedule = case.a, 1 - case.a["t"], golden_schedules.of(case)
    with jax.enable_x64(True):
        pair = predictions.Denoised(a["x1"], a["x0"])
        target = predictions.from_denoised(pair, kind="dz_dt", t=t, schedule=schedule)
        close(-target, a["u_t"])
        convert = converter(a["x_t"], t, schedule)
        velocity = -a["velocity"]
        close(convert(velocity, "dz_dt", "score"), a["score_from_velocity"], rtol=1e-10)
        close(convert(velocity, "dz_dt", "eps"), a["noise_from_velocity"], rtol=1e-10)
        close(-convert(a["score"], "score", "dz_dt"), a["velocity_from_score"])
        close(convert(a["score"], "score", "eps"), a["eps_hat"])
        close(convert(a["score"], "score", "x"), a["x1_hat"])


KINDS = dict(x0="x", epsilon="eps", score="score", velocity="dz_dt", v="v")


@pytest.mark.ci
@golden.each("schedule", "hackable_diffusion", 8)
def test_conversions_of_hackable_diffusion(case):
    """All 20 of them, on the recorded levels and slopes of all eight schedules."""
    a, t = case.a, case.a["t"]

    class Recorded:
        alpha = staticmethod(lambda t: jnp.asarray(a["alpha"]))
        sigma = staticmethod(lambda t: jnp.asarray(a["sigma"]))
        derivatives = staticmethod(
            lambda t: (jnp.asarray(a["d_alpha"]), jnp.asarray(a["d_sigma"]))
        )

    with jax.enable_x64(True):
        # the levels are traced: a class of the test is no pytree to look into
        convert = jax.jit(
            lambda t, value, source, target: predictions.convert(
                value, source=source, target=target, z=a["z"], t=t, schedule=Recorded()
            ),
            static_argnums=(2, 3),
        )
        for source, target in itertools.permutations(KINDS, 2):
            found = convert(t, a[f"pred_{source}"], KINDS[source], KINDS[target])
            expected = a[f"conv_{source}_to_{target}"]
            size = max(np.abs(expected).max(), 1)
            close(found, expected, rtol=1e-10, atol=1e-10 * size)


def rescheduled(case):
    """The exact model of one schedule as the velocity of another, their sign.

    The recorder follows beta(t) past t = 1, to the noise that its target reaches.
    """
    target = golden_schedules.of(case, "sampled_on")
    source = golden_schedules.of(case, "trained_on")
    if isinstance(source, schedules.LinearBeta):
        used = np.concatenate([case.a["point_t"], case.a.get("t", [])])
        least = float(target.logsnr(1 - used.min()))
        source = golden_schedules.longer(source, least)
    mixture = golden.Mixture(case.meta["mixture"])

    def exact(z, t):
        levels = source.alpha(t), source.sigma(t)
        found = mixture.denoised(*(np.asarray(part) for part in (z, *levels)))
        return predictions.Denoised(*(jnp.asarray(part) for part in found))

    denoise_fn = predictions.reschedule(exact, source=source, target=target)

    def velocity_fn(z, time):
        t = 1 - np.asarray(time)
        denoised = denoise_fn(jnp.asarray(z), t)
        return -np.asarray(
            predictions.from_denoised(denoised, kind="dz_dt", t=t, schedule=target)
        )

    return velocity_fn


@golden.each("schedule_change", "flow_matching", 4)
def test_changes_of_schedule_of_flow_matching(case):
    """The velocity at recorded points, and the whole recorded run with it."""
    a, midpoint = case.a, case.choose("method", {"euler": False, "midpoint": True})
    with jax.enable_x64(True):
        velocity_fn = rescheduled(case)
        close(velocity_fn(a["point_x"], a["point_t"]), a["point_velocity"], rtol=1e-10)
        for i, (start, end) in enumerate(itertools.pairwise(a["t"])):
            z, step = a["states"][i], end - start
            slope = velocity_fn(z, start)
            if midpoint:
                slope = velocity_fn(z + step / 2 * slope, start + step / 2)
            close(z + step * slope, a["states"][i + 1], rtol=1e-10, atol=1e-10)


def test_the_recorder_leaves_the_range_of_its_source():
    """So its clock is longer above: as it is, we refuse the noisiest points."""
    vp, flow = schedules.LinearBeta(), schedules.FlowMatching()
    least = float(flow.logsnr(0.995))
    longer = golden_schedules.longer(vp, least)
    assert float(vp.logsnr(1.0)) > least > float(longer.logsnr(1.0))
    with jax.enable_x64(True):
        t = np.linspace(0.1, 0.9, 5)
        close(longer.sigma(t / (longer.beta_min / vp.beta_min)), vp.sigma(t))
    denoise_fn = predictions.reschedule(
        lambda z, t: predictions.Denoised(z, z), source=vp, target=flow
    )
    with pytest.raises(ValueError, match="is outside that of LinearBeta"):
        denoise_fn(np.ones((1, 2), np.float32), 0.995)


@golden.each("schedule_change", "rectified_flow", 3)
def test_changes_of_schedule_of_rectified_flow(case):
    """Within what the record itself is from exact: its times are found by bisection."""
    a = case.a
    with jax.enable_x64(True):
        found = rescheduled(case)(a["point_x"], a["point_t"])
    close(found, a["exact_velocity"], rtol=1e-10)
    off = case.config["max_abs_diff_to_exact"]
    np.testing.assert_allclose(found, a["point_velocity"], rtol=0, atol=off + 1e-9)
