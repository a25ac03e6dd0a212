"""Writes one HTML page of interactive figures with sliders.

    diffusionflow explore --out=site/

Scaling, variance of the data, churn, weightings, reflow, samplers by name with their
steps, and an inverse problem.
Everything is computed here by the library; the page opens from a file, without a
network.
"""

import pathlib

from absl import flags

from experiments import cli
from experiments.runtime import files, own_files
from experiments.runtime.errors import reporting_path_errors

OUT = flags.DEFINE_string("out", "site", "Directory of explore.html; made if missing.")
cli.refuse_empty("out")
TITLE = "Diffusion and flow matching, explorable"


def main() -> None:
    from experiments.visualization import html_page  # slow to import
    from experiments.visualization.explorables import SECTIONS

    html_page.plotly_js()  # fails now if plotly is missing, not at the end
    directory = pathlib.Path(OUT.value)
    with reporting_path_errors("out", OUT.value):
        directory.mkdir(parents=True, exist_ok=True)
        page = directory / "explore.html"
        own_files.check("out", [page], "explore")
        sections = [section_fn() for section_fn in SECTIONS]
        text = html_page.render(TITLE, sections, own_files.mark("explore"))
        with files.atomic_write(page) as temporary:
            temporary.write_text(text)
    print(page)


if __name__ == "__main__":
    cli.run(main)
