"""One self-contained HTML page: tables, charts, sliders and pictures, nothing fetched.

The template is `page.html`. Whatever comes from a user is escaped.
"""

import base64
import html
import io
import json
import pathlib
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.runtime.errors import UsageError
from experiments.visualization import sample_images, sliders
from experiments.visualization.blocks import (
    Chart,
)
from experiments.visualization.sliders import Explorable

TEMPLATE = pathlib.Path(__file__).with_suffix(".html")


class Table(NamedTuple):
    """A table; the first cell of a row is its heading, long ones scroll."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


class Lines(NamedTuple):
    """Sentences; `kind` is "found", "equal", "refused" or "note"."""

    lines: Sequence[str]
    kind: str = "found"


class Row(NamedTuple):
    """Charts beside each other, as many as there is room for."""

    charts: Sequence[Chart]
    narrow: bool = False


class Strip(NamedTuple):
    """Images in a row, one above the other with those of the same noise.

    Fields:
      rows: a name and images, uint8 [n, height, width, channels], each.
      levels: of the images.
      caption: what is shown.
    """

    rows: Sequence[tuple[str, np.ndarray]]
    levels: int
    caption: str


class Section(NamedTuple):
    """A part of the page: its heading, what it says, and its blocks."""

    title: str
    lead: str
    blocks: Sequence[Table | Lines | Chart | Row | Strip | Explorable]


class _Shown(NamedTuple):
    """What the script of the page draws: the figures in order, the forms by name."""

    figures: list[dict[str, Any]]
    forms: dict[str, dict[str, Any]]


def library() -> str:
    """The source of plotly.js.

    Raises:
      UsageError: Plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UsageError(
            "the page needs plotly: pip install 'diffusionflow[train]', or plotly"
        ) from error
    return get_plotlyjs()


def render(title: str, sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
      title: plain text.
      sections: in their order.

    Raises:
      UsageError: Plotly is not installed.
    """
    shown = _Shown([], {})
    body = "\n".join(
        _section(number, section, shown) for number, section in enumerate(sections)
    )
    links = " ".join(
        f'<a href="#part{number}">{html.escape(section.title)}</a>'
        for number, section in enumerate(sections)
    )
    template = string.Template(TEMPLATE.read_text())
    return template.substitute(
        title=html.escape(title),
        links=links,
        body=body,
        figures=_script(shown._asdict()),
        library=library(),
    )


def _script(value: Any) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace("&", "\\u0026")


def _section(number: int, section: Section, shown: _Shown) -> str:
    blocks = "\n".join(_block(block, shown) for block in section.blocks)
    lead = f"<p>{html.escape(section.lead)}</p>" if section.lead else ""
    return (
        f'<section id="part{number}"><h2>{html.escape(section.title)}</h2>{lead}\n'
        f"{blocks}\n</section>"
    )


def _block(block: Any, shown: _Shown) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Lines):
        items = "".join(f"<li>{html.escape(line)}</li>" for line in block.lines)
        return f'<ul class="{html.escape(block.kind)}">{items}</ul>' if items else ""
    if isinstance(block, Strip):
        return _strip(block)
    if isinstance(block, Chart):
        return _chart(block, shown)
    if isinstance(block, Explorable):
        return _explorable(block, shown)
    charts = "\n".join(_chart(chart, shown) for chart in block.charts)
    return f'<div class="charts{" narrow" if block.narrow else ""}">{charts}</div>'


def _explorable(block: Explorable, shown: _Shown) -> str:
    name = f"sliders{len(shown.forms)}"
    shown.forms[name] = sliders.form(block)
    charts = "\n".join(_chart(chart, shown, name) for chart in block.charts)
    return f'{sliders.controls(block, name)}\n<div class="charts">{charts}</div>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in table.head)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(first)}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in table.rows
    )
    caption = (
        f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    )
    return (
        f'<div class="scroll" tabindex="0"><table>{caption}<thead><tr>{head}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _chart(chart: Chart, shown: _Shown, form: str | None = None) -> str:
    number = len(shown.figures)
    data = sliders.rounded(chart.data) if form else chart.data
    shown.figures.append({"data": data, "layout": chart.layout, "form": form})
    title, caption = html.escape(chart.title), html.escape(chart.caption)
    return (
        f'<figure><h3>{title}</h3><div class="chart" id="chart{number}" role="img" '
        f'aria-label="{title}. {caption}"></div><figcaption>{caption}</figcaption>'
        "</figure>"
    )


def _strip(strip: Strip) -> str:
    rows = "".join(
        f'<div class="strip"><span>{html.escape(name)}</span>'
        f'<img alt="samples of {html.escape(name)}" src="{_png(images, strip.levels)}">'
        "</div>"
        for name, images in strip.rows
    )
    return (
        f"<figure>{rows}<figcaption>{html.escape(strip.caption)}</figcaption></figure>"
    )


def _png(images: np.ndarray, levels: int) -> str:
    """A row of images as a data URI."""
    buffer = io.BytesIO()
    sample_images.grid(images, levels, len(images)).save(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
