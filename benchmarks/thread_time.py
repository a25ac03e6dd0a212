"""Reads from a trace of JAX's profiler what the threads of a CPU did, by instruction.

An instruction may hand its work to other threads in pieces, which its own event does
not contain; a piece may then start another instruction. XLA's thread pool notes when a
piece is handed over and when it runs, so that each thread's time goes to the
instruction that the innermost event or piece belongs to.
"""

import pathlib
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax

BETWEEN = ""  # time of XLA's executor between instructions


class Piece(NamedTuple):
    """A time on a thread.

    Fields:
      start: nanoseconds.
      end: nanoseconds.
      name: of an instruction, `BETWEEN`, or None for a piece of handed over work.
      number: of the handing over; None for others.
    """

    start: float
    end: float
    name: str | None
    number: int | None = None


def thread_seconds(folder: pathlib.Path) -> Counter[str]:
    """Returns seconds of all threads by the name of an instruction, and `BETWEEN`.

    Args:
      folder: of `jax.profiler.trace`, with one trace of a CPU.
    """
    (path,) = folder.glob("**/*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(path))
    (host,) = (plane for plane in data.planes if plane.name == "/host:CPU")
    return attributed([list(line.events) for line in host.lines])


def attributed(threads: Iterable[Iterable[Any]]) -> Counter[str]:
    """Adds up the time of each event that no event inside it has.

    Args:
      threads: events with `name`, `start_ns`, `duration_ns` and `stats`, pairs of name
        and value.
    """
    inside: list[tuple[Piece, float]] = []  # with the time of the pieces within
    origin: dict[int, Piece | None] = {}  # of work, by the number of its handing over
    for events in threads:
        pieces, handed = _of_thread(events)
        _nest(pieces, handed, inside, origin)
    found = Counter()
    for piece, within in inside:
        name = _owner(piece, origin)
        if name is not None:  # else the whole program, which waits for its end
            found[name] += (piece.end - piece.start - within) / 1e9
    return found


def _of_thread(events: Iterable[Any]) -> tuple[list[Piece], list[tuple[float, int]]]:
    """Reads pieces of a thread, and when it handed over which work."""
    pieces, handed, begun = [], [], None
    for each in events:
        stats, start = dict(each.stats), each.start_ns
        end = start + each.duration_ns
        kind = each.name.removeprefix("ThreadpoolListener::")
        if kind == "StartRegion":
            begun = start, stats["_c"]
        elif kind == "StopRegion" and begun is not None:
            pieces.append(Piece(begun[0], start, None, begun[1]))
        elif kind == "Record":
            handed.append((start, stats["_p"]))
        elif kind == "ThunkExecutor::Execute":
            pieces.append(Piece(start, end, BETWEEN))
        elif "hlo_op" in stats and not kind.startswith("end: "):
            pieces.append(Piece(start, end, kind))
    return pieces, handed


def _nest(
    pieces: list[Piece],
    handed: list[tuple[float, int]],
    inside: list[tuple[Piece, float]],
    origin: dict[int, Piece | None],
) -> None:
    """Finds of a thread what each piece contains, and inside which work was handed."""
    marks = [(each.start, -each.end, each) for each in pieces]
    marks += [(start, 0.0, number) for start, number in handed]
    marks.sort(key=lambda mark: mark[:2])
    open_: list[int] = []  # places in `inside`
    for start, _, mark in marks:
        while open_ and inside[open_[-1]][0].end <= start:
            open_.pop()
        if not isinstance(mark, Piece):
            origin[mark] = inside[open_[-1]][0] if open_ else None
            continue
        if open_:
            piece, within = inside[open_[-1]]
            inside[open_[-1]] = piece, within + mark.end - mark.start
        open_.append(len(inside))
        inside.append((mark, 0.0))


def _owner(piece: Piece | None, origin: dict[int, Piece | None]) -> str | None:
    """Follows handed over work to the instruction that it belongs to."""
    while piece is not None and piece.name is None:
        piece = origin.get(piece.number)
    return None if piece is None else piece.name
