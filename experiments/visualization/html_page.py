"""Renders one self-contained HTML page of `blocks`, which opens without a network.

The markup is in `templates` (Jinja2); `page.css`, `page.js` and plotly.js are embedded.
The template engine escapes every text.
"""

import base64
import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np

from experiments.runtime.errors import UsageError
from experiments.visualization import sample_images, sliders
from experiments.visualization.blocks import Block, Chart, Explorable, Section


class Item(NamedTuple):
    """A block with the ids of its elements, for the template.

    Fields:
      type: name of the block's class in lower case, and of its macro.
      block: itself.
      charts: by the id of the element that each is drawn in.
      form: id of the sliders, None if there are none.
    """

    type: str
    block: Block
    charts: Mapping[str, Chart]
    form: str | None


def render(title: str, sections: Sequence[Section], mark: str = "") -> str:
    """Renders the page.

    Args:
      title: plain text.
      sections: in their order.
      mark: of `own_files.mark`, by which a command knows its page again.

    Returns:
      The HTML.

    Raises:
      UsageError: Plotly is not installed.
      ValueError: a chart has a number that is not finite.
    """
    figures: list[dict[str, Any]] = []
    forms: dict[str, dict[str, Any]] = {}
    shown = [
        (section, [_item(block, figures, forms) for block in section.blocks])
        for section in sections
    ]
    return _template().render(
        title=title,
        mark=mark,
        sections=shown,
        figures={"figures": figures, "forms": forms},
        plotly_js=plotly_js(),
    )


def plotly_js() -> str:
    """Returns the source of plotly.js.

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


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments.visualization"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["png_uri"] = _png_uri
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment.get_template("page.html.j2")


def _item(
    block: Block, figures: list[dict[str, Any]], forms: dict[str, dict[str, Any]]
) -> Item:
    """Gives a block its ids; adds what the script draws to `figures` and `forms`."""
    form = None
    if isinstance(block, Explorable):
        form = f"sliders{len(forms)}"
        forms[form] = sliders.form(block)
    charts = {}
    for chart in [block] if isinstance(block, Chart) else getattr(block, "charts", []):
        charts[f"chart{len(figures)}"] = chart
        data = sliders.to_json(chart.data) if form else chart.data
        figures.append({"data": data, "layout": chart.layout, "form": form})
    return Item(type(block).__name__.lower(), block, charts, form)


def _png_uri(images: np.ndarray, levels: int) -> str:
    """Encodes a row of images as a data URI."""
    buffer = io.BytesIO()
    sample_images.grid(images, levels, len(images)).save(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
