"""Likelihoods of other libraries: every recorded value, and what is not reproduced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, likelihood, schedules
from diffusionflow._dataclass import register
from tests.helpers import golden
from tests.helpers.likelihood import At, Given

# fixed steps in the time of the path; ours are in the angle
NOT_REPRODUCED = {"likelihood-condot-midpoint-g2a", "likelihood-condot-euler-g8a"}

SCHEDULES = {
    **dict.fromkeys(("condot", "Linear", "fm"), schedules.FlowMatching()),
    **dict.fromkeys(("cosine", "GVP", "vp_cosine"), schedules.Cosine()),
    **dict.fromkeys(("vp", "VP", "vp_linear"), schedules.LinearBeta()),
    "subvp": schedules.SubVP(),
}


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
def integrated(x, probes, data, schedule, t_min, t_max):
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
        t_min=t_min,
        t_max=t_max,
    )
    return flow, sums[0].T


def mixture(case):
    stored = golden.Mixture(case.meta["mixture"])
    return analytic.Mixture(stored.weights, stored.means, stored.stds**2)


def schedule_of(case):
    if case.family == "kdiffusion_likelihood":
        return schedules.VE(case.config["sigma_min"], case.config["sigma_max"])
    if case.meta["state_space"] == "ve":
        edm = case.family == "reference"
        return schedules.EDM(0.002, 80.0) if edm else schedules.VE(0.01, 50.0)
    return SCHEDULES[case.meta["state_space"]]


def prior_std(case, schedule):
    """N(0, I), or N(0, sigma_1^2 I) on paths of exploding variance."""
    return float(schedule.sigma(1.0)) if float(schedule.alpha(1.0)) == 1 else 1.0


def ends(case):
    """Times of the data and of the latent; SiT cuts the latter."""
    first = case.config["eps"] if case.family == "score_sde" else 0.0
    return first, float(case.config["t1"]) if case.family == "sit" else 1.0


def records():
    found = golden.cases("likelihood") + golden.cases("likelihood_reference")
    assert len(found) == 5 + 4 + 4 + 4 + 8
    assert {case.id for case in found} >= NOT_REPRODUCED
    for case in found:
        if case.id not in NOT_REPRODUCED:
            large = case.meta["mixture"] == "g8a"
            marks = [pytest.mark.nightly] if large else []
            yield pytest.param(case, id=case.id, marks=marks)


@pytest.mark.parametrize("case", list(records()))
def test_likelihood_of_each_probe(case):
    a, schedule = case.a, schedule_of(case)
    dim = a["x"].shape[1]
    hadamard = np.array([[1.0, 1.0], [1.0, -1.0]])
    probes = a.get("probes", np.kron(np.kron(hadamard, hadamard), hadamard)[:dim])
    probes = hadamard if dim == 2 and "probes" not in a else probes
    arguments = (mixture(case), schedule, *ends(case))
    count = len(a["x"])
    flow, sums = integrated(np.resize(a["x"], (6, dim)), probes, *arguments)
    z, log_det, sums = flow.z[:count], np.asarray(flow.log_det)[:count], sums[:count]
    std = prior_std(case, schedule)
    prior = np.sum(-((z / std) ** 2) / 2 - np.log(std * np.sqrt(2 * np.pi)), 1)
    tolerance = max(case.config.get("rtol", 1e-9), case.config.get("atol", 1e-9))
    near = lambda found, recorded: np.testing.assert_allclose(
        found, recorded, rtol=0, atol=max(1e-6, 400 * tolerance)
    )
    if "latent" in a:
        near(z, a["latent"])
    if "logdet" in a:
        near(log_det, a["logdet"])
        near(prior + log_det, a["logp_ode_with_gaussian_prior"])
        return
    near(prior[:, None] + sums, a["loglik_per_probe"])
    exact = a.get("loglik_exact_divergence", a.get("loglik_mean_over_probes"))
    near(prior + log_det, exact)
    if "bpd_per_probe" in a:
        nats = -(prior[:, None] + sums)
        bits = likelihood.bits_per_dim(nats, dim=dim, cell=1 / 256)
        near(bits, a["bpd_per_probe"])


def vdm_records():
    found = golden.cases("loss", "vdm")
    assert len(found) == 18
    return pytest.mark.parametrize("case", found, ids=str)


@vdm_records()
def test_terms_of_vdm(case):
    """One step, or one time, of each example; the prior; and pixels given z_0."""
    config, a = case.config, case.a
    schedule = schedules.LinearLogSNR(-config["gamma_max"], -config["gamma_min"])
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
