"""Describes the objective of a config, and which published recipes are equivalent.

    diffusionflow explain --config=digits --against=edm

Prints schedule, output, times and total weight, the recipes that it equals up to a
constant and on which log-SNRs, and draws the weights: explain.png. Nothing is trained.
"""

from absl import flags

from experiments import cli
from experiments.config import overrides
from experiments.runtime import own_files
from experiments.runtime.errors import reporting_path_errors

CONFIG = cli.define_config()
AGAINST = flags.DEFINE_string(
    "against",
    None,
    "Another config file, or a recipe such as edm or 'sd3(shift=3.0)'.",
)
OUT = flags.DEFINE_string(
    "out", "explain.png", "Picture that is written, .png; empty for none."
)


def main() -> None:
    if OUT.value:
        with reporting_path_errors("out", OUT.value):
            own_files.check_file("out", OUT.value, ".png", "explain")
    from experiments.analysis import objective_report  # slow to import
    from experiments.visualization import objective_plot

    other = None
    against = AGAINST.value
    if against is not None and (".py" in against or overrides.is_shipped(against)):
        config = overrides.load_config(AGAINST.value, "--against")
        other = objective_report.from_config(AGAINST.value, config)
    elif AGAINST.value is not None:
        other = objective_report.from_recipe(AGAINST.value)
    own = objective_report.from_config("config", CONFIG.value)
    print(objective_report.text(own, other))
    if OUT.value:
        with reporting_path_errors("out", OUT.value):
            objective_plot.draw(OUT.value, own, other, own_files.mark("explain"))


if __name__ == "__main__":
    cli.run(main)
