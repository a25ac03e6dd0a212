"""Samplers: a table of coefficients, computed once in float64, and one scan over it."""

from diffusionflow.samplers.adams_bashforth import AdamsBashforth
from diffusionflow.samplers.adaptive import Solution, solve
from diffusionflow.samplers.base import (
    Result,
    Sampler,
    plan,
    prior,
    run,
    sample,
)
from diffusionflow.samplers.churn import Churn, ddim, ddpm
from diffusionflow.samplers.dpm_solver import DPMSolver, DPMSolver2S
from diffusionflow.samplers.inversion import invert
from diffusionflow.samplers.linear import Coefficients, coefficients
from diffusionflow.samplers.ode import RK4, Euler, Heun, Midpoint
from diffusionflow.samplers.unipc import UniPC

__all__ = [
    "RK4",
    "AdamsBashforth",
    "Churn",
    "Coefficients",
    "DPMSolver",
    "DPMSolver2S",
    "Euler",
    "Heun",
    "Midpoint",
    "Result",
    "Sampler",
    "Solution",
    "UniPC",
    "coefficients",
    "ddim",
    "ddpm",
    "invert",
    "plan",
    "prior",
    "run",
    "sample",
    "solve",
]
