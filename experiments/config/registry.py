"""The names that a config may use: of schedules, samplers, networks, data and others.

One line here makes one more, written as a user's own part is in a config: what it names
is imported when it is asked for, so that a run loads what it uses and no more.
"""

import importlib
import operator
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

Entry = str | Callable[..., Any]


class Registry(MutableMapping[str, Callable[..., Any]]):
    """Maps names to constructors, importing each when it is looked up.

    Args:
      home: the module of entries that name none.
      entries: `attribute` or `module:attribute`, or the constructor itself, by name.
    """

    def __init__(self, home: str, entries: Mapping[str, Entry]):
        self._home, self._entries = home, dict(entries)

    def __getitem__(self, name: str) -> Callable[..., Any]:
        entry = self._entries[name]
        if not isinstance(entry, str):
            return entry
        module, _, attribute = entry.rpartition(":")
        found = importlib.import_module(module or self._home)
        return operator.attrgetter(attribute)(found)

    def __setitem__(self, name: str, entry: Entry) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # without an import

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _kind(name: str) -> Callable[..., Any]:
    """Makes the constructor, without arguments, of a prediction type."""

    def make() -> Any:
        from diffusionflow import predictions  # when it is asked for

        return predictions.Kind(name)

    return make


SCHEDULES = Registry(
    "diffusionflow.schedules",
    {
        "flow_matching": "FlowMatching",
        "cosine": "Cosine",
        "linear_beta": "LinearBeta",
        "sub_vp": "SubVP",
        "ve": "VE",
        "edm": "EDM",
        "iddpm_cosine": "IDDPMCosine",
        "linear_logsnr": "LinearLogSNR",
        "sigmoid": "Sigmoid",
        "laplace": "Laplace",
        "cauchy": "Cauchy",
        "linear_betas": "Discrete.linear_betas",
        "shifted": "Shifted",
    },
)
WEIGHTINGS = Registry(
    "diffusionflow.weightings",
    {
        "mse": "Mse",
        "elbo": "ELBO",
        "likelihood": "Likelihood",
        "sigmoid": "Sigmoid",
        "edm": "EDM",
        "p2": "P2",
        "min_snr": "MinSNR",
        "soft_min_snr": "SoftMinSNR",
        "truncated_snr": "TruncatedSNR",
        "monotone": "Monotone",
    },
)
TIMES = Registry(
    "diffusionflow.times",
    {
        "uniform": "Uniform",
        "logit_normal": "LogitNormal",
        "mode": "Mode",
        "cosmap": "CosMap",
        "log_normal_sigma": "LogNormalSigma",
        "uniform_logsnr": "UniformLogSNR",
        "uniform_on": "UniformOn",
        "truncated": "Truncated",
        "stratified": "Stratified",
        "adaptive": "AdaptiveTimes",
    },
)
KINDS = Registry(
    "",
    {
        **{name: _kind(name) for name in ("x", "eps", "v", "u", "dz_dt", "score")},
        "edm_f": "diffusionflow.predictions:edm_f",
    },
)
PARTS = {"kind": KINDS, "times": TIMES, "other": SCHEDULES}  # by parameter
GRIDS = Registry(
    "diffusionflow.grids",
    {
        "uniform": "uniform",
        "quadratic": "quadratic",
        "cosine": "cosine",
        "shifted": "shifted",
        "logsnr_uniform": "logsnr_uniform",
        "karras": "karras",
        "align_your_steps": "align_your_steps",
        "discrete": "discrete",
    },
)
SAMPLERS = Registry(
    "diffusionflow.samplers",
    {
        "ddim": "ddim",
        "ddpm": "ddpm",
        "churn": "Churn",
        "ddim_eta": "DDIMEta",
        "edm": "EDM",
        "ancestral_2s": "Ancestral2S",
        "sde_dpm_solver": "SDEDPMSolver",
        "sde_dpm_solver_2s": "SDEDPMSolver2S",
        "sde_dpm_solver_singlestep": "SDEDPMSolverSinglestep",
        "reverse_diffusion": "ReverseDiffusion",
        "refresh": "Refresh",
        "overshoot": "Overshoot",
        "sa_solver": "SASolver",
        "restart": "Restart",
        "langevin": "Langevin",
        "euler_maruyama": "EulerMaruyama",
        "stochastic_heun": "StochasticHeun",
        "euler": "Euler",
        "midpoint": "Midpoint",
        "heun": "Heun",
        "rk4": "RK4",
        "runge_kutta": "RungeKutta",
        "adams_bashforth": "AdamsBashforth",
        "pndm": "PNDM",
        "dpm_solver": "DPMSolver",
        "dpm_solver_2s": "DPMSolver2S",
        "dpm_solver_singlestep": "DPMSolverSinglestep",
        "unipc": "UniPC",
        "flow_map": "FlowMap",
    },
)
DIFFUSIONS = Registry(
    "diffusionflow.samplers.diffusions",
    {
        "eta": "Eta",
        "sigma": "Sigma",
        "linear": "Linear",
        "constant": "Constant",
        "decreasing": "Decreasing",
        "increasing_decreasing": "IncreasingDecreasing",
    },
)
COUPLINGS = Registry(
    "diffusionflow.couplings",
    {
        "independent": "Independent",
        "assignment": "Assignment",
        "sinkhorn": "Sinkhorn",
        "semidiscrete": "experiments.data.coupled:Semidiscrete",
    },
)
DATASETS = Registry(
    "",
    {
        "digits": "experiments.data.sklearn_images:digits",
        "moons": "experiments.data.toy2d:moons",
        "checkerboard": "experiments.data.toy2d:checkerboard",
        "mixture": "experiments.data.toy2d:mixture",
        "patches": "experiments.data.sklearn_images:patches",
        "npz": "experiments.data.npz_files:npz",
        "folder": "experiments.data.image_folder:folder",
        "latents": "experiments.data.latents:latents",
        "pairs": "experiments.data.pairs:pairs",
        "cifar10": "experiments.data.cifar:cifar10",
        "cifar100": "experiments.data.cifar:cifar100",
        "huggingface": "experiments.data.hub:huggingface",
        "tfds": "experiments.data.hub:tfds",
    },
)
_METHODS = "experiments.config.methods."
METHODS = Registry(
    "experiments.config.methods",
    {
        "meanflow": _METHODS + "flow_maps:MeanFlow",
        "lagrangian": _METHODS + "flow_maps:Lagrangian",
        "shortcut": _METHODS + "flow_maps:Shortcut",
        "consistency": _METHODS + "halving:Consistency",
        "progressive": _METHODS + "halving:Progressive",
        "reflow": _METHODS + "pairs:Reflow",
        "one_step": _METHODS + "pairs:OneStep",
    },
)
NETWORKS = Registry(
    "diffusionflow.networks",
    {
        "unet": "UNet",
        "dit": "DiT",
        "residual_mlp": "ResidualMLP",
        "unet2d": "diffusionflow.networks.pretrained:UNet2D",
        "dit_transformer2d": "diffusionflow.networks.pretrained:DiTTransformer2D",
        "song_unet": "diffusionflow.networks.pretrained:SongUNet",
        "dhariwal_unet": "diffusionflow.networks.pretrained:DhariwalUNet",
    },
)
