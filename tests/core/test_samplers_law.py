"""The exact law of every sampler that draws noise, by recursion on Gaussian data.

With a linear denoiser a sample is linear in its start and in the noise, so its variance
follows from derivatives of `run`; the truth is a recursion in NumPy.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffusionflow import analytic, grids, random, samplers
from tests.helpers import block_laws, laws, oracles
from tests.helpers.all_samplers import (
    SCHEDULES,
    STOCHASTIC,
    first_of_each_class,
    levels,
    pairs,
)

VARIANCE = 0.25
TOP = {"truncated": np.exp(7.5), "linear_beta": np.sqrt(np.expm1(10.05))}
# name: (path, variance) -> variance after each step
LAWS = {
    name: lambda path, variance, churn=churn: laws.churn_law(path, churn, variance)
    for name, churn in {"ddpm": 0.5, "churn-0.2": 0.2, "churn-0.8": 0.8}.items()
} | {
    "ddim_eta": lambda path, variance: laws.ddim_eta_law(path, 0.6, variance),
    "ddim_eta-scale": lambda path, variance: laws.ddim_scale_law(path, 0.4, variance),
    "ddpm_forward": laws.ddpm_forward_law,
    "reverse_diffusion": laws.reverse_diffusion_law,
    "sde_singlestep": lambda path, variance: block_laws.sde_singlestep_law(
        path, 0.8, variance
    ),
    "ancestral_singlestep": lambda path, variance: block_laws.ancestral_singlestep_law(
        path, 0.6, variance
    ),
    "refresh": lambda path, variance: laws.refresh_law(path, 1.0, variance),
    "edm": lambda path, variance: laws.edm_law(
        path, 20.0, variance, TOP.get(path.name, np.inf)
    ),
    "edm-midpoint": lambda path, variance: laws.edm_law(
        path, 20.0, variance, TOP.get(path.name, np.inf), midpoint=True
    ),
    "sde_dpm2": lambda path, variance: laws.sde_dpm_law(
        path, 2, 0.7, variance, midpoint=True
    ),
    "sde_dpm3": lambda path, variance: laws.sde_dpm_law(
        path, 3, 1.0, variance, midpoint=False
    ),
    "ancestral2s-eps": lambda path, variance: laws.ancestral_law(
        path, "eps", 1.0, variance
    ),
    "ancestral2s-x": lambda path, variance: laws.ancestral_law(
        path, "x", 0.6, variance
    ),
    "sde_dpm2s": lambda path, variance: laws.sde_two_stages_law(path, 0.8, variance),
    "sde_dpm-eps": lambda path, variance: laws.adams_law(
        path, variance, "eps", 2, 0, 1.0, lower=False
    ),
    "overshoot": lambda path, variance: laws.overshoot_law(
        path,
        levels(SCHEDULES[path.name], path.t[1:] * (1 + 0.7 * np.diff(path.t))),
        variance,
    ),
    "sa_solver": lambda path, variance: laws.adams_law(path, variance, "x", 2, 3, 0.8),
    "restart": lambda path, variance: laws.restart_law(
        path, [(0.5, 2.0, 3, 1), (0.1, 1.0, 3, 2)], variance
    ),
    "langevin": lambda path, variance: laws.langevin_law(path, 0.1, 1, 0.5, variance),
    "euler_maruyama": lambda path, variance: laws.sde_law(path, variance, False),
    "stochastic_heun": lambda path, variance: laws.sde_law(path, variance, True),
}


def path(on, times):
    return laws.Path(on, times, *levels(SCHEDULES[on], times))


def law(sampler, schedule, times):
    """Variance at the end of `times` on N(0, VARIANCE), from the prior."""
    data = analytic.gaussian(np.zeros(()), VARIANCE)
    with jax.enable_x64(True):
        rows = samplers.plan(sampler, times, schedule=schedule)

        def end(z, noise):
            source = random.Recorded(noise)
            return samplers.run(
                None,
                data.denoise_fn(schedule=schedule),
                z,
                rows,
                sampler=sampler,
                noise=source,
            ).x

        count = len(jax.tree.leaves(rows)[0])
        noise = jnp.zeros((count, sampler.num_noises))
        factor, spread = jax.grad(end, argnums=(0, 1))(jnp.zeros(()), noise)
        assert end(jnp.zeros(()), noise) == 0
        start = schedule.sigma(times[0]) ** 2
        return float(factor**2 * start + jnp.sum(spread**2))


@pairs(STOCHASTIC)
def test_law_on_gaussian_data_is_the_recursion(on, name):
    schedule, times = SCHEDULES[on], grids.uniform(12)
    ours = law(STOCHASTIC[name].sampler, schedule, times)
    expected = LAWS[name](path(on, times), VARIANCE)[-1]
    np.testing.assert_allclose(ours, expected, rtol=1e-10)


CONVERGENT = [name for name, entry in STOCHASTIC.items() if entry.order > 0]


@pytest.mark.ci
@pytest.mark.parametrize("name", first_of_each_class(CONVERGENT))
def test_law_converges_to_that_of_the_data(name):
    schedule, entry = SCHEDULES["flow"], STOCHASTIC[name]
    counts, errors = (96, 192, 384), []
    for count in counts:
        times = grids.logsnr_uniform(
            count, schedule=schedule, logsnr_min=-14.0, logsnr_max=4.0
        )
        alpha, sigma = levels(schedule, times[-1])
        exact = alpha**2 * VARIANCE + sigma**2
        errors.append(abs(law(entry.sampler, schedule, times) - exact))
    assert oracles.order(errors, counts) >= entry.order - 0.15


@pytest.mark.ci
def test_monte_carlo_law_of_the_churn_family():
    schedule, count, size = SCHEDULES["cosine"], 8, 20_000
    times, keys = grids.uniform(count), random.example_keys(0, np.arange(size))
    data = analytic.gaussian(np.zeros(1), VARIANCE)
    prior_key, run_key = random.split(keys)
    x = samplers.sample(
        run_key,
        data.denoise_fn(schedule=schedule),
        samplers.prior(prior_key, (size, 1), schedule=schedule),
        times,
        sampler=samplers.ddpm(),
        schedule=schedule,
    ).x
    expected = laws.churn_law(path("cosine", times), 0.5, VARIANCE)[-1]
    assert stats.kstest(np.ravel(x), stats.norm(0, expected**0.5).cdf).pvalue > 1e-3
