"""Reports versions, devices, git revision and memory of this process."""

import contextlib
import importlib.metadata
import pathlib
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def versions() -> dict[str, str]:
    """Returns the versions of Python, this library and its dependencies."""
    listed = {"python": platform.python_version()}
    for name in ("diffusionflow", *LIBRARIES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            listed[name] = importlib.metadata.version(name)
    return listed


def environment() -> dict[str, Any]:
    """Collects versions, devices and git revision, for `environment.json`."""
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
    """Describes platform and devices, of an `environment.json` or of this process."""
    here = {"platform": platform.platform(), "devices": _devices()}
    described = here if environment is None else environment
    return f"{described['platform']}, {', '.join(described['devices'])}"


def git_revision() -> str | None:
    """Returns the commit, with "+changes" if files differ; None without git."""
    here = pathlib.Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # or it is another repository's
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def memory() -> dict[str, float]:
    """Returns peak memory so far in GiB: of this process, and of its fullest device.

    The latter where the backend reports it, which a CPU does not.
    """
    usage = {"host_memory_gib": _peak() / 2**30}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    if peaks:
        usage["device_memory_gib"] = max(peaks) / 2**30
    return usage


def _peak() -> int:
    """Returns the peak memory of this process in bytes.

    Linux's `ru_maxrss` is no less than that of the process which started this one.
    """
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        match = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        if match:
            return int(match[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
