"""Draws the figures of the documentation from their numbers, as SVG and PNG.

    diffusionflow figures --out=figures/

Nothing is trained or downloaded. `--figure=churn` draws one, and can be repeated.
"""

import pathlib

from absl import flags

from experiments import cli
from experiments.runtime.errors import UsageError, check_name

OUT = flags.DEFINE_string("out", "figures", "Directory of the files; made if missing.")
FIGURE = flags.DEFINE_multi_string(
    "figure", None, "Name of a figure; can be repeated, all of them by default."
)


def main() -> None:
    from experiments.visualization import figures  # slow to import

    names = tuple(FIGURE.value or figures.FIGURES)
    for name in names:
        check_name("--figure", name, figures.FIGURES)
    directory = pathlib.Path(OUT.value)
    try:
        written = figures.write(directory, names)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"--out={OUT.value!r}: {error.strerror}") from error
    print("\n".join(map(str, written)))


if __name__ == "__main__":
    cli.run(main)
