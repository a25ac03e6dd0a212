"""Scalars for TensorBoard: `training/event_file.py`."""

import errno
import os
import resource
import threading

import pytest

from experiments.training.event_file import EventFile


def test_a_full_disk_is_an_error_at_once_and_blocks_nothing(tmp_path):
    """No thread and no queue: what cannot be written is raised where it is written."""
    threads = threading.active_count()
    events = EventFile(tmp_path / "tensorboard", 0)
    assert threading.active_count() == threads
    steps = iter(range(1_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            write_all(events, steps)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert next(steps) < 10


def write_all(events, steps):
    for step in steps:
        events.write(step, {"loss": 1.0})


def test_starts_within_a_second_write_files_of_their_own(tmp_path):
    for step in (0, 5):
        EventFile(tmp_path, step).close()
    assert len(list(tmp_path.iterdir())) == 2
