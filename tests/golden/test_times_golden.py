"""Training times of other libraries, from their recorded random numbers.

A recorded normal number is the quantile at its probability; clocks that run the other
way are turned round.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import ndtri
from scipy.special import ndtr

from diffusionflow import random, schedules, times
from diffusionflow._dataclass import register
from tests.helpers import golden

FLOW, COSINE = schedules.FlowMatching(), schedules.Cosine()
CASES = {case.id: case for case in golden.cases("time_sampler")}


def quantile(density, u, schedule=FLOW):
    with jax.enable_x64(True):
        return np.asarray(density.quantile(u, schedule=schedule))


def sigma(density, u, schedule=FLOW):
    """Noise level over signal at the quantile."""
    with jax.enable_x64(True):
        return np.asarray(
            jnp.exp(-schedule.logsnr(density.quantile(u, schedule=schedule)) / 2)
        )


@register
class Logistic:
    """A schedule whose uniform times make log sigma logistic; what is asked of it."""

    mean: float
    scale: float

    def logsnr(self, t):
        return -2 * (self.mean + self.scale * (jnp.log(t) - jnp.log1p(-t)))

    def inverse_logsnr(self, logsnr):
        return jax.nn.sigmoid((-logsnr / 2 - self.mean) / self.scale)


@register
class SplitNormal:
    """A schedule whose uniform times make log sigma normal, with a std for each side.

    The density has no jump at `mean`, so a side has a share in proportion to its std.
    """

    mean: float
    std_below: float
    std_above: float

    def logsnr(self, t):
        below = self.std_below / (self.std_below + self.std_above)
        early = self.std_below * ndtri(t / (2 * below))
        late = self.std_above * ndtri((t - below) / (2 * (1 - below)) + 0.5)
        return -2 * (self.mean + jnp.where(t < below, early, late))

    def inverse_logsnr(self, logsnr):
        below = self.std_below / (self.std_below + self.std_above)
        gap = -logsnr / 2 - self.mean
        early = 2 * below * jax.scipy.special.ndtr(gap / self.std_below)
        late = 2 * (1 - below) * (jax.scipy.special.ndtr(gap / self.std_above) - 0.5)
        return jnp.where(gap < 0, early, below + late)


def between(at_noise, at_data):
    """The schedule whose log-SNR goes linearly in t from that of one to another's."""
    logsnr = lambda t: t * at_noise.logsnr(t) + (1 - t) * at_data.logsnr(t)
    return schedules.Interpolated(
        lambda t: jnp.sqrt(jax.nn.sigmoid(logsnr(t))),
        lambda t: jnp.sqrt(jax.nn.sigmoid(-logsnr(t))),
    )


def found(case):
    config, base = case.config, case.a
    uniform, normal = base.get("base_uniform"), base.get("base_normal")
    u = None if normal is None else ndtr(normal)
    cut = {
        f"logsnr_{end}": -2 * np.log(config[f"{other}_value"])
        for end, other in (("min", "max"), ("max", "min"))
        if "max_value" in config
    }
    match case.id:
        case "time-density-logit_normal-m0s1" | "time-density-logit_normal-m0.5s0.7":
            density = times.LogitNormal(config["logit_mean"], config["logit_std"])
            return quantile(density, u)
        case "time-density-mode-1.29":
            return quantile(times.Mode(config["mode_scale"]), 1 - uniform)
        case "time-density-none" | "train-time-uniform":
            return quantile(times.Uniform(), uniform)
        case "train-time-lognormal":
            return quantile(times.LogitNormal(), u)
        case "time-logitnormal":
            t = quantile(times.LogitNormal(config["mean"], config["scale"]), u)
            edge = config["safety_epsilon"]
            return edge + (1 - 2 * edge) * t
        case "noise-density-log-normal":
            # with parameters in float32, and uniform numbers kept from 0 and 1
            loc, scale = map(np.float32, (config["loc"], config["scale"]))
            density = times.LogNormalSigma(float(loc), float(scale))
            return sigma(density, uniform * (1 - 2e-7) + 1e-7)
        case "noise-density-log-uniform":
            return sigma(times.UniformLogSNR(**cut), uniform)
        case "noise-density-v-diffusion":
            assert config["sigma_data"] == 1
            return sigma(times.Truncated(times.Uniform(), **cut), uniform, COSINE)
        case "noise-density-log-logistic":
            base = times.UniformOn(Logistic(config["loc"], config["scale"]))
            return sigma(times.Truncated(base, **cut), uniform)
        case "noise-density-cosine-interpolated":
            # for sigma from 0.001 to 1000, then in units of sigma_data; u falls with t
            low, high = (-2 * np.log(end / config["sigma_data"]) for end in (1e3, 1e-3))
            shifted = lambda k: schedules.Shifted(
                schedules.Cosine(low + 2 * np.log(k), high + 2 * np.log(k)), k
            )
            sizes = config["noise_d_low"], config["noise_d_high"]
            ends = (config["image_d"] / size for size in sizes)
            density = times.UniformOn(between(*map(shifted, ends)))
            return config["sigma_data"] * sigma(density, 1 - uniform)
        case "noise-density-split-log-normal":
            # a side by the uniform number, the distance by the normal one
            loc, stds = config["loc"], (config["scale_1"], config["scale_2"])
            below, side = stds[0] / sum(stds), 2 * ndtr(-np.abs(base["base_normal"]))
            u = np.where(
                uniform < below, below * side, below + (1 - below) * (1 - side)
            )
            return sigma(times.UniformOn(SplitNormal(loc, *stds)), u)
    return None


OTHERS = {
    "time-stratified": "below: a lattice of the whole batch",
    "stratified-uniform": "not ours: see docs/equivalences.md",
}


def test_every_record_is_reproduced_or_named():
    ours = {name for name, case in CASES.items() if found(case) is not None}
    assert ours | set(OTHERS) == set(CASES) and not ours & set(OTHERS)


@pytest.mark.parametrize("name", sorted(set(CASES) - set(OTHERS)))
def test_the_times_that_others_drew(name):
    case = CASES[name]
    expected = case.a["sigma"] if "sigma" in case.a else case.a["t"]
    np.testing.assert_allclose(found(case), expected, rtol=1e-10)


def test_stratified_times_are_the_same_lattice(monkeypatch):
    """`t_i = (i + u) / n`; ours, from the same u, is that set in another order."""
    case = CASES["time-stratified"]
    count, u = case.a["t"].size, case.a["base_uniform"]
    first = np.uint32(np.floor(u / count * random.LATTICE))
    monkeypatch.setattr(random, "lattice", lambda key, shape: jnp.asarray(first))
    density = times.Stratified(times.Uniform())
    ours = density.sample(jax.random.key(0), (count,), schedule=FLOW)
    np.testing.assert_allclose(np.sort(ours), case.a["t"], atol=1 / random.LATTICE)
