"""Samplers: a table of coefficients, computed once in float64, and one scan over it."""

from diffusionflow.samplers import diffusions
from diffusionflow.samplers.base import (
    Result,
    Sampler,
    plan,
    prior,
    run,
    sample,
)
from diffusionflow.samplers.churn import (
    Churn,
    DDIMEta,
    DDPMForward,
    churn_to_eta,
    ddim,
    ddpm,
    eta_to_churn,
)
from diffusionflow.samplers.edm import EDM
from diffusionflow.samplers.linear import Coefficients, coefficients
from diffusionflow.samplers.ode import Euler, Heun
from diffusionflow.samplers.sde import EulerMaruyama, StochasticHeun
from diffusionflow.samplers.sde_dpm import SdeDpm

__all__ = [
    "EDM",
    "Churn",
    "Coefficients",
    "DDIMEta",
    "DDPMForward",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Result",
    "Sampler",
    "SdeDpm",
    "StochasticHeun",
    "churn_to_eta",
    "coefficients",
    "ddim",
    "ddpm",
    "diffusions",
    "eta_to_churn",
    "plan",
    "prior",
    "run",
    "sample",
]
