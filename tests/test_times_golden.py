"""Training times of other libraries, from their recorded random numbers.

A recorded normal number is the quantile at its probability; clocks that run the other
way are turned round.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from diffusionflow import schedules, times
from diffusionflow._dataclass import register
from tests import golden

FLOW, COSINE = schedules.FlowMatching(), schedules.Cosine()
CASES = {case.id: case for case in golden.cases("time_sampler")}


def quantile(density, u, schedule=FLOW):
    with jax.enable_x64(True):
        return np.asarray(density.quantile(u, schedule))


def sigma(density, u, schedule=FLOW):
    """Noise level over signal at the quantile."""
    with jax.enable_x64(True):
        return np.asarray(jnp.exp(-schedule.logsnr(density.quantile(u, schedule)) / 2))


@register
class Logistic:
    """A schedule whose uniform times make log sigma logistic; what is asked of it."""

    mean: float
    scale: float

    def logsnr(self, t):
        return -2 * (self.mean + self.scale * (jnp.log(t) - jnp.log1p(-t)))

    def inverse_logsnr(self, logsnr):
        return jax.nn.sigmoid((-logsnr / 2 - self.mean) / self.scale)


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
    return None


OTHERS = {
    "time-stratified": "below: a lattice with another order",
    "stratified-uniform": "below",
    "noise-density-cosine-interpolated": "no density of ours",
    "noise-density-split-log-normal": "no density of ours",
}


def test_every_record_is_reproduced_or_named():
    ours = {name for name, case in CASES.items() if found(case) is not None}
    assert ours | set(OTHERS) == set(CASES) and not ours & set(OTHERS)


@pytest.mark.parametrize("name", sorted(set(CASES) - set(OTHERS)))
def test_the_times_that_others_drew(name):
    case = CASES[name]
    expected = case.a["sigma"] if "sigma" in case.a else case.a["t"]
    np.testing.assert_allclose(found(case), expected, rtol=1e-10)


def test_stratified_times_are_the_same_lattice():
    """`t_i = (i + u) / n`; ours is that set of times in another order."""
    for case, key in (
        (CASES["time-stratified"], "t"),
        (CASES["stratified-uniform"], "u"),
    ):
        expected = np.sort(np.asarray(case.a[key]).ravel())
        assert expected.size > 1
        if key == "t":
            np.testing.assert_allclose(np.diff(expected), 1 / expected.size, rtol=1e-10)
            ours = np.sort(
                times.Stratified(times.Uniform()).sample(
                    jax.random.key(0), expected.shape, FLOW
                )
            )
            shift = ours - expected
            np.testing.assert_allclose(shift, shift[0], atol=1e-6)
        else:  # one free number in each stratum, where ours share one
            groups, size = case.config["groups"], expected.size
            stratum = np.floor(np.sort(expected) * groups * size).astype(int)
            assert np.all(np.diff(stratum) > 0)
