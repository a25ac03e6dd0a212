"""What a person sees of a run: banner, progress, pictures, the last line."""

import contextlib
import importlib.metadata
import json
import pathlib
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
SIGMA_DATA_TOLERANCE = 0.2


def versions() -> dict[str, str]:
    """Versions of Python, of this library and of those it runs on."""
    found = {"python": platform.python_version()}
    for name in ("diffusionflow", *LIBRARIES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def environment() -> dict[str, Any]:
    """Versions, devices and git revision, for `environment.json`."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "devices": _devices(),
        "process_count": jax.process_count(),
        "git_revision": git_revision(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _devices() -> list[str]:
    return [f"{device.id}: {device.device_kind}" for device in jax.devices()]


def machine(environment: Mapping[str, Any] | None = None) -> str:
    """Platform and devices in words, of an `environment.json` or of this process."""
    here = {"platform": platform.platform(), "devices": _devices()}
    found = here if environment is None else environment
    return f"{found['platform']}, {', '.join(found['devices'])}"


def git_revision() -> str | None:
    """The checked-out commit, with "+changes" if files differ; None without git."""
    here = pathlib.Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def memory() -> dict[str, float]:
    """Peak memory so far in GiB: of this process, and of its fullest device.

    The latter where the backend tells, which a CPU does not.
    """
    found = {"host_memory_gib": _peak() / 2**30}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    if peaks:
        found["device_memory_gib"] = max(peaks) / 2**30
    return found


def _peak() -> int:
    """Peak memory of this process in bytes.

    Linux's `ru_maxrss` is no less than that of the process which started this one.
    """
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        match = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        if match:
            return int(match[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes `value` as readable JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n")


def banner(
    *,
    num_parameters: int,
    objective: dict,
    examples: tuple[int, int, int],
    sigma_data: tuple[float, float],
    step: int,
    num_steps: int,
    workdir: Any,
) -> str:
    """The lines printed before training.

    `examples` are those to train on, those held out, and their classes; `sigma_data`
    as given and as measured.
    """
    train, held_out, classes = examples
    devices = jax.devices()
    start = f"resuming at step {step:,}" if step else "starting at step 0"
    chosen = ", ".join(
        f"{name}={value!r}" for name, value in objective.items() if value
    )
    return "\n".join(
        [
            f"backend     {jax.default_backend()}, {len(devices)} x "
            f"{devices[0].device_kind}, jax {jax.__version__}",
            f"parameters  {num_parameters:,}",
            f"objective   {chosen}",
            f"data        {train:,} examples, {held_out:,} held out, classes: "
            f"{classes:,}; sigma_data {sigma_data[0]:.3g}, measured "
            f"{sigma_data[1]:.3g}",
            f"steps       {start} of {num_steps:,}",
            f"directory   {workdir}",
        ]
    )


def sigma_data_warning(given: float, measured: float) -> str | None:
    """One line where the config's value is more than 20 % off, else None."""
    if abs(given - measured) <= SIGMA_DATA_TOLERANCE * measured:
        return None
    return (
        f"warning: sigma_data={given:g}, but the first training examples have a root "
        f"mean square of {measured:.3g}: the network's input is scaled for other data"
    )


class Meter:
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


class DrawMeter:
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
