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
CASES = golden.cases("time_sampler")


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


def truncation(config, unit=1.0):
    """The log-SNRs of the ends that `config` has, for levels in units of `unit`."""
    ends = (("logsnr_min", "max_value"), ("logsnr_max", "min_value"))
    return {
        end: -2 * np.log(config[name] / unit)
        for end, name in ends
        if name in config and 0 < config[name] < np.inf
    }


def uniform(case):
    return quantile(times.Uniform(), case.a["base_uniform"])


def logistic(case):
    return quantile(times.LogitNormal(), ndtr(case.a["base_normal"]))


def sd3_logit_normal(case):
    density = times.LogitNormal(case.config["logit_mean"], case.config["logit_std"])
    return quantile(density, ndtr(case.a["base_normal"]))


def sd3_mode(case):
    density = times.Mode(case.config["mode_scale"])
    return quantile(density, 1 - case.a["base_uniform"])


def logit_normal(case):
    config, u = case.config, ndtr(case.a["base_normal"])
    t = quantile(times.LogitNormal(config["mean"], config["scale"]), u)
    return kept_off_the_ends(config, t)


def kept_off_the_ends(config, t):
    edge = config.get("safety_epsilon", 0.0)
    return edge + (1 - 2 * edge) * t


def hackable_uniform(case):
    return kept_off_the_ends(case.config, case.a["base_uniform"])


def log_normal(case):
    # with parameters in float32, and uniform numbers kept from 0 and 1
    loc, scale = (float(np.float32(case.config[name])) for name in ("loc", "scale"))
    density = times.LogNormalSigma(loc, scale)
    return sigma(density, case.a["base_uniform"] * (1 - 2e-7) + 1e-7)


def log_uniform(case):
    density = times.UniformLogSNR(**truncation(case.config))
    return sigma(density, case.a["base_uniform"])


def v_diffusion(case):
    std = case.config.get("sigma_data", 1.0)
    density = times.Truncated(times.Uniform(), **truncation(case.config, std))
    return std * sigma(density, case.a["base_uniform"], COSINE)


def log_logistic(case):
    config = case.config
    base = times.UniformOn(Logistic(config["loc"], config["scale"]))
    density = times.Truncated(base, **truncation(config))
    return sigma(density, case.a["base_uniform"])


def cosine_interpolated(case):
    """In units of sigma_data; u falls with t."""
    config = {"min_value": 1e-3, "max_value": 1e3, **case.config}
    std = config.get("sigma_data", 1.0)
    cut = truncation(config, std)
    shifted = lambda k: schedules.Shifted(
        schedules.Cosine(**{end: at + 2 * np.log(k) for end, at in cut.items()}), k
    )
    sizes = config["noise_d_low"], config["noise_d_high"]
    ends = (shifted(config["image_d"] / size) for size in sizes)
    density = times.UniformOn(between(*ends))
    return std * sigma(density, 1 - case.a["base_uniform"])


def split_log_normal(case):
    """A side by the uniform number, the distance by the normal one."""
    config, uniform = case.config, case.a["base_uniform"]
    loc, stds = config["loc"], (config["scale_1"], config["scale_2"])
    below, side = stds[0] / sum(stds), 2 * ndtr(-np.abs(case.a["base_normal"]))
    u = np.where(uniform < below, below * side, below + (1 - below) * (1 - side))
    return sigma(times.UniformOn(SplitNormal(loc, *stds)), u)


OURS = {
    ("diffusers_training", "logit_normal"): sd3_logit_normal,
    ("diffusers_training", "mode"): sd3_mode,
    **{  # loss weightings, whose times are uniform
        ("diffusers_training", name): uniform
        for name in ("none", "sigma_sqrt", "cosmap")
    },
    ("rectified_flow", "uniform"): uniform,
    ("rectified_flow", "lognormal"): logistic,
    ("hackable_diffusion", "logit-normal"): logit_normal,
    ("hackable_diffusion", "uniform"): hackable_uniform,
    **{
        ("kdiffusion_training", f"noise-level density {name}"): draw
        for name, draw in (
            ("log-normal", log_normal),
            ("log-uniform", log_uniform),
            ("v-diffusion", v_diffusion),
            ("log-logistic", log_logistic),
            ("cosine-interpolated", cosine_interpolated),
            ("split-log-normal", split_log_normal),
        )
    },
}
LATTICE = ("hackable_diffusion", "stratified uniform")
OTHERS = {
    LATTICE: "below: a lattice of the whole batch",
    ("kdiffusion_training", "stratified uniform"): (
        "not ours: see docs/equivalences.md"
    ),
    ("rectified_flow", "u_shaped"): "two exponentials: no density of ours",
}


def known_as(case):
    """Library and distribution; the method is its name where `config` has none."""
    config, method = case.config, case.method.split(" (")[0]
    return case.family, config.get(
        "distribution", config.get("weighting_scheme", method)
    )


def test_every_record_is_reproduced_or_named():
    recorded = set(map(known_as, CASES))
    assert recorded <= {*OURS, *OTHERS}, recorded - {*OURS, *OTHERS}
    golden.expect(len(CASES), 15)


@pytest.mark.parametrize(
    "case", [case for case in CASES if known_as(case) not in OTHERS], ids=str
)
def test_the_times_that_others_drew(case):
    if known_as(case) not in OURS:
        raise case.unknown("its distribution of times")
    expected = case.a["sigma"] if "sigma" in case.a else case.a["t"]
    np.testing.assert_allclose(OURS[known_as(case)](case), expected, rtol=1e-10)


@pytest.mark.parametrize(
    "case", [case for case in CASES if known_as(case) == LATTICE], ids=str
)
def test_stratified_times_are_the_same_lattice(case, monkeypatch):
    """`t_i = (i + u) / n`; ours, from the same u, is that set in another order."""
    count, u = case.a["t"].size, case.a["base_uniform"]
    first = np.uint32(np.floor(u / count * random.LATTICE))
    monkeypatch.setattr(random, "lattice", lambda key, shape: jnp.asarray(first))
    density = times.Stratified(times.Uniform())
    ours = density.sample(jax.random.key(0), (count,), schedule=FLOW)
    ours = kept_off_the_ends(case.config, np.sort(ours))
    np.testing.assert_allclose(ours, case.a["t"], atol=1 / random.LATTICE)
