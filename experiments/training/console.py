"""Formats what a training run prints before its first step."""

from typing import Any

import jax

SIGMA_DATA_TOLERANCE = 0.2


def banner(
    *,
    num_parameters: int,
    objective: dict,
    examples: tuple[int, int, int],
    sigma_data: tuple[float, float],
    step: int,
    num_steps: int,
    workdir: Any,
) -> str:
    """Formats the lines printed before training.

    `examples` are those to train on, those held out, and their classes; `sigma_data`
    as given and as measured.
    """
    train, held_out, classes = examples
    devices = jax.devices()
    start = f"resuming at step {step:,}" if step else "starting at step 0"
    chosen = ", ".join(
        f"{name}={value!r}" for name, value in objective.items() if value
    )
    return "\n".join(
        [
            f"backend     {jax.default_backend()}, {len(devices)} x "
            f"{devices[0].device_kind}, jax {jax.__version__}",
            f"parameters  {num_parameters:,}",
            f"objective   {chosen}",
            f"data        {train:,} examples, {held_out:,} held out, classes: "
            f"{classes:,}; sigma_data {sigma_data[0]:.3g}, measured "
            f"{sigma_data[1]:.3g}",
            f"steps       {start} of {num_steps:,}",
            f"directory   {workdir}",
        ]
    )


def sigma_data_warning(given: float, measured: float) -> str | None:
    """Returns a warning where the config's value is more than 20 % off, else None."""
    if abs(given - measured) <= SIGMA_DATA_TOLERANCE * measured:
        return None
    return (
        f"warning: sigma_data={given:g}, but the first training examples have a root "
        f"mean square of {measured:.3g}: the network's input is scaled for other data"
    )
