"""Signals and errors of directories: `runtime/errors.py`."""

import errno
import os
import signal
import threading

import numpy as np
import pytest

from experiments.data import npz_files
from experiments.runtime.errors import UsageError, reporting_path_errors
from experiments.runtime.signals import Stopped, noting, stopping

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@BOTH
def test_a_signal_is_raised_where_it_comes(number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped, stopping():
        os.kill(os.getpid(), number)
    assert stopped.value.code == 128 + number
    assert str(stopped.value) == f"stopped by {signal.Signals(number).name}"
    assert signal.getsignal(number) is before


@BOTH
def test_a_signal_is_noted_and_raised_where_it_is_asked_for(number):
    before = signal.getsignal(number)
    with noting() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        assert signal.getsignal(number) is before  # a second one ends the process
        with pytest.raises(Stopped) as stopped:
            stop.check()
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) is before


def test_a_signal_while_data_are_read_is_no_fault_of_the_file(tmp_path, monkeypatch):
    """What turns any error of a reader into one about the file lets it through."""
    path = tmp_path / "images.npz"
    np.savez(path, images=np.zeros((9, 4, 4, 1), np.uint8))

    def load(*args, **settings):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(np, "load", load)
    with pytest.raises(Stopped), stopping():
        npz_files.npz(path=str(path))


def test_other_threads_are_left_alone():
    before, found = signal.getsignal(signal.SIGTERM), []

    def work():
        with noting() as stop, stopping():
            found.append((stop.number, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, before)]


@pytest.mark.parametrize(
    "name",
    ["runs/a", "runs/a/samples/x.png", "runs", "runs/a.npz", "runs/.a.npz.12.tmp"],
)
def test_an_error_about_a_directory_is_one_line_with_its_flag(name):
    words = f"--workdir=runs/a: Permission denied: {name}; choose another directory"
    with (
        pytest.raises(UsageError, match=words),
        reporting_path_errors("workdir", "runs/a"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", name)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "data/a.npz"),
        PermissionError(errno.EACCES, "Permission denied", "runs/a2"),
        PermissionError(errno.EACCES, "Permission denied", "runs/data"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.ENOSPC, "No space left on device", "runs/a/x"),
    ],
    ids=str,
)
def test_other_errors_of_the_file_system_are_left_alone(error):
    with (
        pytest.raises(type(error), match="Errno") as found,
        reporting_path_errors("workdir", "runs/a"),
    ):
        raise error
    assert found.value is error
