"""The comparison of runs, start to end: `comparison/compare_runs.py`, `compare.py`."""

import html
import random
import re
import shutil
import signal
import subprocess
import time

import jax
import pytest

from experiments.comparison import compare_runs
from experiments.evaluation import measurements
from experiments.runtime.errors import UsageError
from experiments.training import loop
from tests.helpers import commands, made, tiny

EVALUATE = (
    "--sampler=ddim@2",
    "--num_samples=40",
    "--num_resamples=39",
    "--num_times=4",
    "--ode_steps=4",
    "--num_probes=2",
    "--batch_size=16",
)
FOLDERS = (measurements.FOLDER, "samples")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [
        str(made.run(root / "fm")),
        str(made.run(root / "large", shift=0.3, batch_size=32)),
        str(made.run(root / "raw", batch_size=64, settings={"weights": "raw"})),
    ]


@pytest.mark.ci
def test_the_same_inputs_give_the_same_page_and_the_terminal_says_it(
    runs, tmp_path, capsys
):
    runs = runs[:2]
    out = tmp_path / "compare.html"
    first = compare_runs.compare_runs(runs, out=str(out))
    printed = capsys.readouterr().out
    assert out.read_text() == first
    assert compare_runs.compare_runs(runs, out=str(out)) == first
    assert re.search("fm is better than large by 0.[23].* n = 200 examples", printed)
    assert re.search(r"variational bound on -log p, nats.*3\.\d+ ± 0\.07", printed)
    assert "large against fm: the same objective" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["compare.html"]


@pytest.mark.ci
def test_without_a_page_only_the_table_is_printed(runs, capsys, monkeypatch):
    monkeypatch.setitem(compare_runs.sys.modules, "plotly.offline", None)
    assert compare_runs.compare_runs(runs[:2], out="") == ""
    assert "fm is better than large" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("out", "reason"),
    [("page.txt", "must end in .html"), ("nowhere/page.html", "nowhere is none; make")],
)
def test_a_wrong_path_is_refused_first(runs, tmp_path, out, reason):
    with pytest.raises(UsageError, match=reason):
        compare_runs.compare_runs([], out=str(tmp_path / out))


@pytest.mark.ci
def test_a_failure_leaves_the_page_that_was_there(runs, tmp_path, monkeypatch):
    out = tmp_path / "compare.html"
    compare_runs.compare_runs(runs[:2], out=str(out))
    before = out.read_bytes()

    def half(self, text):
        with self.open("w") as file:
            file.write(text[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr(compare_runs.pathlib.Path, "write_text", half)
    with pytest.raises(KeyboardInterrupt):
        compare_runs.compare_runs(runs[:2], out=str(out))
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["compare.html"]


@pytest.mark.ci
def test_a_refusal_does_not_end_the_comparison(runs, tmp_path, capsys):
    raw = compare_runs.pathlib.Path(runs[2]) / "eval.npz"
    assert raw.exists()
    out = tmp_path / "compare.html"
    for run in runs[2:]:
        _add_raw(compare_runs.pathlib.Path(run))
    text = compare_runs.compare_runs(runs, out=str(out))
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if "not compared: " in line]
    assert "raw is not compared with fm: the recipes differ in weights" in line
    assert "fm is better than large" in printed and line[14:] in html.unescape(text)


def _add_raw(path):
    from experiments.evaluation import results

    values, arrays = results.read(path / "eval.json")
    arrays["eps_mse_raw"] = arrays["eps_mse_ema"]
    del values["format"], values["arrays"]
    results.write(path / "eval.json", values, arrays)


@pytest.mark.slow
def test_the_command_and_what_it_refuses(runs, tmp_path):
    out = tmp_path / "compare.html"
    code, output, error = commands.run("experiments.compare", *runs[:2], f"--out={out}")
    assert code == 0 and error == "" and out.exists()
    assert output.splitlines()[-1] == str(out)
    for arguments, words in (
        ([], "directories of runs are missing"),
        (runs[:1], "compare takes 2 to 7 recipes"),
        ([runs[0], tmp_path / "none"], "no checkpoints in"),
        ([*runs[:2], "--seeed=1"], "Unknown command line flag 'seeed'"),
    ):
        code, output, error = commands.run("experiments.compare", *arguments)
        assert code == 2 and words in error and len(error.splitlines()) == 1, error


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, pytest.param(3, marks=pytest.mark.nightly)])
def test_evaluate_and_compare_killed_at_random_end_at_the_same_numbers(most, tmp_path):
    """Two trained recipes, each evaluated straight, and again with kills."""
    moments, seconds = random.Random(0), 0.0
    for name, batch_size in (("a", 16), ("b", 32)):
        workdir = tmp_path / "straight" / name
        config = tiny.config(samples__every=0, batch_size=batch_size)
        with jax.numpy_dtype_promotion("standard"):
            loop.train_and_evaluate(config, workdir)
        shutil.copytree(workdir, tmp_path / "killed" / name)
        code, _, error = commands.run(*_evaluate(workdir))
        assert code == 0, error
    out = {}
    for where in ("straight", "killed"):
        runs = [f"{name}={tmp_path / where / name}" for name in "ab"]
        if where == "killed":
            kills = [
                _evaluate_killed(tmp_path / where / name, moments, most)
                for name in "ab"
            ]
            assert min(kills) > 0, kills
        out[where] = tmp_path / f"{where}.html"
        command = ("experiments.compare", *runs, f"--out={out[where]}")
        if where == "straight":
            begin = time.monotonic()
            code, _, error = commands.run(*command)
            assert code == 0, error
            seconds = time.monotonic() - begin
        else:
            kills = _compare_killed(command, moments, seconds, most)
            print(f"kills of compare: {kills}")
    assert out["straight"].read_text() == out["killed"].read_text()


def _evaluate(workdir):
    return ("experiments.evaluate", f"--workdir={workdir}", *EVALUATE)


def _evaluate_killed(workdir, moments, most):
    """Evaluates a run, killed `most` times at most; how often it was.

    A kill comes at a random moment after the first, second or third new part.
    """
    for kills in range(most):
        wanted = _parts(workdir) + moments.randint(1, 3)
        process = commands.start(*_evaluate(workdir))
        while process.poll() is None and _parts(workdir) < wanted:
            time.sleep(0.01)
        if _ended(process, moments.uniform(0, 0.2)):
            return kills
    code, _, error = commands.run(*_evaluate(workdir))
    assert code == 0, error
    return most


def _parts(workdir):
    return sum(len(list(workdir.glob(f"{name}/**/*.npz"))) for name in FOLDERS)


def _compare_killed(command, moments, seconds, most):
    """Compares, killed `most` times at most, at random moments; how often it was."""
    for kills in range(most):
        if _ended(commands.start(*command), moments.uniform(0.1, 1) * seconds):
            return kills
    code, _, error = commands.run(*command)
    assert code == 0, error
    return most


def _ended(process, seconds):
    """Whether a command ended well by itself within a time, or else was killed."""
    try:
        _, error = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False
    assert process.returncode == 0, error
    return True
