"""Drawing from a run: `sampling/generate.py`."""

import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

from experiments.checkpointing import integrity, restore
from experiments.checkpointing.loaded import Request
from experiments.config import build, registry
from experiments.runtime.errors import UsageError
from experiments.sampling import compiled_sampler, conditions, generate
from experiments.sampling.sample_run import sample_run
from experiments.training import loop
from tests.helpers import tiny


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run on points, long enough for labels and averages to matter."""
    workdir = tmp_path_factory.mktemp("run")
    config = tiny.config(
        num_steps=30,
        optimizer__learning_rate=0.03,
        eval__every=0,
        samples__every=30,
        checkpoint__every=15,
    )
    with jax.numpy_dtype_promotion("standard"):
        loop.train_and_evaluate(config, workdir)
    return workdir


def draw(workdir, **settings):
    """The `.npz` of a request."""
    path = sample_run(workdir, Request(**{"num_samples": 12} | settings))
    with np.load(path) as file:
        return dict(file)


@pytest.mark.ci
def test_what_is_written(workdir, tmp_path, capsys):
    drawn = draw(workdir, num_samples=5, out=str(tmp_path / "deep" / "a.npz"))
    assert drawn["samples"].shape == (5, 2)
    assert drawn["samples"].dtype == np.float32
    assert drawn["labels"].tolist() == [0, 1, 0, 1, 0]
    assert drawn["labels"].dtype == np.int32
    assert "levels" not in drawn
    recipe = "ema weights of step 30, ddim, 2 steps, grid uniform, guidance 1, seed 0"
    assert str(drawn["recipe"]) == recipe
    assert (tmp_path / "deep" / "a.png").exists()
    output = capsys.readouterr().out
    assert recipe in output
    assert str(tmp_path / "deep" / "a.npz") in output


def test_files_of_different_requests_do_not_collide():
    sampler = {"name": "ddim", "num_steps": 2, "grid": "uniform"}
    complete = Request(step=30, guidance=1.0, sampler=sampler)
    changes = [
        {},
        {"seed": 1},
        {"guidance": 2.0},
        {"label": 1},
        {"weights": "raw"},
        {"step": 15},
        {"sampler": sampler | {"name": "heun(variable='v')"}},
        {"sampler": sampler | {"num_steps": 3}},
        {"sampler": sampler | {"grid": "logsnr_uniform"}},
        {"num_samples": 4},
        {"conditions": "a.npz"},
    ]
    root = pathlib.Path("runs")
    paths = [generate.output_path(root, complete._replace(**c)) for c in changes]
    assert len(set(paths)) == len(changes)
    for path in paths:
        assert path.parent == root / "samples"
        assert re.fullmatch(r"[\w.=-]+", path.name)


@pytest.mark.parametrize(
    ("shape", "width"),
    [((2,), 128), ((8, 8, 1), 128), ((9, 8, 1), 64), ((32, 32, 3), 16)],
)
def test_a_cpu_makes_the_most_samples_that_fit(shape, width):
    """A power of two with at most 8,192 values, from 16 to 128."""
    assert compiled_sampler.cpu_width(shape) == width


@pytest.mark.ci
@pytest.mark.parametrize(
    "sampler", ["ddim", pytest.param("ddpm", marks=pytest.mark.slow)]
)
def test_sample_i_does_not_depend_on_the_batch(workdir, tmp_path, monkeypatch, sampler):
    monkeypatch.setattr(compiled_sampler, "CPU_WIDTHS", (16, 16))  # two programs
    settings = {"num_samples": 20, "guidance": 2.0, "sampler": {"name": sampler}}
    expected = draw(workdir, **settings)["samples"]
    for batch_size in (1, 7, 64):
        out = str(tmp_path / f"batch{batch_size}")  # what is there is not drawn again
        again = draw(workdir, batch_size=batch_size, out=out, **settings)["samples"]
        np.testing.assert_array_equal(again, expected)
    fewer = draw(workdir, **settings | {"num_samples": 3})["samples"]
    np.testing.assert_array_equal(fewer, expected[:3])
    for width in (1, 7, 64):  # other programs, as on an accelerator
        monkeypatch.setattr(compiled_sampler, "cpu_width", lambda shape, n=width: n)
        out = str(tmp_path / f"width{width}")
        again = draw(workdir, out=out, **settings)["samples"]
        np.testing.assert_allclose(again, expected, atol=1e-5)
    other = draw(workdir, seed=1, **settings)["samples"]
    assert np.abs(other - expected).min(axis=0).max() > 1e-5


@pytest.mark.ci
def test_the_label_of_all_samples(workdir):
    in_turn, ones = draw(workdir), draw(workdir, label=1)
    assert set(ones["labels"]) == {1}
    is_one = in_turn["labels"] == 1
    np.testing.assert_array_equal(ones["samples"][is_one], in_turn["samples"][is_one])
    assert np.all(ones["samples"][~is_one] != in_turn["samples"][~is_one])


@pytest.mark.ci
def test_guidance_0_knows_no_label_and_1_is_conditional(workdir):
    free = [draw(workdir, guidance=0.0, label=label)["samples"] for label in (0, 1)]
    np.testing.assert_array_equal(*free)
    conditional = draw(workdir, guidance=1.0, label=0)["samples"]
    nearly = draw(workdir, guidance=1.0 + 1e-6, label=0)["samples"]
    np.testing.assert_allclose(nearly, conditional, atol=1e-4)
    assert np.abs(conditional - free[0]).max() > 1e-3
    assert np.abs(draw(workdir, guidance=3.0, label=0)["samples"] - free[0]).max() > (
        np.abs(conditional - free[0]).max()
    )


@pytest.mark.ci
def test_raw_and_averaged_weights_differ(workdir):
    raw, ema = draw(workdir, weights="raw"), draw(workdir, weights="ema")
    assert np.abs(raw["samples"] - ema["samples"]).max() > 1e-4


@pytest.mark.ci
def test_neither_optimizer_nor_data_set_is_needed(workdir, tmp_path, monkeypatch):
    expected = draw(workdir)["samples"]
    saved = shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    for item in ("train", "params"):
        shutil.rmtree(saved / "30" / item)
    integrity.write(saved / "30", "30")

    def missing(section):
        raise AssertionError("the data set was asked for")

    monkeypatch.setattr(build, "dataset", missing)
    np.testing.assert_array_equal(draw(tmp_path)["samples"], expected)


def every_third(names):
    """All names; what is not the first of three is nightly."""
    marks = lambda i: [pytest.mark.nightly] if i % 3 else []
    return [pytest.param(name, marks=marks(i)) for i, name in enumerate(names)]


@pytest.mark.ci
@pytest.mark.parametrize("name", ["DPM++ 3S", *every_third(registry.SAMPLERS)])
def test_every_sampler_draws(workdir, name):
    drawn = draw(workdir, num_samples=4, sampler={"name": name, "num_steps": 3})
    assert np.all(np.isfinite(drawn["samples"]))
    assert drawn["samples"].std() > 0.1


@pytest.mark.ci
def test_the_trainer_draws_the_same(workdir):
    """Its picture at the last step is that of two samples, one of each class."""
    path = sample_run(workdir, Request(num_samples=2))
    shown = workdir / "samples" / "step0000030_ema.png"
    assert path.with_suffix(".png").read_bytes() == shown.read_bytes()


@pytest.mark.ci
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": 2}, r"label=2: must be in 0\.\.1"),
        ({"label": -1}, r"label=-1: must be in 0\.\.1"),
        ({"step": 7}, r"step=7: must be one of \[15, 30\], the steps"),
        ({"sampler": {"name": "dimm"}}, "sampler.name: .*did you mean 'ddim'"),
        ({"sampler": {"grid": "unform"}}, "sampler.grid: .*did you mean 'uniform'"),
    ],
)
def test_what_does_not_fit_the_run_is_refused(workdir, settings, message):
    with pytest.raises(UsageError, match=message):
        draw(workdir, **settings)


@pytest.mark.ci
def test_a_checkpoint_of_another_format_is_refused(workdir, monkeypatch):
    monkeypatch.setattr(restore.metadata, "FORMAT", 3)
    with pytest.raises(UsageError, match="checkpoint format 2: must be 3, which"):
        draw(workdir)


@pytest.mark.ci
def test_a_checkpoint_that_a_training_removes_meanwhile_is_not_needed(
    workdir, tmp_path, monkeypatch
):
    """Of the newest one that is still there it draws; one by number is missed."""
    shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    expected = draw(workdir, step=15, out=str(tmp_path / "expected"))
    check_same, removed = restore.metadata.check_compatible, []

    def removing(found, current, step):
        if step not in removed:
            removed.append(step)
            shutil.rmtree(tmp_path / "checkpoints" / str(step))
        check_same(found, current, step)

    monkeypatch.setattr(restore.metadata, "check_compatible", removing)
    removed.append(15)
    drawn = draw(tmp_path, out=str(tmp_path / "drawn"))
    assert removed == [15, 30]
    np.testing.assert_array_equal(drawn["samples"], expected["samples"])
    removed.remove(15)
    with pytest.raises(UsageError, match="holds no complete checkpoint"):
        draw(tmp_path, step=15, out=str(tmp_path / "again"))


@pytest.mark.ci
def test_two_draws_of_one_result_at_once_are_refused(workdir, tmp_path):
    """The second while the first one is at it; the first one ends well."""
    out, make = str(tmp_path / "drawn"), compiled_sampler.make_sample_fn

    def meanwhile(*args, **settings):
        with pytest.raises(UsageError, match="is writing .*drawn.shards"):
            draw(workdir, out=out)
        return make(*args, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled_sampler, "make_sample_fn", meanwhile)
        drawn = draw(workdir, out=out)
    assert len(drawn["samples"]) == 12
    assert not (tmp_path / "drawn.shards").exists()


def test_a_run_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no checkpoints in"):
        draw(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UsageError, match="holds no complete checkpoint yet"):
        draw(tmp_path)


def test_label_orders():
    assert conditions.labels_in_turn(5, 3).tolist() == [0, 1, 2, 0, 1]
    assert conditions.by_class(2, 3).tolist() == [0, 0, 1, 1, 2, 2]
