"""A training run that can be made to die.

`python -m tests.helpers.resume_worker WORKDIR [KILL_AT]` runs it.
It adds a line per step to `steps.txt`: the step, and a digest of batch and state after
it. At step KILL_AT it sends itself SIGKILL: at once for an odd step, when the save may
be under way, and for an even one after the checkpoint of that step is on disk.
"""

import hashlib
import os
import pathlib
import signal
import sys
import time

import jax
import numpy as np

from experiments.training import loop
from tests.helpers import tiny

NUM_STEPS = 40


def digest(tree):
    """Of every bit of a pytree of arrays."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        total.update(np.asarray(leaf).tobytes())
    return total.hexdigest()


def main(workdir, kill_at=0):
    workdir = pathlib.Path(workdir)
    workdir.mkdir(exist_ok=True)
    config = tiny.config(
        num_steps=NUM_STEPS,
        log__every=7,
        checkpoint__every=2,
        samples__every=20,
        objective__proposal="stratified(adaptive(uniform))",
    )

    def hook(number, batch, state):
        with (workdir / "steps.txt").open("a") as file:
            file.write(f"{number} {digest(batch)} {digest(state)}\n")
        if number == kill_at:
            deadline = time.monotonic() + 60
            saved = workdir / "checkpoints" / str(number)
            while number % 2 == 0 and not saved.exists():
                assert time.monotonic() < deadline, f"no checkpoint of step {number}"
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    loop.train_and_evaluate(config, workdir, hook=hook)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
