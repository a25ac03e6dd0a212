r"""Distils a trained run into a model of few steps, or resumes that.

    diffusionflow distill --teacher=runs/digits --method=progressive \
        --workdir=runs/digits_progressive

The student has the teacher's config and weights, and what the method needs;
--config.NAME=VALUE overrides an entry, --print_config shows all.
"""

from absl import flags
from ml_collections import ConfigDict

from experiments import cli
from experiments.runtime import distributed, startup
from experiments.runtime.errors import reporting_path_errors

TEACHER = flags.DEFINE_string(
    "teacher", None, "Directory of the run that is distilled.", required=True
)
METHOD = flags.DEFINE_string(
    "method",
    None,
    "progressive, meanflow, lagrangian, shortcut, consistency, reflow or one_step, "
    "with arguments if any: 'progressive(first=16)'.",
    required=True,
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the student; a run that is there is resumed."
)
PAIRS = cli.define_file(
    "pairs", None, "File of experiments.pairs, for reflow and one_step."
)
WEIGHTS = flags.DEFINE_enum(
    "weights", "ema", ["ema", "raw"], "Averaged or raw weights of the teacher."
)
GUIDANCE = cli.define_number(
    "guidance", 1.0, "Classifier-free guidance scale of the teacher."
)


def _config() -> ConfigDict:
    from experiments.config import distilled

    return distilled.from_teacher(
        TEACHER.value,
        method=METHOD.value,
        weights=WEIGHTS.value,
        guidance=GUIDANCE.value,
        pairs=PAIRS.value,
    )


def _complete(config: ConfigDict, given: set[str]) -> None:
    from experiments.config import distilled

    distilled.fit_stages(config, given)


CONFIG = cli.define_config(_config, _complete)
cli.require_unless_printed("workdir")
ACCEPTED = cli.define_accept_change()
distributed.define_flags()


def main() -> None:
    from experiments.config import experiment  # slow to import

    accepted = ACCEPTED()
    # a mistake is reported first
    described = experiment.from_config(CONFIG.value, WORKDIR.value)
    if distributed.is_first():
        print(f"diffusionflow: distilling into {WORKDIR.value}", flush=True)
    with startup.importing():
        from experiments.training import loop

    with distributed.watching_peers(), reporting_path_errors("workdir", WORKDIR.value):
        loop.train_and_evaluate(described, WORKDIR.value, accepted=accepted)


if __name__ == "__main__":
    cli.run(main)
