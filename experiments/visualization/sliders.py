"""Charts that a reader moves: sliders, and numbers computed for each of their places.

Nothing is computed in the page: it looks up what was computed before.
"""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.visualization.blocks import (
    Chart,
)

DIGITS = 4  # significant, more than a screen shows


class Slider(NamedTuple):
    """A number, or one of some names, that the reader chooses.

    Fields:
      name: plain text.
      places: what each place is called.
      start: index of the place at first.
      named: the places are names, chosen from a list.
    """

    name: str
    places: Sequence[str]
    start: int = 0
    named: bool = False


class Over(NamedTuple):
    """A value for each place of some sliders.

    Fields:
      sliders: their indices, at least one.
      values: nested in their order, an array or lists; lists may be of unlike lengths.
        NaN is a gap in a line.
    """

    sliders: tuple[int, ...]
    values: Any


class Explorable(NamedTuple):
    """Sliders, charts that follow them, and what is to be read from them.

    Fields:
      sliders: of all charts.
      charts: `x` and `y` of their traces may be `Over`.
      readout: sentences, each over some sliders.
    """

    sliders: Sequence[Slider]
    charts: Sequence[Chart]
    readout: Sequence[Over]


def rounded(value: Any) -> Any:
    """What JSON can say, numbers rounded and NaN as null; see `Over` and `Slider`.

    Args:
      value: lists, dictionaries, arrays, numbers and texts.

    Returns:
      Lists, dictionaries, numbers, texts and None.

    Raises:
      ValueError: an infinite number, which no chart shows.
    """
    if isinstance(value, Over):
        return {"over": list(value.sliders), "values": rounded(value.values)}
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, (np.ndarray, list, tuple)):
        return [rounded(each) for each in value]
    if isinstance(value, (float, np.floating)):
        if np.isinf(value):
            raise ValueError(f"value={value}: must be finite, or NaN for a gap")
        return None if np.isnan(value) else float(f"{value:.{DIGITS}g}")
    return value.item() if isinstance(value, np.generic) else value


def controls(explorable: Explorable, name: str) -> str:
    """The sliders and the readout as HTML.

    Args:
      explorable: any.
      name: of the form, of its own on the page.
    """
    each = "\n".join(
        _control(slider, f"{name}-{number}")
        for number, slider in enumerate(explorable.sliders)
    )
    return (
        f'<form class="sliders" id="{name}" autocomplete="off">{each}</form>\n'
        f'<p class="readout" id="{name}-readout" role="status"></p>'
    )


def _control(slider: Slider, name: str) -> str:
    label = f'<label for="{name}">{html.escape(slider.name)}</label>'
    if slider.named:
        options = "".join(
            f'<option value="{number}"{" selected" * (number == slider.start)}>'
            f"{html.escape(place)}</option>"
            for number, place in enumerate(slider.places)
        )
        return f'<div>{label}<select id="{name}">{options}</select></div>'
    return (
        f'<div>{label}<input type="range" id="{name}" min="0" '
        f'max="{len(slider.places) - 1}" step="1" value="{slider.start}">'
        f'<output for="{name}"></output></div>'
    )


def form(explorable: Explorable) -> dict[str, Any]:
    """What the page's script needs of the sliders, for JSON."""
    places = [list(slider.places) for slider in explorable.sliders]
    return {"places": places, "readout": rounded(explorable.readout)}
