r"""Draws samples from a run's newest checkpoint: a PNG grid and an .npz.

    diffusionflow sample --workdir=runs/digits --num_samples=100 \
        --sampler.name=ddim --sampler.num_steps=50 --guidance=2

Reads neither optimizer nor data set, except for condition vectors that no file gives.
Settings that are not given are those of the run's config. Stopped or killed, the same
command resumes where it was.

From pictures, and between two seeds:

    diffusionflow sample --workdir=runs/digits --init_image=a.png --strength=0.5
    diffusionflow sample --workdir=runs/digits --interpolate=3,7 --columns=12
"""

from absl import flags

from experiments import cli
from experiments.runtime import startup
from experiments.runtime.errors import reporting_path_errors
from experiments.sampling import edit_options

WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
cli.define_count("num_samples", 100, "Number of samples.", 10**8)
flags.DEFINE_string(
    "label",
    None,
    "Class of all samples, its number or its name; by default all in turn.",
)
cli.define_file(
    "conditions",
    None,
    "File of vectors [n, k], .npy or .npz; by default those of held-out examples.",
)
cli.define_count(
    "seed",
    0,
    "Seed of the noise; its sample i is the same for every batch size.",
    2**32 - 1,
    least=0,
)
cli.define_count(
    "batch_size", 128, "Samples per device and batch; a CPU takes 16 to 128.", 2**16
)
cli.define_count(
    "shard_size", 1024, "Samples per file, after which sampling can resume.", 10**8
)
cli.define_number(
    "guidance",
    None,
    "Classifier-free guidance scale: 1 conditional, 0 unconditional, more is stronger.",
)
flags.DEFINE_enum("weights", "ema", ["ema", "raw"], "Averaged or raw weights.")
cli.define_number(
    "sigma_rel", None, "Width of the average, if the run stored any, such as 0.1."
)
cli.define_count(
    "step", None, "Step of the checkpoint; by default the newest.", 10**9, least=0
)
cli.define_output("out", "Path without suffix; by default in the workdir.")
flags.DEFINE_string(
    "sampler.name", None, "Sampler, such as ddim, ddpm or heun(variable='v')."
)
cli.define_count("sampler.num_steps", None, "Number of steps.", 10**6)
flags.DEFINE_string(
    "sampler.grid",
    None,
    "Sampling grid, such as uniform, or a file of the command grid.",
)
flags.DEFINE_string(
    "autoencoder",
    None,
    "Folder of the one that decodes latents into pictures, and encodes --init_image.",
)
edit_options.define_flags()
flags.adopt_module_key_flags(edit_options)  # for --help


def main() -> None:
    values = flags.FLAGS.flag_values_dict()
    edit = edit_options.given(values)
    with startup.importing():  # not needed for a wrong flag
        from experiments.checkpointing.loaded import Request
        from experiments.sampling import sample_run

    sampler = {key: values[f"sampler.{key}"] for key in ("name", "num_steps", "grid")}
    given = {key: value for key, value in sampler.items() if value is not None}
    plain = {key: values[key] for key in Request._fields if key in values}
    request = Request(**plain, sampler=given, edit=edit)
    with (
        reporting_path_errors("workdir", WORKDIR.value),
        reporting_path_errors("out", request.out),
    ):
        sample_run.sample_run(WORKDIR.value, request)


if __name__ == "__main__":
    cli.run(main)
