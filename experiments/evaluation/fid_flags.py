"""The flags of `evaluate` that compute an FID by a published protocol."""

from collections.abc import Mapping
from typing import Any

from absl import flags

from experiments.runtime import startup
from experiments.runtime.errors import UsageError, reporting_path_errors

PROTOCOLS = ("fid50k", "fid50k_pytorch", "fid50k_clean")
WITHOUT_EFFECT = (  # flags of `evaluate`, on an FID by a protocol
    *("num_examples", "batch_size", "num_times", "num_draws", "logsnr_min"),
    *("logsnr_max", "ode_steps", "num_probes", "features", "num_reference"),
    *("leave_out", "num_resamples"),
)


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_enum(
        "protocol",
        None,
        list(PROTOCOLS),
        "Compute this FID alone, of 50,000 samples unless --num_samples says else; "
        "needs --inception. It says whether the number compares with published ones.",
    )
    flags.DEFINE_string(
        "reference",
        None,
        "With --protocol: .npz with mu and sigma, or a folder of images; by default "
        "the run's training images.",
    )
    flags.DEFINE_string(
        "autoencoder",
        None,
        "With --protocol: folder of the one that decodes samples of a run on latents.",
    )


def given(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Checks the flags, and returns the settings of a protocol by their names.

    Args:
      values: of all flags.
      names: of the settings.

    Raises:
      UsageError: a flag is missing or has no effect, or there are several samplers.
    """
    wrong = [f"--{name}" for name in WITHOUT_EFFECT if flags.FLAGS[name].present]
    if wrong:
        raise UsageError(
            f"--protocol={values['protocol']}: {', '.join(wrong)} without effect, as "
            "the FID alone is computed; leave that out"
        )
    if not values["inception"]:
        raise UsageError(
            f"--protocol={values['protocol']}: needs --inception=FILE, the published "
            "weights in a local file"
        )
    samplers = values["sampler"]
    if len(samplers) > 1:
        raise UsageError(
            f"--sampler: {len(samplers)} given with --protocol, which takes one"
        )
    found = {name: values[name] for name in names if name in values}
    if not flags.FLAGS["num_samples"].present:
        del found["num_samples"]
    return found | {"sampler": samplers[0] if samplers else None}


def check_alone(values: Mapping[str, Any]) -> None:
    """Refuses what concerns a protocol where none is named.

    Raises:
      UsageError: a flag has no effect.
    """
    for name in ("reference", "autoencoder"):
        if values[name] is not None:
            raise UsageError(
                f"--{name}={values[name]}: has no effect without --protocol, such as "
                "--protocol=fid50k"
            )


def evaluate(workdir: str, values: Mapping[str, Any]) -> None:
    """Computes the FID that the flags ask for.

    Args:
      workdir: of the run.
      values: of all flags.
    """
    with startup.importing():
        from experiments.evaluation import fid_protocol

    chosen = given(values, fid_protocol.Settings._fields)
    with (
        reporting_path_errors("workdir", workdir),
        reporting_path_errors("out", values["out"]),
    ):
        fid_protocol.evaluate_fid(workdir, fid_protocol.Settings(**chosen))
