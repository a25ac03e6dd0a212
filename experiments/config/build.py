"""The only registry: from config values to objects.

Objects of the library are written in a config as call strings, such as
`"cosine(logsnr_min=-15.0)"`, `"uniform"` or `"stratified(logit_normal(std=1.2))"`; data
set, network and optimizer are sections whose `name` chooses and whose other entries are
arguments. Adding one more schedule, weighting or sampler is one line here.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusionflow import (
    ema,
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
from experiments.config import optimizers, schema
from experiments.config.parsing import from_section, parse
from experiments.runtime import sharding
from experiments.runtime.errors import check_name, naming, require

SCHEDULES = {
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
WEIGHTINGS = {
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
TIMES = {
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
KINDS = {name: lambda name=name: predictions.Kind(name) for name in predictions.NAMES}
KINDS["edm_f"] = predictions.edm_f
PARTS = {"kind": KINDS, "times": TIMES, "other": SCHEDULES}  # by parameter
RECIPES = {recipe.__name__: recipe for recipe in objectives.RECIPES}
GRIDS = {
    "uniform": grids.uniform,
    "quadratic": grids.quadratic,
    "cosine": grids.cosine,
    "shifted": grids.shifted,
    "logsnr_uniform": grids.logsnr_uniform,
    "karras": grids.karras,
    "discrete": grids.discrete,
}
SAMPLERS = {
    "ddim": samplers.ddim,
    "ddpm": samplers.ddpm,
    "churn": samplers.Churn,
    "ddim_eta": samplers.DDIMEta,
    "edm": samplers.EDM,
    "sde_dpm_solver": samplers.SDEDPMSolver,
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
}
DIFFUSIONS = {
    "eta": samplers.diffusions.Eta,
    "sigma": samplers.diffusions.Sigma,
    "linear": samplers.diffusions.Linear,
    "constant": samplers.diffusions.Constant,
    "decreasing": samplers.diffusions.Decreasing,
    "increasing_decreasing": samplers.diffusions.IncreasingDecreasing,
}
DATASETS = {
    "digits": data.digits,
    "moons": data.moons,
    "checkerboard": data.checkerboard,
    "mixture": data.mixture,
    "patches": data.patches,
    "npz": data.npz,
    "folder": data.folder,
    "latents": data.latents,
    "cifar10": data.cifar10,
    "huggingface": data.huggingface,
    "tfds": data.tfds,
}
NETWORKS = {
    "unet": networks.UNet,
    "dit": networks.DiT,
    "residual_mlp": networks.ResidualMLP,
}
MATMUL_PRECISIONS = ("default", "high", "highest", "bfloat16", "float32")
AT_LEAST = {
    "num_steps": 1,
    "log.every": 1,
    "log.num_bins": 1,
    "cpu_devices": 1,
    "ema.store_every": 0,  # 0 is never
    "eval.every": 0,
    "eval.draws": 1,
    "sampler.num_steps": 1,
    "samples.every": 0,
    "samples.per_class": 1,
    "checkpoint.every": 0,
    "checkpoint.keep": 1,
    "checkpoint.keep_best": 0,
    "optimizer.clip_norm": 0,  # 0 is no clipping
    "optimizer.weight_decay": 0,
    "optimizer.accumulate": 1,
    "optimizer.nonfinite_limit": 1,
    "sharding.least_size": 1,
}
RANGES = (
    ("seed", lambda value: 0 <= value < 2**32, "in [0, 2**32)"),
    ("label_dropout", lambda value: 0 <= value <= 1, "in [0, 1]"),
    ("optimizer.learning_rate", lambda value: value > 0, "positive"),
    ("optimizer.b1", lambda value: 0 <= value < 1, "in [0, 1)"),
    ("optimizer.b2", lambda value: 0 <= value < 1, "in [0, 1)"),
)


def objective(section: Mapping[str, Any]) -> objectives.Objective:
    """The objective of a section `schedule, kind, weighting, times, proposal`.

    An empty `proposal` means that times are drawn from `times` itself.

    Raises:
      UsageError: a name or an argument is unknown, a value is out of bounds, a range
        of log-SNR is not reached, the weighting is made for other times, or `times` is
        adaptive, which a proposal alone can be: the objective would change while it is
        trained.
    """
    weighting = parse(
        "objective.weighting",
        section["weighting"],
        WEIGHTINGS,
        parts=PARTS,
    )
    density = _density("objective.times", section["times"])
    proposal = section["proposal"]
    parts = dict(
        schedule=parse("objective.schedule", section["schedule"], SCHEDULES),
        kind=_kind(section["kind"]),
        weighting=weighting,
        times=density,
        proposal=_density("objective.proposal", proposal) if proposal else None,
    )
    with naming("objective"):
        built = objectives.Objective(**parts)
    for name in ("times", "proposal"):
        if getattr(built, name) is not None:
            with naming(f"objective.{name}"):
                getattr(built, name).density(0.5, schedule=built.schedule)
    with naming("objective.proposal"):
        objectives.check_support(built)
    return built


def _kind(text: str) -> Any:
    """What the network predicts; a word that means several kinds says which."""
    if text in predictions.AMBIGUOUS:
        with naming("objective.kind"):
            predictions.Kind(text)
    return parse("objective.kind", text, KINDS)


def _density(where: str, text: str) -> Any:
    """A density of training times; its arguments may be densities and schedules."""
    return parse(where, text, TIMES, parts=PARTS)


def sampler(section: Mapping[str, Any]) -> Any:
    """The sampler of a section `name, num_steps, grid`."""
    return parse(
        "sampler.name", section["name"], SAMPLERS, parts=dict(diffusion_fn=DIFFUSIONS)
    )


def grid(section: Mapping[str, Any], schedule: schedules.Schedule) -> np.ndarray:
    """Sampling times, float64 [num_steps + 1], of a section `name, num_steps, grid`."""
    known = {"num_steps": section["num_steps"], "schedule": schedule}
    return parse("sampler.grid", section["grid"], GRIDS, **known)


def check_start(objective: objectives.Objective, times: np.ndarray) -> None:
    """Raises a `UsageError` if the network's output is of no use on a sampling grid."""
    with naming("sampler.grid"):
        predictions.check_determined(
            objective.kind, times[:-1], schedule=objective.schedule
        )


def dataset(section: Mapping[str, Any]) -> data.DataSet:
    """The data set of a section `name` and arguments."""
    return from_section("data", section, DATASETS)


def network(
    section: Mapping[str, Any], num_classes: int, vector_features: int = 0
) -> Any:
    """The Flax module of a section `name` and arguments.

    Args:
      section: its `vector_features` are those of the data where it has no such entry.
      num_classes: of the data.
      vector_features: of the conditions of the data; 0 for none.
    """
    known = dict(num_classes=num_classes)
    if "vector_features" not in section:
        known["vector_features"] = vector_features
    built = from_section("network", section, NETWORKS, **known)
    vectors = getattr(built, "vector_features", 0)
    bound = f"{vector_features}, the number of features of the data's conditions"
    require("network.vector_features", vectors, vectors == vector_features, bound)
    return built


def profiles(section: Mapping[str, Any]) -> tuple[float, ...]:
    """The powers gamma of the averages of section `ema` that are tracked and stored.

    Raises:
      UsageError: a width is out of bounds or there twice, or none would be stored.
    """
    widths, every = tuple(section["sigma_rel"]), section["store_every"]
    require("ema.sigma_rel", widths, len(set(widths)) == len(widths), "distinct")
    stored = bool(widths) == bool(every)
    bound = f"positive if there are widths, else 0: ema.sigma_rel={widths}"
    require("ema.store_every", every, stored, bound)
    with naming("ema"):
        return tuple(map(ema.gamma_of, widths))


def check(config: ConfigDict) -> None:
    """Looks at every value of a config that can be judged without data and network.

    Compiles nothing.

    Raises:
      UsageError: if a name is unknown or missing, or a value of another type, which
        `schema.settle` cannot mend, or out of bounds.
    """
    schema.settle(config)
    schema.check_complete(config)
    for name, least in AT_LEAST.items():
        value = _entry(config, name)
        require(name, value, value >= least, f"at least {least}")
    for name, holds, bound in RANGES:
        value = _entry(config, name)
        require(name, value, holds(value), bound)
    dropout = config["network"].get("dropout", 0)
    dropout = schema.typed("network.dropout", dropout, float)
    require("network.dropout", dropout, 0 <= dropout < 1, "in [0, 1)")
    low, high = config["log"]["logsnr_min"], config["log"]["logsnr_max"]
    require("log.logsnr_min", low, low < high, f"below log.logsnr_max={high}")
    check_name("matmul_precision", config["matmul_precision"], MATMUL_PRECISIONS)
    check_name(
        "checkpoint.metric", config["checkpoint"]["metric"], schema.RANKING_METRICS
    )
    parts = config["optimizer"]["accumulate"]
    sharding.check_batch("batch_size", config["batch_size"], parts)
    sharding.check_fsdp("sharding.fsdp", config["sharding"]["fsdp"])
    built = objective(config["objective"])
    schedule = built.schedule
    sampler(config["sampler"])
    check_start(built, grid(config["sampler"], schedule))
    optimizers.optimizer(config["optimizer"], config["num_steps"])
    average = config["ema"]
    with naming("ema"):
        settings = dict(limit=average["limit"], warmup=average["warmup"])
        jax.eval_shape(lambda: ema.decay(0, **settings))  # traced, not compiled
    profiles(average)
    with naming("sigma_data"):
        predictions.precondition(
            jnp.zeros_like, schedule=schedule, sigma_data=config["sigma_data"]
        )


def _entry(config: Mapping[str, Any], name: str) -> Any:
    """The value at a dotted name."""
    for key in name.split("."):
        config = config[key]
    return config
