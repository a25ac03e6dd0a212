"""`interop.DiffusersScheduler` against the recorded runs of diffusers' schedulers.

A record's config is handed over as it is: the levels, timesteps and start must be the
recorded ones for every record, and the samples those of the recorded run.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import interop, random
from diffusionflow._dataclass import register, static
from tests.helpers import golden

FAMILIES = ("ddim_ddpm", "dpmsolver", "edm", "flow", "sigma", "unipc_deis")
CASES = [
    case
    for family in FAMILIES
    for case in golden.cases("sampler", f"diffusers_{family}")
]
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
NOT_OF_CONFIG = ("scheduler", "num_steps", "init_scale", "step_kwargs", "order")


def read(case):
    """`(scheduler, num_steps, sigmas)` of a record."""
    config = {k: v for k, v in case.config.items() if k not in NOT_OF_CONFIG}
    given = config.pop("set_timesteps_kwargs", {})
    config.pop("noise", None)
    config["_class_name"] = case.config["scheduler"]
    eta = case.config.get("step_kwargs", {}).get("eta")
    scheduler = interop.DiffusersScheduler(config, mu=given.get("mu"), eta=eta)
    return scheduler, case.config["num_steps"], given.get("sigmas")


def ratio(alpha, sigma):
    """`sigma / (alpha + sigma)`, finite at both ends."""
    return sigma / (alpha + sigma)


def recorded(case):
    """The levels at which the network is called first in each step, and the aims."""
    a = case.a
    start = ratio(a["alpha_eval"], a["sigma_eval"])
    aim, time = ratio(a["alpha_to"], a["sigma_to"]), a.get("timesteps")
    if case.config["scheduler"] == "PNDMScheduler":  # its first steps have stages
        count = len(start)
        skip = case.config.get("skip_prk_steps", False)
        begins = [0, *range(2, count)] if skip else [0, 4, 8, *range(12, count)]
        start, time = start[begins], time[begins]
        aim = np.append(start[1:], aim[-1])
    if "is_grid" in a:  # stage values are recorded between the completed steps
        done = a["is_grid"][:-1]
        start = start[done]
        aim = np.append(start[1:], aim[-1])
        time = None if time is None else time[done]
    return start, aim, time


def check_steps(case):
    scheduler, num_steps, sigmas = read(case)
    steps = scheduler.steps(num_steps, sigmas=sigmas)
    schedule = scheduler.convention.schedule
    level = lambda t: ratio(
        np.asarray(schedule.alpha(t)), np.asarray(schedule.sigma(t))
    )
    start, aim, time = recorded(case)
    count = len(steps.t)
    np.testing.assert_allclose(level(steps.t), start[:count], rtol=1e-9)
    np.testing.assert_allclose(level(steps.s), aim[:count], rtol=1e-9, atol=1e-12)
    if time is not None and len(time) == len(start):
        np.testing.assert_allclose(steps.timesteps, time[:count], rtol=1e-6, atol=1e-4)
    if count < len(start):  # the last is a call at the last level, or goes nowhere
        assert count == len(start) - 1
        assert steps.to_data or abs(aim[-1] - start[-1]) < 1e-9
    alpha, sigma = case.a["alpha_eval"][0], case.a["sigma_eval"][0]
    scale = np.hypot(schedule.alpha(steps.t[0]), schedule.sigma(steps.t[0]))
    scale = np.hypot(alpha, sigma) / scale  # from our z to the recorded one
    start_scale = case.config["init_scale"]
    np.testing.assert_allclose(steps.init_scale * scale, start_scale, rtol=1e-9)


def test_levels_timesteps_and_starts_are_the_recorded_ones():
    golden.expect(len(CASES), 366)
    golden.check_each(check_steps, {str(case): (case,) for case in CASES})


@register
class Exact:
    """The exact network of a mixture, which is given its level by its time alone.

    Args:
      mixture: weights, means and variances.
      table: times at which it is called, with alpha and sigma of its input.
      kind: what it predicts.
      std: `sigma_data` of EDM's F, whose input is scaled, or None.
    """

    mixture: Any
    table: Any
    kind: str = static()
    std: Any = static()

    def __call__(self, z, time):
        times, alphas, sigmas = map(jnp.asarray, self.table)
        gap = jnp.abs(times - time)
        alpha, sigma = (level[jnp.argmin(gap)] for level in (alphas, sigmas))
        alpha = jnp.where(gap.min() < 2e-3, alpha, jnp.nan)  # no recorded time
        length = jnp.hypot(alpha * (self.std or 1.0), sigma)
        z = z if self.std is None else z * length
        x, eps = posterior(self.mixture, z, alpha, sigma)
        if self.std is not None:
            return (x - self.std**2 * z / length**2) * length / (self.std * sigma)
        values = {"x": x, "eps": eps, "u": eps - x, "v": alpha * eps - sigma * x}
        return values[self.kind]


def posterior(mixture, z, alpha, sigma):
    """`golden.Mixture.denoised` in jax, at one level."""
    weights, means, stds = map(jnp.asarray, mixture)
    total = (alpha * stds) ** 2 + sigma**2

    def one(z):
        offset = z[None] - alpha * means
        terms = offset**2 / total + jnp.log(total)
        share = jax.nn.softmax(jnp.log(weights) - jnp.sum(terms, axis=-1) / 2)
        x = means + alpha * stds**2 * offset / total
        return share @ x, sigma * (share @ (offset / total))

    return jax.vmap(one)(z)


def calls(case, scheduler):
    """Recorded times of the network, and the levels of what it is given."""
    a, name = case.a, case.config["scheduler"]
    alpha, sigma = a["alpha_eval"], a["sigma_eval"]
    if name.startswith("EDM"):
        return np.log(sigma) / 4, alpha, sigma
    if name in FLOWS or case.config.get("use_flow_sigmas"):
        time = 1000 * sigma
        time = time if name in FLOWS else np.floor(time)
        return time, alpha, sigma
    length = np.hypot(alpha, sigma)  # networks of chains see z of unit scale
    return a["timesteps"], alpha / length, sigma / length


def sample(case):
    """Our samples from the recorded noise, with the exact network."""
    scheduler, num_steps, sigmas = read(case)
    a, data = case.a, golden.Mixture(case.meta["mixture"])
    edm = case.config["scheduler"].startswith("EDM")
    std = scheduler.settings["sigma_data"] if edm else None
    mixture = (data.weights, data.means, data.stds)
    kind = str(scheduler.convention.kind)
    net_fn = Exact(mixture, calls(case, scheduler), kind, std)
    signed = lambda z, time: scheduler.convention.sign * net_fn(z, time)
    draws = None
    if "noise" in a:
        count = len(scheduler.steps(num_steps).t)
        draws = random.Recorded(jnp.asarray(noise(case)[:count]))
    result = jax.jit(
        lambda z: (
            scheduler.sample(
                jax.random.key(0), signed, z, num_steps, sigmas=sigmas, draws=draws
            ).x
        )
    )(jnp.asarray(a["init_noise"]))
    return np.asarray(result)


def noise(case):
    """Recorded noise, `[num_steps, num_noises, *z.shape]`, 0 where none was drawn."""
    draws, count = case.a["noise"], len(case.a["alpha_eval"])
    two = case.config["scheduler"] == "DPMSolverSDEScheduler"
    if "is_grid" in case.a:  # a call for each stage; the last step draws none
        count = case.config["num_steps"]
        number = np.arange(count - 1)
    else:
        number = case.a.get("noise_step", np.arange(len(draws)))
    values = np.zeros((count, 1 + two, *case.a["init_noise"].shape))
    values[number] = draws.reshape(-1, *values.shape[1:])
    return values


def check_sample(case):
    with jax.enable_x64(True):
        found = sample(case)
    alpha, sigma = case.a["alpha_to"][-1], case.a["sigma_to"][-1]
    if alpha == 1 and not case.config["scheduler"].startswith("EDM"):
        found = found * np.hypot(alpha, sigma)  # the recorded z has alpha = 1
    expected = case.a["states"][-1]
    scale = np.maximum(1, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, atol=1e-8 * scale)


def has_own_times(case):
    """Whether the levels can be told apart by the times the network is given."""
    scheduler = read(case)[0]
    table = np.stack(calls(case, scheduler))
    return len(np.unique(table[0])) == len(np.unique(table, axis=1).T)


REFUSED = ("sde-dpmsolver",)


def is_sampled(case):
    config = case.config
    single = config["scheduler"] == "DPMSolverSinglestepScheduler"
    sde = config.get("algorithm_type") == "sde-dpmsolver++" and not single
    third_sde = sde and (
        config.get("solver_order") == 3 or config.get("final_sigmas_type")
    )
    third_edm = config["scheduler"].startswith("EDM") and (
        config.get("solver_order") == 3 and config["num_steps"] < 15
    )
    return not (
        third_edm
        or config.get("algorithm_type") in REFUSED
        or third_sde
        or config.get("disable_corrector")
        or config.get("step_kwargs", {}).keys() - {"eta"}
    )


SAMPLED = [case for case in CASES if is_sampled(case) and has_own_times(case)]


def first_of_each():
    """The shortest record of each class; the others are nightly."""
    seen = set()
    for case in sorted(SAMPLED, key=lambda case: case.config["num_steps"]):
        name = case.config["scheduler"]
        marks = golden.nightly(name in seen)
        seen.add(name)
        yield pytest.param(case, id=f"{case.family}-{case.id}", marks=marks)


@pytest.mark.ci
@pytest.mark.parametrize("case", list(first_of_each()))
def test_samples_are_the_recorded_ones(case):
    check_sample(case)
