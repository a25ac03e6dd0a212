"""Progress bars on a terminal, plain lines elsewhere."""

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from experiments.runtime import distributed


class TrainingProgress:
    """Progress: a bar on a terminal, a plain line per report elsewhere.

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

    def report(self, step: int, loss: float) -> dict[str, float]:
        """Shows loss, images/s and time left; returns the wall-clock figures."""
        now = time.perf_counter()
        rate = (step - self._last) * self._batch_size / max(now - self._mark, 1e-9)
        per_step = (now - self._begin) / max(step - self._first, 1)
        self._last, self._mark = step, now
        left = duration((self._num_steps - step) * per_step)
        text = f"loss {loss:.4f}  {rate:,.0f} images/s  {left} left"
        if self._bar.disable:
            self.say(f"step {step:,}/{self._num_steps:,}  {text}")
        else:
            self._bar.update(self._task, completed=step, text=text)
        return {"images_per_second": rate}

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Keeps what happens inside out of images/s (not out of the time left)."""
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
    """Progress of a draw: a bar on a terminal, a line for each shard elsewhere.

    Args:
      count: samples in all.
      console: where to write; standard output by default.
    """

    def __init__(self, count: int, console: Console | None = None):
        self._console = console or Console(file=sys.stdout, soft_wrap=True)
        self._count, self._done, self._drawn = count, 0, 0
        self._begin = time.perf_counter()
        self._bar = Progress(
            TextColumn("sample"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=count, text="")
        self._bar.start()

    def skip(self, count: int) -> None:
        """`count` samples were there already."""
        self._done += count
        self._bar.update(self._task, completed=self._done)

    def advance(self, count: int) -> None:
        """`count` samples were drawn."""
        self._drawn += count
        self._done += count
        self._bar.update(self._task, completed=self._done, text=self._text())

    def shard(self) -> None:
        """A shard is finished."""
        if self._bar.disable and self._done < self._count:
            line = f"sample {self._done:,}/{self._count:,}  {self._text()}"
            self._console.print(line, markup=False, highlight=False)

    def _text(self) -> str:
        rate = self._drawn / max(time.perf_counter() - self._begin, 1e-9)
        left = duration((self._count - self._done) / rate)
        return f"{rate:,.0f} samples/s, compilation included  {left} left"

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.stop()


def duration(seconds: float) -> str:
    """Seconds as `42 s`, `7 min 05 s` or `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole // 60 % 60:02d} min"


SILENT = 3.0  # seconds after which something that takes long is announced


@contextlib.contextmanager
def announced(
    what: str, say_fn: Callable[[str], None] | None = None, after: float = SILENT
) -> Iterator[None]:
    """Says what is under way where it takes long, and then how long it took.

    Args:
      what: such as "compiling the training step".
      say_fn: prints a line; by default to standard output, of the first process alone.
      after: seconds.
    """
    if say_fn is None:
        say_fn = functools.partial(print, flush=True)
    if not distributed.is_first():
        say_fn = lambda text: None
    begin = time.perf_counter()
    timer = threading.Timer(after, lambda: say_fn(f"{what} ..."))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    seconds = time.perf_counter() - begin
    if seconds >= after:
        say_fn(f"{what}: {duration(seconds)}")
