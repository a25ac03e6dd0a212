"""Coordinates the processes of one run: how they join, agree and end.

Every process runs the same program on its own part of each batch; the first one writes
logs and pictures, all of them write checkpoints.
"""

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from experiments.runtime.errors import PeerLost, SaveError, UsageError
from experiments.runtime.signals import Stop, Stopped

NAMES = ("coordinator", "num_processes", "process_id")
LEAVE = 10  # seconds in which the other processes may come to the same end
_SHARED = (UsageError, SaveError)
_LOST = re.compile(
    r"\b(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED):|Gloo .*failed|remote process exited"
    r"|[Cc]onnection (closed|reset|refused)|[Ss]ocket closed|[Bb]roken pipe"
)

_STATUS = re.compile("[A-Z_]+: ")  # begins what is raised for XLA's status


def define_flags() -> None:
    """Defines the flags that say which processes make up a run."""
    flags.DEFINE_string(
        NAMES[0], None, "HOST:PORT of process 0, for a run of several processes."
    )
    for name, help_text in (
        (NAMES[1], "Number of processes of the run."),
        (NAMES[2], "Number of this process, from 0."),
    ):
        flags.DEFINE_integer(name, None, help_text, lower_bound=0, upper_bound=2**16)
    flags.DEFINE_bool(
        "distributed",
        False,
        "Join the processes that SLURM or another cluster manager started.",
    )
    flags.DEFINE_integer(
        "peer_timeout",
        60,
        "Seconds after which a process that does not answer ends the run.",
        lower_bound=1,
        upper_bound=86_400,
    )


def join() -> None:
    """Joins the processes of the run, if the flags say that there are several.

    Raises:
      UsageError: the flags contradict each other, or JAX recognizes no cluster.
    """
    if NAMES[0] not in flags.FLAGS:
        return
    values = {name: flags.FLAGS[name].value for name in NAMES}
    given = [name for name, value in values.items() if value is not None]
    by_cluster = flags.FLAGS["distributed"].value
    if not given and not by_cluster:
        return
    if by_cluster == bool(given) or 0 < len(given) < len(NAMES):
        raise UsageError(
            "several processes: give --coordinator=HOST:PORT, --num_processes and "
            f"--process_id, or --distributed alone; given: {', '.join(given)}"
        )
    if given and not 0 <= values["process_id"] < values["num_processes"]:
        raise UsageError(
            f"--process_id={values['process_id']}: must be in "
            f"[0, num_processes={values['num_processes']})"
        )
    if given and not _is_address(values["coordinator"]):
        raise UsageError(
            f"--coordinator={values['coordinator']}: must be HOST:PORT, such as "
            "10.0.0.1:1234, with a port in [1, 65535]"
        )
    # its handler would swallow a SIGTERM that comes before the loop's
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            values["coordinator"],
            values["num_processes"],
            values["process_id"],
            heartbeat_timeout_seconds=flags.FLAGS["peer_timeout"].value,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"several processes: {reason}") from error


def _is_address(text: str) -> bool:
    match = re.fullmatch(r"(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})", text)
    return match is not None and 1 <= int(match[1]) < 2**16


def is_first() -> bool:
    """Returns whether this process writes what only one writes."""
    return jax.process_index() == 0


def from_first(value: int) -> int:
    """Broadcasts `value` of the first process to all; all must call it."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int64(value)))


def on_first(call_fn: Callable[[], int | None]) -> int | None:
    """Runs `call_fn` in the first process and returns its result in all.

    All processes must call this.

    Args:
      call_fn: called in the first process only; gives a number, at least 0, or None.

    Raises:
      UsageError, SaveError: the same in all, if it was raised in the first.
      RuntimeError: in the others, if anything else was.
    """
    if jax.process_count() == 1:
        return call_fn()
    value, failure, message = None, None, b""
    if is_first():
        try:
            value = call_fn()
        except Exception as error:
            failure, message = error, str(error).encode(errors="replace") or b"-"
    kinds = [int(isinstance(failure, kind)) for kind in _SHARED]
    sent = np.array([-1 if value is None else value, len(message), *kinds], np.int64)
    value, size, *shared = map(int, multihost_utils.broadcast_one_to_all(sent))
    if size:
        buffer = np.frombuffer(message or bytes(size), np.uint8)
        message = multihost_utils.broadcast_one_to_all(buffer).tobytes().decode()
        if failure is not None:
            raise failure
        for kind, is_kind in zip(_SHARED, shared, strict=True):
            if is_kind:
                raise kind(message)
        raise RuntimeError(f"the first process has failed: {message}")
    return None if value < 0 else value


def check(stop: Stop) -> None:
    """Raises `Stopped` in all processes if one received a signal; all must call it."""
    if jax.process_count() == 1:
        stop.check()
        return
    numbers = multihost_utils.process_allgather(np.int32(stop.number or 0))
    if numbers.any():
        raise Stopped(int(numbers.max()))


def check_alone(stop: Stop) -> None:
    """Raises `Stopped` between exchanges, where this is the only process."""
    if jax.process_count() == 1:
        stop.check()


def is_peer_lost(error: BaseException | None) -> bool:
    """Returns whether an error comes from a failed exchange with a process."""
    while error is not None:
        text = " ".join(str(error).split())
        of_jax = isinstance(error, jax.errors.JaxRuntimeError)
        of_jax |= type(error) is ValueError and bool(_STATUS.match(text))
        if of_jax and _LOST.search(text):
            return jax.process_count() > 1
        error = error.__cause__
    return False


@contextlib.contextmanager
def watching_peers() -> Iterator[None]:
    """Turns a failed exchange with another process into `PeerLost`.

    Before that it waits for JAX's coordination service to find who is missing: that
    prints the name and ends this process. Any other error is left as it is.
    """
    try:
        yield
    except Exception as error:
        if not is_peer_lost(error):
            raise
        reason = " ".join(str(error).split())
        print(f"no answer from another process: {reason}", file=sys.stderr, flush=True)
        time.sleep(2 * flags.FLAGS["peer_timeout"].value)
        raise PeerLost(f"another process of the run is gone: {reason}") from error


def leave(code: int) -> None:
    """Ensures that this process ends with an exit code soon, whatever the others do.

    The usual way out waits for all processes, in vain if the others have no error. It
    is to be taken at once; after `LEAVE` seconds in it the process ends all the same.
    """
    if not jax.distributed.is_initialized():
        return

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    timer = threading.Timer(LEAVE, end)
    timer.daemon = True
    timer.start()
