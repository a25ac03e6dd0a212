"""Several processes of one run: how they find each other, and how they end.

Every process runs the same program on its own part of each batch; the first one writes
logs and pictures, all of them write checkpoints.
"""

import contextlib
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from experiments.errors import PeerLost, Stop, Stopped, UsageError

NAMES = ("coordinator", "num_processes", "process_id")


def define_flags() -> None:
    """The flags that say which processes make up a run."""
    flags.DEFINE_string(
        NAMES[0], None, "HOST:PORT of process 0, for a run of several processes."
    )
    flags.DEFINE_integer(NAMES[1], None, "How many processes there are.")
    flags.DEFINE_integer(NAMES[2], None, "Which of them this one is, from 0.")
    flags.DEFINE_bool(
        "distributed", False, "Several processes, as SLURM or another cluster says."
    )
    flags.DEFINE_integer(
        "peer_timeout", 60, "Seconds without a sign of life that end the run."
    )


def join() -> None:
    """Joins the processes of the run, if the flags say that there are several.

    Raises:
      UsageError: the flags contradict each other, or no cluster was found.
    """
    if NAMES[0] not in flags.FLAGS:
        return
    values = {name: flags.FLAGS[name].value for name in NAMES}
    given = [name for name, value in values.items() if value is not None]
    found = flags.FLAGS["distributed"].value
    if not given and not found:
        return
    if found == bool(given) or 0 < len(given) < len(NAMES):
        raise UsageError(
            "several processes: give --coordinator=HOST:PORT, --num_processes and "
            f"--process_id, or --distributed alone; given: {', '.join(given)}"
        )
    if given and not 0 <= values["process_id"] < values["num_processes"]:
        raise UsageError(
            f"--process_id={values['process_id']}: must be in "
            f"[0, num_processes={values['num_processes']})"
        )
    try:
        jax.distributed.initialize(
            *(values[name] for name in NAMES),
            heartbeat_timeout_seconds=flags.FLAGS["peer_timeout"].value,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"several processes: {reason}") from error


def is_first() -> bool:
    """Whether this process writes what only one writes."""
    return jax.process_index() == 0


def from_first(value: int) -> int:
    """What the first process has for `value`, in all of them; all must call it."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int64(value)))


def check(stop: Stop) -> None:
    """Raises `Stopped` in all processes if one was told to stop; all must call it."""
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


@contextlib.contextmanager
def watching_peers() -> Iterator[None]:
    """Turns a failed exchange with another process into `PeerLost`.

    Before that it waits for JAX's coordination service to find out who is missing: that
    prints the name and ends this process.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = " ".join(str(error).split())
        print(f"no answer from another process: {reason}", file=sys.stderr, flush=True)
        time.sleep(2 * flags.FLAGS["peer_timeout"].value)
        raise PeerLost(f"another process of the run is gone: {reason}") from error
