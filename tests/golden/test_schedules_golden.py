"""Schedules and processes against what other people's libraries returned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, processes, schedules
from diffusionflow.predictions import Denoised
from tests.helpers import golden, golden_schedules

close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)


@golden.each("schedule", "diffusers_training", 6)
def test_diffusers_tables(case):
    with jax.enable_x64(True):
        schedule = golden_schedules.chain(case.config)
        recorded = case.a["alphas_cumprod"]
        t = np.arange(1, recorded.size + 1) / recorded.size
        close(schedule.alpha(t) ** 2, recorded)
        logsnr = schedule.logsnr(t[case.a["snr_timesteps"]])
        close(jnp.exp(logsnr), case.a["snr"])


@pytest.mark.ci
@golden.each("schedule", "dpm_solver", 4)
def test_dpm_solver(case):
    a = case.a
    with jax.enable_x64(True):
        schedule = golden_schedules.of(case)
        close(schedule.alpha(a["t"]), a["alpha"])
        close(schedule.sigma(a["t"]), a["sigma"])
        close(schedule.logsnr(a["t"]) / 2, a["half_logsnr"])
        close(schedule.inverse_logsnr(2 * a["half_logsnr"]), a["t"])
        close(
            schedule.inverse_logsnr(2 * a["half_logsnr"]), a["inverse_of_half_logsnr"]
        )


@pytest.mark.parametrize(
    "case",
    [case for case in golden.cases("schedule", "dpm_solver") if "betas" in case.a],
    ids=lambda case: case.id,
)
def test_dpm_solver_and_a_discrete_schedule_agree_at_the_levels(case):
    """Between them its log alpha is linear, and alpha^2 is here."""
    a, count = case.a, case.config["total_N"]
    levels = schedules.Discrete.from_betas(a["betas"]).alphas_cumprod
    kept = np.log(levels / (1 - levels)) / 2 >= -5.1  # it drops the noisiest ones
    assert kept.sum() == count and kept[:count].all()
    with jax.enable_x64(True):
        schedule = schedules.Discrete.from_betas(a["betas"][:count])
        node = np.abs(a["t"] * count - np.round(a["t"] * count)) < 1e-9
        assert node.sum() >= 2 or golden.NAMED
        close(schedule.alpha(a["t"][node]), a["alpha"][node])
        close(schedule.sigma(a["t"][node]), a["sigma"][node])
        close(schedule.logsnr(a["t"][node]) / 2, a["half_logsnr"][node])


@golden.each("schedule", "edm_training", 1)
def test_the_noise_levels_of_edms_iddpm_table(case):
    levels = case.a["u"]  # falling; the noisiest are capped
    t = 1 - np.arange(levels.size) / (levels.size - 1)
    with jax.enable_x64(True):
        schedule = schedules.IDDPMCosine(case.config.get("C_2", 0.008))
        squares = np.asarray(schedule.alpha(t)) ** 2
        capped = squares[:-1] < case.config.get("C_1", 0.001) * squares[1:]
        t, levels = (part[capped.sum() :] for part in (t, levels))
        close(schedule.sigma(t) / schedule.alpha(t), levels)


@golden.each("schedule", "hackable_diffusion", 8)
def test_hackable_diffusion(case):
    a, schedule = case.a, golden_schedules.of(case)
    with jax.enable_x64(True):
        close(schedule.alpha(a["t"]), a["alpha"])
        close(schedule.sigma(a["t"]), a["sigma"])
        close(schedule.logsnr(a["t"]), a["logsnr"])
        close(schedule.inverse_logsnr(a["logsnr"]), a["inverse_of_logsnr"])
        close(schedule.f(a["t"]), a["f"])
        close(jnp.sqrt(schedule.g2(a["t"])), a["g"])
        dalpha, dsigma = schedule.derivatives(a["t"])
        close(dalpha, a["d_alpha"])
        close(dsigma, a["d_sigma"])


@golden.each("schedule", "score_sde", 3)
def test_score_sde(case):
    a, schedule = case.a, golden_schedules.of(case)
    with jax.enable_x64(True):
        t, z, score = a["t"], jnp.asarray(a["x"]), a["score"]
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        close(alpha[:, 0], a["alpha"])
        close(sigma[:, 0], a["std"])
        denoised = Denoised((z + sigma**2 * score) / alpha, -sigma * score)
        denoise_fn = lambda z, t: denoised
        drift, diffusion = processes.forward(z, t, schedule=schedule)
        close(drift, a["drift"])
        close(diffusion, a["diffusion"])
        drift, diffusion = processes.reverse(denoise_fn, z, t, schedule=schedule)
        close(drift, a["reverse_drift"], rtol=1e-9)
        close(diffusion, a["reverse_diffusion"])
        drift, diffusion = processes.probability_flow(
            denoise_fn, z, t, schedule=schedule
        )
        close(drift, a["pf_drift"], rtol=1e-9)
        close(diffusion, 0)


@golden.each("path", "flow_matching", 7)
def test_flow_matching_paths(case):
    a, schedule = case.a, golden_schedules.of(case)
    t = 1 - a["t"]
    with jax.enable_x64(True):
        close(schedule.alpha(t), a["alpha"])
        close(schedule.sigma(t), a["sigma"])
        dalpha, dsigma = schedule.derivatives(t)
        close(-dalpha, a["d_alpha"])
        close(-dsigma, a["d_sigma"])
        logsnr = 2 * np.log(a["alpha"] / a["sigma"])
        inverse = a["snr_inverse_of_alpha_over_sigma"]
        close(schedule.inverse_logsnr(logsnr), 1 - inverse)


@golden.each("path", "sit", 3)
def test_sit_paths_and_drifts(case):
    a, schedule = case.a, golden_schedules.of(case)
    t = 1 - a["t"]
    with jax.enable_x64(True):
        close(schedule.alpha(t), a["alpha"])
        close(schedule.sigma(t), a["sigma"])
        z = jnp.asarray(a["x_t"])
        denoise_fn = lambda z, t: Denoised(a["x1_hat"], a["eps_hat"])
        close(processes.forward(z, t, schedule=schedule).drift, a["drift_mean"])
        close(schedule.g2(t)[:, None] / 2, a["drift_var"])
        flow = processes.probability_flow(denoise_fn, z, t, schedule=schedule)
        close(-flow.drift, a["velocity"])
        forms = [name for name in a if name.startswith("diffusion_")]
        assert forms
        for form in forms:  # w_t = epsilon^2 / 2
            noise = a[form]
            terms = processes.interpolant(
                denoise_fn, z, t, schedule=schedule, epsilon=np.sqrt(2 * noise[:, 0])
            )
            close(-terms.drift, a["velocity"] + noise * a["score"])


def exact(name):
    data = golden.Mixture(name)
    return analytic.Mixture(data.weights, data.means, data.stds**2)


@pytest.mark.parametrize(
    "case",
    golden.cases(kind="schedule_change", family="flow_matching")
    + golden.cases(kind="schedule_change", family="rectified_flow"),
    ids=lambda case: case.id,
)
def test_the_velocity_after_a_change_of_schedule(case):
    """A model of one path, evaluated on another, is the exact flow of that other."""
    a, schedule = case.a, golden_schedules.of(case, "sampled_on")
    tolerance = max(1e-10, 2 * case.config.get("max_abs_diff_to_exact", 0))
    with jax.enable_x64(True):
        denoise_fn = exact(case.meta["mixture"]).denoise_fn(schedule=schedule)
        z, t = jnp.asarray(a["point_x"]), 1 - a["point_t"]
        flow = processes.probability_flow(denoise_fn, z, t, schedule=schedule)
        close(-flow.drift, a["point_velocity"], rtol=1e-10, atol=tolerance)
