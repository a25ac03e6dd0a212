"""What is asked of arrays whatever file they are of: finite, channels last."""

import numpy as np

CHANNELS = (1, 3, 4)  # by which an axis is known as that of the channels


def finite(name: str, values: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """Converts numbers to floats and checks that all are finite in this type.

    Args:
      name: of the array, for errors.
      values: of numbers that are not complex.
      dtype: float32 or float64.

    Raises:
      ValueError: some are not; it says how many, and where the first is. Or all
        underflow to 0.
    """
    with np.errstate(over="ignore"):
        found: np.ndarray = values.astype(dtype)
    bad = ~np.isfinite(found)
    if bad.any():
        place = [int(n) for n in np.unravel_index(np.argmax(bad), bad.shape)]
        raise ValueError(
            f"{name}: {int(bad.sum()):,} of {bad.size:,} values are not finite in "
            f"{np.dtype(dtype)}, the first {values[tuple(place)]} at {place}: leave "
            "these examples out, or repair them"
        )
    if not found.any() and values.any():
        raise ValueError(
            f"{name}: all values underflow to 0 in {np.dtype(dtype)}, the largest is "
            f"{np.abs(values).max():.2g}: scale them"
        )
    return found


def channels_last(
    name: str, values: np.ndarray, *, first: bool, last: bool
) -> np.ndarray:
    """Puts the channels of examples along the last axis.

    Args:
      name: of the array, for errors.
      values: [n, *event].
      first: whether they are along the first one of the event, and are to be moved.
      last: whether they are along the last one, however it looks.

    Raises:
      ValueError: the first axis of the event is 1, 3 or 4, the last is not, and nothing
        says which one has the channels; or both are said.
    """
    if first and last:
        raise ValueError("channels_first=True, channels_last=True: must be one of them")
    event = list(values.shape[1:])
    if first:
        if len(event) < 2:
            raise ValueError(f"channels_first=True: {name} has events of shape {event}")
        return np.ascontiguousarray(np.moveaxis(values, 1, -1))
    if not last:
        out = "channels_first=True moves them to the end, channels_last=True keeps all"
        check_channels(name, values, out)
    return values


def check_channels(name: str, values: np.ndarray, out: str) -> None:
    """Raises a ValueError if the channels of [n, *event] seem to come first.

    The first axis of the event is 1, 3 or 4 then, and the last is not.

    Args:
      name: of the array, for errors.
      values: the array.
      out: what is to be done.
    """
    event = list(values.shape[1:])
    if len(event) > 1 and event[0] in CHANNELS and event[-1] not in CHANNELS:
        raise ValueError(
            f"{name} has events of shape {event}: are the {event[0]} along the first "
            f"axis channels? {out}"
        )
