"""Files of optimised grids in the config of a run, which keeps a copy."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from diffusionflow import schedules
from experiments.checkpointing import manager, restore
from experiments.checkpointing.loaded import Request
from experiments.config import build, experiment, grid_files
from experiments.runtime.errors import UsageError
from experiments.training.loop import train_and_evaluate
from tests.helpers import tiny

KEPT = pathlib.Path(__file__).parents[2] / "data" / "checkpoint"
FLOW = schedules.FlowMatching()
TIMES = [1.0, 0.4, 0.0]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a[1].json"  # a name that a pattern would not match
    content = dict(format=1, times=TIMES, num_steps=2, sampler="ddim")
    path.write_text(json.dumps(content | dict(schedule=repr(FLOW))))
    return path


def config_of(file):
    return tiny.config(sampler__grid=str(file), samples__every=0)


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_a_run_needs_the_file_of_its_config_once(file, tmp_path):
    workdir = tmp_path / "run"
    train_and_evaluate(config_of(file), workdir)
    saved = json.loads((workdir / "config.json").read_text())["sampler"]["grid"]
    assert saved == grid_files.read(str(file)).text
    for change in ("other times", "gone"):
        file.write_text("{}") if change == "other times" else file.unlink()
        loaded = restore.describe(workdir, Request())
        times = build.grid(loaded.request.sampler, FLOW)
        np.testing.assert_array_equal(times, TIMES)
    assert experiment.from_config(config_of(file), workdir).sampling.times[1] == 0.4
    assert int(train_and_evaluate(config_of(file), workdir).step) == 10


@pytest.mark.usefixtures("standard_promotion")
def test_a_checkpoint_is_sampled_on_the_copy(file, tmp_path, monkeypatch):
    workdir = shutil.copytree(KEPT, tmp_path / "run")
    saved_fn, text = manager.Checkpoints.identity, grid_files.read(str(file)).text

    def identity(self, step):
        found = saved_fn(self, step)
        found["config"]["sampler"] = dict(name="ddim", num_steps=2, grid=text)
        return found

    monkeypatch.setattr(manager.Checkpoints, "identity", identity)
    grid_files.keep_copy(text, workdir)
    file.unlink()
    loaded = restore.describe(workdir, Request())
    np.testing.assert_array_equal(build.grid(loaded.request.sampler, FLOW), TIMES)
    assert loaded.config["sampler"] == loaded.request.sampler
    shutil.rmtree(workdir / "grids")
    with pytest.raises(UsageError, match="there is no such file.*or another grid"):
        restore.describe(workdir, Request())
    other = Request(sampler=dict(grid="uniform"))
    assert restore.describe(workdir, other).request.sampler["grid"] == "uniform"


def test_a_copy_that_is_not_the_only_one_is_not_guessed(file, tmp_path):
    grid_files.keep_copy(str(file), tmp_path)
    file.unlink()
    for _ in range(2):  # from the copy itself, which is kept
        config = config_of(file)
        assert experiment.from_config(config, tmp_path).sampling.times[1] == 0.4
        grid_files.keep_copy(config.sampler.grid, tmp_path)
    other = tmp_path / "grids" / "01234567" / file.name
    other.parent.mkdir()
    other.write_text("{}")
    with pytest.raises(UsageError, match="there is no such file"):
        experiment.from_config(config_of(file), tmp_path)
