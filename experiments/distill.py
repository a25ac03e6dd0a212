r"""Distils a trained run into a model of few steps, or resumes that.

    diffusionflow distill --teacher=runs/digits --method=progressive \
        --workdir=runs/digits_progressive

The student has the teacher's config and weights, and what the method needs;
--config.NAME=VALUE overrides an entry, --print_config shows all.
"""

import pathlib

from absl import flags
from ml_collections import ConfigDict

from experiments import cli
from experiments.runtime import distributed
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
    "workdir",
    None,
    "Directory of the student; a run that is there is resumed.",
)
PAIRS = cli.define_file(
    "pairs", None, "File of experiments.pairs, for reflow and one_step."
)
WEIGHTS = flags.DEFINE_enum(
    "weights", "ema", ["ema", "raw"], "Which weights of the teacher."
)
GUIDANCE = cli.define_number(
    "guidance", 1.0, "Classifier-free guidance scale of the teacher."
)


def _config() -> ConfigDict:
    from experiments.config import distilled, external

    teacher = pathlib.Path(TEACHER.value)
    external.search(teacher)
    return distilled.student(
        distilled.read_config(teacher, "teacher"),
        method=METHOD.value,
        teacher=TEACHER.value,
        weights=WEIGHTS.value,
        guidance=GUIDANCE.value,
        pairs=PAIRS.value,
    )


CONFIG = cli.define_config(_config)
cli.require_unless_printed("workdir")
distributed.define_flags()


def main() -> None:
    from experiments.config import build  # slow to import

    build.check(CONFIG.value)  # a mistake is answered before the rest is imported
    if distributed.is_first():
        print(f"diffusionflow: distilling into {WORKDIR.value}", flush=True)
    from experiments.training import loop

    with distributed.watching_peers(), reporting_path_errors("workdir", WORKDIR.value):
        loop.train_and_evaluate(CONFIG.value, WORKDIR.value)


if __name__ == "__main__":
    cli.run(main)
