"""A run whose checkpoint is kept: `python -m tests.helpers.old_checkpoint DIRECTORY`.

`tests/data/checkpoint` was made by it for format 2 and is never made again
for the sake of a test: what is there must open for good. `arrays.json` has dtype, shape
and SHA-256 of the bytes of each array as it was before it was saved, by its path.
"""

import hashlib
import json
import pathlib
import sys

import jax
import numpy as np

from experiments.checkpointing import integrity
from experiments.training import loop
from tests.helpers import tiny

STEP = 4


def config():
    """Settings of the run, with every entry of today."""
    return tiny.config(
        num_steps=STEP,
        network__features=4,
        optimizer__schedule="constant",
        log__every=3,
        log__num_bins=3,
        eval__every=0,
        samples__every=0,
        checkpoint__every=STEP,
    )


def described(items):
    """Dtype, shape and checksum of the arrays of a checkpoint, by path."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(items)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        value = np.asarray(leaf)
        digest = hashlib.sha256(value.tobytes()).hexdigest()
        found[name] = [value.dtype.name, list(value.shape), digest]
    return found


def main(directory):
    directory = pathlib.Path(directory)
    state = loop.train_and_evaluate(config(), directory)
    text = json.dumps(described(state.checkpoint_items()), indent=0)
    (directory / "arrays.json").write_text(text + "\n")
    step = directory / "checkpoints" / str(STEP)
    for path in step.rglob("commit_success.txt"):
        path.unlink()  # it names the directory of the machine where this ran
    (step / integrity.FILE_NAME).unlink()
    integrity.write(step, step.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
