"""The promise: n steps straight = k steps, SIGKILL, n - k steps, bit for bit.

Here with real processes on one device. `test_loop.py` looks at exact k within one
process, on eight.
"""

import pytest

from tests.helpers import commands
from tests.helpers.resume_worker import NUM_STEPS

# an epoch has 18 steps and a part of one: all are inside
KILLS = ((21, 36), pytest.param((5, 8, 13, 21, 36), marks=pytest.mark.nightly))


def steps(workdir):
    """Lines of `steps.txt`, as step -> set of digests of batch and state."""
    found = {}
    for line in (workdir / "steps.txt").read_text().splitlines():
        number, *digests = line.split()
        found.setdefault(int(number), set()).add(tuple(digests))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kills", KILLS)
def test_a_killed_run_leaves_what_a_straight_run_leaves(kills, tmp_path):
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    code, output, error = commands.run(
        "tests.helpers.resume_worker", straight, **environment
    )
    assert code == 0, error
    for kill_at in kills:
        code, _, error = commands.run(
            "tests.helpers.resume_worker", killed, kill_at, **environment
        )
        assert code == -9, error
        last = max(steps(killed))
        assert last == kill_at
    code, output, error = commands.run(
        "tests.helpers.resume_worker", killed, **environment
    )
    assert code == 0, error
    assert "resuming at step 36 of 40" in output
    expected = steps(straight)
    assert sorted(expected) == list(range(1, NUM_STEPS + 1))
    assert steps(killed) == expected  # steps done twice were done alike
    metrics = [path / "metrics.jsonl" for path in (straight, killed)]
    assert metrics[0].read_bytes() == metrics[1].read_bytes()
    pictures = [sorted((path / "samples").iterdir()) for path in (straight, killed)]
    assert len(pictures[0]) == 4
    for first, second in zip(*pictures, strict=True):
        assert first.name == second.name
        assert first.read_bytes() == second.read_bytes()
