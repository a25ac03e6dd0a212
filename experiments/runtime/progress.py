"""Shows progress: bars on a terminal, plain lines elsewhere."""

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.runtime import distributed

Item = TypeVar("Item")
SILENT = 2.0  # seconds after which something that takes long is announced
REPEATED = 3.5  # and then again


class TrainingProgress:
    """Shows training progress: a bar on a terminal, a line per report elsewhere.

    Args:
      step: the step that the run starts from.
      num_steps: the step that it ends at.
      batch_size: examples per step.
      console: where to write; standard output by default.
    """

    def __init__(
        self, step: int, num_steps: int, batch_size: int, console: Console | None = None
    ):
        self._console = console or Console(file=sys.stdout, soft_wrap=True)
        self._num_steps, self._batch_size = num_steps, batch_size
        self._first, self._last = step, step
        self._begin = self._mark = time.perf_counter()
        self._waited = 0.0  # for data, since the last report
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=num_steps, completed=step, text="")
        self._bar.start()

    def advance(self, step: int) -> None:
        """Moves the bar; called every step, and cheap."""
        if not self._bar.disable:
            self._bar.update(self._task, completed=step)

    def waiting(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yields batches, and counts the time that each is waited for."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            yield batch

    def report(self, step: int, loss: float) -> dict[str, float]:
        """Shows loss, examples/s, the share of the time spent waiting, and time left.

        Returns:
          The wall-clock figures, since the last report.
        """
        now = time.perf_counter()
        passed = max(now - self._mark, 1e-9)
        rate = (step - self._last) * self._batch_size / passed
        share = min(self._waited / passed, 1.0)
        per_step = (now - self._begin) / max(step - self._first, 1)
        self._last, self._mark, self._waited = step, now, 0.0
        left = duration((self._num_steps - step) * per_step)
        text = (
            f"loss {loss:.4f}  {rate:,.0f} examples/s  {share:.0%} waiting for data  "
            f"{left} left"
        )
        if self._bar.disable:
            self.say(f"step {step:,}/{self._num_steps:,}  {text}")
        else:
            self._bar.update(self._task, completed=step, text=text)
        return {"examples_per_second": rate, "waiting_for_data": share}

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes what happens inside from examples/s, not from the time left."""
        start = time.perf_counter()
        yield
        self._mark += time.perf_counter() - start

    def say(self, text: str) -> None:
        """Prints lines above the bar."""
        self._console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.stop()


class SamplingProgress:
    """Shows sampling progress: a bar on a terminal, lines elsewhere.

    Elsewhere a line is printed per shard, and every `every` seconds, so that a shard or
    a compilation that takes long is never silent.

    Args:
      count: samples in all.
      console: where to write; standard output by default.
      unit: what is counted.
      every: seconds.
    """

    def __init__(
        self,
        count: int,
        console: Console | None = None,
        unit: str = "sample",
        every: float = SILENT,
    ):
        self._unit, self._every, self._ended = unit, every, threading.Event()
        self._console = console or Console(file=sys.stdout, soft_wrap=True)
        self._count, self._done, self._sampled = count, 0, 0
        self._begin = time.perf_counter()
        self._bar = Progress(
            TextColumn(unit),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=count, text="")
        self._bar.start()
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        if self._bar.disable:
            self._thread.start()

    def skip(self, count: int) -> None:
        """Counts samples that existed already."""
        self._done += count
        self._bar.update(self._task, completed=self._done)

    def advance(self, count: int) -> None:
        """Counts samples that were generated."""
        self._sampled += count
        self._done += count
        self._bar.update(self._task, completed=self._done, text=self._text())

    def shard(self) -> None:
        """Reports that a shard is finished."""
        if self._bar.disable and self._done < self._count:
            self._line()

    def _repeat(self) -> None:
        """Prints how far it is, until it ends."""
        while not self._ended.wait(self._every):
            self._line()

    def _line(self) -> None:
        line = f"{self._unit} {self._done:,}/{self._count:,}  {self._text()}"
        self._console.print(line, markup=False, highlight=False)

    def _text(self) -> str:
        seconds = time.perf_counter() - self._begin
        if not self._sampled:
            return f"{duration(seconds)} so far, compilation included"
        rate = self._sampled / max(seconds, 1e-9)
        left = duration((self._count - self._done) / rate)
        return f"{rate:,.0f} {self._unit}s/s, compilation included  {left} left"

    def close(self) -> None:
        """Leaves the bar as it stands, and prints no more lines."""
        self._ended.set()
        self._bar.stop()
        if self._bar.disable:
            self._thread.join()


class PartProgress:
    """Shows the progress of one part of a job: a bar on a terminal, lines elsewhere.

    As a context. Elsewhere a line is printed at its start, at its end, and every
    `every` seconds in between, with the time left as soon as something is done, so that
    a part that takes long is never silent.

    Args:
      what: the part, such as "likelihood, variational bound".
      total: how much there is to do.
      unit: what `total` counts, such as "examples".
      console: where to write; standard output by default.
      every: seconds.
      bar: whether a terminal shows a bar; without, it shows nothing of this part.
    """

    def __init__(
        self,
        what: str,
        total: int = 1,
        unit: str = "",
        console: Console | None = None,
        every: float = SILENT,
        bar: bool = True,
    ):
        self._console = console or Console(file=sys.stdout, soft_wrap=True)
        self._what, self._total, self._unit = what, total, unit
        self._done, self._every, self._ended = 0, every, threading.Event()
        self._begin = time.perf_counter()
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (bar and self._console.is_terminal),
        )
        self._lines = not self._console.is_terminal
        self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> "PartProgress":
        if self._lines:
            self._say(f"{self._what}{self._amount()} ...")
            self._thread.start()
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, *unused: Any) -> None:
        self._ended.set()
        self._bar.stop()
        if self._lines:
            self._thread.join()
            if kind is None:
                self._say(f"{self._what}: {self._elapsed()}")

    def advance(self, count: int = 1) -> None:
        """Counts `count` more as done."""
        self._done += count
        if not self._bar.disable:
            self._bar.update(self._task, completed=self._done)

    def _repeat(self) -> None:
        """Prints how far the part is, until it ends."""
        while not self._ended.wait(self._every):
            of = f"{self._done:,}/{self._total:,}, " if self._total > 1 else ""
            self._say(f"{self._what}: {of}{self._elapsed()} so far{self._left()}")

    def _left(self) -> str:
        if not 0 < self._done < self._total:
            return ""
        seconds = time.perf_counter() - self._begin
        return f", {duration(seconds / self._done * (self._total - self._done))} left"

    def _amount(self) -> str:
        return f", {self._total:,} {self._unit}" if self._unit else ""

    def _elapsed(self) -> str:
        return duration(time.perf_counter() - self._begin)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)


def duration(seconds: float) -> str:
    """Formats seconds as `42 s`, `7 min 05 s` or `3 h 20 min`."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded // 60 % 60:02d} min"


@contextlib.contextmanager
def announced(
    what: str,
    say_fn: Callable[[str], None] | None = None,
    after: float = SILENT,
    since: float | None = None,
) -> Iterator[None]:
    """Announces what is under way if it takes long, again, and then how long it took.

    Args:
      what: such as "compiling the training step".
      say_fn: prints a line; by default to standard output, of the first process alone.
      after: seconds.
      since: time from which they are counted, as of `time.perf_counter`, so that of
        several short parts in a row one is announced; by default the beginning.
    """
    if say_fn is None:
        say_fn = functools.partial(print, flush=True)
    if not distributed.is_first():
        say_fn = lambda text: None
    begin, ended = time.perf_counter(), threading.Event()
    waited = 0.0 if since is None else begin - since
    said = threading.Event()

    def repeat() -> None:
        if not ended.wait(max(after - waited, 0.0)):
            said.set()
            say_fn(f"{what} ...")
        while not ended.wait(max(after, REPEATED)):
            say_fn(f"{what}: {duration(time.perf_counter() - begin)} so far")

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    seconds = time.perf_counter() - begin
    if said.is_set() or seconds >= after:
        say_fn(f"{what}: {duration(seconds)}")
