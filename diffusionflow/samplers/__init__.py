"""Samplers: a table of coefficients, computed once in float64, and one scan over it."""

from diffusionflow.samplers.base import (
    Result,
    Sampler,
    plan,
    prior,
    run,
    sample,
)
from diffusionflow.samplers.churn import Churn, ddim, ddpm
from diffusionflow.samplers.linear import Coefficients, coefficients
from diffusionflow.samplers.ode import Euler, Heun

__all__ = [
    "Churn",
    "Coefficients",
    "Euler",
    "Heun",
    "Result",
    "Sampler",
    "coefficients",
    "ddim",
    "ddpm",
    "plan",
    "prior",
    "run",
    "sample",
]
