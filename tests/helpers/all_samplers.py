"""Every sampler, once: tests that hold for all of them run over these lists."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import samplers, schedules

VARIABLES = ("x", "eps", "u", "v", "dz_dt")


class Entry(NamedTuple):
    """A sampler and what it promises.

    Fields:
      sampler: the sampler.
      order: of the error at the end: of the point, or of the variance where the sampler
        draws noise. For a multi-step method, from exact starting values.
      shipped: the same from its own start, where that is lower.
    """

    sampler: Any
    order: float
    shipped: float | None = None


DETERMINISTIC = {
    "ddim": Entry(samplers.ddim(), 1),
    **{f"euler-{v}": Entry(samplers.Euler(v), 1) for v in VARIABLES},
    **{f"heun-{v}": Entry(samplers.Heun(v), 2) for v in VARIABLES},
    **{f"midpoint-{v}": Entry(samplers.Midpoint(v), 2) for v in ("x", "eps", "v")},
    **{f"rk4-{v}": Entry(samplers.RK4(v), 4) for v in ("u", "v", "dz_dt")},
    "ab2-eps": Entry(samplers.AdamsBashforth(2, "eps"), 2),
    "ab3-v": Entry(samplers.AdamsBashforth(3, "v"), 3, 2),
    "ab4-dz_dt": Entry(samplers.AdamsBashforth(4, "dz_dt"), 4, 2),
    "ab4-x": Entry(samplers.AdamsBashforth(4, "x"), 4, 2),
    "dpm++2m": Entry(samplers.DPMSolver(2), 2),
    "dpm++3m": Entry(samplers.DPMSolver(3), 3, 2),
    "dpm++3m-reference": Entry(samplers.DPMSolver(3, third="reference"), 2),
    "dpm-3m-taylor": Entry(samplers.DPMSolver(3, "eps", "taylor"), 3, 2),
    "dpm++2s": Entry(samplers.DPMSolver2S(), 2),
    "dpm-2s-taylor": Entry(samplers.DPMSolver2S("eps", "taylor", 0.4), 2),
    "unipc1": Entry(samplers.UniPC(1), 2),
    "unipc2-bh1": Entry(samplers.UniPC(2, "bh1"), 3),
    "unipc3": Entry(samplers.UniPC(3), 4),
    "flow_map": Entry(samplers.FlowMap(), 1),
    "unipc2-eps": Entry(samplers.UniPC(2, variable="eps"), 3),
    "heun3-u": Entry(samplers.RungeKutta("heun3", "u"), 3),
    "tab-deis3": Entry(samplers.AdamsBashforth(3, "eps", "time"), 3, 2),
    "plms": Entry(samplers.PNDM(4, "heun"), 2),
    "dpm++3s": Entry(samplers.DPMSolverSinglestep(3, lower_final=False), 3),
}
# of classes that are above: for the orders and their table alone
FURTHER = {
    "ralston-eps": Entry(samplers.RungeKutta("ralston", "eps"), 2),
    "bogacki_shampine-v": Entry(samplers.RungeKutta("bogacki_shampine", "v"), 3),
    "three_eighths-dz_dt": Entry(samplers.RungeKutta("three_eighths"), 4),
    "dormand_prince-v": Entry(samplers.RungeKutta("dormand_prince", "v"), 5),
    "tab-deis4-v": Entry(samplers.AdamsBashforth(4, "v", "time"), 4, 2),
    "ipndm": Entry(samplers.AdamsBashforth(4, "eps", "step"), 2),
    "pndm": Entry(samplers.PNDM(), 2),
    "dpm-3s-midpoint": Entry(
        samplers.DPMSolverSinglestep(3, "eps", "midpoint", lower_final=False), 3
    ),
    "dpm-fast": Entry(samplers.DPMSolverSinglestep(3, "eps", "midpoint"), 2),
    "dpm++2s-singlestep": Entry(samplers.DPMSolverSinglestep(2, lower_final=False), 2),
    "reverse_diffusion-ode": Entry(samplers.ReverseDiffusion(0.0), 1),
}
STOCHASTIC = {
    "ddpm": Entry(samplers.ddpm(), 1),
    "churn-0.2": Entry(samplers.Churn(0.2), 1),
    "churn-0.8": Entry(samplers.Churn(0.8), 1),
    "ddim_eta": Entry(samplers.DDIMEta(0.6), 1),
    "ddim_eta-scale": Entry(samplers.DDIMEta(0.4, "scale"), 1),
    "ddpm_forward": Entry(samplers.ddpm("forward"), 1),
    "reverse_diffusion": Entry(samplers.ReverseDiffusion(), 1),
    "edm": Entry(samplers.EDM(20.0), 2),
    "edm-midpoint": Entry(samplers.EDM(20.0, second="midpoint"), 2),
    "sde_dpm2": Entry(samplers.SDEDPMSolver(2, 0.7), 1),
    "sde_dpm3": Entry(samplers.SDEDPMSolver(3, 1.0), 1),
    "ancestral2s-eps": Entry(samplers.Ancestral2S("eps"), 1),
    "ancestral2s-x": Entry(samplers.Ancestral2S("x", 0.6), 1),
    "sde_dpm2s": Entry(samplers.SDEDPMSolver2S(0.8), 1),
    "sde_dpm-eps": Entry(samplers.SDEDPMSolver(2, 1.0, "taylor", variable="eps"), 1),
    "sde_singlestep": Entry(
        samplers.SDEDPMSolverSinglestep(2, second="midpoint", eta=0.8), 1
    ),
    "ancestral_singlestep": Entry(
        samplers.SDEDPMSolverSinglestep(
            2, "eps", "midpoint", eta=0.6, noise="ancestral"
        ),
        1,
    ),
    "refresh": Entry(samplers.Refresh(), 1),
    "overshoot": Entry(samplers.Overshoot(0.7), 1),
    "sa_solver": Entry(samplers.SASolver(2, 3, 0.8), 1),
    "restart": Entry(  # rounds of three steps
        samplers.Restart((0.5, 0.1), (2.0, 1.0), 3, (1, 2)), 0
    ),
    "langevin": Entry(samplers.Langevin(samplers.ddpm(), 0.1), 0),  # its own bias
    "euler_maruyama": Entry(samplers.EulerMaruyama(), 1),
    "stochastic_heun": Entry(samplers.StochasticHeun(), 1),
}
SAMPLERS = DETERMINISTIC | STOCHASTIC
SCHEDULES = {
    "flow": schedules.FlowMatching(),
    "cosine": schedules.Cosine(),
    "truncated": schedules.Cosine(-15.0, 15.0),
    "linear_beta": schedules.LinearBeta(),
}
STEEP = {  # alpha' is infinite at t = 1
    "sigmoid": schedules.Sigmoid(),
    "laplace": schedules.Laplace(),
    "discrete_zero_snr": schedules.Discrete(
        schedules.zero_terminal_snr(
            schedules.Discrete.linear_betas(50, 0.002, 0.4).alphas_cumprod
        )
    ),
}


def pairs(names, on=tuple(SCHEDULES), one_of_a_class=False):
    """Runs a test of (`on`, `name`) for every sampler on every schedule.

    One schedule of each sampler is fast, the next for the next: together they meet all
    samplers and all schedules; with `one_of_a_class`, the first sampler of each class.
    The rest is nightly.
    """
    fast = firsts(names) if one_of_a_class else list(names)
    turn = {name: i % len(on) for i, name in enumerate(fast)}
    turns = [
        pytest.param(
            schedule, name, marks=[] if turn.get(name) == j else [pytest.mark.nightly]
        )
        for name in names
        for j, schedule in enumerate(on)
    ]
    return pytest.mark.parametrize(("on", "name"), turns)


def firsts(names):
    """The first sampler of each class."""
    found = {}
    for name in names:
        found.setdefault(type(SAMPLERS[name].sampler), name)
    return list(found.values())


def first_of_each_class(names, fast_every=1):
    """The samplers; other settings of a class that came before are nightly.

    Of the classes, one in `fast_every` is fast and the others are slow.
    """
    first, found = firsts(names), []
    for name in names:
        if name not in first:
            marks = [pytest.mark.nightly]
        else:
            marks = [pytest.mark.slow] if first.index(name) % fast_every else []
        found.append(pytest.param(name, marks=marks))
    return found


def levels(schedule, times):
    """`(alpha, sigma)` at times, float64."""
    with jax.enable_x64(True):
        return np.asarray(schedule.alpha(times)), np.asarray(schedule.sigma(times))


@jax.jit
def _step(sampler, denoise_fn, state, row, draw):
    return sampler.step(state, row, draw, denoise_fn)


def steps(sampler, rows, z, denoise_fn, noise=None, exact=None, warm=0):
    """The states' z after each step, `[num_steps + 1, *z.shape]`, in the type of z.

    One program serves every number of steps. Where `exact` is given, the first `warm`
    states get its z: exact starting values. A state that is more than z is a NamedTuple
    with a field `z`.
    """
    z = jnp.asarray(z)
    count = jax.tree.leaves(rows)[0].shape[0]
    cast = lambda a: a.astype(z.dtype) if np.issubdtype(a.dtype, np.floating) else a
    rows = jax.tree.map(lambda column: cast(np.asarray(column)), rows)
    if noise is None:
        noise = np.zeros((count, sampler.num_noises, *z.shape))
    state = sampler.init(z)
    found = [sampler.output(state)]
    for i in range(count):
        row = jax.tree.map(lambda column, i=i: column[i], rows)
        state = _step(sampler, denoise_fn, state, row, cast(noise[i]))
        if i < warm:
            z = jnp.asarray(exact[i + 1])
            state = state._replace(z=z) if hasattr(state, "_replace") else z
        found.append(sampler.output(state))
    return np.stack(found)
