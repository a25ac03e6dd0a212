"""Shows samples of recipes side by side; a column starts from one noise and label."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.comparison.run_record import Group, RunRecord, sampler_key
from experiments.runtime import files
from experiments.visualization import sample_images
from experiments.visualization.blocks import (
    MARKERS,
    Chart,
    Lines,
    Row,
    Section,
    Strip,
    axis,
)

SHOWN = 20
A_ROW = 10
MOST_POINTS = 1_000
PAIRED = (
    "weights",
    "seed",
    "label",
    "conditions",
    "guidance",
)  # settings that make a pair

Choice = dict[int, tuple[RunRecord, Mapping[str, Any]]]


class SampleSet(NamedTuple):
    """Samples of a recipe with the settings that they were drawn by.

    Fields:
      name: of the recipe.
      samples: stored values, `[n, *event]`.
      labels: `[n]`.
      settings: of the sampler.
    """

    name: str
    samples: np.ndarray
    labels: np.ndarray
    settings: Mapping[str, Any]


def section(groups: Sequence[Group]) -> Section | None:
    """Builds the section for the sampler that most groups share; None without samples.

    Says why other groups are left out.
    """
    chosen = _chosen(groups)
    if not chosen:
        return None
    sample_sets, lines = _read(groups, chosen)
    for number, group in enumerate(groups):
        if number not in chosen and group.evaluated:
            lines.append(f"{group.name} has no samples of this sampler and seed")
    sampler = next(iter(chosen.values()))[1]["sampler"]
    lead = (
        f"Sampler {sampler['name']}, {sampler['num_steps']} steps. "
        "Samples in the same position come from the same noise and label."
    )
    steps = {one.name: one.settings["step"] for one in sample_sets.values()}
    if len(set(steps.values())) > 1:
        listed = ", ".join(f"{name} {step:,}" for name, step in steps.items())
        lead += f" Trained to different steps: {listed}."
    return Section(
        "Samples side by side",
        lead,
        [
            *_pictures(groups, sample_sets),
            *([Lines(lines, "refused")] if lines else []),
        ],
    )


def _chosen(groups: Sequence[Group]) -> Choice:
    """Chooses the first run of each group and its samples, by the group's index.

    Of the sampler that most groups share, and of these of that with the most calls.
    """
    rows: dict[Any, Choice] = {}
    for number, group in enumerate(groups):
        for run in group.evaluated[:1]:
            for row in run.evaluation["samples"]:
                key = (sampler_key(row), run.evaluation["settings"]["samples"]["seed"])
                rows.setdefault(key, {})[number] = (run, row)
    rank = lambda at: (len(at), next(iter(at.values()))[1]["nfe"])
    return max(rows.values(), key=rank, default={})


def _read(
    groups: Sequence[Group], chosen: Choice
) -> tuple[dict[int, SampleSet], list[str]]:
    """Reads the chosen samples by group; a line for each set that is not paired."""
    sample_sets: dict[int, SampleSet] = {}
    lines = []
    for number, (run, row) in chosen.items():
        name, path = groups[number].name, run.workdir / row["file"]
        try:
            file = files.read_npz(path, "settings", "samples", "labels")
            settings = files.parse_json(str(file["settings"]))
            one = SampleSet(name, file["samples"], file["labels"], settings)
        except ValueError as error:
            lines.append(f"the samples of {name} cannot be read: {error}")
            continue
        why = _stale(run, one) or next(
            (_unpaired(first, one) for first in sample_sets.values()), None
        )
        if why is None:
            sample_sets[number] = one
        else:
            lines.append(f"the samples of {name} are not shown: {why}")
    return sample_sets, lines


def _stale(run: RunRecord, one: SampleSet) -> str | None:
    """Returns why samples are not those of the evaluation; None if they are."""
    for name in ("step", "weights", "parameters"):
        there, here = one.settings.get(name), run.evaluation["settings"][name]
        if there != here:
            return f"sampled from {name} {there!r}, and {here!r} were evaluated"
    return None


def _unpaired(a: SampleSet, b: SampleSet) -> str | None:
    """Returns why two sets do not share noise and labels; None if they do."""
    shapes = [one.samples.shape[1:] for one in (a, b)]
    if shapes[0] != shapes[1]:
        return f"they have the shape {shapes[1]}, and those of {a.name} {shapes[0]}"
    for name in PAIRED:
        there, here = a.settings.get(name), b.settings.get(name)
        if there != here:
            return f"they are of {name} {here!r}, and those of {a.name} of {there!r}"
    labels = [one.labels[:SHOWN] for one in (a, b)]
    count = min(map(len, labels))
    if not np.array_equal(labels[0][:count], labels[1][:count]):
        return f"their labels are not those of {a.name}"
    return None


def _pictures(groups: Sequence[Group], sample_sets: dict[int, SampleSet]) -> list[Any]:
    if not sample_sets:
        return []
    some = next(iter(sample_sets.values())).samples
    if some.ndim not in (2, 4) or not sample_images.num_shown(some.shape[1:]):
        text = f"samples of shape {list(some.shape[1:])}: shown are images and points"
        return [Lines([text], "refused")]
    if some.ndim == 2:
        reach = max(
            float(np.abs(one.samples[:, :2]).max()) for one in sample_sets.values()
        )
        each = [
            _points(one.samples, group=number, name=one.name, reach=1.1 * reach)
            for number, one in sample_sets.items()
        ]
        return [Row(each, narrow=True)]
    levels = groups[next(iter(sample_sets))].first.identity["data"]["levels"]
    return [
        Strip(
            [
                (one.name, one.samples[first : first + A_ROW])
                for one in sample_sets.values()
            ],
            levels,
            f"samples {first} to {first + A_ROW - 1}",
        )
        for first in range(0, min(SHOWN, len(some)), A_ROW)
    ]


def _points(samples: np.ndarray, *, group: int, name: str, reach: float) -> Chart:
    """Draws points in the plane, of which those of one index start from one noise."""
    shown = np.round(samples[:MOST_POINTS, :2].astype(np.float64), 4)
    x, y = shown.T.tolist()
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": x,
        "y": y,
        "name": name,
        "marker": {"symbol": MARKERS[group], "size": 4, "opacity": 0.6},
        "meta": {"group": group},
    }
    ends = [-reach, reach]
    return Chart(
        name,
        f"{len(shown):,} samples",
        [trace],
        {
            "xaxis": axis("", range=ends, constrain="domain"),
            "yaxis": axis("", range=ends, scaleanchor="x"),
            "showlegend": False,
        },
    )
