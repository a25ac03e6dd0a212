"""Trains a model, or resumes its training.

diffusionflow train --config=digits --workdir=runs/digits
"""

from absl import flags

from experiments import cli
from experiments.runtime import distributed, startup
from experiments.runtime.errors import reporting_path_errors

CONFIG = cli.define_config()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run; a run that is there is resumed."
)
cli.require_unless_printed("workdir")
INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "Weights that a new run starts from: directory of a run, or of one of its "
    "checkpoints, folder of diffusionflow export or of diffusers, file of weights.",
)
INIT_WEIGHTS = flags.DEFINE_enum(
    "init_weights",
    "ema",
    ["ema", "raw"],
    "Averaged or raw weights of the run of --init_from.",
)

ACCEPTED = cli.define_accept_change()
distributed.define_flags()


def main() -> None:
    from experiments.config import experiment  # slow to import

    accepted = ACCEPTED()
    # a mistake is reported first
    described = experiment.from_config(CONFIG.value, WORKDIR.value)
    if distributed.is_first():
        print(f"diffusionflow: training in {WORKDIR.value}", flush=True)
    with startup.importing():
        from experiments.training import initial_weights, loop

    source = None
    if INIT_FROM.value is not None:
        source = initial_weights.Source(INIT_FROM.value, INIT_WEIGHTS.value)
        initial_weights.check(source, WORKDIR.value)  # before the data are read
    with distributed.watching_peers(), reporting_path_errors("workdir", WORKDIR.value):
        loop.train_and_evaluate(
            described, WORKDIR.value, source=source, accepted=accepted
        )


if __name__ == "__main__":
    cli.run(main)
