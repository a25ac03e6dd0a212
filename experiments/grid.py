r"""Computes the sampling grid that is best for a run, a sampler and a number of steps.

    diffusionflow grid --workdir=runs/digits --sampler.name="unipc(order=2)" \
        --sampler.num_steps=5
    diffusionflow sample --workdir=runs/digits --sampler.grid=FILE.json

Prints its error and those of fixed grids of as many network calls, and writes times and
errors into the run's folder `grids`. `sample` takes sampler and number of steps from
the file.
"""

from absl import flags

from experiments import cli
from experiments.runtime import startup
from experiments.runtime.errors import reporting_path_errors

WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
flags.DEFINE_string(
    "sampler.name", None, "Deterministic sampler; by default that of the config."
)
cli.define_count(
    "sampler.num_steps",
    None,
    "Steps to the data, that of a grid that ends with noise left included.",
    1000,
    least=2,
)
COUNT = cli.define_count(
    "num_noises",
    256,
    "Noises that a grid is measured on, all at once.",
    2**16,
    least=32,
)
cli.define_count(
    "max_evaluations",
    120,
    "Grids that are tried, at least 4 k + 6 where k is 8 or the steps less 1.",
    10**5,
)
cli.define_number(
    "t_max", 1.0, "First time, below 1 where the output at t = 1 does not determine x."
)
flags.DEFINE_string("label", None, "Class, number or name; by default all in turn.")
cli.define_file(
    "conditions",
    None,
    "File of vectors [n, k], .npy or .npz; by default those of held-out examples.",
)
cli.define_count("seed", 0, "Seed of the noise.", 2**32 - 1, least=0)
cli.define_number(
    "guidance", None, "Classifier-free guidance scale; by default that of the config."
)
flags.DEFINE_enum("weights", "ema", ["ema", "raw"], "Averaged or raw weights.")
cli.define_number("sigma_rel", None, "Width of the average, if the run stored any.")
cli.define_count(
    "step", None, "Step of the checkpoint; by default the newest.", 10**9, least=0
)
OUT = flags.DEFINE_string(
    "out", None, "Path of the file, .json; by default in the workdir."
)
cli.refuse_empty("out")


def main() -> None:
    with startup.importing():
        from experiments.checkpointing.loaded import Request
        from experiments.sampling import optimized_grid

    values = flags.FLAGS.flag_values_dict()
    sampler = {key: values[f"sampler.{key}"] for key in ("name", "num_steps")}
    given = {key: value for key, value in sampler.items() if value is not None}
    plain = {key: values[key] for key in Request._fields if key in values}
    request = Request(**plain, num_samples=COUNT.value, sampler=given)
    settings = optimized_grid.Settings(
        **{name: values[name] for name in optimized_grid.Settings._fields}
    )
    with (
        reporting_path_errors("workdir", WORKDIR.value),
        reporting_path_errors("out", OUT.value),
    ):
        optimized_grid.write_grid(WORKDIR.value, request, settings)


if __name__ == "__main__":
    cli.run(main)
