"""Executes the notebooks and writes `notebooks/*.ipynb` with their outputs.

    python -m experiments.notebooks

Each is made from the script of its name, `notebooks/NAME.py`; `--name=NAME` makes one,
and can be repeated.
"""

from absl import flags

from experiments import cli
from experiments.runtime.errors import check_name

NAME = flags.DEFINE_multi_string("name", None, "A notebook; all of them by default.")


def main() -> None:
    from experiments import executing  # slow to import

    scripts = executing.scripts()
    for name in NAME.value or scripts:
        check_name("--name", name, scripts)
        print(f"{name}: {executing.write(scripts[name]):.0f} s of CPU time", flush=True)


if __name__ == "__main__":
    cli.run(main)
