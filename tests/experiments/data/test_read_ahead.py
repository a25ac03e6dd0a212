"""Batches read ahead by threads or by processes: `read_ahead.py`, `worker_pool.py`."""

import concurrent.futures
import contextlib
import errno
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from experiments import data
from experiments.config import build, registry
from experiments.data import Examples, Lazy, image_folder, worker_pool
from experiments.data.loader import Batches
from experiments.data.read_ahead import iterate
from experiments.data.worker_pool import WorkerPool
from experiments.runtime.errors import PeerLost, UsageError
from experiments.training.trainer import Trainer
from tests.helpers import tiny

ROOT = pathlib.Path(__file__).parents[3]
PARENT = """
import sys
import numpy as np
from experiments.data import Examples
from experiments.data.loader import Batches
from experiments.data.worker_pool import WorkerPool
numbers = np.arange(8)
pool = WorkerPool(Batches(Examples(numbers, numbers), seed=0, batch_size=4), 2)
pool[0], pool[1]
print(*[worker._process.pid for worker in pool._workers], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def batches(tmp_path):
    """Of a folder of images, mirrored at random."""
    images = np.random.RandomState(0).randint(0, 256, (20, 5, 4, 3)).astype(np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number:03d}.png")
    found = image_folder.folder(path=str(tmp_path), flips=True)
    return Batches(found.train, seed=1, batch_size=7, augment_fn=found.augment_fn)


def closing(*arguments):
    return contextlib.closing(iterate(*arguments))


def is_running(pid):
    """Whether a process is there and has not ended."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
        return state.split()[0] != "Z"
    return False


@pytest.mark.parametrize(("workers", "start"), [(0, 3), (1, 3), (2, 0), (2, 3)])
def test_batches_are_the_same_for_any_workers_and_after_a_resume(
    batches, workers, start
):
    with closing(batches, start, workers) as found:
        for number in range(start, start + 6):  # over the end of an epoch
            batch = next(found)
            np.testing.assert_array_equal(batch.values, batches[number].values)
            np.testing.assert_array_equal(batch.labels, batches[number].labels)
            assert batch.values.dtype == np.uint8 and batch.values.flags.writeable
            assert batch.mask is None


def test_a_file_that_breaks_later_is_named_by_a_process(batches, tmp_path):
    (tmp_path / "003.png").write_bytes(b"no image")
    expected = pytest.raises(UsageError, match="003.png: no readable image: no image")
    with closing(batches, 0, 1) as found, expected:
        [next(found) for _ in range(4)]


def test_an_error_of_a_data_set_of_ones_own_is_one_line():
    def read(number):
        raise KeyError("jax" in sys.modules)  # of the process: it would take a second

    rows = Examples(Lazy((4, 1), np.float32, read), np.arange(4))
    expected = pytest.raises(UsageError, match=r"batch 5: KeyError: False; .* where")
    mine = Batches(rows, seed=0, batch_size=2)
    with closing(mine, 5, 1) as found, expected as caught:
        next(found)
    assert "\n" not in str(caught.value)


def test_a_data_set_may_start_processes_that_read_their_input():
    """Its input is empty: it is not that of the process, where requests come in."""

    def read(number):
        code = "import sys; print(len(sys.stdin.read()), end='')"
        command = [sys.executable, "-S", "-c", code]
        return np.float32([subprocess.check_output(command, timeout=10), number])

    rows = Examples(Lazy((2, 2), np.float32, read), np.arange(2))
    with closing(Batches(rows, seed=0, batch_size=1), 0, 1) as found:
        seen = [next(found).values[0].tolist() for _ in range(2)]
    assert sorted(seen) == [[0, 0], [0, 1]]


class Unsendable:
    """What cannot be pickled, for a reason of two lines."""

    def __reduce__(self):
        raise TypeError("one\ntwo")


def test_what_cannot_be_sent_says_so_in_one_line_before_a_run_is_begun(monkeypatch):
    def dataset(size):
        made = data.split(np.zeros((size, 2), np.float32), None, None)
        held = Unsendable()
        return made._replace(augment_fn=lambda rng, row: (row, held)[0])

    monkeypatch.setitem(registry.DATASETS, "moons", dataset)
    Trainer(tiny.config(data__workers=0))
    said = "data.workers=3: .* process .TypeError: one two.; set data.workers=0"
    with pytest.raises(UsageError, match=said):
        Trainer(tiny.config(data__workers=3))


def test_fewer_processes_than_asked_for_is_one_line_and_leaves_none(
    batches, monkeypatch
):
    popen, started = subprocess.Popen, []

    def start(*arguments, **options):
        if len(started) == 2:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    said = "data.workers=5: .* no more than 2 .*temporarily unavailable.; give fewer"
    monkeypatch.setattr(build, "dataset", pytest.fail)  # before data are loaded
    train = lambda: Trainer(tiny.config(data__workers=5))
    for start_fn in (lambda: WorkerPool(batches, 5), train):
        started.clear()
        with pytest.raises(UsageError, match=said):
            start_fn()
        assert len(started) == 2
        assert not any(is_running(process.pid) for process in started)


def test_closing_waits_for_no_process_that_does_not_end(monkeypatch):
    """As one in uninterruptible input, which SIGKILL ends only when that is over."""
    monkeypatch.setattr(worker_pool, "PATIENCE", 0.1)
    monkeypatch.setattr(worker_pool, "POLL", 0.1)
    rows = Examples(Lazy((2, 1), np.float32, lambda number: time.sleep(60)), np.ones(2))
    pool = WorkerPool(Batches(rows, seed=0, batch_size=1), 1)
    process = pool._workers[0]._process
    kill = process.kill
    monkeypatch.setattr(process, "kill", lambda: None)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.__getitem__, 0)
        pool.close()
        with pytest.raises(PeerLost, match="at batch 0"):
            waiting.result(10)
    assert is_running(process.pid)
    kill()
    process.wait()


@pytest.mark.ci
def test_a_process_that_is_killed_is_noticed_and_closing_ends_the_others(batches):
    pool = WorkerPool(batches, 2)
    pids = [worker._process.pid for worker in pool._workers]
    with contextlib.closing(pool):
        for signals in (signal.SIGINT, signal.SIGTERM):  # of a terminal, of a cluster
            os.kill(pids[0], signals)
        assert len(pool[0].labels) == len(pool[1].labels) == 7
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(PeerLost, match="ended by SIGKILL at batch 2: .* newest"):
            pool[2]
        assert len(pool[3].labels) == 7 and is_running(pids[1])
    assert not any(map(is_running, pids))


def test_no_process_outlives_the_one_that_started_it():
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    with process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2 and all(map(is_running, pids))
        process.kill()
        end = time.monotonic() + 10
        while any(map(is_running, pids)):
            assert time.monotonic() < end
            time.sleep(0.01)
