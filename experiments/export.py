r"""Writes the network of a run as safetensors, with a config that says what it is.

    diffusionflow export --workdir=runs/digits --out=digits_weights
    diffusionflow export --workdir=runs/unet2d --format=diffusers --out=for_diffusers

`diffusionflow.interop.load` opens the folder, and `diffusionflow train --init_from`
starts from it. The format of diffusers is for the networks unet2d and
dit_transformer2d, which it has.
"""

from absl import flags

from experiments import cli
from experiments.runtime.errors import reporting_path_errors

WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
flags.DEFINE_string("out", None, "Folder that is written.", required=True)
cli.refuse_empty("out")
flags.DEFINE_enum(
    "format",
    "safetensors",
    ["safetensors", "diffusers"],
    "Config of this library, or that of diffusers.",
)
flags.DEFINE_enum("weights", "ema", ["ema", "raw"], "Averaged or raw weights.")
cli.define_number(
    "sigma_rel", None, "Width of the average, if the run stored any, such as 0.1."
)
cli.define_count(
    "step", None, "Step of the checkpoint; by default the newest.", 10**9, least=0
)


def main() -> None:
    from experiments.checkpointing import exporting  # slow to import

    values = flags.FLAGS.flag_values_dict()
    settings = exporting.Settings(
        **{name: values[name] for name in exporting.Settings._fields}
    )
    with (
        reporting_path_errors("workdir", WORKDIR.value),
        reporting_path_errors("out", settings.out),
    ):
        exporting.export(WORKDIR.value, settings)


if __name__ == "__main__":
    cli.run(main)
