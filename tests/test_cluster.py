"""Several processes of one run, on the loopback device: `experiments/cluster.py`."""

import re
import socket

import jax
import numpy as np
import pytest

from experiments import loop, start
from experiments.checkpoints import Checkpoints
from experiments.trainer import Trainer
from tests import commands, tiny

NUM_STEPS = 6
TIMEOUT = 10  # seconds without a sign of life


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


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def run_two(config, workdir, cache, **environment):
    """What two processes of one run left: [(exit code, output, error)]."""
    port = free_port()
    running = [
        commands.start(
            "tests.cluster_worker",
            f"--config={config}",
            "--config.sharding.fsdp=2",
            f"--workdir={workdir}",
            f"--coordinator=127.0.0.1:{port}",
            "--num_processes=2",
            f"--process_id={number}",
            f"--peer_timeout={TIMEOUT}",
            f"--compilation_cache={cache}",
            **environment,
        )
        for number in range(2)
    ]
    answers = []
    for process in running:
        output, error = process.communicate(timeout=300)
        answers.append((process.returncode, output, error))
    return answers


def newest(workdir):
    """The state that a run saved last, opened in this process."""
    with (
        jax.numpy_dtype_promotion("standard"),
        Checkpoints(workdir, read_only=True) as saved,
    ):
        assert saved.steps()[-1] == NUM_STEPS
        targets = start.items(Trainer(settings()).abstract_state)
        return jax.device_get(saved.restore(NUM_STEPS, targets))


@pytest.mark.slow
def test_two_processes_train_lose_one_resume_and_end_alike(tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        "import json, ml_collections\n"
        f"VALUES = json.loads({settings().to_json()!r})\n"
        "def get_config():\n"
        "    return ml_collections.ConfigDict(VALUES)\n"
    )
    cache = tmp_path / "cache"
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    first, second = run_two(config, straight, cache)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "done: step 6" in first[1]
    assert "step" not in second[1].replace("Gloo", "")  # one process speaks for all
    survivor, dead = run_two(config, killed, cache, KILL_PROCESS="1", KILL_AT="2")
    assert dead[0] == -9
    assert survivor[0] not in (0, -9)  # it did not wait for ever, or end as if done
    assert "The following tasks are unhealthy" in survivor[2]
    for code, _, error in run_two(config, killed, cache):
        assert code == 0, error
    logs = [(path / "metrics.jsonl").read_bytes() for path in (straight, killed)]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == 3
    expected = newest(straight)
    for one, other in zip(
        *map(jax.tree.leaves, (expected, newest(killed))), strict=True
    ):
        assert one.tobytes() == other.tobytes()
    alone = tmp_path / "alone"
    with jax.numpy_dtype_promotion("standard"):
        loop.train_and_evaluate(settings(), alone)
    for name in ("params", "ema"):
        trees = map(jax.tree.leaves, (expected[name], newest(alone)[name]))
        two, one = (np.concatenate([leaf.ravel() for leaf in tree]) for tree in trees)
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-6 * np.abs(one).max())


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
