"""Shifts of diffusers' flows that depend on the size of the image."""

from typing import Any

import numpy as np

from diffusionflow._dataclass import check_name, check_positive


def dynamic_shift(
    image_seq_len: int,
    *,
    base_image_seq_len: int = 256,
    max_image_seq_len: int = 4096,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
) -> float:
    """Computes mu of `use_dynamic_shifting`: linear in the number of image tokens.

    Args:
      image_seq_len: tokens of the image, such as (height / 16) (width / 16).
      base_image_seq_len: tokens at which mu is `base_shift`.
      max_image_seq_len: tokens at which mu is `max_shift`.
      base_shift: mu of the smaller.
      max_shift: mu of the larger.

    Returns:
      mu; the shift of "exponential" is its exponential, that of "linear" is mu.

    Source: the pipelines of diffusers that set `use_dynamic_shifting`, such as Flux's.

    Example:
      >>> dynamic_shift(4096), dynamic_shift(256)
      (1.15, 0.5)
    """
    check_positive("image_seq_len", image_seq_len)
    share = (image_seq_len - base_image_seq_len) / (
        max_image_seq_len - base_image_seq_len
    )
    return base_shift + share * (max_shift - base_shift)


def refuse_mu(mu: Any, image_seq_len: Any) -> None:
    """Raises a `ValueError` where mu is given to a config without dynamic shifting."""
    for name, value in (("mu", mu), ("image_seq_len", image_seq_len)):
        if value is not None:
            raise ValueError(
                f"{name}={value!r}: must be None without use_dynamic_shifting=True in "
                "the config"
            )


def shift_of(
    settings: dict[str, Any], fixed: float, mu: float | None, tokens: int | None
) -> float:
    """Computes the shift k of a flow: of the config, or by mu where it is dynamic."""
    if not settings.get("use_dynamic_shifting"):
        refuse_mu(mu, tokens)
        return fixed
    if (mu is None) == (tokens is None):
        raise ValueError(
            f"use_dynamic_shifting=True with mu={mu!r}, image_seq_len={tokens!r}: give "
            "one of the two; the shift depends on the size of the image"
        )
    if tokens is not None:
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        line = {name: settings[name] for name in names if name in settings}
        chosen = dynamic_shift(tokens, **line)
    else:
        chosen = float(mu)  # type: ignore[arg-type]
    kind = settings.get("time_shift_type", "exponential")
    check_name("time_shift_type", kind, ("exponential", "linear"))
    return float(np.exp(chosen)) if kind == "exponential" else chosen
