"""Every image of a data set, decoded once before the first step.

What was decoded without a fault is noted in the user's cache directory by name, size
and time of change, so that a second start looks at the files' dates alone.
"""

import concurrent.futures
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import __version__ as pillow_version

from experiments.data.base import NUM_THREADS
from experiments.data.fingerprint import digest_of
from experiments.data.image_decoding import UnfitError, in_words
from experiments.runtime import distributed, files, progress
from experiments.runtime.errors import UsageError

CHUNK = 1_024  # images between two looks at the clock
EVERY = 20.0  # seconds between two lines of progress
LISTED = 10  # faults in a message
VERSION = 1  # of what is checked

Shape = tuple[int, int]


class Fault(NamedTuple):
    """An image that is not read.

    Fields:
      name: for messages.
      reason: in words.
      broken: False where the image is in order, and would lose something.
    """

    name: str
    reason: str
    broken: bool


class Checked(NamedTuple):
    """What was found in images.

    Fields:
      shapes: (height, width) of each, or None for a fault.
      faults: in order.
    """

    shapes: list[Shape | None]
    faults: list[Fault]


def check(
    names: Sequence[str],
    keys: Sequence[str],
    check_fn: Callable[[int], Shape],
    *,
    settings: Any,
) -> Checked:
    """Decodes images by several threads, but for those that are known by their keys.

    Args:
      names: of the images, for messages.
      keys: that change with their contents; an empty one is always decoded.
      check_fn: `number -> (height, width)`; raises for a fault.
      settings: on which the outcome depends as well, whatever has a representation.
    """
    path = _cache_path(settings)
    known = _known(path)
    shapes: list[Shape | None] = [known.get(key) for key in keys]
    missing = [number for number, shape in enumerate(shapes) if shape is None]
    faults: dict[int, Fault] = {}
    outcome = functools.partial(_outcome, names, check_fn)
    try:
        for number, found in _decoded(outcome, missing):
            if isinstance(found, Fault):
                faults[number] = found
            else:
                shapes[number] = found
    finally:
        if len(faults) < len(missing):
            _keep(path, keys, shapes)
    return Checked(shapes, [faults[number] for number in sorted(faults)])


def _outcome(
    names: Sequence[str], check_fn: Callable[[int], Shape], number: int
) -> Shape | Fault:
    try:
        return check_fn(number)
    except UnfitError as error:
        return Fault(names[number], in_words(error), broken=False)
    except Exception as error:  # whatever a corrupted file raises
        return Fault(names[number], in_words(error), broken=True)


def _decoded(
    outcome: Callable[[int], Shape | Fault], missing: list[int]
) -> Iterator[tuple[int, Shape | Fault]]:
    """Yields the outcome for each of `missing`; reports progress if that takes long."""
    if not missing:
        return
    begin = said = time.perf_counter()
    with (
        progress.announced(f"decoding {len(missing):,} images once"),
        concurrent.futures.ThreadPoolExecutor(NUM_THREADS) as pool,
    ):
        for first in range(0, len(missing), CHUNK):
            chunk = missing[first : first + CHUNK]
            yield from zip(chunk, pool.map(outcome, chunk), strict=True)
            now, done = time.perf_counter(), first + len(chunk)
            if now - said > EVERY and done < len(missing):
                said = now
                left = (now - begin) * (len(missing) / done - 1)
                say(
                    f"decoded {done:,} of {len(missing):,} images, "
                    f"{progress.duration(left)} left"
                )


def say(text: str) -> None:
    """Prints a line, of the first process alone."""
    if distributed.is_first():
        print(text, flush=True)


def refuse(where: str, faults: Sequence[Fault], total: int, skip_broken: bool) -> None:
    """Raises a `UsageError` that lists faults, the first ten by name.

    Those of broken images alone pass with `skip_broken`, and are said.
    """
    counted = [each for each in faults if not (each.broken and skip_broken)]
    if not counted:
        if faults:
            say(f"{where}: left out {_listed(faults, total)}")
        return
    broken = [each for each in counted if each.broken]
    out = ""
    if broken:
        out = "; repair or remove what is broken, or leave it out with skip_broken=True"
    raise UsageError(f"{where}: no readable image: {_listed(counted, total)}{out}")


def _listed(faults: Sequence[Fault], total: int) -> str:
    shown = [f"{each.name} ({each.reason})" for each in faults[:LISTED]]
    more = len(faults) - len(shown)
    shown += [f"and {more:,} others"] if more else []
    return f"{len(faults):,} of {total:,}: {', '.join(shown)}"


def summary(faults: Sequence[Fault]) -> dict[str, Any]:
    """Summarizes the images left out, for a data set's identity; empty for none."""
    if not faults:
        return {}
    names = [each.name for each in faults]
    return {
        "count": len(names),
        "first": names[:LISTED],
        "digest": digest_of(*names),
    }


def _cache_path(settings: Any) -> pathlib.Path:
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    name = digest_of(VERSION, pillow_version, settings)
    return pathlib.Path(home) / "diffusionflow" / "images" / f"{name}.json"


def _known(path: pathlib.Path) -> Mapping[str, Shape]:
    """Reads sizes by key, of an earlier check; none where they cannot be read."""
    try:
        check_shapes = json.loads(path.read_text())
        return {
            str(key): (int(height), int(width))
            for key, (height, width) in check_shapes.items()
        }
    except Exception:  # a cache is of no importance, however it is corrupted
        return {}


def _keep(
    path: pathlib.Path, keys: Sequence[str], shapes: Sequence[Shape | None]
) -> None:
    """Writes sizes by key, where that is possible."""
    pairs = zip(keys, shapes, strict=True)
    known = {key: shape for key, shape in pairs if key and shape is not None}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(path) as temporary:
            temporary.write_text(json.dumps(known))
    except OSError:
        return


def sizes(checked: Checked) -> np.ndarray:
    """Finds the numbers of the images without fault."""
    return np.flatnonzero([shape is not None for shape in checked.shapes])
