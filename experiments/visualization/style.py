"""Style of all Matplotlib figures: colors, line styles, panel sizes and file formats.

The settings are the style sheet `diffusionflow.mplstyle`. Its colors, Okabe and Ito's,
differ under every common color blindness; `lines` also differ in grayscale.
"""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.runtime import files

SETTINGS = matplotlib.rc_params_from_file(
    pathlib.Path(__file__).with_name("diffusionflow.mplstyle"),
    use_default_template=False,
)
COLOR_NAMES = ("blue", "vermilion", "green", "orange", "purple", "sky", "black")
_CYCLE = SETTINGS["axes.prop_cycle"].by_key()["color"]
COLORS = dict(zip(COLOR_NAMES, _CYCLE, strict=True))
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
MARKERS = "osD^vPX"
PANEL = 3.2, 2.8  # width and height in inches
FORMATS = ("svg", "png")
RESOLUTION = 150  # dots per inch


@contextlib.contextmanager
def context() -> Iterator[None]:
    """Applies the style sheet, in a `with` block or as a decorator."""
    with matplotlib.rc_context(SETTINGS):
        yield


def panels(
    rows: int, columns: int, *, width: float = 1.0, **options: Any
) -> tuple[Figure, Any]:
    """Makes a figure with a grid of panels of one size.

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
    """Returns color, dashes and, if `marked`, marker of line `number`."""
    colors = list(COLORS.values())
    line = dict(color=colors[number % len(colors)], ls=DASHES[number % len(DASHES)])
    if marked:
        line |= dict(marker=MARKERS[number % len(MARKERS)], ms=4)
    return line


def mark(axes: Axes, x: float, text: str) -> None:
    """Draws a thin vertical line at `x` with a label along it."""
    axes.axvline(x, color="0.4", lw=0.8)
    place = axes.get_xaxis_transform()
    settings: dict[str, Any] = dict(
        rotation=90, ha="right", va="bottom", fontsize="small", color="0.3"
    )
    axes.text(x, 0.02, text, transform=place, **settings)


def plain_logs(axes: Axes) -> None:
    """Makes both axes logarithmic, with tick labels 1, 2 and 5 as plain numbers."""
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(ticker.NullFormatter())


def paths(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns `path` with each suffix of `FORMATS`, of which it has none."""
    return [path.with_name(f"{path.name}.{name}") for name in FORMATS]


def save(figure: Figure, path: pathlib.Path, mark: str) -> list[pathlib.Path]:
    """Writes a figure to each of `paths(path)`, with a mark; returns the paths."""
    about = {"svg": {"Date": None, "Creator": mark}, "png": {"Software": mark}}
    for name, file in zip(FORMATS, paths(path), strict=True):
        settings: dict[str, Any] = dict(dpi=RESOLUTION, metadata=about[name])
        with context(), files.atomic_write(file) as temporary:  # for the salt
            figure.savefig(temporary, format=name, **settings)
    return paths(path)
