"""Likelihoods of other libraries: every recorded value, and what is not reproduced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, likelihood, schedules
from diffusionflow._dataclass import register
from tests.helpers import golden, golden_schedules
from tests.helpers.likelihood import At, Given

FIXED = {"euler", "midpoint", "heun2", "heun3", "rk4"}


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


@register
class Recorded(likelihood.Hutchinson):
    """Probes of a record, `[num_probes, d]`, the same for every example."""

    values: Any = None

    def probes(self, key, y):
        return jnp.broadcast_to(self.values[:, None], (len(self.values), *y.shape))


@jax.jit
def integrated(x, probes, data, schedule, t_data, t_noise):
    """Latent, and the integral of each probe's estimate of the divergence."""
    sums = []

    class Noting(Recorded):
        def stderr(self, estimates):
            sums.append(estimates)
            return super().stderr(estimates)

    flow = likelihood.encode(
        None,
        data.denoise_fn(schedule=schedule),
        x,
        schedule=schedule,
        trace=Noting(len(probes), values=probes),
        solver=likelihood.Fixed(400),
        t_min=t_data,
        t_max=t_noise,
    )
    return flow, sums[0].T


def mixture(case):
    stored = golden.Mixture(case.meta["mixture"])
    return analytic.Mixture(stored.weights, stored.means, stored.stds**2)


def prior_std(case, schedule):
    """N(0, I), or N(0, sigma_1^2 I) on paths of exploding variance."""
    return float(schedule.sigma(1.0)) if float(schedule.alpha(1.0)) == 1 else 1.0


def ends(case, schedule):
    """Times of the data and of the latent: what the recorder cuts, in our time."""
    config = case.config
    if case.family == "score_sde":
        return config["eps"], 1.0
    if isinstance(schedule, schedules.EDM):  # the record's times are levels
        return 0.0, 1.0
    first, last = ("t0", "t1") if case.family == "sit" else ("t_start", "t_end")
    return float(config.get(first, 0.0)), float(config.get(last, 1.0))


def not_reproduced(case):
    if case.config.get("step_size") is not None or case.config.get("method") in FIXED:
        return "fixed steps in the time of the path; ours are in the angle"
    return None


def records():
    found = golden.cases("likelihood") + golden.cases("likelihood_reference")
    golden.expect(len(found), 5 + 4 + 4 + 4 + 8)
    golden.expect(sum(not_reproduced(case) is not None for case in found), 2)
    for case in found:
        if not_reproduced(case) is None:
            large = case.a["x"].shape[1] > 2
            yield pytest.param(case, id=case.id, marks=golden.nightly(large))


@pytest.mark.ci
@pytest.mark.parametrize("case", list(records()))
def test_likelihood_of_each_probe(case):
    a, schedule = case.a, golden_schedules.of(case)
    count, dim = a["x"].shape
    probes = a.get("probes", np.sqrt(dim) * np.eye(dim))  # their mean is the trace
    arguments = (mixture(case), schedule, *ends(case, schedule))
    x = np.resize(a["x"], (max(count, 6), dim))  # of one size, to compile once
    flow, sums = integrated(x, probes, *arguments)
    z, log_det = np.asarray(flow.z)[:count], np.asarray(flow.log_det)[:count]
    std = prior_std(case, schedule)
    prior = np.sum(-((z / std) ** 2) / 2 - np.log(std * np.sqrt(2 * np.pi)), 1)
    each, mean = prior[:, None] + sums[:count], prior + log_det
    cell = 2.0 ** -case.config.get("bits_offset", 8.0)
    found = {
        "latent": z,
        "logdet": log_det,
        "logp_ode_with_gaussian_prior": mean,
        "loglik_per_probe": each,
        "loglik_mean_over_probes": mean,
        "bpd_per_probe": likelihood.bits_per_dim(-each, dim=dim, cell=cell),
    }
    if np.allclose(probes.T @ probes / len(probes), np.eye(dim)):
        found["loglik_exact_divergence"] = mean
    compared = found.keys() & a.keys()
    assert compared - {"latent"}
    tolerance = max(case.config.get("rtol", 1e-9), case.config.get("atol", 1e-9))
    atol = max(1e-6, 400 * tolerance)
    for name in compared:
        np.testing.assert_allclose(found[name], a[name], rtol=0, atol=atol)


@golden.each("loss", "vdm", 18)
def test_terms_of_vdm(case):
    """One step, or one time, of each example; the prior; and pixels given z_0."""
    config, a = case.config, case.a
    schedule = golden_schedules.of(case)
    data, (count, _) = a["f"], a["f"].shape
    u = a["base_uniform"]
    t = (u + np.arange(count) / count) % 1 if config["antithetic"] else u
    steps = config["T"]
    t = np.ceil(t * steps) / steps if steps else t
    diffusion, prior = terms(data, t, a["eps"], mixture(case), schedule, steps)
    np.testing.assert_allclose(diffusion, a["loss_diff"], rtol=1e-8)
    np.testing.assert_allclose(prior, a["loss_klz"], rtol=1e-10)
    if "loss_recon" in a:
        levels = likelihood.QuantizedLevels(256)
        np.testing.assert_array_equal(levels.numbers(data), a["x"])
        found = levels.nats(data, a["eps_0"], -config["gamma_min"])
        np.testing.assert_allclose(found, a["loss_recon"], rtol=1e-9, atol=1e-12)


@jax.jit
def terms(x, t, eps, data, schedule, steps):
    """The diffusion term at one time, `[count]`, and the prior.

    A bound of one step from t to t - 1 / T is T times less than the record.
    """
    denoise_fn = data.denoise_fn(schedule=schedule)

    def one(x, t, eps):
        settings = dict(schedule=schedule, noise=Given(eps), batch_ndim=0, prior="unit")
        rate = likelihood.continuous_bound(
            jax.random.key(0), denoise_fn, x, density=At(t), **settings
        )
        grid = jnp.stack([t, t - 1 / jnp.maximum(steps, 1.0)])
        step = likelihood.discrete_bound(None, denoise_fn, x, times=grid, **settings)
        diffusion = jnp.where(steps > 0, steps * step.diffusion, rate.diffusion)
        return diffusion, rate.prior

    return jax.vmap(one)(x, t, eps)
