"""Evaluation of a run: `evaluate.py`, `measurements.py`."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import types

import numpy as np
import pytest

from experiments.config import build
from experiments.evaluation import evaluate, measurements, sample_quality
from experiments.evaluation.evaluate import evaluate_run
from experiments.runtime import files
from experiments.runtime.errors import UsageError
from experiments.runtime.signals import Stopped
from experiments.training import resume
from tests.helpers import commands, in_process, tiny
from tests.helpers.tiny_evaluation import REQUEST, copied, reproducible


@pytest.mark.ci
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


@pytest.mark.ci
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


HOLDER = """
import contextlib, pathlib, sys, time
from experiments.runtime import files
with contextlib.ExitStack() as stack:
    assert files.acquire_lock(stack, pathlib.Path(sys.argv[1]))
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.ci
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
    "no range": (
        "evaluate",
        "--logsnr_min=10",
        "bound would go from 10 to 10; must be",
    ),
    "features": ("evaluate", "--features=nosuch:x", "no module 'nosuch'"),
    "no images": (
        "evaluate",
        f"--inception={__file__}",
        r"data of shape \[2\] are no images",
    ),
    "a plan": (
        "evaluate",
        "--sampler=restart(rho_max=0.5)@2@uniform(t_min=0.5)",
        "rho_max=0.5: must be above",
    ),
    "to draw": ("sample", "--num_samples=1000000000000", r"range \[1, 100000000\]"),
}


@pytest.mark.ci
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_flag_is_one_line(workdir, name):
    command, flag, message = WRONG[name]
    run = commands.run if name == "a file" else in_process.run
    code, output, error = run(f"experiments.{command}", f"--workdir={workdir}", flag)
    assert code == 2
    said = commands.without_announcements(output).splitlines()
    assert all(line.startswith("diffusionflow: evaluating ") for line in said)
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


@pytest.mark.parametrize("count", [1, 5, 127, 128, 129, 196, 300, 1000])
@pytest.mark.parametrize("asked", [1, 7, 128])
def test_batches_are_as_few_as_asked_for_and_even(monkeypatch, asked, count):
    """So there are fewer copies, which only fill the last one up, than batches."""
    monkeypatch.setattr(measurements, "is_slow", lambda model: False)
    request = measurements.Request(batch_size=asked)
    loaded = types.SimpleNamespace(model=None)
    size = measurements._batch_size(request, loaded, count)
    batches = -(-count // asked)
    assert 1 <= size <= asked and 0 <= size * batches - count < batches
