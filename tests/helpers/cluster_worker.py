"""`experiments.train`, in which one process comes to harm after a step.

`FAULT=kind:process:step` in the environment says which: "kill" (SIGKILL, when the
checkpoint of that step is on disk), "term" (SIGTERM), "evaluate" (SIGTERM after the
first batch of the next evaluation), "memory" (the device has none left), "disk" (no
manifest of a checkpoint can be written any more).
"""

import errno
import functools
import os
import pathlib
import signal
import time

import jax

from experiments import cli, train
from experiments.checkpointing import integrity
from experiments.evaluation import heldout
from experiments.training import loop


def kill(number):
    """After the checkpoint of `number` is on disk."""
    saved = pathlib.Path(train.WORKDIR.value) / "checkpoints" / str(number)
    deadline = time.monotonic() + 60
    while not saved.exists():
        assert time.monotonic() < deadline, f"no checkpoint of step {number}"
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def exhaust(number):
    """The error of XLA."""
    del number
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")


def fill(number):
    """Lets every later manifest fail."""
    del number

    def write(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    integrity.write = write


def interrupt(number):
    """At the first batch that is evaluated from now on."""
    del number
    add = heldout.EvalAccumulator.add

    def adding(*args):
        heldout.EvalAccumulator.add = add
        os.kill(os.getpid(), signal.SIGTERM)
        add(*args)

    heldout.EvalAccumulator.add = adding


FAULTS = {
    "evaluate": interrupt,
    "kill": kill,
    "term": lambda number: os.kill(os.getpid(), signal.SIGTERM),
    "memory": exhaust,
    "disk": fill,
}


def hook(number, batch, state):
    """The hook of the training loop."""
    del batch, state
    name, process, step = (os.environ.get("FAULT") or "none:0:0").split(":")
    if (jax.process_index(), number) == (int(process), int(step)):
        FAULTS[name](number)


if __name__ == "__main__":
    loop.train_and_evaluate = functools.partial(loop.train_and_evaluate, hook=hook)
    cli.run(train.main)
