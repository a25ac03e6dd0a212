"""Describes an objective in words and numbers, for `experiments.explain`."""

import contextlib
import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from diffusionflow import objectives, schedules
from diffusionflow._numeric import in_float64
from diffusionflow.objectives import Objective
from experiments.config import build, schema
from experiments.config.parsing import parse
from experiments.runtime.errors import UsageError

RECIPES = {recipe.__name__: recipe for recipe in objectives.RECIPES}
RANGE = (-10.0, 10.0)  # of the log-SNR, as far as the schedules reach
NUM_POINTS = 2_001
VARIANTS = (  # of recipes, besides those without arguments
    "score_sde_vp(likelihood=True)",
    "score_sde_subvp(likelihood=True)",
    "score_sde_ve(likelihood=True)",
    "sit('linear', 'eps')",
    "sit('gvp')",
    "sit('gvp', 'eps')",
    "sit('vp')",
    "sit('vp', 'eps')",
)
SHOWN = ("flow_matching", "edm", "sd3", "sid2", "vdm")  # in the picture as well
SAME = 1e-9  # relative: closer than any two recipes that are only similar
STEP = 1e-10  # relative, between neighbours
MIN_RANGE = 1.0  # log-SNR, to be called equal there


class Named(NamedTuple):
    """An objective.

    Fields:
      name: what to call it.
      objective: of independent noise, as in recipes, where `coupling` is empty.
      coupling: how noise is paired with data, in words.
    """

    name: str
    objective: Objective
    coupling: str = ""


class Stretch(NamedTuple):
    """Where two total weights are proportional: `W_a = constant W_b` in [low, high]."""

    low: float
    high: float
    constant: float


def from_config(name: str, config: ConfigDict) -> Named:
    """Builds the objective of a config.

    Raises:
      UsageError: the config is no config, or its objective is wrong.
    """
    schema.settle(config)
    schema.check_complete(config)
    section = config["objective"]
    build.coupling(section["coupling"])
    return Named(name, build.objective(section), coupling_of(config))


def coupling_of(config: Mapping[str, Any]) -> str:
    """Describes how a config couples noise with data; empty if independently."""
    if config["data"]["name"].partition("(")[0] == "pairs":
        return "as in a file of pairs"
    text = config["objective"].get("coupling", "")
    return "" if text in ("", "independent") else f"by {text}"


def from_recipe(text: str) -> Named:
    """Builds the objective of a recipe, `name` or `name(key=value)`.

    Raises:
      UsageError: there is no such recipe.
    """
    built = parse("--against", text, RECIPES)
    try:
        in_float64(objectives.total_weight, built, np.zeros(1))
    except (TypeError, ValueError) as error:
        raise UsageError(f"--against={text}: {error}") from error
    return Named(text, built)


def common_range(*some: Objective) -> tuple[float, float]:
    """Returns the part of `RANGE` that the schedules of all objectives reach.

    Raises:
      UsageError: there is none.
    """
    ends = [objective.schedule.logsnr_range() for objective in some]
    low = max(RANGE[0], *(first for first, _ in ends))
    high = min(RANGE[1], *(last for _, last in ends))
    if low >= high:
        named = " and ".join(str(objective.schedule) for objective in some)
        raise UsageError(
            f"no log-SNR in {RANGE} is reached by {named}: "
            "give objectives whose schedules overlap"
        )
    return low, high


def weights(objective: Objective, logsnr: np.ndarray) -> np.ndarray:
    """Computes the total weight in float64; NaN where the schedule does not reach."""
    low, high = objective.schedule.logsnr_range()
    inside = (low <= logsnr) & (logsnr <= high)
    total = np.full(logsnr.shape, np.nan)
    if inside.any():
        total[inside] = in_float64(objectives.total_weight, objective, logsnr[inside])
    return total


def stretch(a: Objective, b: Objective) -> Stretch | None:
    """Finds the longest range on which two objectives are the same; None if short."""
    logsnr = np.linspace(*common_range(a, b), NUM_POINTS)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(weights(a, logsnr)) - np.log(weights(b, logsnr))
        level = np.abs(np.diff(ratio)) < STEP
    edges = np.flatnonzero(np.diff(np.concatenate([[0], level.astype(int), [0]])))
    runs = edges.reshape(-1, 2)  # points first..last inclusive are level
    if not runs.size:
        return None
    first, last = runs[np.argmax(runs[:, 1] - runs[:, 0])]
    part = ratio[first : last + 1]
    long = logsnr[last] - logsnr[first] >= MIN_RANGE
    if not long or np.ptp(part) > SAME:
        return None
    constant = float(np.exp(np.median(part)))
    return Stretch(float(logsnr[first]), float(logsnr[last]), constant)


def text(own: Named, other: Named | None = None) -> str:
    """Formats the whole report."""
    sections = [_description(own), _table(own)]
    if other is not None:
        sections.append(_description(other))
    sections.append(_recipes(own))
    if other is not None:
        sections.append(comparison(own, other))
    return "\n\n".join(sections)


def _description(named: Named) -> str:
    objective = named.objective
    low, high = objective.schedule.logsnr_range()
    proposal = "none" if objective.proposal is None else objective.proposal
    paired = f"  noise      paired {named.coupling}: the optimum is another one than "
    paired += "that of independent noise, which recipes have"
    return "\n".join(
        [
            named.name,
            f"  schedule   {objective.schedule}, log-SNR {low:.6g} to {high:.6g}",
            f"  output     {objective.kind}",
            f"  weighting  {objective.weighting} on the squared error of "
            f"{objective.weighting.kind}",
            f"  times      {objective.times}",
            f"  proposal   {proposal}",
            *([paired] if named.coupling else []),
        ]
    )


def _table(own: Named) -> str:
    """Tabulates time, density of the log-SNR and total weight at eleven log-SNRs."""
    objective = own.objective
    logsnr = np.linspace(*common_range(objective), 11)

    def columns(objective: Objective, logsnr: np.ndarray) -> tuple:
        schedule = objective.schedule
        t = schedule.inverse_logsnr(logsnr)
        slope = abs(schedule.dlogsnr_dt(t))
        return t, objective.times.density(t, schedule=schedule) / slope

    t, density = in_float64(columns, objective, logsnr)
    weight = weights(objective, logsnr)
    largest = weight.max()
    lines = ["  log-SNR         t  density of log-SNR  total weight W  W / largest"]
    for row in zip(logsnr, t, density, weight, weight / largest, strict=True):
        lines.append("{:9.3f} {:9.6f} {:19.4e} {:15.4e} {:12.4f}".format(*row))
    return "\n".join(lines)


def _recipes(own: Named) -> str:
    """Lists the recipes that the objective equals, each with range and constant."""
    named = {
        name: parse("recipe", name, RECIPES) for name in (*RECIPES, *VARIANTS)
    } | _with_own_values(own.objective)
    lines = []
    for name, recipe in named.items():
        equal = stretch(own.objective, recipe)
        if equal is not None:
            lines.append(
                f"  {name:30s} on log-SNR {equal.low:.4g} to {equal.high:.4g}: "
                f"{equal.constant:.6g} times its W"
            )
    if not lines:
        return "equals none of the named recipes on any range"
    return "\n".join(["equals, up to a constant:", *lines])


def _with_own_values(own: Objective) -> dict[str, Objective]:
    """Makes the recipes with the values that the objective has: `edm(sigma_data=0.85)`.

    The names of their arguments are those of fields of its parts.
    """
    values = dict(_numbers(dataclasses.replace(own, proposal=None)))
    low, high = common_range(own)
    found = {}
    if isinstance(own.schedule, schedules.Shifted):
        values["shift"] = float(own.schedule.k)
    for name, recipe in RECIPES.items():
        arguments = {
            key: values[key]
            for key, parameter in inspect.signature(recipe).parameters.items()
            if key in values and values[key] != parameter.default
        }
        if not arguments:
            continue
        with contextlib.suppress(ValueError):  # a value of another part, out of bounds
            made = recipe(**arguments)
            first, last = made.schedule.logsnr_range()
            if max(low, first) < min(high, last):
                text = ", ".join(f"{key}={value:g}" for key, value in arguments.items())
                found[f"{name}({text})"] = made
    return found


def _numbers(part: Any) -> Iterator[tuple[str, float]]:
    """Yields the numbers of a dataclass and of those inside it, by their fields."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            yield from _numbers(value)
        elif isinstance(value, (int, float)):
            yield field.name, value


def comparison(own: Named, other: Named) -> str:
    """States whether two objectives are the same, or how far apart and where."""
    both = own.objective, other.objective
    low, high = common_range(*both)
    result = objectives.same_objective(*both, (low, high), NUM_POINTS)
    where = f"on log-SNR {low:.4g} to {high:.4g}"
    if own.coupling != other.coupling:
        pairs = [one.coupling or "independently" for one in (own, other)]
        return (
            f"against {other.name}: another objective: noise is paired with data "
            f"{pairs[0]} here and {pairs[1]} there"
        )
    if result.same:
        return (
            f"against {other.name}: the same objective {where}, "
            f"{result.constant:.6g} times its W"
        )
    lines = [
        f"against {other.name}: a different objective {where}; the ratio of W to its W "
        f"has median {result.constant:.4g} and differs from it by a fraction of up to "
        f"{result.deviation:.4g}, at log-SNR {result.logsnr:.4g}"
    ]
    part = stretch(*both)
    if part is not None:
        lines.append(
            f"  but the same on {part.low:.4g} to {part.high:.4g}, "
            f"{part.constant:.6g} times its W"
        )
    return "\n".join(lines)


def recipe_weights(logsnr: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the total weights of the recipes `SHOWN`, each like `logsnr`."""
    return {name: weights(RECIPES[name](), logsnr) for name in SHOWN}
