"""The command line of pairs, and of a run that trains on them."""

import re

import jax
import numpy as np
import pytest

from experiments.training import loop
from tests.helpers import commands, in_process, tiny


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A short run in this process."""
    workdir = tmp_path_factory.mktemp("points")
    config = tiny.config(
        num_steps=3, eval__every=0, samples__every=0, checkpoint__every=3
    )
    with jax.numpy_dtype_promotion("standard"):
        loop.train_and_evaluate(config, workdir)
    return workdir


MISTAKES = {
    "unknown sampler": (["--sampler.name=hun"], "sampler.name: .*did you mean 'heun'?"),
    "unknown grid": (["--sampler.grid=unform"], "did you mean 'uniform'?"),
    "class out of range": (["--label=10"], r"label=10: must be in 0\.\.1"),
    "no pairs": (["--num_pairs=0"], "--num_pairs=0"),
    "misspelt flag": (["--num_samples=2"], "Unknown command line flag 'num_samples'"),
    "conditions": ([f"--conditions={__file__}"], "left out: the data have no cond"),
    "no conditions": (["--conditions=a.npz"], "a.npz: there is no such file"),
    "no step": (["--step=2"], r"step=2: must be one of \[3\], the steps in "),
    "no run": (["--workdir=/nowhere/at/all"], "no checkpoints in /nowhere/at/all"),
}


@pytest.mark.ci
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gives_one_line_and_exit_code_2(workdir, name):
    arguments, message = MISTAKES[name]
    found = in_process.run("experiments.pairs", f"--workdir={workdir}", *arguments)
    code, output, error = found
    assert (code, commands.without_announcements(output)) == (2, "")
    assert len(error.splitlines()) == 1, error
    assert error.startswith("error: ")
    assert re.search(message, error), error


@pytest.mark.ci
def test_flags_arrive(workdir, tmp_path):
    code, output, error = in_process.run(
        "experiments.pairs",
        f"--workdir={workdir}",
        f"--out={tmp_path / 'drawn'}",
        "--num_pairs=6",
        "--label=1",
        "--seed=3",
        "--guidance=2.5",
        "--weights=raw",
        "--batch_size=2",
        "--shard_size=4",
        "--sampler.num_steps=3",
    )
    assert (code, error) == (0, "")
    with np.load(tmp_path / "drawn.npz") as file:
        assert file["samples"].shape == file["noise"].shape == (6, 2)
        assert file["labels"].tolist() == [1] * 6
        recipe = str(file["recipe"])
    assert recipe == (
        "raw weights of step 3, heun(variable='u'), 3 steps, grid uniform, guidance "
        "2.5, seed 3"
    )
    lines = output.splitlines()
    assert lines[-3] == recipe and lines[-1] == f"{tmp_path / 'drawn'}.npz"
    number = r"[\d.e-]+"
    assert re.fullmatch(
        f"straightness of 6 paths: {number} \\+- {number} per dimension, {number} \\+- "
        f"{number} in all \\(mean and standard error; 0 if straight\\)",
        lines[-2],
    )
