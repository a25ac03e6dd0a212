"""Builds what a config describes: objective, sampler, data, network.

Objects are written in a config as call strings, such as `"cosine(logsnr_min=-15.0)"`,
`"stratified(logit_normal(std=1.2))"` or `"own:Mine(beta=2.0)"`; data set and network
are sections whose `name` chooses and whose other entries are arguments. Users' own are
checked by the protocol that they must keep.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusionflow import objectives, predictions, samplers, schedules
from experiments.config import (
    adapters,
    elsewhere,
    external,
    grid_files,
    methods,
    protocols,
    registry,
)
from experiments.config.model import Model
from experiments.config.parsing import from_section, parse
from experiments.data.base import DataSet, DataTransform
from experiments.runtime.errors import UsageError, naming, require


def objective(section: Mapping[str, Any]) -> objectives.Objective:
    """Builds the objective of a section `schedule, kind, weighting, times, proposal`.

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
    """Reads the prediction type; for an ambiguous word an error lists the kinds."""
    if text in predictions.AMBIGUOUS:
        with naming("objective.kind"):
            predictions.Kind(text)
    return parse("objective.kind", text, registry.KINDS)


def _density(where: str, text: str) -> Any:
    """Builds a density of training times; arguments may be densities and schedules."""
    return parse(where, text, registry.TIMES, parts=registry.PARTS)


def coupling(text: str) -> Any:
    """Builds the coupling of `objective.coupling`; None of an empty text.

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
    """Builds the sampler of a section `name, num_steps, grid`."""
    if (named := elsewhere.named(section["name"])) is not None:
        return named.sampler
    parts = dict(diffusion_fn=registry.DIFFUSIONS)
    built = parse("sampler.name", section["name"], registry.SAMPLERS, parts=parts)
    with naming(f"sampler.name: {section['name']}"):
        samplers.steps.check_sampler(built)
    return built


def grid(section: Mapping[str, Any], schedule: schedules.Schedule) -> np.ndarray:
    """Makes sampling times, float64 [num_steps + 1], of `name, num_steps, grid`."""
    known = {"num_steps": section["num_steps"], "schedule": schedule}
    if (grid_fn := elsewhere.grid_fn(section)) is not None:
        with naming("sampler.grid"):
            return grid_fn(**known)
    if grid_files.is_file(section["grid"]):
        return grid_files.times(section, schedule)
    times = np.asarray(parse("sampler.grid", section["grid"], registry.GRIDS, **known))
    good = times.ndim == 1 and len(times) > 1 and (np.diff(times) < 0).all()
    if not (good and times[-1] >= 0 and times[0] <= 1):
        raise UsageError(
            f"sampler.grid: {section['grid']} gives an array of shape {times.shape}: "
            "must be at least two times that fall from at most 1 to at least 0"
        )
    return times


class Sampling(NamedTuple):
    """A sampler and the times of its steps, float64 [num_steps + 1]."""

    sampler: Any
    times: np.ndarray


def sampling(section: Mapping[str, Any], schedule: schedules.Schedule) -> Sampling:
    """Builds the sampler and its times, of a section `name, num_steps, grid`."""
    return Sampling(sampler(section), grid(section, schedule))


def check_plan(section: Mapping[str, Any], schedule: schedules.Schedule) -> None:
    """Raises a `UsageError` where there is no plan of a sampler on its grid."""
    sampler, times = sampling(section, schedule)
    with naming(f"sampler.name: {section['name']}"):
        samplers.plan(sampler, times, schedule=schedule)


def check_start(objective: objectives.Objective, times: np.ndarray) -> None:
    """Raises a `UsageError` if the network's output is of no use on a sampling grid."""
    with naming("sampler.grid"):
        predictions.check_determined(
            objective.kind, times[:-1], schedule=objective.schedule
        )


def dataset(section: Mapping[str, Any]) -> DataSet:
    """Builds the data set of a section `name` and arguments."""
    found = from_section("data", section, registry.DATASETS)
    return adapters.as_dataset(f"data.name: {section['name']}", found)


def network(
    section: Mapping[str, Any], num_classes: int, vector_features: int = 0
) -> Any:
    """Builds the network of a section `name` and arguments.

    Args:
      section: its `vector_features` are those of the data where it has no such entry.
      num_classes: of the data.
      vector_features: of the conditions of the data; 0 for none.
    """
    built = unchecked_network(section, num_classes, vector_features)
    vectors = getattr(built, "vector_features", 0)
    bound = f"{vector_features}, the number of features of the data's conditions"
    require("network.vector_features", vectors, vectors == vector_features, bound)
    return built


def unchecked_network(
    section: Mapping[str, Any], num_classes: int, vector_features: int
) -> Any:
    """Builds a network as `network` does, whatever its number of vector features is."""
    known = dict(num_classes=num_classes)
    if "vector_features" not in section and "vector_features=" not in section["name"]:
        known["vector_features"] = vector_features
    built = from_section(
        "network", section, registry.NETWORKS, adapt_fn=adapters.constructor, **known
    )
    return adapters.as_network(f"network.name: {section['name']}", built)


def method(section: Mapping[str, Any]) -> methods.Method | None:
    """Builds the few-step method of a section `distillation`; None if it names none.

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


def check_guidance(net: Any, sampler: Any, guidance: float) -> None:
    """Raises a `UsageError` where jumps of a two-time network would be guided.

    Args:
      net: of the run.
      sampler: with which it is sampled.
      guidance: scale.
    """
    two_times = getattr(net, "two_times", False)
    if two_times and isinstance(sampler, samplers.FlowMap):
        bound = "0 or 1 with flow_map: the jumps were trained without guidance"
        require("guidance", guidance, guidance in (0, 1), bound)


def model(
    config: Mapping[str, Any],
    built: objectives.Objective,
    few_step: methods.Method | None,
    *,
    event_shape: tuple[int, ...],
    num_classes: int,
    levels: int | None,
    vector_features: int,
) -> Model:
    """Builds the model of a run and its network.

    Args:
      config: with the section `network` and the value `sigma_data`.
      built: its objective.
      few_step: its method, or None.
      event_shape: of the data.
      num_classes: of the data.
      levels: of the data, or None.
      vector_features: of the conditions of the data; 0 for none.
    """
    return Model(
        net=network(config["network"], num_classes, vector_features),
        objective=built,
        transform=DataTransform(levels),
        event_shape=event_shape,
        num_classes=num_classes,
        sigma_data=config["sigma_data"],
        vector_features=vector_features,
        method=few_step,
    )


def model_of(identity: Mapping[str, Any]) -> Model:
    """Builds the model of a checkpoint, without its data set.

    Args:
      identity: as the checkpoint carries it.
    """
    facts = {"vector_features": 0} | identity["data"]
    config = {"distillation": {"method": ""}} | identity["config"]
    return model(
        config,
        objective(config["objective"]),
        method(config["distillation"]),
        **facts | {"event_shape": tuple(facts["event_shape"])},
    )
