"""Samplers, features and metrics of an evaluation: `sample_quality.py`."""

import json

import numpy as np
import pytest

from diffusionflow import metrics
from experiments.config import build
from experiments.evaluation import sample_quality
from experiments.evaluation.evaluate import evaluate_run
from experiments.runtime.errors import UsageError
from tests.helpers import tiny
from tests.helpers.tiny_evaluation import REQUEST, SAMPLES


def test_metrics_are_those_of_the_samples(workdir, evaluated):
    (path,) = (workdir / "samples").glob("*ddim_2_*_40.npz")
    with np.load(path) as file:
        samples = file["samples"]
    train = build.dataset(tiny.config().data).train.values
    row = evaluated["samples"][0]
    assert row["metrics"][0]["value"] == pytest.approx(
        metrics.Frechet()(samples, train), rel=1e-5
    )
    first = metrics.Frechet()(samples[:36], train)
    assert row["metrics_at_baseline_size"][0]["value"] == pytest.approx(first, rel=1e-5)
    baseline = metrics.Frechet()(build.dataset(tiny.config().data).test.values, train)
    assert evaluated["held_out_baseline"][0]["value"] == pytest.approx(
        baseline, rel=1e-5
    )


def test_features_of_a_users_own_are_compared(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def sums(x):\n    return x.sum(1, keepdims=True)\n"
        "def wrong(x):\n    return x[0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    dataset = build.dataset(tiny.config().data)

    def own(name):
        settings = SAMPLES._replace(features=(name,))
        asked = sample_quality.asked_features(settings, dataset.event_shape)
        return sample_quality.feature_maps(dataset, settings, (), asked)

    pixels, sums = own("mine:sums")
    x = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(sums.features_fn(x), [[2.0]] * 3)
    assert sums.name.startswith("mine:sums (module ") and pixels.name == "pixels"
    with pytest.raises(UsageError, match=r"gives shape \(2,\) for 3 examples"):
        own("mine:wrong")[1].features_fn(x)
    with pytest.raises(UsageError, match="has no 'sum'; did you mean 'sums'"):
        own("mine:sum")


def test_weights_of_inception_are_read_once(monkeypatch):
    """Looked at before anything is computed, they serve the evaluation."""
    read = []

    def inception(path):
        read.append(path)
        return sample_quality.features.pixels()

    monkeypatch.setattr(sample_quality.features, "inception", inception)
    settings = SAMPLES._replace(inception="weights.npz")
    asked = sample_quality.asked_features(settings, (8, 8, 1))
    dataset = build.dataset(dict(name="digits"))
    found = sample_quality.feature_maps(dataset, settings, ("classifier",), asked)
    assert found[1:] == asked and read == ["weights.npz"]


def test_parts_are_left_out_and_frechet_needs_more_rows_than_features(
    workdir, evaluated, tmp_path, monkeypatch, capsys
):
    (tmp_path / "wide.py").write_text(
        "def fifty(x):\n    return x[:, :1] ** range(1, 51)\n"
        "def sums(x):\n    return x.sum(1, keepdims=True)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    samples = SAMPLES._replace(
        samplers=("ddim@2",), features=("wide:fifty", "wide:sums"), num_reference=60
    )
    left_out = ("eps-MSE", "ode", "pixels", "energy")
    request = REQUEST._replace(
        samples=samples, out=str(tmp_path / "eval.json"), leave_out=left_out
    )
    found = json.loads(evaluate_run(workdir, request).read_text())
    assert found["left_out"] == {"eps-MSE": "--leave_out asks for it"}
    assert found["eps_mse"] is None and "ode" not in found["likelihood"]
    assert found["likelihood"]["bound"] == evaluated["likelihood"]["bound"]
    (row,) = found["samples"]
    names = [(one["metric"], one["recipe"]["features"][:9]) for one in row["metrics"]]
    assert names == [
        ("mmd", "wide:fift"),
        ("frechet", "wide:sums"),
        ("mmd", "wide:sums"),
    ]
    assert {tuple(one["recipe"]["counts"]) for one in row["metrics"]} == {(40, 60)}
    at_baseline = [*row["metrics_at_baseline_size"], *found["held_out_baseline"]]
    assert {tuple(one["recipe"]["counts"]) for one in at_baseline} == {(36, 60)}
    said = capsys.readouterr().out
    assert "no frechet of wide:fifty, 40 and 60 training examples: with 50 fea" in said
    assert "at equal counts:\nheld-out examples: mmd of wide:fifty" in said


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
