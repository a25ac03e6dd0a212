"""Trains a model, or resumes its training.

python -m experiments.train --config=configs/digits.py --workdir=runs/digits
"""

from absl import flags

from experiments import cli, cluster

CONFIG = cli.define_config()
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run; a run that is there is resumed.",
    required=True,
)
cluster.define_flags()


def main() -> None:
    from experiments import loop  # slow to import, and not needed for a wrong flag

    with cluster.watching_peers():
        loop.train_and_evaluate(CONFIG.value, WORKDIR.value)


if __name__ == "__main__":
    cli.run(main)
