"""Displays the result of a notebook cell: a small picture, or a table.

Jupyter asks a value for `_repr_png_` or `_repr_markdown_`; elsewhere a table is text.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from experiments.visualization import style

RESOLUTION = 80  # dots per inch
COLORS = 128  # of a palette, which makes the file a third as large


class Picture:
    """Shows a figure as one small PNG.

    Args:
      figure: is drawn at once.
    """

    def __init__(self, figure: Figure):
        rendered, small = io.BytesIO(), io.BytesIO()
        with style.context():
            figure.savefig(rendered, format="png", dpi=RESOLUTION)
        pixels = Image.open(rendered).convert("RGB")
        pixels.quantize(COLORS, dither=Image.Dither.NONE).save(small, "png")
        self._png = small.getvalue()

    def __repr__(self) -> str:
        return "(a picture)"

    def _repr_png_(self) -> bytes:
        return self._png


class Table:
    """Shows columns of equal length; numbers are rounded for reading.

    Args:
      columns: heading to values, in order: text, or numbers that are shown with
        `digits` significant digits.
      digits: significant.
    """

    def __init__(self, columns: Mapping[str, Sequence[Any]], *, digits: int = 4):
        each = [[_cell(v, digits) for v in values] for values in columns.values()]
        self._rows = [list(columns), *map(list, zip(*each, strict=True))]

    def __repr__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self._rows, strict=True)]
        padded = (map(str.rjust, row, widths) for row in self._rows)
        return "\n".join(map("  ".join, padded))

    def _repr_markdown_(self) -> str:
        head, *body = ("| " + " | ".join(row) + " |" for row in self._rows)
        line = "|" + "---|" * len(self._rows[0])
        return "\n".join([head, line, *body])


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, (str, int)):
        return str(value)
    value = float(value)
    if abs(value) < 1e-12:  # exact but for rounding, which differs between machines
        return "0" if value == 0 else "< 1e-12"
    return f"{value:.{digits}g}"
