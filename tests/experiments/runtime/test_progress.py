"""What takes long is announced, and nothing else is."""

import time

import pytest

from experiments.runtime import progress


def test_what_takes_long_is_announced_with_its_seconds():
    lines = []
    with progress.announced("compiling", lines.append, after=0.05):
        time.sleep(0.2)
    assert lines == ["compiling ...", "compiling: 0 s"]


def test_what_is_quick_is_not_mentioned():
    lines = []
    with progress.announced("compiling", lines.append, after=30.0):
        pass
    assert lines == []


def test_an_error_ends_the_announcement():
    lines = []

    def fails():
        with progress.announced("x", lines.append, after=0.01):
            time.sleep(0.1)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert lines == ["x ..."]


def test_other_processes_say_nothing(monkeypatch):
    monkeypatch.setattr(progress.distributed, "is_first", lambda: False)
    lines = []
    with progress.announced("compiling", lines.append, after=0.01):
        time.sleep(0.05)
    assert lines == []
