"""Methods of other libraries and of web interfaces, with our samplers for them."""

from typing import NamedTuple

from diffusionflow.samplers.adams_bashforth import AdamsBashforth
from diffusionflow.samplers.ancestral import Ancestral2S, SDEDPMSolver2S
from diffusionflow.samplers.base import Sampler
from diffusionflow.samplers.churn import DDIMEta, ddim, ddpm
from diffusionflow.samplers.dpm_solver import DPMSolver, DPMSolver2S
from diffusionflow.samplers.flow_map import FlowMap
from diffusionflow.samplers.ode import Euler, Heun
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
        ("DPM++ 2S", "DPMSolverSinglestepScheduler"),
        DPMSolver2S("x"),
        "linspace",
        "diffusers counts both stages as steps, and starts one of order 2 a step back",
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
    Row(("FlowMatchEulerDiscreteScheduler",), Euler("u"), "normal", _FLOW),
    Row(("FlowMatchHeunDiscreteScheduler",), Heun("u"), "normal", _FLOW),
)
_NEAR_AB = "samplers.AdamsBashforth(4, 'eps') is near to it"
_OTHERS = "see the table of samplers in docs/samplers.md"
NOT_SHIPPED = {
    ("PLMS", "PNDM", "PNDMScheduler", "sample_plms"): _NEAR_AB,
    ("iPNDM", "iPNDM v", "IPNDMScheduler"): _NEAR_AB,
    ("DPM fast", "sample_dpm_fast"): "samplers.DPMSolver2S('eps') is its order 2",
    ("DPM adaptive", "sample_dpm_adaptive"): "samplers.solve takes adaptive steps",
    ("Restart", "restart sampler"): "samplers.EDM(s_churn=...) adds noise as well",
    ("SA-Solver", "SASolverScheduler"): "samplers.SDEDPMSolver(3, 1.0) is near to it",
    ("DDIMInverseScheduler",): "samplers.invert goes from data to noise",
    ("FlowMatchLCMScheduler",): "samplers.FlowMap(1.0) is its step",
    ("Heun++ 2", "heunpp2"): _OTHERS,
    ("DPM++ 3S", "DPM-Solver 3S"): "samplers.DPMSolver(3) is of order 3",
    ("Euler CFG++", "DDIM CFG++", "Euler a CFG++"): _OTHERS,
    ("ER SDE", "res multistep", "gradient estimation", "seeds 2"): _OTHERS,
}
GRIDS_NOT_SHIPPED = {
    "beta": "interop.DiffusersScheduler with use_beta_sigmas has its levels",
    "polyexponential": "grids.karras(rho=...) is near to it",
    "ays": "write its times out as an array",
    "kl optimal": "grids.karras is near to it",
}
