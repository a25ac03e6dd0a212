"""How every picture looks: colours, sizes, and the files it is written to.

The colours are those of Okabe and Ito, told apart with every common colour blindness;
lines that must be told apart in grey as well take `lines` too.
"""

import contextlib
import pathlib
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "orange": "#E69F00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "black": "#000000",
}
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
MARKERS = "osD^vPX"
SETTINGS = {
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=list(COLORS.values())),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "font.size": 9.0,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.fontsize": "small",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "diffusionflow",  # the same numbers give the same file
}
PANEL = 3.2, 2.8  # width and height in inches
FORMATS = ("svg", "png")
RESOLUTION = 150  # dots per inch


def context() -> contextlib.AbstractContextManager:
    """The settings of every picture, for `with` or as a decorator."""
    return matplotlib.rc_context(SETTINGS)


def panels(
    rows: int, columns: int, *, width: float = 1.0, **options: Any
) -> tuple[Figure, Any]:
    """A figure of panels of one size.

    Args:
      rows: of panels.
      columns: of panels.
      width: of a panel, in standard widths.
      **options: of `Figure.subplots`, such as `sharey`.

    Returns:
      The figure, and its axes `[rows, columns]`.
    """
    size = PANEL[0] * width * columns, PANEL[1] * rows
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def lines(number: int, *, marked: bool = False) -> dict[str, Any]:
    """Colour, dashes and perhaps marker of line `number`, for `Axes.plot`."""
    colors = list(COLORS.values())
    found = dict(color=colors[number % len(colors)], ls=DASHES[number % len(DASHES)])
    if marked:
        found |= dict(marker=MARKERS[number % len(MARKERS)], ms=4)
    return found


def mark(axes: Axes, x: float, text: str) -> None:
    """A thin vertical line at `x` with a text along it."""
    axes.axvline(x, color="0.4", lw=0.8)
    place = axes.get_xaxis_transform()
    settings = dict(rotation=90, ha="right", va="bottom", fontsize="small", color="0.3")
    axes.text(x, 0.02, text, transform=place, **settings)


def plain_logs(axes: Axes) -> None:
    """Both axes as logarithms, with plain numbers at 1, 2 and 5."""
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(ticker.NullFormatter())


def save(figure: Figure, path: str | pathlib.Path) -> list[pathlib.Path]:
    """Writes a figure as vectors and as pixels: `path` with each of `FORMATS`."""
    written = []
    for name in FORMATS:
        file = pathlib.Path(f"{path}.{name}")
        date = {"Date": None} if name == "svg" else None
        with context():  # the salt counts when a file is written
            figure.savefig(file, dpi=RESOLUTION, metadata=date)
        written.append(file)
    return written
