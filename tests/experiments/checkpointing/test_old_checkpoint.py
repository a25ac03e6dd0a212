"""A checkpoint of format 2 opens for good: `tests/data/checkpoint`."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from experiments.checkpointing import metadata
from experiments.checkpointing.loaded import Request
from experiments.checkpointing.manager import Checkpoints
from experiments.sampling.sample_run import sample_run
from experiments.training import loop
from experiments.training.trainer import Trainer
from tests.helpers import old_checkpoint
from tests.helpers.old_checkpoint import STEP

OLD = pathlib.Path(__file__).parents[2] / "data" / "checkpoint"

pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_it_says_what_it_is():
    with Checkpoints(OLD, read_only=True) as saved:
        assert saved.newest() == STEP
        found = saved.identity(STEP)
    assert found["format"] == 2
    assert found["versions"].keys() >= {"jax", "jaxlib", "orbax-checkpoint", "flax"}
    metadata.check_format(found)


def test_every_array_is_what_it_was():
    trainer = Trainer(old_checkpoint.config())
    with Checkpoints(OLD, read_only=True) as saved:
        found = saved.restore(STEP, trainer.abstract_state.checkpoint_items())
        assert metadata.diff(saved.identity(STEP), trainer.identity) == []
    expected = json.loads((OLD / "arrays.json").read_text())
    assert old_checkpoint.described(found) == expected


@pytest.mark.ci
def test_samples_are_drawn_from_it(tmp_path):
    path = sample_run(OLD, Request(num_samples=3, out=str(tmp_path / "drawn")))
    with np.load(path) as file:
        assert file["samples"].shape == (3, 2) and np.isfinite(file["samples"]).all()


@pytest.mark.slow
def test_it_is_trained_on(tmp_path):
    shutil.copytree(OLD / "checkpoints", tmp_path / "checkpoints")
    config = old_checkpoint.config()
    config.num_steps = STEP + 2
    state = loop.train_and_evaluate(config, tmp_path)
    assert int(state.step) == STEP + 2
    assert all(jax.numpy.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
