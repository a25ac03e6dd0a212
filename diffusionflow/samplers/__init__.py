"""Deterministic and stochastic samplers.

Each is a table of coefficients, computed once in float64, and one scan over it.
"""

from diffusionflow.samplers import diffusions, tableaus
from diffusionflow.samplers.adams_bashforth import AdamsBashforth
from diffusionflow.samplers.adaptive import Solution, solve
from diffusionflow.samplers.ancestral import Ancestral2S, SDEDPMSolver2S
from diffusionflow.samplers.base import (
    Result,
    Sampler,
    plan,
    prior,
    run,
    sample,
)
from diffusionflow.samplers.bespoke import Bespoke, optimize_coefficients
from diffusionflow.samplers.churn import (
    Churn,
    DDIMEta,
    DDPMForward,
    churn_to_eta,
    ddim,
    ddpm,
    eta_to_churn,
)
from diffusionflow.samplers.consistency import Consistency, consistency
from diffusionflow.samplers.dpm_adaptive import PID, Proportional, solve_dpm
from diffusionflow.samplers.dpm_singlestep import DPMSolverSinglestep
from diffusionflow.samplers.dpm_solver import DPMSolver, DPMSolver2S
from diffusionflow.samplers.edm import EDM
from diffusionflow.samplers.fixed_plan import FixedPlan
from diffusionflow.samplers.flow_map import FlowMap
from diffusionflow.samplers.inversion import invert
from diffusionflow.samplers.langevin import Langevin
from diffusionflow.samplers.linear import Coefficients, coefficients
from diffusionflow.samplers.names import Named, by_name
from diffusionflow.samplers.ode import RK4, Euler, Heun, Midpoint, RungeKutta
from diffusionflow.samplers.overshoot import Overshoot
from diffusionflow.samplers.pndm import PNDM
from diffusionflow.samplers.refresh import Refresh
from diffusionflow.samplers.restart import Restart
from diffusionflow.samplers.reverse_diffusion import ReverseDiffusion
from diffusionflow.samplers.sa_solver import SASolver
from diffusionflow.samplers.sde import EulerMaruyama, StochasticHeun
from diffusionflow.samplers.sde_dpm_singlestep import SDEDPMSolverSinglestep
from diffusionflow.samplers.sde_dpm_solver import SDEDPMSolver
from diffusionflow.samplers.unipc import UniPC

__all__ = [
    "EDM",
    "PID",
    "PNDM",
    "RK4",
    "AdamsBashforth",
    "Ancestral2S",
    "Bespoke",
    "Churn",
    "Coefficients",
    "Consistency",
    "DDIMEta",
    "DDPMForward",
    "DPMSolver",
    "DPMSolver2S",
    "DPMSolverSinglestep",
    "Euler",
    "EulerMaruyama",
    "FixedPlan",
    "FlowMap",
    "Heun",
    "Langevin",
    "Midpoint",
    "Named",
    "Overshoot",
    "Proportional",
    "Refresh",
    "Restart",
    "Result",
    "ReverseDiffusion",
    "RungeKutta",
    "SASolver",
    "SDEDPMSolver",
    "SDEDPMSolver2S",
    "SDEDPMSolverSinglestep",
    "Sampler",
    "Solution",
    "StochasticHeun",
    "UniPC",
    "by_name",
    "churn_to_eta",
    "coefficients",
    "consistency",
    "ddim",
    "ddpm",
    "diffusions",
    "eta_to_churn",
    "invert",
    "optimize_coefficients",
    "plan",
    "prior",
    "run",
    "sample",
    "solve",
    "solve_dpm",
    "tableaus",
]
