"""`eval.json`, `eval.npz` and `results.csv`: `results.py`, `tables.py`."""

import csv
import json
import shutil

import numpy as np
import pytest

from experiments.checkpointing import manager
from experiments.comparison import read_run
from experiments.evaluation import results
from experiments.evaluation.evaluate import evaluate_run
from experiments.runtime.errors import UsageError
from tests.helpers.tiny_evaluation import REQUEST, copied


@pytest.mark.ci
def test_every_number_is_a_row_of_the_table(workdir, evaluated):
    with (workdir / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == results.COLUMNS
    assert {row["run"] for row in rows} == {str(workdir)}
    bound, ode, *others = rows
    errors, others = others[:12], others[12:]
    for weights, listed in (("raw", errors[:6]), ("ema", errors[6:])):
        found = evaluated["eps_mse"][weights]
        assert [float(row["value"]) for row in listed] == found["mean"]
        assert listed[1]["quantity"] == f"eps-MSE ({weights}) at log-SNR -2"
    for name, row in (("bound", bound), ("ode", ode)):
        found = evaluated["likelihood"][name]
        assert row["quantity"] == f"{name} (nats per dimension)"
        assert float(row["value"]) == found["mean"]
        width = float(row["high"]) - float(row["low"])
        assert width == pytest.approx(4 * found["stderr"])
    metrics_of = [
        evaluated["held_out_baseline"],
        *(row["metrics"] for row in evaluated["samples"]),
    ]
    wanted = [one for listed in metrics_of for one in listed]
    assert [float(row["value"]) for row in others] == [one["value"] for one in wanted]
    assert [row["nfe"] for row in others] == [""] * 3 + ["2"] * 3 + ["5"] * 3
    assert others[3]["sampler"] == "ddim@2@uniform"


@pytest.mark.ci
def test_the_arrays_agree_with_the_json(workdir, evaluated):
    """And each is found again: means of examples, estimates of resamples, samples."""
    values, arrays = results.read(workdir / "eval.json")
    assert values == evaluated
    for name in ("bound", "ode"):
        assert arrays[name].shape == (36,)
        error = arrays[name].std(ddof=1) / 6
        assert arrays[name].mean() == pytest.approx(values["likelihood"][name]["mean"])
        assert error == pytest.approx(values["likelihood"][name]["stderr"], rel=1e-6)
    for weights in ("raw", "ema"):
        mean = arrays[f"eps_mse_{weights}"].mean(0)
        np.testing.assert_allclose(mean, values["eps_mse"][weights]["mean"], rtol=1e-6)
    for number, row in enumerate(values["samples"]):
        errors = arrays[f"samples_{number}"].std(1, ddof=1)
        expected = [one["standard_error"] for one in row["metrics"]]
        np.testing.assert_allclose(errors, expected)
        assert (workdir / row["file"]).exists()


@pytest.mark.ci
def test_arrays_that_are_gone_or_other_ones_are_made_again(
    workdir, evaluated, tmp_path, capsys
):
    for name in ("checkpoints", "evaluation", "samples"):
        shutil.copytree(workdir / name, tmp_path / name)
    for name in ("eval.json", "eval.npz"):
        shutil.copy(workdir / name, tmp_path / name)
    for corrupt, words in (
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is corrupted or does"),
    ):
        corrupt(tmp_path / "eval.npz")
        with pytest.raises(UsageError, match=words):
            results.read(tmp_path / "eval.json")
        evaluate_run(tmp_path, REQUEST)
        assert words in capsys.readouterr().out
        values, _ = results.read(tmp_path / "eval.json")
        assert values | {"environment": None} == evaluated | {"environment": None}


def test_what_another_program_wrote_is_not_written_over(tmp_path):
    np.savez(tmp_path / "best.npz", samples=np.zeros(3))
    with pytest.raises(UsageError, match=r"best\.npz exists and was not written"):
        results.exists(tmp_path / "best.json", {})
    np.savez(tmp_path / "best.npz", bound=np.zeros(3))  # killed before the .json
    assert not results.exists(tmp_path / "best.json", {})
    (tmp_path / "best.json").write_text('{"format": 99, "settings": {}}')
    with pytest.raises(UsageError, match="has format 99, which a newer version"):
        results.exists(tmp_path / "best.json", {})


@pytest.mark.ci
def test_a_result_of_other_weights_is_refused_and_not_compared(
    workdir, evaluated, retrained, tmp_path
):
    copied(retrained, tmp_path, "checkpoints")
    for name in ("eval.json", "eval.npz"):
        shutil.copy(workdir / name, tmp_path / name)
    words = "is of other ema weights of step 10: the run was trained again since"
    with pytest.raises(UsageError, match=f"eval.json {words}; move it away"):
        evaluate_run(tmp_path, REQUEST)
    run = read_run.read(tmp_path)
    assert run.evaluation is None and not run.arrays
    (note,) = run.notes
    assert note.startswith(f"{tmp_path / 'eval.json'} is left out: it {words}; move")
    assert read_run.read(workdir).evaluation == evaluated


def test_a_checkpoint_that_goes_away_meanwhile_is_a_note(
    workdir, evaluated, tmp_path, monkeypatch
):
    copied(workdir, tmp_path, "checkpoints", "evaluation", "samples")
    for name in ("eval.json", "eval.npz"):
        shutil.copy(workdir / name, tmp_path / name)
    digest = manager.Checkpoints.digest

    def removed(saved, step, item):
        shutil.rmtree(saved.directory / str(step))
        return digest(saved, step, item)

    monkeypatch.setattr(manager.Checkpoints, "digest", removed)
    run = read_run.read(tmp_path)
    assert run.evaluation is None and "or a training removed it now" in run.notes[0]


@pytest.mark.ci
def test_an_evaluation_of_another_step_is_not_compared(workdir, evaluated, tmp_path):
    copied(workdir, tmp_path, "checkpoints")
    results.write(
        tmp_path / "eval.json",
        {**evaluated, "settings": evaluated["settings"] | {"step": 5}},
        results.read(workdir / "eval.json")[1],
    )
    run = read_run.read(tmp_path)
    assert run.evaluation is None and run.step == 10
    (note,) = run.notes
    assert "is left out: it is of step 5, and the run is at step 10; move" in note


@pytest.mark.ci
def test_a_result_of_another_format_is_not_compared(workdir, evaluated, tmp_path):
    copied(workdir, tmp_path, "checkpoints")
    shutil.copy(workdir / "eval.npz", tmp_path / "eval.npz")
    for other in (1, 2, 3, 4, 6):
        text = json.dumps({**evaluated, "format": other})
        (tmp_path / "eval.json").write_text(text)
        assert read_run.read(tmp_path).evaluation is None
    for changed in (
        {"format": "5"},
        {"arrays": {}},
        {"arrays": {"file": "", "sha256": ""}},
        {"settings": 3},
    ):
        (tmp_path / "eval.json").write_text(json.dumps({**evaluated, **changed}))
        assert read_run.read(tmp_path).evaluation is None
    for name in ("identity", "left_out", "samples"):
        less = {key: evaluated[key] for key in evaluated if key != name}
        (tmp_path / "eval.json").write_text(json.dumps(less))
        assert read_run.read(tmp_path).evaluation is None
    (tmp_path / "eval.json").write_text(json.dumps(evaluated))
    assert read_run.read(tmp_path).evaluation == evaluated


@pytest.mark.ci
def test_a_result_is_left_as_it_is_and_others_are_refused(workdir, evaluated, capsys):
    before = (workdir / "eval.json").read_bytes()
    evaluate_run(workdir, REQUEST)
    assert "evaluated already" in capsys.readouterr().out
    with pytest.raises(UsageError, match="weights 'ema' there, 'raw' now"):
        evaluate_run(workdir, REQUEST._replace(weights="raw"))
    assert (workdir / "eval.json").read_bytes() == before
    with pytest.raises(UsageError, match="must be a path that ends in .json"):
        evaluate_run(workdir, REQUEST._replace(out=str(workdir / "eval.npz")))
    (workdir / "other.json").write_text("{}")
    with pytest.raises(UsageError, match="other.json is no evaluation"):
        evaluate_run(workdir, REQUEST._replace(out=str(workdir / "other.json")))
