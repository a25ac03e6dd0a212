"""Blocks of a page: charts as plain values for Plotly."""

from typing import Any, NamedTuple

MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")

Trace = dict[str, Any]


class Chart(NamedTuple):
    """A figure and what to read from it.

    Fields:
      title: of the figure, plain text.
      caption: what is drawn, with units.
      data: traces.
      layout: without colours.
    """

    title: str
    caption: str
    data: list[Trace]
    layout: dict[str, Any]


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis of a layout, with room for its title."""
    return {"title": {"text": title, "standoff": 6}, "automargin": True} | more
