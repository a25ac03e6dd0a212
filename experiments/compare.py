"""Compares evaluated runs: which is better, by how much, and is it significant.

    diffusionflow compare runs/digits runs/digits_edm
    diffusionflow compare ours=runs/a ours=runs/b edm=runs/edm --out=edm.html

Runs that differ in their seed alone are one recipe; the first recipe is the reference.
Prints a table and writes a page, from the records of training and evaluation.
"""

from absl import flags

from experiments import cli
from experiments.runtime.errors import reporting_path_errors

OUT = flags.DEFINE_string(
    "out", "compare.html", "HTML page that is written; empty for none."
)
SEED = cli.define_count("seed", 0, "Seed of the bootstrap.", 2**32 - 1, least=0)


def main(runs: list[str]) -> None:
    from experiments.comparison import compare_runs  # slow to import

    with reporting_path_errors("out", OUT.value or None):
        compare_runs.compare_runs(runs, out=OUT.value, seed=SEED.value)


if __name__ == "__main__":
    cli.run(main, takes="directories of runs")
