"""Builds the charts of a comparison, as plain values for Plotly.

A trace names its group by `meta.group`; the page colors it for the reader's light or
dark theme. Groups differ in their markers too, and samplers in their dashes.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.comparison.paired import Comparison
from experiments.comparison.quantities import Samples
from experiments.comparison.run_record import Group
from experiments.visualization.blocks import MARKERS, Chart, Trace, axis

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
METRIC = "test_eps_mse_ema"


def _line(
    x: Sequence[float],
    y: Sequence[float],
    *,
    group: int,
    name: str,
    dash: str = "solid",
    **more: Any,
) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(x),
        "y": list(y),
        "name": name,
        "line": {"dash": dash, "width": 2},
        "marker": {"symbol": MARKERS[group], "size": 7},
        "meta": {"group": group},
    } | more


def _band(
    x: Sequence[float], low: Sequence[float], high: Sequence[float], group: int
) -> Trace:
    """Returns a trace that fills the area between `low` and `high`."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *reversed(x)],
        "y": [*high, *reversed(low)],
        "fill": "toself",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "meta": {"group": group, "band": True},
    }


def curves(groups: Sequence[Group]) -> Chart | None:
    """Draws the held-out eps-MSE over training; None if no run recorded it."""
    sizes = {run.config["batch_size"] for group in groups for run in group.runs}
    data = []
    for number, group in enumerate(groups):
        each = [
            {row["step"]: row[METRIC] for row in run.rows if row.get(METRIC)}
            for run in group.runs
        ]
        steps = sorted(set.intersection(*map(set, each)))
        if not steps:
            continue
        values = np.array([[one[step] for step in steps] for one in each])
        scale = group.first.config["batch_size"] if len(sizes) > 1 else 1
        x = [step * scale for step in steps]
        if len(each) > 1:
            ends = values.min(0).tolist(), values.max(0).tolist()
            data.append(_band(x, *ends, number))
        data.append(_line(x, values.mean(0).tolist(), group=number, name=group.name))
    if not data:
        return None
    return Chart(
        "Held-out eps-MSE during training",
        "Mean squared error of eps per dimension, mean over log-SNRs -4 to 6, EMA "
        "weights, held-out examples: it compares denoisers whatever their objectives. "
        "Of several seeds: the mean, and a band from the smallest to the largest.",
        data,
        {
            "xaxis": axis("training examples seen" if len(sizes) > 1 else "step"),
            "yaxis": axis("eps-MSE", type="log"),
        },
    )


def levels(
    comparisons: Sequence[Comparison], logsnr: Sequence[float], names: Sequence[str]
) -> Chart | None:
    """Draws each eps-MSE relative to the reference's, by log-SNR."""
    data, reference = [], names[0]
    for number, name in enumerate(names):
        rows = []
        for level, one in zip(logsnr, comparisons, strict=True):
            if name in one.differences and one.reference == reference:
                percent = 100 / one.values[reference].value
                difference = one.differences[name]
                ends = (difference.value, difference.low, difference.high)
                rows.append((level, *(percent * end for end in ends)))
        if rows:
            x, value, low, high = zip(*rows, strict=True)
            data += [
                _band(x, low, high, number),
                _line(x, value, group=number, name=name),
            ]
    if not data:
        return None
    return Chart(
        f"eps-MSE relative to {reference}",
        "How much larger (above 0) or smaller the error is at each log-SNR, in per "
        "cent, with its 95 % interval. Noise is to the left, data to the right.",
        data,
        {
            "xaxis": axis("log-SNR"),
            "yaxis": axis("difference, %", zeroline=True),
        },
    )


def quality(samples: Sequence[Samples], names: Sequence[str]) -> list[Chart]:
    """Draws distance against NFE, a chart for each metric and kind of features."""
    kinds = dict.fromkeys((one.features, one.metric) for one in samples)
    return [
        _quality(
            [one for one in samples if (one.features, one.metric) == kind], *kind, names
        )
        for kind in kinds
    ]


def _quality(
    samples: Sequence[Samples], features: str, metric: str, names: Sequence[str]
) -> Chart:
    data = _quality_lines(samples, names)
    baseline = next((one.baseline for one in samples if one.baseline is not None), None)
    ticks = sorted({calls for one in samples for calls in one.calls.values()})
    lows = [each.low for one in samples for each in one.comparison.values.values()]
    if baseline is not None:
        data.append(_baseline(baseline, ticks))
        lows.append(baseline["value"])
    log = any(one.comparison.values for one in samples) and min(lows) > 0
    return Chart(
        f"{metric.capitalize()} distance in {features}",
        f"Distance to the training examples in {features}; lower is better. Bands and "
        "bars: 95 % intervals of each value alone; the paired differences in the table "
        "are mostly sharper. Horizontal line: the held-out examples, as a baseline.",
        data,
        {
            "xaxis": _nfe_axis(ticks),
            "yaxis": axis("distance", type="log" if log else "linear"),
        },
    )


def _nfe_axis(ticks: Sequence[int]) -> dict[str, Any]:
    shown = [ticks[0]]
    shown += [b for a, b in itertools.pairwise(ticks) if b > 1.25 * a]  # or they touch
    text = [str(tick) for tick in shown]
    settings = axis("NFE", type="log", tickvals=shown, tickangle=0)
    return settings | {"ticktext": text}


def _quality_lines(samples: Sequence[Samples], names: Sequence[str]) -> list[Trace]:
    """Draws a line for each recipe, sampler and grid."""
    families = list(dict.fromkeys(one.family for one in samples))
    data = []
    for number, name in enumerate(names):
        for place, family in enumerate(families):
            rows = sorted(
                (one.calls[name], *one.comparison.values[name][:4])
                for one in samples
                if one.family == family and name in one.comparison.values
            )
            if rows:
                data += _quality_line(rows, number, f"{name}: {family}", place)
    return data


def _quality_line(
    rows: Sequence[tuple[float, ...]], group: int, name: str, place: int
) -> list[Trace]:
    x, value, _, low, high = (list(column) for column in zip(*rows, strict=True))
    line = _line(x, value, group=group, name=name, dash=DASHES[place % len(DASHES)])
    if len(x) > 1:
        return [_band(x, low, high, group), line]
    line["error_y"] = {
        "type": "data",
        "symmetric": False,
        "array": [high[0] - value[0]],
        "arrayminus": [value[0] - low[0]],
    }
    return [line]


def _baseline(baseline: Mapping[str, Any], ticks: Sequence[int]) -> Trace:
    value = baseline["value"]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [ticks[0], ticks[-1]] if len(ticks) > 1 else [ticks[0] / 2, ticks[0] * 2],
        "y": [value, value],
        "name": f"{baseline['recipe']['counts'][0]:,} held-out examples",
        "line": {"dash": "dash", "width": 1.5},
        "meta": {"group": -1},
    }
