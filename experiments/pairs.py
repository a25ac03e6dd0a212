r"""Draws pairs of noise and sample of a run's model, to train on: reflow, one step.

    diffusionflow pairs --workdir=runs/digits --num_pairs=20000
    diffusionflow train --config=digits --workdir=runs/reflow --init_from=runs/digits \
        --config.data.name=pairs --config.data.path=PAIRS.npz

Stopped or killed, the same command goes on where it was. It prints how straight the
model's paths are.
"""

from absl import flags

from experiments import cli
from experiments.runtime import startup
from experiments.runtime.errors import reporting_path_errors

WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
COUNT = cli.define_count("num_pairs", 10_000, "Number of pairs.", 10**8)
flags.DEFINE_string(
    "label", None, "Class of all pairs, number or name; by default all in turn."
)
cli.define_file(
    "conditions",
    None,
    "File of vectors [n, k], .npy or .npz; by default those of held-out examples.",
)
cli.define_count(
    "seed",
    0,
    "Seed of the noise; its pair i is the same for every batch size.",
    2**32 - 1,
    least=0,
)
cli.define_count(
    "batch_size", 128, "Pairs per device and batch; a CPU takes 16 to 128.", 2**16
)
cli.define_count(
    "shard_size", 1024, "Pairs per file, after which the command can resume.", 10**8
)
cli.define_number(
    "guidance", None, "Classifier-free guidance scale; by default that of the config."
)
flags.DEFINE_enum("weights", "ema", ["ema", "raw"], "Averaged or raw weights.")
cli.define_number("sigma_rel", None, "Width of the average, if the run stored any.")
cli.define_count(
    "step", None, "Step of the checkpoint; by default the newest.", 10**9, least=0
)
cli.define_output("out", "Path without suffix; by default in the workdir.")
flags.DEFINE_string("sampler.name", None, "Sampler; by default heun(variable='u').")
cli.define_count("sampler.num_steps", None, "Number of steps, by default 50.", 10**6)
flags.DEFINE_string(
    "sampler.grid", None, "Sampling grid; by default that of the config."
)


def main() -> None:
    with startup.importing():
        from experiments.checkpointing.loaded import Request
        from experiments.sampling import pairs

    values = flags.FLAGS.flag_values_dict()
    sampler = {key: values[f"sampler.{key}"] for key in ("name", "num_steps", "grid")}
    given = {key: value for key, value in sampler.items() if value is not None}
    plain = {key: values[key] for key in Request._fields if key in values}
    request = Request(**plain, num_samples=COUNT.value, sampler=given)
    with (
        reporting_path_errors("workdir", WORKDIR.value),
        reporting_path_errors("out", request.out),
    ):
        pairs.write_pairs(WORKDIR.value, request)


if __name__ == "__main__":
    cli.run(main)
