"""Locks on files: `runtime/files.py`."""

import contextlib
import errno
import fcntl

import pytest

from experiments.runtime import files


def test_one_at_a_time_holds_a_lock(tmp_path, capsys):
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        assert files.acquire_lock(first, tmp_path / ".lock")
        assert not files.acquire_lock(second, tmp_path / ".lock")
        first.close()
        assert files.acquire_lock(second, tmp_path / ".lock")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_a_warning(
    tmp_path, monkeypatch, capsys, number
):
    def flock(*unused):
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with contextlib.ExitStack() as stack:
        assert files.acquire_lock(stack, tmp_path / ".lock")
    output, error = capsys.readouterr()
    assert output == "" and len(error.splitlines()) == 1
    assert error.startswith(f"warning: {tmp_path} is on a file system without locks")
    assert "(No locks available)" in error
