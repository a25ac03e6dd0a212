"""What takes long is announced, and nothing else is."""

import io
import re
import time

import pytest
from rich.console import Console

from experiments.runtime import progress


def test_what_takes_long_is_announced_with_its_seconds():
    lines = []
    with progress.announced("compiling", lines.append, after=0.05):
        time.sleep(0.2)
    assert lines == ["compiling ...", "compiling: 0 s"]


def test_a_short_part_is_announced_where_those_before_it_took_long():
    lines, deadline = [], time.monotonic() + 20
    since = time.perf_counter() - 100
    with progress.announced("sampling", lines.append, after=50.0, since=since):
        while not lines and time.monotonic() < deadline:
            time.sleep(0.001)
    assert lines == ["sampling ...", "sampling: 0 s"]


def test_what_takes_very_long_is_announced_again(monkeypatch):
    monkeypatch.setattr(progress, "REPEATED", 0.05)
    lines = []
    with progress.announced("compiling", lines.append, after=0.05):
        time.sleep(0.3)
    assert lines[:2] == ["compiling ...", "compiling: 0 s so far"]
    assert lines[-1] == "compiling: 0 s"


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


def test_a_part_has_a_line_at_its_start_at_its_end_and_in_between():
    console = Console(file=io.StringIO(), width=80)
    with progress.PartProgress("bound", 40, "examples", console, every=0.05) as part:
        time.sleep(0.2)
        part.advance(16)
        time.sleep(0.2)
        part.advance(24)
    first, *between, last = console.file.getvalue().splitlines()
    assert first == "bound, 40 examples ..." and last.endswith(" s")
    assert between[0] == "bound: 0/40, 0 s so far"
    assert re.fullmatch(r"bound: 16/40, \d s so far, \d s left", between[-1])


def test_samples_have_a_line_before_the_first_shard_and_none_after_the_last():
    console = Console(file=io.StringIO(), width=80)
    shown = progress.SamplingProgress(40, console, every=0.05)
    time.sleep(0.2)
    shown.advance(16)
    time.sleep(0.2)
    shown.close()
    first, *_, last = lines = console.file.getvalue().splitlines()
    assert first == "sample 0/40  0 s so far, compilation included"
    assert re.fullmatch(r"sample 16/40  \d+ samples/s, .* left", last)
    time.sleep(0.1)
    assert console.file.getvalue().splitlines() == lines


def test_a_part_that_fails_has_no_line_at_its_end():
    console = Console(file=io.StringIO(), width=80)
    with (
        pytest.raises(KeyError),
        progress.PartProgress("features", console=console, every=60.0),
    ):
        raise KeyError
    assert console.file.getvalue() == "features ...\n"


def test_a_part_is_a_bar_on_a_terminal_unless_another_one_is():
    for bar in (True, False):
        console = Console(file=io.StringIO(), force_terminal=True, width=80)
        with progress.PartProgress("bound", 40, console=console, bar=bar) as part:
            part.advance(40)
        assert ("40/40" in console.file.getvalue()) == bar
        assert "..." not in console.file.getvalue()
