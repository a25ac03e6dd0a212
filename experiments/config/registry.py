"""The names that a config may use: of schedules, samplers, networks, data and others.

One line here makes one more; a user's own are named `module:Name` and need none.
"""

from collections.abc import Callable
from typing import Any

from diffusionflow import (
    couplings,
    grids,
    networks,
    objectives,
    predictions,
    samplers,
    schedules,
    times,
    weightings,
)
from experiments import data
from experiments.config import methods
from experiments.data import coupled

Callables = dict[str, Callable[..., Any]]

SCHEDULES: Callables = {
    "flow_matching": schedules.FlowMatching,
    "cosine": schedules.Cosine,
    "linear_beta": schedules.LinearBeta,
    "sub_vp": schedules.SubVP,
    "ve": schedules.VE,
    "edm": schedules.EDM,
    "iddpm_cosine": schedules.IDDPMCosine,
    "linear_logsnr": schedules.LinearLogSNR,
    "sigmoid": schedules.Sigmoid,
    "laplace": schedules.Laplace,
    "cauchy": schedules.Cauchy,
    "linear_betas": schedules.Discrete.linear_betas,
    "shifted": schedules.Shifted,
}
WEIGHTINGS: Callables = {
    "mse": weightings.Mse,
    "elbo": weightings.ELBO,
    "likelihood": weightings.Likelihood,
    "sigmoid": weightings.Sigmoid,
    "edm": weightings.EDM,
    "p2": weightings.P2,
    "min_snr": weightings.MinSNR,
    "soft_min_snr": weightings.SoftMinSNR,
    "truncated_snr": weightings.TruncatedSNR,
    "monotone": weightings.Monotone,
}
TIMES: Callables = {
    "uniform": times.Uniform,
    "logit_normal": times.LogitNormal,
    "mode": times.Mode,
    "cosmap": times.CosMap,
    "log_normal_sigma": times.LogNormalSigma,
    "uniform_logsnr": times.UniformLogSNR,
    "uniform_on": times.UniformOn,
    "truncated": times.Truncated,
    "stratified": times.Stratified,
    "adaptive": times.AdaptiveTimes,
}
KINDS: Callables = {
    name: lambda name=name: predictions.Kind(name) for name in predictions.NAMES
}
KINDS["edm_f"] = predictions.edm_f
PARTS = {"kind": KINDS, "times": TIMES, "other": SCHEDULES}  # by parameter
RECIPES = {recipe.__name__: recipe for recipe in objectives.RECIPES}
GRIDS: Callables = {
    "uniform": grids.uniform,
    "quadratic": grids.quadratic,
    "cosine": grids.cosine,
    "shifted": grids.shifted,
    "logsnr_uniform": grids.logsnr_uniform,
    "karras": grids.karras,
    "discrete": grids.discrete,
}
SAMPLERS: Callables = {
    "ddim": samplers.ddim,
    "ddpm": samplers.ddpm,
    "churn": samplers.Churn,
    "ddim_eta": samplers.DDIMEta,
    "edm": samplers.EDM,
    "ancestral_2s": samplers.Ancestral2S,
    "sde_dpm_solver": samplers.SDEDPMSolver,
    "sde_dpm_solver_2s": samplers.SDEDPMSolver2S,
    "euler_maruyama": samplers.EulerMaruyama,
    "stochastic_heun": samplers.StochasticHeun,
    "euler": samplers.Euler,
    "midpoint": samplers.Midpoint,
    "heun": samplers.Heun,
    "rk4": samplers.RK4,
    "adams_bashforth": samplers.AdamsBashforth,
    "dpm_solver": samplers.DPMSolver,
    "dpm_solver_2s": samplers.DPMSolver2S,
    "unipc": samplers.UniPC,
    "flow_map": samplers.FlowMap,
}
DIFFUSIONS: Callables = {
    "eta": samplers.diffusions.Eta,
    "sigma": samplers.diffusions.Sigma,
    "linear": samplers.diffusions.Linear,
    "constant": samplers.diffusions.Constant,
    "decreasing": samplers.diffusions.Decreasing,
    "increasing_decreasing": samplers.diffusions.IncreasingDecreasing,
}
COUPLINGS: Callables = {
    "independent": couplings.Independent,
    "assignment": couplings.Assignment,
    "sinkhorn": couplings.Sinkhorn,
    "semidiscrete": coupled.Semidiscrete,
}
DATASETS: Callables = {
    "digits": data.digits,
    "moons": data.moons,
    "checkerboard": data.checkerboard,
    "mixture": data.mixture,
    "patches": data.patches,
    "npz": data.npz,
    "folder": data.folder,
    "latents": data.latents,
    "pairs": data.pairs,
    "cifar10": data.cifar10,
    "cifar100": data.cifar100,
    "huggingface": data.huggingface,
    "tfds": data.tfds,
}
METHODS: Callables = {
    "meanflow": methods.MeanFlow,
    "lagrangian": methods.Lagrangian,
    "shortcut": methods.Shortcut,
    "consistency": methods.Consistency,
    "progressive": methods.Progressive,
    "reflow": methods.Reflow,
    "one_step": methods.OneStep,
}
NETWORKS: Callables = {
    "unet": networks.UNet,
    "dit": networks.DiT,
    "residual_mlp": networks.ResidualMLP,
}
