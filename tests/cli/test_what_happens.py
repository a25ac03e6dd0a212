"""The section "What happens when" of docs/howto/resume.md, line by line."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments.training import loop, metrics_log
from tests.helpers import commands, tiny

pytestmark = pytest.mark.slow

FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({}, resource.RLIM_INFINITY))
"""


HELD = """
import pathlib, time
from experiments.training import actions
step = actions.TrainLoop.step
def held(self, number, *arguments):
    while number > 8 and not pathlib.Path({!r}).exists():
        time.sleep(0.01)
    return step(self, number, *arguments)
actions.TrainLoop.step = held
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def write_config(path, before="", **overrides):
    settings = dict(
        samples__every=0, optimizer__schedule="constant", network__dropout=0.0
    )
    path.write_text(
        f"{before}\n"
        "import json, ml_collections\n"
        f"VALUES = json.loads({tiny.config(**settings | overrides).to_json()!r})\n"
        "def get_config():\n"
        "    return ml_collections.ConfigDict(VALUES)\n"
    )
    return f"--config={path}"


def train(workdir, config, *arguments, **environment):
    return commands.run(
        "experiments.train", f"--workdir={workdir}", config, *arguments, **environment
    )


def steps(workdir):
    found = (workdir / "checkpoints").iterdir()
    return sorted(int(path.name) for path in found if path.name.isdecimal())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """A run to step 10, and its config."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(folder / "config.py")
    code, _, error = train(folder / "run", config, **cache)
    assert (code, error) == (0, "")
    assert steps(folder / "run") == [5, 10]
    return folder / "run", config


def test_sigterm_and_ctrl_c_save_and_say_how_to_go_on(tmp_path, cache):
    workdir, endless = tmp_path / "run", "--config.num_steps=100000000"
    config = write_config(
        tmp_path / "config.py", eval__every=0, checkpoint__every=10_000_000
    )
    saved = 0
    for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")):
        process = commands.start(
            "experiments.train", f"--workdir={workdir}", config, endless, **cache
        )
        wait_for_row(process, workdir / metrics_log.FILE_NAME, saved)
        process.send_signal(number)
        _, error = process.communicate(timeout=200)
        assert process.returncode == 128 + number
        assert steps(workdir)[-1] > saved
        saved = steps(workdir)[-1]
        assert error == (
            f"stopped by {name}: step {saved:,} of 100,000,000 is saved in "
            f"{workdir / 'checkpoints'}; the same command goes on\n"
        )
    code, output, error = train(
        workdir, config, f"--config.num_steps={saved + 2}", **cache
    )
    assert (code, error) == (0, "")
    assert f"resuming at step {saved:,} of" in output


def wait_for_row(process, log, after=0):
    """Until a running command has logged a step beyond `after`."""
    deadline = time.monotonic() + 200
    while not (log.exists() and _last(log) > after):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _last(log):
    """The last logged step."""
    rows = metrics_log.read(log)
    return rows[-1]["step"] if rows else 0


SLOW_SAVE = """
import time
from experiments.training import actions
def never(*unused):
    print("saving", flush=True)
    time.sleep(3600)
actions.TrainLoop._save = never
"""


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGTERM, -signal.SIGTERM, ""),
        (signal.SIGINT, 130, "stopped by SIGINT\n"),
    ],
)
def test_a_second_signal_ends_the_process_at_once(tmp_path, cache, number, code, said):
    """Though a save is under way that would take an hour."""
    config = write_config(
        tmp_path / "config.py", before=SLOW_SAVE, eval__every=0, checkpoint__every=10**7
    )
    workdir, endless = tmp_path / "run", "--config.num_steps=100000000"
    process = commands.start(
        "experiments.train", f"--workdir={workdir}", config, endless, **cache
    )
    try:
        wait_for_row(process, workdir / metrics_log.FILE_NAME)
        process.send_signal(number)
        assert "saving\n" in iter(process.stdout.readline, "")
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, error) == (code, said)


def test_a_second_training_is_refused_and_a_killed_one_leaves_no_lock(tmp_path, cache):
    workdir, gate = tmp_path / "run", tmp_path / "gate"
    config = write_config(tmp_path / "config.py", before=HELD.format(str(gate)))
    begin = lambda *flags: commands.start(
        "experiments.train", f"--workdir={workdir}", config, *flags, **cache
    )
    first = begin()
    try:
        wait_for_row(first, workdir / metrics_log.FILE_NAME, after=4)
        code, output, error = train(workdir, config, **cache)
        begun = commands.without_announcements(output)
        assert (code, begun) == (2, f"diffusionflow: training in {workdir}\n")
        assert error == (
            f"error: another process is training in {workdir}: wait until it has "
            "ended, or choose another --workdir\n"
        )
        gate.touch()
        output, error = first.communicate(timeout=200)
    finally:
        first.kill()
    assert (first.returncode, error) == (0, "")
    assert "done: step 10, " in output
    gate.unlink()
    killed = begin("--config.num_steps=15")
    assert any("resuming at step 10 of 15" in line for line in killed.stdout)
    killed.kill()
    killed.communicate()
    gate.touch()
    code, output, error = train(workdir, config, "--config.num_steps=15", **cache)
    assert (code, error) == (0, "")
    assert "resuming at step 10 of 15" in output and "done: step 15, " in output


@pytest.mark.parametrize(
    ("room", "said"),
    [
        # every `_METADATA` of `train` has 18,623 bytes; files of arrays vary by chance
        (12_000, r"a checkpoint could not be saved in .*steps \[5, 10\]"),
        (600, r"\[Errno 27\] File too large; free disk space or fix the disk"),
    ],
)
def test_a_full_disk_fails_the_run_in_one_line(finished, tmp_path, cache, room, said):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    config = write_config(tmp_path / "config.py", before=FULL.format(room))
    code, _, error = train(workdir, config, "--config.num_steps=15", **cache)
    assert code == 1
    assert len(error.splitlines()) == 1, error
    assert re.match(f"error: {said}", error)
    assert steps(workdir) == [5, 10]
    code, output, _ = train(workdir, finished[1], "--config.num_steps=15", **cache)
    assert code == 0 and "resuming at step 10 of 15" in output


@pytest.mark.parametrize("sizes", [4, pytest.param(8, marks=pytest.mark.nightly)])
def test_a_disk_of_any_size_that_is_full_costs_nothing(sizes):
    """`benchmarks/full_disks.py`: on a tmpfs, or bounded files without privileges."""
    done = subprocess.run(
        [sys.executable, "benchmarks/full_disks.py", f"--sizes={sizes}"],
        cwd=commands.ROOT,
        env=commands.os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (ended,) = re.findall(rf"{sizes} sizes, (\d+) of them too small; 0", done.stdout)
    assert int(ended) >= sizes / 2, done.stdout


def test_a_corrupted_checkpoint_is_quarantined(finished, tmp_path, cache):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    (workdir / "checkpoints" / "10" / "params" / "_METADATA").unlink()
    code, output, error = train(workdir, finished[1], **cache)
    assert code == 0 and "resuming at step 5 of 10" in output
    assert error == (
        f"warning: checkpoint {workdir}/checkpoints/10 is corrupted: params/_METADATA "
        "is missing; it was quarantined as corrupted-10, and step 5 is used\n"
    )
    assert (workdir / "metrics.jsonl").read_bytes() == (
        finished[0] / "metrics.jsonl"
    ).read_bytes()
    for step in (5, 10):
        (workdir / "checkpoints" / str(step) / "CHECKSUMS.json").unlink()
    for command in (
        ("experiments.train", finished[1]),
        ("experiments.train", finished[1]),
        ("experiments.sample",),
    ):
        code, _, error = commands.run(*command, f"--workdir={workdir}", **cache)
        assert code == 2 and len(error.splitlines()) == 1
        assert "no checkpoint in" in error and "nothing was changed" in error


def test_a_corrupted_line_of_the_metrics_is_one_error_line(finished, tmp_path, cache):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    path = workdir / metrics_log.FILE_NAME
    complete = path.read_bytes()
    path.write_bytes(b'{"step": 1, "los\n' + complete)
    code, _, error = train(workdir, finished[1], "--config.num_steps=11", **cache)
    assert code == 2 and len(error.splitlines()) == 1, error
    assert error.startswith(f"error: {path}, line 1 is no JSON with a step")
    path.write_bytes(complete)
    code, _, error = train(workdir, finished[1], "--config.num_steps=11", **cache)
    assert (code, error) == (0, "")


def test_a_changed_config_is_refused_with_the_difference(finished, cache):
    changed = (
        "--config.objective.times=logit_normal",
        "--config.network.features=8",
        "--config.data.size=340",
    )
    code, _, error = train(*finished, *changed, **cache)
    assert code == 2
    assert error.startswith("error: the checkpoint of step 10 belongs to another run:")
    for line in (
        "config.data.size: 330 in the checkpoint, 340 now",
        "config.network.features: 16 in the checkpoint, 8 now",
        "config.objective.times: 'uniform' in the checkpoint, 'logit_normal' now",
    ):
        assert line in error
    assert "choose another --workdir" in error


def test_a_change_that_is_accepted_is_recorded_and_needs_no_flag_again(
    finished, tmp_path, cache
):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    changed = "--config.batch_size=8", "--config.num_steps=12"
    code, _, error = train(workdir, finished[1], *changed, **cache)
    assert code == 2 and "step 10 on with --accept_change=batch_size" in error
    code, _, error = train(
        workdir, finished[1], *changed, "--accept_change=batch", **cache
    )
    assert code == 2 and "did you mean 'batch_size'" in error
    flag = "--accept_change=batch_size"
    code, output, error = train(workdir, finished[1], *changed, flag, **cache)
    assert (code, error) == (0, "")
    assert "note: accepted after step 10: config.batch_size: 16 in" in output
    rows = [dict(step=10, entry="config.batch_size", old=16, new=8)]
    assert json.loads((workdir / "config.json").read_text())["history"] == rows
    changed = changed[0], "--config.num_steps=13"
    code, output, error = train(workdir, finished[1], *changed, **cache)
    assert (code, error) == (0, "") and "resuming at step 12 of 13" in output
    identity = workdir / "checkpoints" / "13" / "identity" / "metadata"
    assert json.loads(identity.read_text())["history"] == rows


def test_another_run_starts_from_its_weights(finished, tmp_path, cache):
    workdir, config = finished
    source = f"--init_from={workdir}"
    arguments = (source, "--init_weights=raw", "--config.objective.times=logit_normal")
    code, output, error = train(tmp_path, config, *arguments, **cache)
    assert (code, error) == (0, "")
    assert "starting at step 0" in output
    assert "note: the weights of" in output
    assert re.search("objective.times: 'Uniform.* in the ch.*, 'LogitNormal", output)
    identity = tmp_path / "checkpoints" / "10" / "identity" / "metadata"
    recorded = json.loads(identity.read_text())["init_from"]
    assert re.fullmatch("[0-9a-f]{16}", recorded.pop("digest"))
    assert recorded == {"workdir": str(workdir), "weights": "raw", "step": 10}
    code, _, error = train(
        tmp_path / "other", config, source, "--config.network.features=8", **cache
    )
    assert code == 2 and len(error.splitlines()) == 1
    assert "of another shape: " in error


DEVICES = """
import sys
from experiments.training import loop
from tests.helpers import tiny
config = tiny.config(checkpoint__every=3, checkpoint__keep=9)
loop.train_and_evaluate(config, sys.argv[1])
"""


def test_a_run_of_eight_devices_goes_on_on_one_and_on_four(tmp_path):
    """And what it learns is the same, up to the rounding of sums."""
    config = tiny.config(checkpoint__every=3, checkpoint__keep=9)
    with jax.numpy_dtype_promotion("standard"):
        expected = loop.train_and_evaluate(config, tmp_path / "8")
    assert jax.device_count() == 8
    for before, count, step in ((8, 1, 3), (1, 4, 6)):
        workdir = tmp_path / str(count)
        shutil.copytree(tmp_path / str(before), workdir)
        for later in (path for path in steps(workdir) if path > step):
            shutil.rmtree(workdir / "checkpoints" / str(later))
        flags = f"--xla_force_host_platform_device_count={count}"
        command = [sys.executable, "-c", DEVICES, str(workdir)]
        done = subprocess.run(
            command,
            cwd=commands.ROOT,
            env=commands.os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert f"cpu, {count} x cpu" in done.stdout
        assert f"resuming at step {step} of 10" in done.stdout
        state = loop.train_and_evaluate(config, workdir)
        for here, there in zip(
            jax.tree.leaves((state.params, state.ema)),
            jax.tree.leaves((expected.params, expected.ema)),
            strict=True,
        ):
            np.testing.assert_allclose(here, there, rtol=0, atol=1e-6)


@pytest.mark.nightly
def test_a_run_killed_at_random_moments_is_the_same_bit_for_bit():
    """`benchmarks/kill_storm.py`, the short form."""
    done = subprocess.run(
        [sys.executable, "benchmarks/kill_storm.py", "--kills=6", "--num_steps=20"],
        cwd=commands.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 kills in" in done.stdout and "no bit is different" in done.stdout
