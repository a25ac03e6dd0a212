"""Builds and checks everything that a config describes, but for data and network."""

import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from diffusionflow import ema, objectives, predictions
from experiments.config import (
    build,
    external,
    functions,
    grid_files,
    methods,
    optimizers,
    protocols,
    published,
    schema,
)
from experiments.config.model import Model
from experiments.data import coupled
from experiments.data.base import DataSet
from experiments.runtime import sharding
from experiments.runtime.errors import UsageError, naming, require

if TYPE_CHECKING:
    import optax

HIGHEST_FREQUENCY = 64.0  # in radians, of networks that are differentiated in time


class Experiment(NamedTuple):
    """A valid config and what it describes, each object built once.

    Data and network come last, and only where they are needed: `build.dataset` and
    `model`.

    Fields:
      config: complete.
      objective: what is learned.
      coupling: of noise and data, before it is fitted; None for independent noise.
      sampling: sampler and times of the pictures.
      method: by which a few-step model is trained; None for the objective alone.
      learning_rate: `step -> learning rate`, of a stage of the method.
      optimizer: of the same length.
      gammas: powers of the averages that are tracked besides the usual one.
      callbacks: called as `(step, row)` with every row of metrics.
    """

    config: FrozenConfigDict
    objective: objectives.Objective
    coupling: Any
    sampling: build.Sampling
    method: methods.Method | None
    learning_rate: "optax.Schedule"
    optimizer: "optax.GradientTransformation"
    gammas: tuple[float, ...]
    callbacks: list[Callable[[int, Mapping[str, Any]], None]]

    def model(self, dataset: DataSet) -> Model:
        """Builds the model of a run on a data set, with its network.

        Raises:
          UsageError: the network is none, or does not fit data or method.
        """
        built = build.model(
            self.config,
            self.objective,
            self.method,
            event_shape=dataset.event_shape,
            num_classes=dataset.num_classes,
            levels=dataset.transform.levels,
            vector_features=dataset.vector_features,
        )
        scale = self.config["sigma_data"]
        published.check(built.net, self.objective, scale, self.method)
        if self.method is not None:
            check_method(self.config, self.method, built.net)
        return built


def from_config(
    config: ConfigDict, workdir: str | pathlib.Path | None = None
) -> Experiment:
    """Builds what a config describes, after a check of its values; compiles nothing.

    Args:
      config: completed in place, see `schema.settle`; the file of a grid gets its
        digest.
      workdir: of the run, if there is one: its copy of that file is read where the file
        is gone.

    Raises:
      UsageError: a name is unknown or missing, or a value of another type, which
        `schema.settle` cannot convert, or out of bounds.
    """
    _check_values(config)
    grid_files.settle(config["sampler"], workdir)
    objective = build.objective(config["objective"])
    coupling = build.coupling(config["objective"]["coupling"])
    if coupling is not None:
        coupled.check(coupling, config["batch_size"])
    sampling = build.sampling(config["sampler"], objective.schedule)
    build.check_start(objective, sampling.times)
    if external.references(config["sampler"]["name"]):
        where = f"sampler.name: {config['sampler']['name']}"
        protocols.check_sampler(where, *sampling, objective.schedule)
    method = build.method(config["distillation"])
    net = None
    if method is not None and not external.references(config["network"]["name"]):
        net = build.unchecked_network(config["network"], 1, 0)
        build.check_guidance(net, sampling.sampler, config["guidance"])
    check_method(config, method, net)
    length = config["num_steps"] // (method.num_stages if method else 1)
    rate = optimizers.learning_rate(config["optimizer"], length)
    found = Experiment(
        config=FrozenConfigDict(config),
        objective=objective,
        coupling=coupling,
        sampling=sampling,
        method=method,
        learning_rate=rate,
        optimizer=optimizers.optimizer(config["optimizer"], length, rate),
        gammas=gammas(config["ema"]),
        callbacks=functions.callbacks(config["callbacks"]),
    )
    with naming("sigma_data"):
        predictions.precondition(
            jnp.zeros_like,
            schedule=objective.schedule,
            sigma_data=config["sigma_data"],
        )
    return found


def _check_values(config: ConfigDict) -> None:
    """Completes a config, and checks its values one by one and against each other."""
    schema.settle(config)
    schema.check_complete(config)
    schema.check_bounds(config)
    dropout = config["network"].get("dropout", 0)
    dropout = schema.typed("network.dropout", dropout, float)
    require("network.dropout", dropout, 0 <= dropout < 1, "in [0, 1)")
    low, high = config["log"]["logsnr_min"], config["log"]["logsnr_max"]
    require("log.logsnr_min", low, low < high, f"below log.logsnr_max={high}")
    chunks = config["optimizer"]["accumulate"]
    sharding.check_batch("batch_size", config["batch_size"], chunks)
    sharding.check_fsdp("sharding.fsdp", config["sharding"]["fsdp"])


def gammas(section: Mapping[str, Any]) -> tuple[float, ...]:
    """Computes the powers gamma of the averages that section `ema` tracks and stores.

    Raises:
      UsageError: a width is out of bounds or there twice, or none would be stored.
    """
    widths, every = tuple(section["sigma_rel"]), section["store_every"]
    require("ema.sigma_rel", widths, len(set(widths)) == len(widths), "distinct")
    stored = bool(widths) == bool(every)
    bound = f"positive if there are widths, else 0: ema.sigma_rel={widths}"
    require("ema.store_every", every, stored, bound)
    with naming("ema"):
        settings = dict(limit=section["limit"], warmup=section["warmup"])
        jax.eval_shape(lambda: ema.decay(0, **settings))  # traced, not compiled
        return tuple(map(ema.gamma_of, widths))


def check_method(
    config: Mapping[str, Any], built: methods.Method | None, net: Any = None
) -> None:
    """Checks the method against the rest of a config, and its network if it is given.

    Raises:
      UsageError: the method cannot be trained with it.
    """
    section = config["distillation"]
    teacher = section["teacher"]
    if built is None:
        require("distillation.teacher", teacher, not teacher, "empty without a method")
        return
    name = section["method"]
    if config["objective"]["proposal"]:
        raise UsageError(
            f"objective.proposal: must be empty with distillation.method={name}, which "
            "draws times of its own"
        )
    given = built.needs_teacher <= bool(teacher)
    bound = f"the directory of a trained run with distillation.method={name}"
    require("distillation.teacher", teacher, given, bound)
    _check_learned_guidance(config, built)
    _check_stages(config, built)
    if net is not None:
        _check_few_step_network(section, built, net)


def _check_learned_guidance(config: Mapping[str, Any], built: methods.Method) -> None:
    """Checks `distillation.guidance`, which is that of a teacher or of the network."""
    section = config["distillation"]
    guidance, name = section["guidance"], section["method"]
    if guidance == 1:
        return
    taught = built.takes_guidance and bool(section["teacher"])
    bound = (
        f"1 with distillation.method={name}, which asks no guided teacher; pairs are "
        "guided by experiments.pairs --guidance"
    )
    guided = taught or (built.guides_itself and not section["teacher"])
    require("distillation.guidance", guidance, guided, bound)
    bound = (
        f"positive with distillation.guidance={guidance:g} and no teacher: guidance is "
        "learned from the network's own predictions without labels, which are trained "
        "where labels are dropped"
    )
    dropped = config["label_dropout"]
    require("label_dropout", dropped, taught or dropped > 0, bound)


def _check_stages(config: Mapping[str, Any], built: methods.Method) -> None:
    """Checks that stages are as long as they are said to be, and end at checkpoints."""
    total, every = config["num_steps"], config["checkpoint"]["every"]
    name, count = config["distillation"]["method"], built.num_stages
    if total % count:
        raise UsageError(
            f"num_steps={total}: must be a multiple of {count}, the stages of "
            f"distillation.method={name}"
        )
    stage = total // count
    if count > 1 and every % stage and stage % every:
        raise UsageError(
            f"checkpoint.every={every}: must divide {stage}, the steps of each of the "
            f"{count} stages of distillation.method={name} with num_steps={total}, or "
            f"be a multiple: the student of a stage is its last checkpoint"
        )


def _check_few_step_network(
    section: Mapping[str, Any], built: methods.Method, net: Any
) -> None:
    """Checks the network of a method, of a section `distillation`."""
    name, guidance = section["method"], section["guidance"]
    if built.two_times and not getattr(net, "two_times", False):
        raise UsageError(
            f"network.two_times=False: must be True with distillation.method={name}, "
            "whose network is given the time that it jumps to"
        )
    highest = getattr(net, "max_frequency", 0)
    if built.forward_mode and highest > HIGHEST_FREQUENCY:
        raise UsageError(
            f"network.max_frequency={highest:g}: must be at most "
            f"{HIGHEST_FREQUENCY:g} with distillation.method={name}, which "
            "differentiates the network in its times; 8 to 16 do well: train with "
            "--config.network.max_frequency=16, a teacher too"
        )
    conditions = ("num_classes", "vector_features")
    known = any(getattr(net, each, 1) for each in conditions)
    bound = "1: the data have neither classes nor condition vectors to guide by"
    require("distillation.guidance", guidance, guidance == 1 or known, bound)
