r"""Encodes a data set into latents of an autoencoder, to train on: a folder of shards.

    diffusionflow encode --data=photos --autoencoder=sd-vae-ft-ema --out=latents
    diffusionflow train --config=imagenet256_latents --workdir=runs/latents \
        --config.data.path=latents

Stopped or killed, the same command goes on where it was; run again, it checks every
shard. Scale and shift are those of the autoencoder's config.
"""

from absl import flags

from experiments import cli
from experiments.runtime.errors import reporting_path_errors

flags.DEFINE_string(
    "data",
    None,
    "Folder of images, .npz, or a source of config.data with its arguments, such as "
    "folder(path='photos', size=(256, 256)).",
    required=True,
)
flags.DEFINE_string(
    "autoencoder",
    None,
    "Folder of an AutoencoderKL of diffusers, or of a pipeline with one.",
    required=True,
)
OUT = flags.DEFINE_string("out", None, "Folder of the latents.", required=True)
cli.refuse_empty("out")
flags.DEFINE_bool("flip", False, "Encode mirrored training images too.")
cli.define_count(
    "tile", None, "Side of tiles that are encoded one by one; by default none.", 2**16
)
cli.define_count("batch_size", 8, "Images that a device encodes at once.", 2**16)
cli.define_count(
    "shard_size", 1024, "Images per file, after which it can go on.", 10**8
)


def main() -> None:
    from experiments.sampling import encoding  # slow to import

    values = flags.FLAGS.flag_values_dict()
    settings = encoding.Settings(
        **{name: values[name] for name in encoding.Settings._fields}
    )
    with reporting_path_errors("out", OUT.value):
        encoding.encode(settings)


if __name__ == "__main__":
    cli.run(main)
