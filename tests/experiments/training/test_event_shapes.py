"""Runs on data as they come: trained, resumed, evaluated, pictured, drawn from."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments.checkpointing.loaded import Request
from experiments.comparison import read_run
from experiments.config import registry
from experiments.evaluation import evaluate, likelihoods, results, sample_quality
from experiments.runtime.errors import UsageError
from experiments.sampling.sample_run import sample_run
from experiments.training import loop
from experiments.training.trainer import Trainer
from tests.helpers import arrays
from tests.helpers.trees import same

pytestmark = pytest.mark.usefixtures("standard_promotion")

SHORT = dict(
    num_steps=2,
    log__every=1,
    eval__every=2,
    samples__every=2,
    samples__per_class=3,
    checkpoint__every=1,
)


def values(*shape):
    return np.random.RandomState(0).standard_normal((45, *shape)).astype(np.float32)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("stored", "pictured"),
    [
        pytest.param(values(6, 2), True, id="series"),
        pytest.param(
            (40 * values(2, 4, 4, 1) + 128).clip(0, 255).astype(np.uint8),
            True,
            id="video",
            marks=pytest.mark.slow,
        ),
        pytest.param(values(1), False, id="number", marks=pytest.mark.slow),
    ],
)
def test_a_run_is_resumed_bit_for_bit_and_drawn_from(
    tmp_path, monkeypatch, capsys, stored, pictured
):
    config = arrays.config(
        monkeypatch, tmp_path / "a.npz", dict(values=stored), **SHORT
    )
    expected = loop.train_and_evaluate(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert ("no picture of samples of shape [1]" in printed) == (not pictured)
    assert "ignores" not in printed and "classes: 0" in printed
    assert len([*(tmp_path / "run" / "samples").iterdir()]) == 2 * pictured
    part = tmp_path / "part" / "checkpoints"
    part.mkdir(parents=True)
    shutil.copytree(tmp_path / "run" / "checkpoints" / "1", part / "1")
    assert same(loop.train_and_evaluate(config, tmp_path / "part"), expected)
    path = sample_run(tmp_path / "run", Request(num_samples=5, guidance=2.0))
    with np.load(path) as file:
        assert file["samples"].shape == (5, *stored.shape[1:])
        assert file["samples"].dtype == stored.dtype and not file["labels"].any()
    assert path.with_suffix(".png").exists() == pictured
    with pytest.raises(UsageError, match="label=0: must be left out: the data have no"):
        sample_run(tmp_path / "run", Request(label=0))


@pytest.mark.slow
def test_a_run_on_series_is_evaluated(tmp_path, monkeypatch):
    config = arrays.config(
        monkeypatch,
        tmp_path / "a.npz",
        dict(values=values(6, 2)),
        **SHORT | dict(samples__every=0),
    )
    loop.train_and_evaluate(config, tmp_path / "run")
    request = evaluate.Request(
        batch_size=5,
        likelihood=likelihoods.Settings(num_times=2, ode_steps=2, num_probes=2),
        samples=sample_quality.Settings((), num_samples=40, num_resamples=39),
    )
    found = json.loads(evaluate.evaluate_run(tmp_path / "run", request).read_text())
    assert found["likelihood"]["unit"] == "nats per dimension"
    assert found["likelihood"]["count"] == 5
    assert len(found["samples"][0]["metrics"]) == 3
    assert found["identity"]["data"]["event_shape"] == [6, 2]


@pytest.mark.ci
def test_the_held_out_loss_is_of_the_validation_file(tmp_path, monkeypatch):
    """The loss of a file is what it is as the held-out part of any training file."""
    np.savez(tmp_path / "test.npz", values=values(3))
    section = dict(test_path=str(tmp_path / "test.npz"))
    found = []
    for name, scale in (("a.npz", 1), ("b.npz", 2)):
        config = arrays.config(
            monkeypatch, tmp_path / name, dict(values=scale * values(3)), data=section
        )
        trainer = Trainer(config)
        found.append(trainer.evaluate(trainer.init().params))
        assert len(trainer.dataset.test.labels) == 45
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_masked_run_does_not_know_what_the_mask_leaves_out(
    tmp_path, monkeypatch, capsys
):
    """The network acts on each value alone; two parts of a batch, and a resume."""
    monkeypatch.setitem(registry.NETWORKS, "elementwise", arrays.Elementwise)
    mask = np.arange(6) < 1 + np.arange(45)[:, None] % 6
    stored = values(6, 2)
    losses, states = [], []
    for name, left_out in (("a", 0.0), ("b", 100.0)):
        kept = np.where(mask[..., None], stored, left_out)
        config = arrays.config(
            monkeypatch,
            tmp_path / f"{name}.npz",
            dict(values=kept, mask=mask),
            **SHORT | dict(batch_size=16, optimizer__accumulate=2),
        )
        config.network = dict(name="elementwise")
        workdir = tmp_path / name
        states.append(loop.train_and_evaluate(config, workdir))
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
        losses.append([row["loss"] for row in rows] + [rows[-1]["test_loss_raw"]])
        assert "measured 1.03" in capsys.readouterr().out
    assert losses[0] == losses[1]
    assert same(states[0].params, states[1].params)
    part = tmp_path / "part" / "checkpoints"
    part.mkdir(parents=True)
    shutil.copytree(workdir / "checkpoints" / "1", part / "1")
    assert same(loop.train_and_evaluate(config, tmp_path / "part"), states[1])
    capsys.readouterr()
    check_masked_evaluations(tmp_path / "a", tmp_path / "b")
    output = capsys.readouterr().out
    assert "likelihood is left out: the data have a mask: the likelihood of" in output
    assert "sample quality is left out: the data have a mask: samples have" in output


def check_masked_evaluations(*workdirs):
    """The eps-MSE is of the unmasked values; what is left out is named."""
    found = []
    for workdir in workdirs:
        path = evaluate.evaluate_run(workdir, evaluate.Request())
        values, arrays = results.read(path)
        assert set(values["left_out"]) == {"likelihood", "sample quality"}
        assert values["likelihood"] is None and values["samples"] == []
        assert set(arrays) == {"eps_mse_raw", "eps_mse_ema"}
        assert np.isfinite(arrays["eps_mse_ema"]).all()
        found.append(arrays)
        rows = (workdir / "results.csv").read_text().splitlines()[1:]
        assert len(rows) == 12 and all("eps-MSE" in row for row in rows)
        notes = read_run.read(workdir).notes
        assert [note.split(":")[1].split(" is ")[0] for note in notes] == [
            " likelihood",
            " sample quality",
        ]
    assert same(*found)


CONDITIONS = np.random.RandomState(1).standard_normal((45, 3)).astype(np.float32)
HELD_OUT = CONDITIONS[8::9]


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory):
    """A run on vectors with conditions, trained until they matter."""
    path = tmp_path_factory.mktemp("conditioned")
    stored = dict(values=values(2), conditions=CONDITIONS)
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        jax.numpy_dtype_promotion("standard"),
    ):
        settings = SHORT | dict(optimizer__learning_rate=0.1, num_steps=4)
        config = arrays.config(monkeypatch, path / "a.npz", stored, **settings)
        state = loop.train_and_evaluate(config, path / "run")
        yield path / "run", config, state


def draw(workdir, **settings):
    path = sample_run(workdir, Request(**{"num_samples": 7} | settings))
    with np.load(path) as file:
        return dict(file)


@pytest.mark.slow
def test_a_conditioned_run_is_resumed_bit_for_bit(conditioned, tmp_path, capsys):
    workdir, config, expected = conditioned
    part = tmp_path / "checkpoints"
    part.mkdir(parents=True)
    shutil.copytree(workdir / "checkpoints" / "3", part / "3")
    assert same(loop.train_and_evaluate(config, tmp_path), expected)
    assert "ignores" not in capsys.readouterr().out
    identity = json.loads((workdir / "config.json").read_text())
    assert identity["data"]["name"] == "npz"


@pytest.mark.ci
def test_samples_have_the_conditions_of_held_out_examples_or_of_a_file(
    conditioned, tmp_path
):
    workdir = conditioned[0]
    found = draw(workdir)
    np.testing.assert_array_equal(found["conditions"], HELD_OUT[np.arange(7) % 5])
    np.save(tmp_path / "a.npy", HELD_OUT)
    np.savez(tmp_path / "b.npz", conditions=HELD_OUT[::-1])
    same_ones = draw(workdir, conditions=str(tmp_path / "a.npy"))
    np.testing.assert_array_equal(same_ones["samples"], found["samples"])
    others = draw(workdir, conditions=str(tmp_path / "b.npz"))
    np.testing.assert_array_equal(others["conditions"][:5], HELD_OUT[::-1])
    apart = np.abs(others["samples"] - found["samples"]).max(1)
    assert apart[2] == 0 and apart[[0, 1, 3, 4]].min() > 1e-3  # the third is its own


@pytest.mark.ci
def test_samples_without_guidance_know_no_condition(conditioned, tmp_path):
    np.save(tmp_path / "a.npy", 10 * HELD_OUT)
    drawn = [
        draw(conditioned[0], guidance=0.0, **given)["samples"]
        for given in ({}, {"conditions": str(tmp_path / "a.npy")})
    ]
    np.testing.assert_array_equal(*drawn)


@pytest.mark.ci
def test_conditions_that_do_not_fit_are_refused_in_one_line(conditioned, tmp_path):
    workdir = conditioned[0]
    np.save(tmp_path / "a.npy", HELD_OUT[:, :2])
    np.savez(tmp_path / "b.npz", vectors=HELD_OUT)
    before = sorted((workdir / "samples").iterdir())
    for name, said in [
        ("a.npy", "a.npy': 2 features each, and those of the data have 3"),
        ("b.npz", "no array 'conditions'; it has vectors"),
        ("c.npy", "no readable .npy file: .*No such file"),
        ("a.txt", "must be a file .npy or .npz"),
    ]:
        with pytest.raises(UsageError, match=said) as caught:
            draw(workdir, conditions=str(tmp_path / name))
        assert "\n" not in str(caught.value)
    data = conditioned[1].data.path
    moved = shutil.move(data, tmp_path / "moved.npz")
    with pytest.raises(UsageError, match="No such file.*without --conditions=FILE the"):
        draw(workdir)
    shutil.move(moved, data)
    assert sorted((workdir / "samples").iterdir()) == before


@pytest.mark.ci
def test_conditions_are_refused_where_the_data_have_none(tmp_path, monkeypatch):
    config = arrays.config(
        monkeypatch, tmp_path / "a.npz", dict(values=values(2)), **SHORT
    )
    config.num_steps = 1
    loop.train_and_evaluate(config, tmp_path / "run")
    np.save(tmp_path / "a.npy", HELD_OUT)
    with pytest.raises(UsageError, match="must be left out: the data have no cond"):
        draw(tmp_path / "run", conditions=str(tmp_path / "a.npy"))


@pytest.mark.ci
def test_an_evaluation_takes_the_conditions_of_each_example(conditioned):
    request = evaluate.Request(
        batch_size=5,
        likelihood=likelihoods.Settings(num_times=2, ode_steps=2, num_probes=2),
        samples=sample_quality.Settings((), num_samples=40, num_resamples=39),
    )
    path = evaluate.evaluate_run(conditioned[0], request)
    file = conditioned[0] / json.loads(path.read_text())["samples"][0]["file"]
    with np.load(file) as drawn:
        expected = HELD_OUT[np.arange(40) % 5]
        np.testing.assert_array_equal(drawn["conditions"], expected)
