"""Several processes of one run, on the loopback device: `runtime/distributed.py`."""

import concurrent.futures
import os
import re
import shutil
import signal
import socket
import time
import types
from typing import NamedTuple

import jax
import numpy as np
import pytest

from experiments.checkpointing.manager import Checkpoints
from experiments.runtime import distributed, exit_codes
from experiments.runtime.errors import PeerLost, SaveError, UsageError
from experiments.training import loop, metrics_log
from experiments.training.trainer import Trainer
from tests.helpers import commands, tiny

NUM_STEPS = 6
TIMEOUT = 10  # seconds without a sign of life
LOST = (-signal.SIGABRT, PeerLost.code)  # 134, as Python has it, and 4


def settings(**overrides):
    """Parameters cut over two devices; a checkpoint at every second step."""
    return tiny.config(
        num_steps=NUM_STEPS,
        checkpoint__every=2,
        samples__every=0,
        eval__draws=1,
        network__dropout=0.0,
        **overrides,
    )


class Answer(NamedTuple):
    """What a process left, and when it ended, in seconds."""

    code: int
    output: str
    error: str
    end: float


def free_port(first=0):
    """A free port, of the system's choice, or the first free one from `first` on."""
    with socket.socket() as server:
        try:
            server.bind(("127.0.0.1", first))
        except OSError:
            return free_port(first + 1)
        return server.getsockname()[1]


def by_flags():
    """Flags and environment of two processes that are given each other's address."""
    flags = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    return [([*flags, f"--process_id={number}"], {}) for number in range(2)]


def by_slurm():
    """The same where SLURM gives them; JAX takes the port from the job number."""
    lowest = 2**16 - 2**12
    job = free_port(lowest + os.getpid() % 2**11) - lowest
    one = {"JOB_ID": job, "STEP_NODELIST": "localhost", "NTASKS": 2}
    both = [one | {"PROCID": number, "LOCALID": number} for number in range(2)]
    return [
        (["--distributed"], {f"SLURM_{key}": str(own[key]) for key in own})
        for own in both
    ]


def run_two(config, workdir, processes=None, fault=""):
    """The answers of two processes of one run."""
    running = [
        commands.start(
            "tests.helpers.cluster_worker",
            config,
            "--config.sharding.fsdp=2",
            f"--workdir={workdir}",
            f"--peer_timeout={TIMEOUT}",
            *flags,
            FAULT=fault,
            **environment,
        )
        for flags, environment in processes or by_flags()
    ]

    def answer(process):
        output, error = process.communicate(timeout=500)
        return Answer(process.returncode, output, error, time.monotonic())

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(answer, running))


def newest(workdir):
    """The state that a run saved last, opened in this process."""
    with (
        jax.numpy_dtype_promotion("standard"),
        Checkpoints(workdir, read_only=True) as saved,
    ):
        assert saved.steps()[-1] == NUM_STEPS
        targets = Trainer(settings()).abstract_state.checkpoint_items()
        return jax.device_get(saved.restore(NUM_STEPS, targets))


def assert_same_run(one, other):
    """Log and last state agree bit for bit."""
    logs = [(path / "metrics.jsonl").read_bytes() for path in (one, other)]
    assert logs[0] == logs[1] and logs[0]
    leaves = [jax.tree.leaves(newest(path)) for path in (one, other)]
    for a, b in zip(*leaves, strict=True):
        assert a.tobytes() == b.tobytes()


def assert_close_runs(one, other):
    """The weights of the last state agree up to rounding."""
    states = [newest(path) for path in (one, other)]
    for name in ("params", "ema"):
        a, b = (
            np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state[name])])
            for state in states
        )
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max())


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "config.py"
    path.write_text(
        "import json, ml_collections\n"
        f"VALUES = json.loads({settings().to_json()!r})\n"
        "def get_config():\n"
        "    return ml_collections.ConfigDict(VALUES)\n"
    )
    return f"--config={path}"


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    """A run of two processes to its end."""
    workdir = tmp_path_factory.mktemp("straight")
    first, second = run_two(config, workdir)
    assert (first.code, second.code) == (0, 0), first.error + second.error
    assert "done: step 6" in first.output
    assert "step" not in second.output.replace("Gloo", "")  # one speaks for all
    return workdir


@pytest.fixture(scope="module")
def stopped(config, tmp_path_factory):
    """A run in which one of two processes, found by SLURM, had a SIGTERM; answers."""
    workdir = tmp_path_factory.mktemp("stopped")
    return workdir, run_two(config, workdir, by_slurm(), fault="term:1:2")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    workdir = tmp_path_factory.mktemp("alone")
    with jax.numpy_dtype_promotion("standard"):
        loop.train_and_evaluate(settings(), workdir)
    return workdir


@pytest.mark.slow
def test_a_killed_process_is_named_and_all_resume_bit_for_bit(
    config, straight, tmp_path
):
    survivor, dead = run_two(config, tmp_path, fault="kill:1:2")
    assert dead.code == -signal.SIGKILL
    assert survivor.code in LOST
    assert survivor.end - dead.end < 3 * TIMEOUT
    named = r"Task 1 heartbeat timeout|tasks are unhealthy[^\n]*\n+(.*task:)?1\n"
    assert re.search(named, survivor.error), survivor.error
    for answer in run_two(config, tmp_path):
        assert answer.code == 0, answer.error
    assert_same_run(straight, tmp_path)


@pytest.mark.slow
def test_sigterm_to_one_process_saves_and_ends_both(stopped):
    workdir, answers = stopped
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert steps[-1] == 3  # after which no save is due
    for answer in answers:
        assert answer.code == 128 + signal.SIGTERM
        assert answer.error == (
            f"stopped by SIGTERM: step 3 of 6 is saved in {workdir / 'checkpoints'}; "
            "the same command goes on\n"
        )


@pytest.mark.slow
def test_a_stopped_run_resumes_bit_for_bit(config, straight, stopped, tmp_path):
    shutil.copytree(stopped[0], tmp_path / "run")
    first, second = run_two(config, tmp_path / "run", by_slurm())
    assert (first.code, second.code) == (0, 0), first.error + second.error
    assert "resuming at step 3 of 6" in first.output
    assert_same_run(straight, tmp_path / "run")


@pytest.mark.slow
def test_sigterm_to_one_process_in_an_evaluation_ends_both_in_it(
    config, straight, tmp_path
):
    for answer in run_two(config, tmp_path, fault="evaluate:1:4"):
        assert answer.code == 128 + signal.SIGTERM
        assert "stopped by SIGTERM: step 5 of 6 is saved" in answer.error
    rows = metrics_log.read(tmp_path / metrics_log.FILE_NAME)
    assert [row["step"] for row in rows] == [4]  # not that of the evaluation after 5
    for answer in run_two(config, tmp_path):
        assert answer.code == 0, answer.error
    assert_same_run(straight, tmp_path)


@pytest.mark.slow
def test_one_process_goes_on_where_two_stopped(straight, stopped, alone, tmp_path):
    shutil.copytree(stopped[0], tmp_path / "run")
    with jax.numpy_dtype_promotion("standard"):
        loop.train_and_evaluate(settings(), tmp_path / "run")
    assert_close_runs(straight, alone)
    assert_close_runs(tmp_path / "run", alone)


@pytest.mark.slow
def test_corruption_that_only_the_first_process_sees_is_one_line_in_both(
    config, stopped, tmp_path
):
    shutil.copytree(stopped[0], tmp_path / "run")
    for manifest in (tmp_path / "run").rglob("CHECKSUMS.json"):
        manifest.unlink()
    for answer in run_two(config, tmp_path / "run"):
        assert (answer.code, len(answer.error.splitlines())) == (2, 1), answer.error
        assert "no checkpoint in" in answer.error


@pytest.mark.slow
def test_a_save_that_only_the_first_process_fails_is_one_line_in_both(config, tmp_path):
    for answer in run_two(config, tmp_path, fault="disk:0:1"):
        assert (answer.code, len(answer.error.splitlines())) == (1, 1), answer.error
        assert "(OSError: [Errno 28] No space left on device)" in answer.error


@pytest.mark.slow
def test_an_error_of_one_process_only_keeps_its_line_and_exit_code(config, tmp_path):
    other, own = run_two(config, tmp_path, fault="memory:1:2")
    assert (own.code, len(own.error.splitlines())) == (1, 1), own.error
    assert "RESOURCE_EXHAUSTED: Out of memory" in own.error
    assert "another process" not in own.error
    assert other.code in LOST
    assert other.end - own.end < 3 * TIMEOUT


@pytest.fixture
def of_two(monkeypatch):
    """Lets this process take itself for one of two; returns what was slept."""
    slept = []
    timeout = types.SimpleNamespace(value=7)
    flags = types.SimpleNamespace(FLAGS={"peer_timeout": timeout})
    monkeypatch.setattr(distributed, "flags", flags)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.mark.parametrize(
    "reason",
    [
        "UNAVAILABLE: failed to connect to all addresses",
        "DEADLINE_EXCEEDED: Barrier timed out",
        "ABORTED: The following tasks are unhealthy",
        "UNKNOWN: Gloo all-reduce failed: [pair.cc:547] Connection closed by peer",
        "UNKNOWN: Gloo AllGather failed: [tcp/pair.cc:598] Connection closed",
        "INTERNAL: NCCL operation failed: remote process exited or network error",
    ],
)
@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError])
def test_a_failed_exchange_is_a_lost_peer(kind, reason, of_two, capfd, monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with exit_codes.usage_errors(), distributed.watching_peers():
        try:
            raise kind(reason)
        except kind as error:
            raise TimeoutError("a barrier") from error  # as Orbax has it
    assert (codes, of_two) == ([4], [14])
    with pytest.raises(PeerLost, match=re.escape(reason)), distributed.watching_peers():
        raise kind(reason)
    assert "no answer from another process" in capfd.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8"),
        jax.errors.JaxRuntimeError("INTERNAL: CUDNN_STATUS_EXECUTION_FAILED"),
        jax.errors.JaxRuntimeError("INVALID_ARGUMENT: shapes differ"),
        OSError("Connection refused"),
        ValueError("the Gloo of a user failed: connection closed"),
        UsageError("UNAVAILABLE: what a user wrote"),
    ],
)
def test_any_other_error_is_nobody_elses(error, of_two, capfd):
    with pytest.raises(type(error)) as raised, distributed.watching_peers():
        raise error
    assert raised.value is error
    assert (of_two, capfd.readouterr().err) == ([], "")


def test_one_process_has_no_peers_to_lose(capfd):
    error = jax.errors.JaxRuntimeError("UNAVAILABLE: the device")
    with pytest.raises(jax.errors.JaxRuntimeError), distributed.watching_peers():
        raise error
    assert capfd.readouterr().err == ""


def both_of(call_fn, monkeypatch):
    """What `on_first` gives or raises in the first and then in the second process."""
    sent, found = [], []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for index in range(2):
        waiting = iter(sent)

        def exchange(array, index=index, waiting=waiting):
            if index == 0:
                sent.append(np.array(array))
                return array
            received = next(waiting)
            assert (received.shape, received.dtype) == (array.shape, array.dtype)
            return received

        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        monkeypatch.setattr(
            distributed.multihost_utils, "broadcast_one_to_all", exchange
        )
        try:
            found.append(distributed.on_first(call_fn))
        except Exception as error:
            found.append(error)
        assert index == 0 or next(waiting, None) is None
    return found


@pytest.mark.parametrize("value", [None, 0, 123_456])
def test_all_have_the_result_of_the_first_process(value, monkeypatch):
    calls = []

    def call_fn():
        calls.append(jax.process_index())
        return value

    assert both_of(call_fn, monkeypatch) == [value, value]
    assert calls == [0]


@pytest.mark.parametrize(
    ("kind", "there"),
    [(UsageError, UsageError), (SaveError, SaveError), (OSError, RuntimeError)],
)
@pytest.mark.parametrize("message", ["no bytes left: \N{GREEK SMALL LETTER ALPHA}", ""])
def test_all_raise_what_the_first_process_raised(kind, there, message, monkeypatch):
    error = kind(message)

    def call_fn():
        raise error

    first, second = both_of(call_fn, monkeypatch)
    assert first is error
    assert type(second) is there and message in str(second)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--distributed", "--process_id=1"], "or --distributed alone"),
        (
            ["--coordinator=127.0.0.1:1", "--num_processes=2", "--process_id=2"],
            r"--process_id=2: must be in \[0, num_processes=2\)",
        ),
        (["--distributed"], "several processes: "),
    ],
)
def test_flags_that_make_no_cluster_are_one_line(flags, message, tmp_path):
    code, output, error = commands.run(
        "experiments.train",
        "--config=configs/toy2d.py",
        f"--workdir={tmp_path / 'run'}",
        *flags,
    )
    assert (code, output) == (2, "")
    assert len(error.splitlines()) == 1, error
    assert re.search(message, error), error
