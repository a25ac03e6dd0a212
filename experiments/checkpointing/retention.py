"""Decides which checkpoints of a run are kept: the newest, and the best by a metric."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.config import schema


class Keep(NamedTuple):
    """Retention policy.

    Fields:
      newest: how many of the newest.
      best: how many of the best as well; one without the metric is not ranked.
      metric: by which they are ranked, lowest first; not finite is last.
    """

    newest: int = 1
    best: int = 0
    metric: str = schema.RANKING_METRICS[0]


NEWEST = Keep()


def removable(metrics: Mapping[int, Mapping[str, Any]], keep: Keep) -> list[int]:
    """Lists the steps that need not be kept.

    Args:
      metrics: of each step that may be removed.
      keep: what must stay.
    """
    ranked = sorted(
        (step for step in metrics if keep.metric in metrics[step]),
        key=lambda step: (_rank(metrics[step][keep.metric]), -step),
    )
    kept = {*sorted(metrics)[-keep.newest :], *ranked[: keep.best]}
    return sorted(metrics.keys() - kept)


def ranking(row: Mapping[str, Any]) -> dict[str, Any]:
    """Selects the ranking metrics of a row of the log."""
    return {name: row[name] for name in schema.RANKING_METRICS if name in row}


def _rank(value: Any) -> float:
    return value if value is not None and math.isfinite(value) else math.inf
