"""`experiments.train`, in which process KILL_PROCESS kills itself after step KILL_AT.

Both are environment variables. Before that it waits until the checkpoint of that step
is on disk.
"""

import functools
import os
import pathlib
import signal
import time

import jax

from experiments import cli, loop, train


def kill(number, batch, state):
    """The hook of the training loop."""
    del batch, state
    here = os.environ.get("KILL_PROCESS") == str(jax.process_index())
    if not here or number != int(os.environ["KILL_AT"]):
        return
    saved = pathlib.Path(train.WORKDIR.value) / "checkpoints" / str(number)
    deadline = time.monotonic() + 60
    while not saved.exists():
        assert time.monotonic() < deadline, f"no checkpoint of step {number}"
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    loop.train_and_evaluate = functools.partial(loop.train_and_evaluate, hook=kill)
    cli.run(train.main)
