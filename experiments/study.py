"""Trains recipes with several seeds, evaluates every run, and compares the recipes.

    diffusionflow study --study=study --workdir=runs/study

A run is in WORKDIR/RECIPE/SEED, the comparison in WORKDIR/compare.html. Stopped or
killed, the same command resumes where it was.
"""

from absl import flags

from experiments import cli
from experiments.runtime.errors import reporting_path_errors

STUDY = flags.DEFINE_string(
    "study",
    "study",
    "File with get_study() and get_config(recipe), or the name of a shipped one.",
)
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of all runs.", required=True)


def main() -> None:
    from experiments.comparison import run_study  # slow to import

    with reporting_path_errors("workdir", WORKDIR.value):
        run_study.run_study(STUDY.value, WORKDIR.value)


if __name__ == "__main__":
    cli.run(main)
