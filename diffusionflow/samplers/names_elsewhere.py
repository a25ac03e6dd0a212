"""Methods of other libraries and of web interfaces, with our samplers for them."""

from typing import NamedTuple

from diffusionflow.samplers.adams_bashforth import AdamsBashforth
from diffusionflow.samplers.ancestral import Ancestral2S, SDEDPMSolver2S
from diffusionflow.samplers.base import Sampler
from diffusionflow.samplers.churn import Churn, DDIMEta, ddim, ddpm
from diffusionflow.samplers.diffusions import Sigma
from diffusionflow.samplers.dpm_singlestep import DPMSolverSinglestep
from diffusionflow.samplers.dpm_solver import DPMSolver, DPMSolver2S
from diffusionflow.samplers.flow_map import FlowMap
from diffusionflow.samplers.ode import Euler, Heun
from diffusionflow.samplers.overshoot import Overshoot
from diffusionflow.samplers.pndm import PNDM
from diffusionflow.samplers.refresh import Refresh
from diffusionflow.samplers.restart import Restart
from diffusionflow.samplers.reverse_diffusion import ReverseDiffusion
from diffusionflow.samplers.sa_solver import SASolver
from diffusionflow.samplers.sde import EulerMaruyama
from diffusionflow.samplers.sde_dpm_solver import SDEDPMSolver
from diffusionflow.samplers.unipc import UniPC


class Row(NamedTuple):
    """A method.

    Fields:
      names: what it is called elsewhere.
      sampler: ours.
      grid: a name of `names.GRIDS`.
      differences: between theirs and ours.
    """

    names: tuple[str, ...]
    sampler: Sampler
    grid: str
    differences: str = ""


_LOWERED = "diffusers lowers the order of its last steps below 15: `lower_final=2`"
_FLOW = (
    "without levels of the pipeline's own theirs end at 1 / T: "
    "`interop.DiffusersScheduler`"
)
_TABLE = (
    "theirs steps between levels of a table, at the index of the time cut to an "
    "integer, and gives the network the time; with a corrector: `samplers.Langevin`"
)
ROWS = (
    Row(
        ("Euler", "sample_euler", "EulerDiscreteScheduler", "EDMEulerScheduler"),
        Euler("eps"),
        "normal",
        "with `s_churn`: `samplers.EDM(s_churn, stages=1)`, whose network sees the "
        "raised level; diffusers calls it before the noise",
    ),
    Row(
        ("Euler a", "sample_euler_ancestral", "EulerAncestralDiscreteScheduler"),
        DDIMEta(1.0),
        "normal",
    ),
    Row(
        ("Heun", "sample_heun", "HeunDiscreteScheduler"),
        Heun("eps"),
        "normal",
        "with `s_churn`: `samplers.EDM(s_churn)`",
    ),
    Row(
        ("LMS", "sample_lms", "LMSDiscreteScheduler"),
        AdamsBashforth(4, "eps"),
        "normal",
    ),
    Row(
        ("DPM2", "sample_dpm_2", "KDPM2DiscreteScheduler"),
        DPMSolver2S("eps"),
        "normal",
        "with `s_churn`: `samplers.EDM(s_churn, second='midpoint')`",
    ),
    Row(
        ("DPM2 a", "sample_dpm_2_ancestral", "KDPM2AncestralDiscreteScheduler"),
        Ancestral2S("eps"),
        "normal",
    ),
    Row(("DPM++ 2S a", "sample_dpmpp_2s_ancestral"), Ancestral2S("x"), "normal"),
    Row(
        ("PLMS", "sample_plms", "PNDMScheduler"),
        PNDM(4, "heun"),
        "leading",
        "`PNDMScheduler` is `PNDM()` unless `skip_prk_steps` is set; it aims at a "
        "timestep less T // N on every spacing",
    ),
    Row(("PNDM",), PNDM(), "leading"),
    Row(
        ("iPNDM", "IPNDMScheduler"),
        AdamsBashforth(4, "eps", "step"),
        "normal",
        "the levels of `IPNDMScheduler` are of its own",
    ),
    Row(("tAB-DEIS",), AdamsBashforth(4, "eps", "time"), "normal"),
    Row(("rhoAB-DEIS",), AdamsBashforth(4, "eps"), "normal"),
    Row(
        ("DPM++ 2S", "DPMSolverSinglestepScheduler"),
        DPMSolverSinglestep(2, "x", "midpoint", lower_final=False),
        "linspace",
        "with an `algorithm_type` of an SDE: `samplers.SDEDPMSolverSinglestep`",
    ),
    Row(
        ("DPM++ 3S",),
        DPMSolverSinglestep(3, "x", "midpoint"),
        "dpm fast",
        "as in its authors' code; diffusers' singlestep is `stage='midpoint'`",
    ),
    Row(
        ("DPM fast", "DPM-Solver 3S", "sample_dpm_fast"),
        DPMSolverSinglestep(3, "eps", "midpoint"),
        "dpm fast",
        "theirs ends at the first level: `samplers.sample(..., to_data=False)`; with "
        "`eta`: `samplers.SDEDPMSolverSinglestep(3, 'eps', 'midpoint', eta=eta, "
        "noise='ancestral')`, whose stages are those of the grid",
    ),
    Row(
        ("SA-Solver", "SASolverScheduler"),
        SASolver(2, 2, t_min=0.2, t_max=0.8),
        "linspace",
        "steps that start at timesteps from 200 to 800 add noise; theirs ends at the "
        "first level of its table",
    ),
    Row(
        ("Restart", "restart sampler"),
        Restart(),
        "karras",
        "one interval; its levels depend on the data: `samplers.Restart(rho_min, "
        "rho_max, num_steps, repeats)`, with tuples for several",
    ),
    Row(
        ("DPM++ 2M", "sample_dpmpp_2m"),
        DPMSolver(2),
        "normal",
    ),
    Row(
        ("DPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler"),
        DPMSolver(2),
        "linspace",
        _LOWERED,
    ),
    Row(("DPM++ 2M SDE", "sample_dpmpp_2m_sde"), SDEDPMSolver(2, 1.0), "normal"),
    Row(("DPM++ 2M SDE Heun",), SDEDPMSolver(2, 1.0, "taylor"), "normal"),
    Row(
        ("DPM++ 3M SDE", "sample_dpmpp_3m_sde"),
        SDEDPMSolver(3, 1.0, third="reference"),
        "normal",
        "a factor of 2 is missing in theirs; `third='corrected'` has it",
    ),
    Row(
        ("DPM++ SDE", "sample_dpmpp_sde", "DPMSolverSDEScheduler"),
        SDEDPMSolver2S(),
        "normal",
        "their two noises of a step come from one Brownian path, ours are independent",
    ),
    Row(
        ("UniPC", "uni_pc", "uni_pc_bh2", "UniPCMultistepScheduler"),
        UniPC(2, lower_final=2),
        "linspace",
        "interfaces differ in order and `b`; these are the defaults of diffusers",
    ),
    Row(
        ("DEIS", "DEISMultistepScheduler"),
        DPMSolver(2, "eps", "taylor"),
        "linspace",
        "log-rho DEIS is DPM-Solver's polynomial in eps, integrated exactly; "
        "diffusers ends at the first level of its table; " + _LOWERED,
    ),
    Row(
        ("DDIM", "DDIMScheduler"),
        ddim(),
        "leading",
        "diffusers aims at a timestep less T // N on every spacing, and clips x_hat by "
        "default: `interop.DiffusersScheduler`",
    ),
    Row(
        ("DDPM", "DDPMScheduler"),
        ddpm(),
        "leading",
        "diffusers clips x_hat by default: `interop.DiffusersScheduler`",
    ),
    Row(
        ("LCM", "sample_lcm", "LCMScheduler"),
        FlowMap(1.0),
        "trailing",
        "their timesteps are some of `original_inference_steps`; "
        "the boundary condition of diffusers' LCM belongs to the network: "
        "`interop.DiffusersScheduler`",
    ),
    Row(
        ("TCD", "TCDScheduler"),
        FlowMap(0.3),
        "trailing",
        "their timesteps are some of `original_inference_steps`; "
        "gamma is a part of the noise, theirs of the timestep: "
        "`interop.DiffusersScheduler` has theirs",
    ),
    Row(
        ("FlowMatchEulerDiscreteScheduler",),
        Euler("u"),
        "normal",
        _FLOW + "; with `stochastic_sampling`: `samplers.Churn(1.0)`",
    ),
    Row(
        ("FlowMatchLCMScheduler",),
        Churn(1.0),
        "normal",
        "its levels are of its own, and its `scale_factors` are not shipped",
    ),
    Row(("FlowMatchHeunDiscreteScheduler",), Heun("u"), "normal", _FLOW),
    Row(
        ("Reverse diffusion", "ReverseDiffusionPredictor"),
        ReverseDiffusion(),
        "normal",
        _TABLE,
    ),
    Row(
        ("AncestralSamplingPredictor",),
        ddpm("forward"),
        "normal",
        f"of VE it is `samplers.ddpm()`; {_TABLE}",
    ),
    Row(
        ("EulerMaruyamaPredictor", "Euler-Maruyama"),
        EulerMaruyama(),
        "normal",
        "theirs advances by 1 / N on a grid whose steps are longer; with a corrector: "
        "`samplers.Langevin`",
    ),
    Row(
        ("SDESampler",),
        Refresh(Sigma(1.0, 2.0)),
        "normal",
        "theirs adds the noise of a step by Euler's method to the data too",
    ),
    Row(("OverShootingSampler",), Overshoot(1.0), "normal"),
    Row(
        ("NoiseRefreshSampler",),
        FlowMap(0.5),
        "normal",
        "its Euler step is another: the curved one is meant",
    ),
    Row(
        ("StochasticCurvedEulerSampler",),
        FlowMap(0.75**0.5),
        "normal",
        "their rate r is `1 - sqrt(1 - gamma^2)`",
    ),
)
_OTHERS = "see the table of samplers in docs/samplers.md"
NOT_SHIPPED = {
    ("iPNDM v",): "samplers.AdamsBashforth(4, 'eps') has weights for unequal steps",
    ("DPM adaptive", "sample_dpm_adaptive"): (
        "samplers.solve_dpm is it: it takes no grid"
    ),
    ("DDIMInverseScheduler",): "samplers.invert goes from data to noise",
    ("Heun++ 2", "heunpp2"): _OTHERS,
    ("Euler CFG++", "DDIM CFG++"): (
        "guidance.plus_plus with samplers.FlowMap() makes its steps"
    ),
    ("Euler a CFG++",): _OTHERS,
    ("ER SDE", "res multistep", "gradient estimation", "seeds 2"): _OTHERS,
}
GRIDS_NOT_SHIPPED = {
    "beta": "interop.DiffusersScheduler with use_beta_sigmas has its levels",
    "polyexponential": "grids.karras(rho=...) is near to it",
    "ays": "no name has its levels: pass grids.align_your_steps(n) as times, or in a "
    "config sampler.grid=align_your_steps",
    "kl optimal": "grids.karras is near to it",
}
