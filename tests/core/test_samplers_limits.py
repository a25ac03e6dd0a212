"""Samplers at their limits, and as linear maps."""

import jax
import numpy as np
import pytest

from diffusionflow import grids, predictions, random, samplers, schedules
from tests.helpers import oracles
from tests.helpers.all_samplers import SAMPLERS, SCHEDULES, levels
from tests.helpers.parametrize import in_turn
from tests.helpers.sampler_runs import draw

each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@pytest.mark.ci
@each_schedule
def test_euler_in_x_eps_and_u_is_ddim(schedule):
    with jax.enable_x64(True):
        ddim = draw(samplers.ddim(), schedule, grids.uniform(9))
        for variable in ("x", "eps", "u"):
            euler = draw(samplers.Euler(variable), schedule, grids.uniform(9))
            np.testing.assert_allclose(euler, ddim, rtol=1e-13)


def test_euler_in_time_is_ddim_on_flow_matching_alone():
    with jax.enable_x64(True):
        for name, schedule in SCHEDULES.items():
            gap = np.abs(
                draw(samplers.Euler("dz_dt"), schedule, grids.uniform(9))
                - draw(samplers.ddim(), schedule, grids.uniform(9))
            ).max()
            assert gap < 1e-12 if name == "flow" else gap > 1e-3


def test_euler_in_v_is_euler_in_time_on_the_cosine_schedule():
    """There the angle is the clock: dz/dt = (pi / 2) v."""
    schedule = SCHEDULES["cosine"]
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            draw(samplers.Euler("v"), schedule, grids.uniform(9)),
            draw(samplers.Euler("dz_dt"), schedule, grids.uniform(9)),
            atol=1e-12,
        )


@pytest.mark.ci
@pytest.mark.parametrize("schedule", [SCHEDULES["flow"], SCHEDULES["cosine"]], ids=str)
def test_a_ddpm_step_is_ddim_of_twice_the_step_then_noise(schedule):
    with jax.enable_x64(True):
        logsnr = np.array([-1.0, 0.5, 2.0])  # t, s, and DDIM's end, twice as far
        t, s, r = np.asarray(schedule.inverse_logsnr(logsnr))
        noise = np.random.default_rng(0).normal(size=(1, 1, 7))
        ours = draw(
            samplers.ddpm(), schedule, np.array([t, s]), random.Recorded(noise)
        )[1]
        far = draw(samplers.ddim(), schedule, np.array([t, r]))[1]
    (alpha_s, alpha_r), (sigma_s, sigma_r) = levels(schedule, np.array([s, r]))
    added = sigma_s**2 - (alpha_s / alpha_r * sigma_r) ** 2
    expected = alpha_s / alpha_r * far + np.sqrt(added) * noise[0, 0]
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


@in_turn(name=tuple(SAMPLERS), kind=("x", "u", "v"))
def test_coefficients_are_the_sampler(name, kind):
    """Random predictions and noise, weighed by them, give what run gives."""
    schedule, times = SCHEDULES["truncated"], grids.uniform(4)
    sampler = SAMPLERS[name].sampler
    found = samplers.coefficients(sampler, times, schedule=schedule, kind=kind)
    rows = samplers.plan(sampler, times, schedule=schedule)
    calls = rows.get("calls", np.full(len(found.h), found.h.shape[1]))
    made = np.arange(found.h.shape[1]) < calls[:, None]
    generator = np.random.default_rng(0)
    noise = generator.normal(size=found.c.shape)
    values, z = [], 0.7

    def predict_fn(z, t):
        del z, t
        values.append(generator.normal())
        return np.float64(values[-1])

    with jax.enable_x64(True), jax.disable_jit():
        denoise_fn = predictions.denoiser(
            lambda z, t: jax.numpy.asarray(predict_fn(z, t)),
            kind=kind,
            schedule=schedule,
        )
        x = samplers.run(
            None,
            denoise_fn,
            np.float64(z),
            rows,
            sampler=sampler,
            noise=random.Recorded(noise),
        ).x
    assert found.h.dtype == np.float64
    assert (found.h[~made] == 0).all()
    weighed = found.initial * z + found.h[made] @ values + np.sum(found.c * noise)
    np.testing.assert_allclose(x, weighed, rtol=1e-11)


@pytest.mark.parametrize("churn", [0.0, 0.2, 0.5])
def test_coefficients_reproduce_the_published_figure(churn):
    figure = np.load(oracles.DATA / "churn.npz")
    found = samplers.coefficients(
        samplers.Churn(churn),
        grids.uniform(100),
        schedule=schedules.Cosine(-15.0, 15.0),
        kind="v",
    )
    np.testing.assert_allclose(-found.h[:, 0], figure[f"churn_{churn}"], atol=1e-6)


def test_coefficients_have_the_closed_form_in_eps():
    """DDIM in eps: h_i = alpha_end (rho_{i+1} - rho_i) with rho = sigma / alpha."""
    schedule, times = SCHEDULES["linear_beta"], grids.uniform(20, t_min=0.1)
    found = samplers.coefficients(samplers.ddim(), times, schedule=schedule, kind="eps")
    alpha, sigma = levels(schedule, times)
    np.testing.assert_allclose(
        found.h[:, 0], alpha[-1] * np.diff(sigma / alpha), rtol=1e-11
    )
    np.testing.assert_allclose(found.initial, alpha[-1] / alpha[0], rtol=1e-11)
    np.testing.assert_array_equal(found.c, 0)


def test_coefficients_refuse_what_is_singular():
    with pytest.raises(ValueError, match="eps does not determine"):
        samplers.coefficients(
            samplers.ddim(), grids.uniform(3), schedule=SCHEDULES["flow"], kind="eps"
        )
