"""Converts values that depend on sliders to JSON, which the page's script looks up.

Nothing is computed in the page: every place of every slider is computed before.
"""

from typing import Any

import numpy as np

from experiments.visualization.blocks import Explorable, Over

DIGITS = 4  # significant, more than a screen shows


def to_json(value: Any) -> Any:
    """Converts to JSON types, numbers rounded to `DIGITS` digits and NaN to None.

    Args:
      value: lists, dictionaries, arrays, numbers, strings and `Over`.

    Returns:
      Lists, dictionaries, numbers, strings and None.

    Raises:
      ValueError: an infinite number, which no chart shows.
    """
    if isinstance(value, Over):
        return {"over": list(value.sliders), "values": to_json(value.values)}
    if isinstance(value, dict):
        return {key: to_json(each) for key, each in value.items()}
    if isinstance(value, (np.ndarray, list, tuple)):
        return [to_json(each) for each in value]
    if isinstance(value, (float, np.floating)):
        if np.isinf(value):
            raise ValueError(f"value={value}: must be finite, or NaN for a gap")
        return None if np.isnan(value) else float(f"{value:.{DIGITS}g}")
    return value.item() if isinstance(value, np.generic) else value


def form(explorable: Explorable) -> dict[str, Any]:
    """Returns the labels of the sliders and the sentences over them, for JSON."""
    places = [list(slider.places) for slider in explorable.sliders]
    return {"places": places, "readout": to_json(explorable.readout)}
