"""Connects the benchmark with the processes that it times; standard library only.

A process prints facts about itself as one marked JSON line, then answers each line
`{"steps": n}` on its standard input with `{"name": [seconds, ...], ...}`.
"""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

MARK = "@benchmark "


def send(message: Any) -> None:
    """Writes one marked line on standard output."""
    print(MARK + json.dumps(message), flush=True)


def serve(facts: dict[str, Any], programs: dict[str, Callable[[], None]]) -> None:
    """Announces `facts`, then times the programs, in turn, as often as it is asked.

    Args:
      facts: about the process, JSON values.
      programs: each runs one step to its end.
    """
    send(facts)
    for line in sys.stdin:
        seconds = {name: [] for name in programs}
        for _ in range(json.loads(line)["steps"]):
            for name, program in programs.items():
                start = time.perf_counter()
                program()
                seconds[name].append(time.perf_counter() - start)
        send(seconds | {"peak_rss_bytes": peak_rss_bytes()})


def peak_rss_bytes() -> int:
    """Returns the peak resident memory of this process (Linux counts in KiB)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def keep_to(threads: int) -> None:
    """Keeps this process, and those that it starts, to so many CPUs.

    Raises:
      SystemExit: there are fewer, or `threads` is not positive.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(allowed):
        raise SystemExit(f"--threads={threads}: must be in [1, {len(allowed)}]")
    os.sched_setaffinity(0, allowed[:threads])


class Client:
    """Client of a process that serves.

    Args:
      command: program and arguments.
      directory: where it runs.

    Raises:
      RuntimeError: if it ends before it has answered; the message ends with what it
        wrote last.
    """

    def __init__(self, command: list[str], directory: str):
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, cwd=directory, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        self._errors: list[str] = []
        reader = threading.Thread(target=self._drain, daemon=True)
        reader.start()
        self._reader = reader
        self.facts = self._receive()

    def run(self, steps: int) -> dict[str, Any]:
        """Measures seconds of each of `steps` steps, by program."""
        self._process.stdin.write(json.dumps({"steps": steps}) + "\n")
        self._process.stdin.flush()
        return self._receive()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()

    def _drain(self) -> None:
        for line in self._process.stderr:
            self._errors.append(line.strip())

    def _receive(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        self._process.wait()
        self._reader.join()
        last = next((line for line in reversed(self._errors) if line), "no message")
        raise RuntimeError(last)
