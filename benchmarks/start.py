"""Measures how long a training takes to start, phase by phase, cold and warm.

    python -m benchmarks.start --config=digits

Each row is a process of its own. Cold has an empty directory for compiled programs,
warm the one that the cold run filled. Seconds are from the start of the process to the
first line of output, to the banner (data read, state initialized), and to the end of
the first training step; "silent" is the longest time between two lines until then.
`mistake` is a config entry out of bounds: seconds until the process has ended.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="digits", help="file or shipped name")
    parser.add_argument("--repeats", type=int, default=3, help="of warm starts")
    return parser.parse_args()


def lines(config: str, workdir: str, cache: str) -> Iterator[tuple[float, str]]:
    """Yields seconds and text of each line until the first row of metrics."""
    command = [sys.executable, "-m", "experiments.train", f"--config={config}"]
    command += [f"--workdir={workdir}", "--config.log.every=1", "--config.eval.every=0"]
    command += ["--config.samples.every=0", "--config.checkpoint.every=0"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        for line in process.stdout or ():
            yield time.perf_counter() - begin, line
            if line.startswith("step 1/"):
                process.kill()
                return


def start(config: str, cache: str) -> dict[str, float]:
    """Measures the seconds of one start."""
    with tempfile.TemporaryDirectory() as folder:
        timed = list(lines(config, f"{folder}/run", cache))
    seconds = [second for second, _ in timed]
    gaps = [
        after - before for before, after in zip([0.0, *seconds], seconds, strict=False)
    ]
    banner = next(s for s, line in timed if line.startswith("backend"))
    return {
        "first line": seconds[0],
        "banner": banner,
        "first step": seconds[-1],
        "silent": max(gaps),
    }


def mistake(config: str) -> float:
    """Measures the seconds until a value out of bounds is answered."""
    command = [sys.executable, "-m", "experiments.train", f"--config={config}"]
    command += ["--workdir=nowhere", "--config.batch_size=0"]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    return time.perf_counter() - begin


def main() -> None:
    """Prints a table."""
    arguments = parse()
    with tempfile.TemporaryDirectory() as cache:
        rows = {"cold": start(arguments.config, cache)}
        for number in range(arguments.repeats):
            rows[f"warm {number + 1}"] = start(arguments.config, cache)
    print("| | " + " | ".join(rows["cold"]) + " |")
    print("|---" * (1 + len(rows["cold"])) + "|")
    for name, row in rows.items():
        print(
            f"| {name} | " + " | ".join(f"{value:.1f}" for value in row.values()), "|"
        )
    seconds = min(mistake(arguments.config) for _ in range(arguments.repeats))
    print(f"mistake: {seconds:.1f} s")


if __name__ == "__main__":
    main()
