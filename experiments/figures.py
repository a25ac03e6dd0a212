"""Draws the figures of the documentation from their numbers, as SVG and PNG.

    diffusionflow figures --out=figures/

Nothing is trained or downloaded. `--figure=churn` draws one, and can be repeated.
"""

import pathlib

from absl import flags

from experiments import cli
from experiments.runtime.errors import check_name, reporting_path_errors

OUT = flags.DEFINE_string("out", "figures", "Directory of the files; made if missing.")
cli.refuse_empty("out")
FIGURE = flags.DEFINE_multi_string(
    "figure", None, "Name of a figure; can be repeated, all of them by default."
)


def main() -> None:
    from experiments.visualization import figures  # slow to import

    names = tuple(dict.fromkeys(FIGURE.value or figures.FIGURES))
    for name in names:
        check_name("--figure", name, figures.FIGURES)
    directory = pathlib.Path(OUT.value)
    with reporting_path_errors("out", OUT.value):
        written = figures.write(directory, names)
    print("\n".join(map(str, written)))


if __name__ == "__main__":
    cli.run(main)
