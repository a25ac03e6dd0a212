"""Maps of a network of this library as those of diffusers, and what must hold."""

from collections.abc import Mapping
from typing import Any

import numpy as np

EPSILON = 1e-6  # of our normalisations
Params = Mapping[str, Any]


def check_conditions(module: Any, conditions: Mapping[str, bool]) -> None:
    """Raises a `ValueError` that lists the conditions which do not hold.

    Args:
      module: the network of this library.
      conditions: whether each holds; the keys are what the message says otherwise.
    """
    wrong = [text for text, holds in conditions.items() if not holds]
    if wrong:
        raise ValueError(
            f"diffusers has no such {type(module).__name__}: {'; '.join(wrong)}"
        )


def linear(
    name: str, dense: Params, rows: Any = None, columns: Any = None
) -> dict[str, Any]:
    """Returns a dense layer under its names in diffusers: matrix [out, in] and bias.

    Args:
      name: of the layer there, with the dot at its end.
      dense: `kernel` [in, out] and `bias` [out].
      rows: indices of the inputs, in the order that they have there; None for all.
      columns: the same of the outputs.
    """
    kernel, bias = dense["kernel"], dense["bias"]
    rows = slice(None) if rows is None else rows
    columns = slice(None) if columns is None else columns
    return {f"{name}weight": kernel[rows][:, columns].T, f"{name}bias": bias[columns]}


def time_embedding(conditioning: Params, name: str) -> dict[str, Any]:
    """Returns the embedding of the time: its frequencies fall there, and rise here.

    Args:
      conditioning: the parameters of `Conditioning`.
      name: of the embedding there, with the dot at its end.
    """
    count = len(conditioning["time_in"]["kernel"])
    rows = np.arange(count).reshape(2, -1)[:, ::-1].ravel()  # cosines, sines
    first = linear(f"{name}linear_1.", conditioning["time_in"], rows=rows)
    return first | linear(f"{name}linear_2.", conditioning["time_out"])
