"""Nothing takes more than five seconds without a word, from an empty cache on."""

import os
import selectors
import time

import pytest

from tests.helpers import commands

MOST = 5.0  # seconds
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(process):
    """CPU seconds of a process, ended or not, that nobody has waited for."""
    with open(f"/proc/{process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def silences(process):
    """(seconds, what was said before) of every stretch without output, and all words.

    Of a stretch the smaller one of clock and CPU seconds counts: a machine with other
    work to do lengthens the first, several threads the second.
    """
    found, words = [], b"the start\n"
    clock, cpu = time.monotonic(), 0.0
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            selector.register(pipe.fileno(), selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                chunk = os.read(key.fd, 2**16)
                if not chunk:
                    selector.unregister(key.fd)
                now = time.monotonic(), cpu_seconds(process)
                last = words.decode(errors="replace").splitlines()[-1]
                found.append((min(now[0] - clock, now[1] - cpu), last))
                (clock, cpu), words = now, words + chunk
    return found, words.decode()


TRAIN = (
    "--config.num_steps=2",
    "--config.batch_size=32",
    "--config.optimizer.warmup_steps=1",
    "--config.eval.every=2",
    "--config.samples.every=2",
    "--config.samples.per_class=1",
    "--config.checkpoint.every=2",
)
EVALUATE = (
    "--sampler=ddim@2",
    "--num_samples=16",
    "--num_examples=32",
    "--num_resamples=39",
    "--num_times=4",
    "--ode_steps=2",
    "--num_probes=1",
)
COMMANDS = {
    "train": TRAIN,
    "sample": ("--num_samples=4", "--sampler.num_steps=2"),
    "pairs": ("--num_pairs=4", "--sampler.num_steps=2"),
    "evaluate": EVALUATE,
}


# the programs of the digits take minutes to compile
@pytest.mark.parametrize(
    "config",
    [
        pytest.param("toy2d", marks=pytest.mark.slow),
        pytest.param("digits", marks=pytest.mark.nightly),
    ],
)
def test_no_command_is_silent_for_five_seconds(config, tmp_path):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    workdir = f"--workdir={tmp_path / 'run'}"
    given = COMMANDS | {"train": (f"--config={config}", *TRAIN)}
    for name, arguments in given.items():
        process = commands.start(f"experiments.{name}", workdir, *arguments, **cache)
        try:
            found, words = silences(process)
        finally:
            process.kill()
            code = process.wait()
        assert code == 0, words
        seconds, said = max(found)
        print(f"{name}: at most {seconds:.1f} s, after {said.strip()!r}")
        assert seconds <= MOST, (name, said)
