"""Evaluation of a run: `experiments/evaluating.py`, `quality.py`, `results.py`."""

import json
import shutil
import signal

import jax
import numpy as np
import pytest

from diffusionflow import metrics
from experiments import build, evaluating, likelihoods, loop, parts, quality, results
from experiments.errors import Stopped, UsageError
from experiments.evaluating import Request, evaluate_run
from tests import tiny

SAMPLES = quality.Settings(
    ("ddim@2", "heun@3@cosine"), num_samples=40, num_resamples=39
)
REQUEST = Request(
    batch_size=16,
    likelihood=likelihoods.Settings(num_times=4, ode_steps=4, num_probes=2),
    samples=SAMPLES,
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    config = tiny.config(eval__every=0, samples__every=0, checkpoint__every=10)
    with jax.numpy_dtype_promotion("standard"):
        loop.train_and_evaluate(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def evaluated(workdir):
    return json.loads(evaluate_run(workdir, REQUEST).read_text())


def test_what_is_written(evaluated):
    assert evaluated["settings"]["step"] == 10
    assert evaluated["identity"]["config"]["seed"] == 0
    found = evaluated["likelihood"]
    assert found["count"] == 36 and found["unit"] == "nats per dimension"
    for name in ("bound", "ode"):
        assert np.isfinite(found[name]["mean"]) and found[name]["stderr"] > 0
    for weights in ("raw", "ema"):
        errors = evaluated["eps_mse"][weights]
        assert len(errors["mean"]) == len(evaluated["eps_mse"]["logsnr"])
        assert min(errors["stderr"]) > 0
    assert [row["nfe"] for row in evaluated["samples"]] == [2, 5]  # Heun ends singly
    for row in evaluated["samples"]:
        names = [(one["metric"], one["recipe"]["features"]) for one in row["metrics"]]
        assert names == [(name, "pixels") for name in quality.METRICS]


def test_metrics_are_those_of_what_was_drawn(workdir, evaluated):
    (path,) = (workdir / "samples").glob("*ddim_2_*_40.npz")
    with np.load(path) as file:
        samples = file["samples"]
    train = build.dataset(tiny.config().data).train.values
    row = evaluated["samples"][0]
    assert row["metrics"][0]["value"] == pytest.approx(
        metrics.Frechet()(samples, train), rel=1e-5
    )
    first = metrics.Frechet()(samples[:36], train)
    assert row["at_the_floors_count"][0]["value"] == pytest.approx(first, rel=1e-5)
    floor = metrics.Frechet()(build.dataset(tiny.config().data).test.values, train)
    assert evaluated["floor"][0]["value"] == pytest.approx(floor, rel=1e-5)


def test_the_arrays_are_what_is_told(workdir, evaluated):
    """And each is found again: means of examples, estimates of resamples, samples."""
    told, arrays = results.read(workdir / "eval.json")
    assert told == evaluated
    for name in ("bound", "ode"):
        assert arrays[name].shape == (36,)
        error = arrays[name].std(ddof=1) / 6
        assert arrays[name].mean() == pytest.approx(told["likelihood"][name]["mean"])
        assert error == pytest.approx(told["likelihood"][name]["stderr"], rel=1e-6)
    for weights in ("raw", "ema"):
        mean = arrays[f"eps_mse_{weights}"].mean(0)
        np.testing.assert_allclose(mean, told["eps_mse"][weights]["mean"], rtol=1e-6)
    for number, row in enumerate(told["samples"]):
        errors = arrays[f"samples_{number}"].std(1, ddof=1)
        expected = [one["standard_error"] for one in row["metrics"]]
        np.testing.assert_allclose(errors, expected)
        assert (workdir / row["file"]).exists()


def test_arrays_that_are_gone_or_other_ones_are_made_again(
    workdir, evaluated, tmp_path, capsys
):
    for name in ("checkpoints", "evaluation", "samples"):
        shutil.copytree(workdir / name, tmp_path / name)
    for name in ("eval.json", "eval.npz"):
        shutil.copy(workdir / name, tmp_path / name)
    for damage, words in (
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is damaged or does"),
    ):
        damage(tmp_path / "eval.npz")
        with pytest.raises(UsageError, match=words):
            results.read(tmp_path / "eval.json")
        evaluate_run(tmp_path, REQUEST)
        assert words in capsys.readouterr().out
        told, _ = results.read(tmp_path / "eval.json")
        assert told | {"environment": None} == evaluated | {"environment": None}


def test_what_another_program_wrote_is_not_written_over(tmp_path):
    np.savez(tmp_path / "best.npz", samples=np.zeros(3))
    with pytest.raises(UsageError, match=r"best\.npz.* is no evaluation's; choose"):
        results.is_there(tmp_path / "best.json", {})
    np.savez(tmp_path / "best.npz", bound=np.zeros(3))  # killed before the .json
    assert not results.is_there(tmp_path / "best.json", {})
    (tmp_path / "best.json").write_text('{"format": 99, "settings": {}}')
    with pytest.raises(UsageError, match="has format 99, which a newer version"):
        results.is_there(tmp_path / "best.json", {})


def test_a_stopped_evaluation_goes_on_to_the_same_numbers(
    workdir, evaluated, tmp_path, monkeypatch
):
    shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    get, names = parts.Parts.get, []

    def stopping(self, name, compute):
        names.append(name)
        if len(names) == 2:
            raise Stopped(signal.SIGTERM)
        return get(self, name, compute)

    monkeypatch.setattr(parts.Parts, "get", stopping)
    with pytest.raises(Stopped) as stopped:
        evaluate_run(tmp_path, REQUEST)
    assert "the same command goes on" in stopped.value.kept
    assert not (tmp_path / "eval.json").exists()
    again = json.loads(evaluate_run(tmp_path, REQUEST).read_text())
    assert again | {"environment": None} == evaluated | {"environment": None}


def test_a_result_is_left_as_it_is_and_others_are_refused(workdir, evaluated, capsys):
    before = (workdir / "eval.json").read_bytes()
    evaluate_run(workdir, REQUEST)
    assert "evaluated already" in capsys.readouterr().out
    with pytest.raises(UsageError, match="weights 'ema' there, 'raw' now"):
        evaluate_run(workdir, REQUEST._replace(weights="raw"))
    assert (workdir / "eval.json").read_bytes() == before
    with pytest.raises(UsageError, match="must be a .json"):
        evaluate_run(workdir, REQUEST._replace(out=str(workdir / "eval.npz")))
    (workdir / "other.json").write_text("{}")
    with pytest.raises(UsageError, match="other.json is no evaluation"):
        evaluate_run(workdir, REQUEST._replace(out=str(workdir / "other.json")))


def test_other_data_are_refused(workdir, monkeypatch):
    other = build.dataset(tiny.config(data__size=660).data)
    monkeypatch.setattr(evaluating.build, "dataset", lambda section: other)
    with pytest.raises(UsageError, match="trained on .*294.*the data are .*588"):
        evaluate_run(workdir, REQUEST)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ddim", "write name@steps"),
        ("ddim@x", "write name@steps"),
        ("ddimm@2", "did you mean 'ddim'"),
        ("ddim@2@unifrm", "did you mean 'uniform'"),
        ("ddim@2@logsnr_uniform(logsnr_max=-20.0)", "below the one before"),
    ],
)
def test_wrong_samplers_are_refused_before_anything_is_done(workdir, text, words):
    wrong = REQUEST._replace(samples=SAMPLES._replace(samplers=(text,)))
    with pytest.raises(UsageError, match=words):
        evaluate_run(workdir, wrong)


def test_the_sampler_of_the_config_is_the_default(workdir, tmp_path):
    request = REQUEST._replace(
        samples=SAMPLES._replace(samplers=()), out=str(tmp_path / "eval.json")
    )
    found = json.loads(evaluate_run(workdir, request).read_text())
    (row,) = found["samples"]
    assert row["sampler"] == {"name": "ddim", "num_steps": 2, "grid": "uniform"}
