"""Evaluation of a run: `evaluate.py`, `sample_quality.py`, `results.py`."""

import contextlib
import csv
import json
import re
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from diffusionflow import metrics
from experiments.checkpointing import manager
from experiments.comparison import read_run
from experiments.config import build
from experiments.evaluation import (
    evaluate,
    likelihoods,
    measurements,
    result_cache,
    results,
    sample_quality,
)
from experiments.evaluation.evaluate import Request, evaluate_run
from experiments.runtime import files
from experiments.runtime.errors import UsageError
from experiments.runtime.signals import Stopped
from experiments.training import initial_weights, loop, resume
from tests.helpers import commands, in_process, tiny

SAMPLES = sample_quality.Settings(
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


@pytest.fixture(scope="module")
def retrained(workdir, tmp_path_factory):
    """A run with the same identity, from other weights."""
    other = tmp_path_factory.mktemp("retrained")
    config = tiny.config(eval__every=0, samples__every=0, checkpoint__every=10)
    with jax.numpy_dtype_promotion("standard"):
        loop.train_and_evaluate(config, other, source=initial_weights.Source(workdir))
    return other


def copied(workdir, path, *names):
    """Some of what a run and its evaluation left, in another place."""
    for name in names or ("checkpoints", "evaluation", "samples"):
        shutil.copytree(workdir / name, path / name)
    return path


def reproducible(found):
    """Results without time and machine."""
    return found | {"environment": None}


def test_what_is_written(evaluated):
    assert evaluated["settings"]["step"] == 10
    assert evaluated["identity"]["config"]["seed"] == 0
    found = evaluated["likelihood"]
    assert found["count"] == 36 and found["unit"] == "nats per dimension"
    for name in ("bound", "ode"):
        assert np.isfinite(found[name]["mean"]) and found[name]["stderr"] > 0
    error = found["solver_error"]
    assert (error["count"], error["steps"]) == (4, 8) and error["stderr"] > 0
    assert found["ode_ends"] == {"data": None, "noise": None}
    for weights in ("raw", "ema"):
        errors = evaluated["eps_mse"][weights]
        assert len(errors["mean"]) == len(evaluated["eps_mse"]["logsnr"])
        assert min(errors["stderr"]) > 0
    assert [row["nfe"] for row in evaluated["samples"]] == [2, 5]  # Heun ends singly
    for row in evaluated["samples"]:
        names = [(one["metric"], one["recipe"]["features"]) for one in row["metrics"]]
        assert names == [(name, "pixels") for name in sample_quality.METRICS]


def test_every_part_prints_a_line(workdir, evaluated, tmp_path, capsys):
    """Chunks of the cache are read, but no part is silent."""
    request = REQUEST._replace(out=str(tmp_path / "eval.json"))
    evaluate_run(workdir, request)
    lines = capsys.readouterr().out.splitlines()
    parts = [
        "likelihood, variational bound",
        "likelihood, probability-flow ODE, 4 steps",
        "likelihood, probability-flow ODE, 8 steps",
        "sample quality, features of training examples",
        "sample quality, features of held-out examples",
        "sample quality, metrics of held-out examples",
    ]
    for sampler in ("ddim@2@uniform", "heun@3@cosine"):
        parts += [
            f"sample quality, samples of {sampler}",
            f"sample quality, features of samples of {sampler}",
            f"sample quality, metrics of samples of {sampler}",
            f"sample quality, metrics of the first 36 samples of {sampler}",
        ]
    for part in parts:
        assert any(line.startswith(part) and line.endswith("...") for line in lines)
        assert any(line.startswith(f"{part}: ") for line in lines), part


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


def test_features_of_a_users_own_are_compared(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def sums(x):\n    return x.sum(1, keepdims=True)\n"
        "def wrong(x):\n    return x[0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    dataset = build.dataset(tiny.config().data)
    own = lambda name: sample_quality.feature_maps(
        dataset, SAMPLES._replace(features=(name,))
    )
    pixels, sums = own("mine:sums")
    x = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(sums.features_fn(x), [[2.0]] * 3)
    assert sums.name.startswith("mine:sums (module ") and pixels.name == "pixels"
    with pytest.raises(UsageError, match=r"gives shape \(2,\) for 3 examples"):
        own("mine:wrong")[1].features_fn(x)
    with pytest.raises(UsageError, match="has no 'sum'; did you mean 'sums'"):
        own("mine:sum")


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
    with pytest.raises(UsageError, match=r"best\.npz.* is no evaluation's; choose"):
        results.exists(tmp_path / "best.json", {})
    np.savez(tmp_path / "best.npz", bound=np.zeros(3))  # killed before the .json
    assert not results.exists(tmp_path / "best.json", {})
    (tmp_path / "best.json").write_text('{"format": 99, "settings": {}}')
    with pytest.raises(UsageError, match="has format 99, which a newer version"):
        results.exists(tmp_path / "best.json", {})


@pytest.mark.slow
def test_a_stopped_evaluation_goes_on_to_the_same_numbers(
    workdir, evaluated, tmp_path, monkeypatch
):
    shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    get, names = result_cache.Chunks.get, []

    def stopping(self, name, compute):
        names.append(name)
        if len(names) == 2:
            raise Stopped(signal.SIGTERM)
        return get(self, name, compute)

    monkeypatch.setattr(result_cache.Chunks, "get", stopping)
    with pytest.raises(Stopped) as stopped:
        evaluate_run(tmp_path, REQUEST)
    assert "the same command goes on" in stopped.value.kept
    assert not (tmp_path / "eval.json").exists()
    again = json.loads(evaluate_run(tmp_path, REQUEST).read_text())
    assert again | {"environment": None} == evaluated | {"environment": None}


# --- with other processes --------------------------------------------------------

HOLDER = """
import contextlib, pathlib, sys, time
from experiments.runtime import files
with contextlib.ExitStack() as stack:
    assert files.acquire_lock(stack, pathlib.Path(sys.argv[1]))
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_evaluation_is_refused_until_the_first_is_killed(
    workdir, evaluated, tmp_path
):
    lock = workdir / "evaluation" / ".lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)],
        cwd=commands.ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    elsewhere = REQUEST._replace(out=str(tmp_path / "eval.json"))
    try:
        assert holder.stdout.readline() == "held\n"
        assert evaluate_run(workdir, REQUEST) == workdir / "eval.json"  # it is there
        with pytest.raises(
            UsageError, match=f"another process is evaluating {workdir}"
        ):
            evaluate_run(workdir, elsewhere)
    finally:
        holder.kill()
        holder.communicate()
    assert evaluate_run(workdir, elsewhere) == tmp_path / "eval.json"


def test_the_lock_is_held_while_it_evaluates(workdir, tmp_path, monkeypatch):
    def taken(path, *unused):
        with contextlib.ExitStack() as stack:
            assert not files.acquire_lock(stack, path / "evaluation" / ".lock")
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(measurements, "measure", taken)
    out = str(tmp_path / "eval.json")
    with pytest.raises(Stopped):
        evaluate_run(workdir, REQUEST._replace(out=out))
    with contextlib.ExitStack() as stack:
        assert files.acquire_lock(stack, workdir / "evaluation" / ".lock")


@pytest.mark.slow
def test_the_command_says_so_in_one_line(workdir, evaluated, tmp_path):
    out = tmp_path / "eval.json"
    with contextlib.ExitStack() as stack:
        assert files.acquire_lock(stack, workdir / "evaluation" / ".lock")
        code, _, error = commands.run(
            "experiments.evaluate", f"--workdir={workdir}", f"--out={out}"
        )
    assert code == 2 and len(error.splitlines()) == 1
    assert error.startswith("error: another process is evaluating ")


@pytest.mark.parametrize("count", [-5, 0, 37, 100_000])
def test_more_held_out_examples_than_there_are_is_refused(workdir, count):
    message = f"num_examples={count}: must be in 1..36, the held-out examples"
    with pytest.raises(UsageError, match=message):
        evaluate_run(workdir, REQUEST._replace(num_examples=count))


WRONG = {
    "too many examples": (
        "evaluate",
        "--num_examples=100000",
        "num_examples=100000: must be in 1..36, the held-out examples",
    ),
    "no examples": ("evaluate", "--num_examples=0", r"--num_examples=0: .*range \[1,"),
    "large": ("evaluate", "--num_times=10000000000", r"range \[1, 100000\]"),
    "steps": ("evaluate", "--sampler=ddim@99999999999999", "of 1 to 1000000 steps"),
    "a file": ("evaluate", "--workdir=README.md", "no checkpoints in README.md"),
    "long name": ("evaluate", f"--workdir={'x' * 300}", "File name too long"),
    "to draw": ("sample", "--num_samples=1000000000000", r"range \[1, 100000000\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_flag_is_one_line(workdir, name):
    command, flag, message = WRONG[name]
    run = commands.run if name == "a file" else in_process.run
    code, output, error = run(f"experiments.{command}", f"--workdir={workdir}", flag)
    assert code == 2
    said = ("diffusionflow: evaluating ", "importing", "loading the weights")
    assert all(line.startswith(said) for line in output.splitlines())
    assert error.startswith("error: ") and len(error.splitlines()) == 1, error
    assert re.search(message, error), error


@pytest.mark.slow
def test_a_training_that_goes_on_is_no_hindrance(
    workdir, evaluated, tmp_path, monkeypatch
):
    """Though it removes the checkpoint when there are newer ones."""
    copied(workdir, tmp_path, "checkpoints")
    measure = measurements.measure

    def removed(path, *arguments):
        shutil.rmtree(path / "checkpoints" / "10")
        return measure(path, *arguments)

    monkeypatch.setattr(measurements, "measure", removed)
    with resume.alone(tmp_path):  # the lock of training
        found = json.loads(evaluate_run(tmp_path, REQUEST).read_text())
    assert reproducible(found) == reproducible(evaluated)


# --- of which weights ------------------------------------------------------------


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


@pytest.mark.slow
def test_cached_results_and_samples_of_other_weights_are_not_used(
    workdir, evaluated, retrained, tmp_path, capsys
):
    copied(workdir, tmp_path, "evaluation", "samples")
    copied(retrained, tmp_path, "checkpoints")
    before = {path.name: path.read_bytes() for path in (tmp_path / "samples").iterdir()}
    found = json.loads(evaluate_run(tmp_path, REQUEST).read_text())
    text = capsys.readouterr().out
    for weights in ("raw", "ema"):
        begin = f"left out, in {tmp_path / 'evaluation'}, of the {weights} weights of "
        (line,) = [one for one in text.splitlines() if one.startswith(begin)]
        assert line.endswith(", of other weights, before the run was trained again")
    assert text.count("quarantined, in") == 2
    assert found["likelihood"]["ode"]["mean"] != evaluated["likelihood"]["ode"]["mean"]
    fresh = copied(retrained, tmp_path / "fresh", "checkpoints")
    straight = json.loads(evaluate_run(fresh, REQUEST).read_text())
    assert reproducible(found) == reproducible(straight)
    assert "quarantined" not in capsys.readouterr().out
    old = evaluated["settings"]["parameters"]
    after = {path.name: path.read_bytes() for path in (tmp_path / "samples").iterdir()}
    for name, content in before.items():  # nothing is lost
        stem, _, suffix = name.rpartition(".")
        assert after[f"{stem}_parameters_{old}_1.{suffix}"] == content


def test_a_result_of_another_format_is_not_compared(workdir, evaluated, tmp_path):
    copied(workdir, tmp_path, "checkpoints")
    shutil.copy(workdir / "eval.npz", tmp_path / "eval.npz")
    for other in (1, 2, 3, 4, 6):
        text = json.dumps({**evaluated, "format": other})
        (tmp_path / "eval.json").write_text(text)
        assert read_run.read(tmp_path).evaluation is None
    (tmp_path / "eval.json").write_text(json.dumps(evaluated))
    assert read_run.read(tmp_path).evaluation == evaluated


def test_cached_results_of_another_version_are_not_used(evaluated, tmp_path):
    old = tmp_path / "evaluation" / "0123456789ab"
    old.mkdir(parents=True)
    (old / "settings.json").write_text(json.dumps(evaluated["settings"]))
    cache = result_cache.ResultCache(tmp_path / "evaluation")
    names = (evaluated["settings"][name] for name in ("weights", "step", "parameters"))
    assert cache.unused(*names) == {old.name: "another version"}


def test_another_sampler_leaves_all_that_was_computed(workdir, evaluated, monkeypatch):
    computed = []
    get = result_cache.Chunks.get

    def counting(self, name, compute):
        def counted():
            computed.append(name)
            return compute()

        return get(self, name, counted)

    monkeypatch.setattr(result_cache.Chunks, "get", counting)
    more = REQUEST._replace(
        samples=SAMPLES._replace(samplers=(*SAMPLES.samplers, "ddim@3")),
        out=str(workdir / "more.json"),
    )
    found = json.loads(evaluate_run(workdir, more).read_text())
    assert computed == []
    assert found["likelihood"] == evaluated["likelihood"]
    assert found["samples"][:2] == evaluated["samples"]


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
    monkeypatch.setattr(evaluate.build, "dataset", lambda section: other)
    with pytest.raises(
        UsageError, match="trained on other data .*294 in the .*588 now"
    ):
        evaluate_run(workdir, REQUEST)


def test_a_run_from_before_contents_were_looked_into_is_evaluated(workdir, monkeypatch):
    same = build.dataset(tiny.config().data)._replace(contents="0123")
    monkeypatch.setattr(evaluate.build, "dataset", lambda section: same)

    def stopped(*unused):
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(measurements, "measure", stopped)
    with pytest.raises(Stopped):
        evaluate_run(workdir, REQUEST._replace(out=str(workdir / "before.json")))


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
