"""Makes the reference curve of a config, from runs that differ in their seeds.

    make curve CONFIG=configs/toy2d.py

or, from runs that are there, finished or not (steps that all of them have count):

    python benchmarks/reference_curve.py --config=configs/toy2d.py runs/a runs/b runs/c

Writes `configs/curves/NAME.json`, with which every later run of the same settings is
compared (`experiments/training/reference_curves.py`).
"""

import argparse
import json
import pathlib
import runpy
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from experiments.checkpointing import metadata  # noqa: E402
from experiments.training import metrics_log, reference_curves  # noqa: E402
from experiments.training.trainer import Trainer  # noqa: E402


def main() -> None:
    """Parses the arguments, checks the runs, writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True, help="the config file")
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="their workdirs")
    arguments = parser.parse_args()
    config = runpy.run_path(arguments.config)["get_config"]()
    current = Trainer(config).identity
    seeds = [seed_of(run, current) for run in arguments.runs]
    if len(set(seeds)) < len(seeds):
        parser.error(f"seeds {seeds}: each run needs one of its own")
    rows = [metrics_log.read(run / metrics_log.FILE_NAME) for run in arguments.runs]
    path = reference_curves.DIRECTORY / f"{pathlib.Path(arguments.config).stem}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(dense(reference_curves.make(current, seeds, rows)))
    print(f"{path}: seeds {seeds}")


def seed_of(run: pathlib.Path, current: dict) -> int:
    """Returns the seed of a run; exits with the differences if settings differ."""
    config = json.loads((run / "config.json").read_text())
    lines = metadata.diff(current | {"config": config}, current)
    others = [line for line in lines if not line.startswith("config.seed:")]
    if others:
        sys.exit("\n".join([f"{run} has other settings:", *others]))
    return config["seed"]


def dense(curve: dict) -> str:
    """Formats JSON with a line for each list of numbers."""
    lines, body = [], json.dumps(curve, indent=1)
    inside = False
    for line in body.splitlines():
        lines.append(line.strip() if inside else line)
        if line.rstrip().endswith("["):
            inside = True
        elif inside and line.strip().startswith("]"):
            inside = False
        if not inside:
            lines[-1] += "\n"
        elif line.rstrip().endswith(","):
            lines[-1] += " "
    return "".join(lines)


if __name__ == "__main__":
    main()
