"""Defines the blocks of an HTML page: tables, charts, images and sliders.

`html_page.render` turns them into HTML; nothing here knows of it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")

Trace = dict[str, Any]


class Chart(NamedTuple):
    """A Plotly figure and what to read from it.

    Fields:
      title: of the figure, plain text.
      caption: what is drawn, with units.
      data: Plotly traces; `meta.group` is the index of their colour, -1 for grey.
      layout: Plotly's, without colours, which follow the reader's light or dark theme.
    """

    title: str
    caption: str
    data: list[Trace]
    layout: dict[str, Any]


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Returns a Plotly axis with room for its title; `more` are further settings."""
    return {"title": {"text": title, "standoff": 6}, "automargin": True} | more


class Table(NamedTuple):
    """A table; the first cell of each row is its header, wide tables scroll."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


class Lines(NamedTuple):
    """A list of sentences; `kind` is "result", "equal", "refused" or "note"."""

    lines: Sequence[str]
    kind: str = "result"


class Row(NamedTuple):
    """Charts next to each other, as many as the width allows."""

    charts: Sequence[Chart]
    narrow: bool = False


class Strip(NamedTuple):
    """Rows of images, aligned so that each column has one noise.

    Fields:
      rows: a name and images, uint8 [n, height, width, channels], each.
      levels: number of values a pixel can take.
      caption: what is shown.
    """

    rows: Sequence[tuple[str, np.ndarray]]
    levels: int
    caption: str


class Slider(NamedTuple):
    """A setting that the reader chooses: a number, or one of several names.

    Fields:
      name: plain text.
      places: label of each choice.
      start: index of the first choice shown.
      named: choices are names, shown as a list instead of a slider.
      more: further names of choices of such a list, in groups with a title: pairs of a
        name and the index of its choice.
    """

    name: str
    places: Sequence[str]
    start: int = 0
    named: bool = False
    more: Sequence[tuple[str, Sequence[tuple[str, int]]]] = ()


class Over(NamedTuple):
    """Values precomputed for every place of some sliders.

    Fields:
      sliders: their indices, at least one.
      values: nested in their order, an array or lists; lists may differ in length.
        NaN is a gap in a line.
    """

    sliders: tuple[int, ...]
    values: Any


class Explorable(NamedTuple):
    """Sliders, charts that follow them, and sentences that say what they show.

    Fields:
      sliders: of all charts.
      charts: `x` and `y` of their traces may be `Over`.
      readout: sentences, each over some sliders.
    """

    sliders: Sequence[Slider]
    charts: Sequence[Chart]
    readout: Sequence[Over]


Block = Table | Lines | Chart | Row | Strip | Explorable


class Section(NamedTuple):
    """A section of the page: heading, introduction and blocks."""

    title: str
    lead: str
    blocks: Sequence[Block]
