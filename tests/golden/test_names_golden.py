"""`samplers.by_name` against recorded runs: the name of a record gives its sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, random, samplers, schedules
from tests.helpers import golden
from tests.helpers.golden_samplers import said

CASES = [
    case
    for case in golden.cases("sampler", "kdiffusion_sampler")
    if "sigma_grid" in case.a
]
PLAIN = dict(eta=1.0, s_churn=0.0, s_noise=1.0, order=4, r=0.5, solver_type="midpoint")


def is_plain(case):
    """Whether a record has the settings that its function has without any."""
    settings = said(case)
    return all(settings.get(name, value) == value for name, value in PLAIN.items())


def not_refused(name):
    """Whether a name is shipped; one that is not known fails."""
    try:
        samplers.by_name(name)
    except ValueError as error:
        if "not shipped" not in str(error):
            raise
        return False
    return True


def first_of_each():
    seen = set()
    for case in sorted(CASES, key=lambda case: len(case.a["sigma_grid"])):
        name = case.config["function"]
        if name not in seen and is_plain(case) and not_refused(name):
            seen.add(name)
            yield pytest.param(case, id=name)


@pytest.mark.parametrize("case", list(first_of_each()))
def test_the_name_of_a_record_gives_its_sampler(case):
    """All states but the last, which all functions take to sigma = 0."""
    sampler = samplers.by_name(case.config["function"]).sampler
    sigma, states = case.a["sigma_grid"][:-1], case.a["callback_x"]
    data = golden.Mixture(case.meta["mixture"])
    with jax.enable_x64(True):
        schedule = schedules.VE(sigma[-1], sigma[0])
        times = np.array(schedule.inverse_logsnr(-2 * np.log(sigma)))
        times[0], times[-1] = 1.0, 0.0
        mixture = analytic.Mixture(data.weights, data.means, data.stds**2)
        noise = np.zeros((len(sigma) - 1, sampler.num_noises, *states[0].shape))
        if "noise" in case.a and noise.size:
            drawn = case.a["noise"].reshape(-1, *noise.shape[1:])
            noise = drawn[: len(noise)]
        draw = lambda z: samplers.sample(
            None,
            mixture.denoise_fn(schedule=schedule),
            z,
            times,
            sampler=sampler,
            schedule=schedule,
            noise=random.Recorded(jnp.asarray(noise)),
            to_data=False,
            trajectory=True,
        )
        found = np.asarray(jax.jit(draw)(jnp.asarray(states[0])).trajectory)
    scale = max(1, np.abs(states).max())
    np.testing.assert_allclose(found, states, atol=1e-9 * scale)


def test_every_recorded_method_has_a_name():
    names = {case.config["function"] for case in CASES} | {
        case.config["scheduler"]
        for case in golden.cases("sampler")
        if case.of("diffusers")
    }
    golden.expect(len(names), 30)
    assert sum(map(not_refused, names)) >= len(names) - 4 or golden.NAMED


@pytest.mark.parametrize(
    ("grid", "suffix"), [("karras", "Karras"), ("exponential", "Exponential")]
)
def test_the_grid_behind_a_name_is_the_recorded_one(grid, suffix):
    found = [case for case in CASES if case.config["sigma_grid"] == grid]
    assert found or golden.NAMED
    for case in found[:3]:
        sigma = case.a["sigma_grid"][:-1]
        schedule = schedules.VE(sigma[-1], sigma[0])
        _, grid_fn = samplers.by_name(f"DPM++ 2M {suffix}")
        times = grid_fn(len(sigma), schedule=schedule)
        np.testing.assert_allclose(schedule.sigma(times), sigma, rtol=1e-9)


def test_the_grid_of_dpm_fast_is_the_recorded_one():
    found = [
        case
        for case in golden.cases("sampler", "kdiffusion_sampler")
        if case.config["function"] == "sample_dpm_fast" and said(case)["eta"] == 0
    ]
    assert found or golden.NAMED
    for case in found:
        low, high = case.config["sigma_min"], case.config["sigma_max"]
        schedule = schedules.VE(low, high)
        _, grid_fn = samplers.by_name("sample_dpm_fast")
        times = grid_fn(case.config["nfe"], schedule=schedule)
        expected = np.append(case.a["eval_sigma"], low)
        np.testing.assert_allclose(schedule.sigma(times), expected, rtol=1e-9)
