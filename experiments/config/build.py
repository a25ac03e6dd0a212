"""Builds what a config describes: objective, sampler, data, network, callbacks.

Objects are written in a config as call strings, such as `"cosine(logsnr_min=-15.0)"`,
`"stratified(logit_normal(std=1.2))"` or `"own:Mine(beta=2.0)"`; data set and network
are sections whose `name` chooses and whose other entries are arguments. Users' own are
checked by the protocol that they must keep.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusionflow import (
    ema,
    objectives,
    predictions,
    samplers,
    schedules,
)
from experiments import data
from experiments.config import (
    adapters,
    external,
    methods,
    optimizers,
    protocols,
    registry,
    schema,
)
from experiments.config.parsing import from_section, parse
from experiments.data import coupled
from experiments.runtime import sharding
from experiments.runtime.errors import UsageError, naming, require

HIGHEST_FREQUENCY = 64.0  # in radians, of networks that are differentiated in time


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
        registry.WEIGHTINGS,
        parts=registry.PARTS,
    )
    density = _density("objective.times", section["times"])
    proposal = section["proposal"]
    parts = dict(
        schedule=parse("objective.schedule", section["schedule"], registry.SCHEDULES),
        kind=_kind(section["kind"]),
        weighting=weighting,
        times=density,
        proposal=_density("objective.proposal", proposal) if proposal else None,
    )
    protocols.check_schedule("objective.schedule", parts["schedule"])
    with naming("objective"):
        built = objectives.Objective(**parts)
    protocols.check_weighting("objective.weighting", weighting, built.schedule)
    for name in ("times", "proposal"):
        if getattr(built, name) is not None:
            where = f"objective.{name}"
            protocols.check_density(where, getattr(built, name), built.schedule)
    with naming("objective.proposal"):
        objectives.check_support(built)
    return built


def _kind(text: str) -> Any:
    """What the network predicts; a word that means several kinds says which."""
    if text in predictions.AMBIGUOUS:
        with naming("objective.kind"):
            predictions.Kind(text)
    return parse("objective.kind", text, registry.KINDS)


def _density(where: str, text: str) -> Any:
    """A density of training times; its arguments may be densities and schedules."""
    return parse(where, text, registry.TIMES, parts=registry.PARTS)


def coupling(text: str) -> Any:
    """The coupling of `objective.coupling`; None of an empty text.

    Raises:
      UsageError: it is unknown, or keeps no protocol.
    """
    if not text:
        return None
    where = "objective.coupling"
    built = parse(where, text, registry.COUPLINGS)
    if external.references(text):
        protocols.check_coupling(where, built)
    return built


def sampler(section: Mapping[str, Any]) -> Any:
    """The sampler of a section `name, num_steps, grid`."""
    parts = dict(diffusion_fn=registry.DIFFUSIONS)
    built = parse("sampler.name", section["name"], registry.SAMPLERS, parts=parts)
    with naming(f"sampler.name: {section['name']}"):
        samplers.steps.check_sampler(built)
    return built


def grid(section: Mapping[str, Any], schedule: schedules.Schedule) -> np.ndarray:
    """Sampling times, float64 [num_steps + 1], of a section `name, num_steps, grid`."""
    known = {"num_steps": section["num_steps"], "schedule": schedule}
    times = np.asarray(parse("sampler.grid", section["grid"], registry.GRIDS, **known))
    good = times.ndim == 1 and len(times) > 1 and (np.diff(times) < 0).all()
    if not (good and times[-1] >= 0 and times[0] <= 1):
        raise UsageError(
            f"sampler.grid: {section['grid']} gives an array of shape {times.shape}: "
            "must be at least two times that fall from at most 1 to at least 0"
        )
    return times


def check_start(objective: objectives.Objective, times: np.ndarray) -> None:
    """Raises a `UsageError` if the network's output is of no use on a sampling grid."""
    with naming("sampler.grid"):
        predictions.check_determined(
            objective.kind, times[:-1], schedule=objective.schedule
        )


def dataset(section: Mapping[str, Any]) -> data.DataSet:
    """The data set of a section `name` and arguments."""
    found = from_section("data", section, registry.DATASETS)
    return adapters.as_dataset(f"data.name: {section['name']}", found)


def network(
    section: Mapping[str, Any], num_classes: int, vector_features: int = 0
) -> Any:
    """The network of a section `name` and arguments.

    Args:
      section: its `vector_features` are those of the data where it has no such entry.
      num_classes: of the data.
      vector_features: of the conditions of the data; 0 for none.
    """
    built = _network(section, num_classes, vector_features)
    vectors = getattr(built, "vector_features", 0)
    bound = f"{vector_features}, the number of features of the data's conditions"
    require("network.vector_features", vectors, vectors == vector_features, bound)
    return built


def _network(section: Mapping[str, Any], num_classes: int, vector_features: int) -> Any:
    """`network`, whatever number of features it has itself."""
    known = dict(num_classes=num_classes)
    if "vector_features" not in section and "vector_features=" not in section["name"]:
        known["vector_features"] = vector_features
    built = from_section(
        "network", section, registry.NETWORKS, adapt_fn=adapters.constructor, **known
    )
    return adapters.as_network(f"network.name: {section['name']}", built)


def method(section: Mapping[str, Any]) -> methods.Method | None:
    """The method of a section `distillation`, or None where it names none.

    Raises:
      UsageError: a name or an argument is unknown, or it is no `methods.Method`.
    """
    text = section["method"]
    if not text:
        return None
    parts = registry.PARTS
    built = parse("distillation.method", text, registry.METHODS, parts=parts)
    if not isinstance(built, methods.Method):
        raise UsageError(
            f"distillation.method: {text} gives {built!r}: must be an instance of "
            "experiments.config.methods.Method"
        )
    return built


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


def check_guidance(net: Any, section: Mapping[str, Any], guidance: float) -> None:
    """Raises a `UsageError` where jumps of a two-time network would be guided.

    Args:
      net: of the run.
      section: of the sampler.
      guidance: scale.
    """
    if not getattr(net, "two_times", False):
        return
    if isinstance(sampler(section), samplers.FlowMap):
        bound = "0 or 1 with flow_map: the jumps were trained without guidance"
        require("guidance", guidance, guidance in (0, 1), bound)


def callbacks(texts: Sequence[str]) -> list[Callable[[int, Mapping[str, Any]], None]]:
    """The functions `(step, row)` that are called with every row of metrics.

    Args:
      texts: `module:function`, or `module:Class(arguments)` whose instances are called.

    Raises:
      UsageError: there is no such function, or it is not callable.
    """
    return [function("callbacks", text) for text in texts]


def function(where: str, text: str) -> Callable[..., Any]:
    """The function `module:name`, or what `module:Class(arguments)` makes.

    Args:
      where: config entry or flag, for errors.
      text: the reference; an instance is made of a class without brackets, too.

    Raises:
      UsageError: there is no such thing, or it is not callable.
    """
    plain = external.REFERENCE.fullmatch(text.strip())
    if plain is None:
        found = parse(where, text, {})
    else:
        found = external.resolve(where, *plain.groups())
        found = found() if isinstance(found, type) else found
    if not callable(found):
        raise UsageError(f"{where}: {text} gives {found!r}: must be callable")
    return found


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
    """Checks every value of a config that can be judged without data and network.

    Compiles nothing.

    Raises:
      UsageError: a name is unknown or missing, or a value of another type, which
        `schema.settle` cannot convert, or out of bounds.
    """
    schema.settle(config)
    schema.check_complete(config)
    schema.check_bounds(config)
    dropout = config["network"].get("dropout", 0)
    dropout = schema.typed("network.dropout", dropout, float)
    require("network.dropout", dropout, 0 <= dropout < 1, "in [0, 1)")
    low, high = config["log"]["logsnr_min"], config["log"]["logsnr_max"]
    require("log.logsnr_min", low, low < high, f"below log.logsnr_max={high}")
    parts = config["optimizer"]["accumulate"]
    sharding.check_batch("batch_size", config["batch_size"], parts)
    sharding.check_fsdp("sharding.fsdp", config["sharding"]["fsdp"])
    built = objective(config["objective"])
    schedule = built.schedule
    if (pairs := coupling(config["objective"]["coupling"])) is not None:
        coupled.check(pairs, config["batch_size"])
    chosen, times = sampler(config["sampler"]), grid(config["sampler"], schedule)
    check_start(built, times)
    if external.references(config["sampler"]["name"]):
        where = f"sampler.name: {config['sampler']['name']}"
        protocols.check_sampler(where, chosen, times, schedule)
    few_step = method(config["distillation"])
    net = None
    if few_step and not external.references(config["network"]["name"]):
        net = _network(config["network"], num_classes=1, vector_features=0)
        check_guidance(net, config["sampler"], config["guidance"])
    check_method(config, few_step, net)
    stages = few_step.num_stages if few_step else 1
    optimizers.optimizer(config["optimizer"], config["num_steps"] // stages)
    average = config["ema"]
    with naming("ema"):
        settings = dict(limit=average["limit"], warmup=average["warmup"])
        jax.eval_shape(lambda: ema.decay(0, **settings))  # traced, not compiled
    profiles(average)
    callbacks(config["callbacks"])
    with naming("sigma_data"):
        predictions.precondition(
            jnp.zeros_like, schedule=schedule, sigma_data=config["sigma_data"]
        )
