"""U-Net and DiT of this library as architectures of diffusers, where these have them.

The weights are renamed, transposed and put in another order, and the function is the
same: of the z that the network sees, and at the timestep `TIMESTEPS` times its time, as
diffusers' sinusoids are ours with `max_frequency=10000`.
"""

from typing import Any

import jax
import numpy as np

from diffusionflow.interop.diffusers import dit, unet
from diffusionflow.interop.diffusers.layers import Params, check_conditions
from diffusionflow.interop.parameters import params_of

TIMESTEPS = 10_000  # the quotient of the highest and the lowest frequency there


def to_diffusers(
    module: Any, params: Params, event_shape: tuple[int, ...]
) -> tuple[Any, dict[str, Any]]:
    """Returns the network of diffusers that computes the same, and its parameters.

    It is called at the timestep `TIMESTEPS time`. The map of the interval of two times
    is left out, as it adds nothing where they are equal.

    Args:
      module: `networks.UNet` or `networks.DiT`.
      params: its parameters.
      event_shape: of an example: height, width, channels.

    Returns:
      `networks.pretrained.UNet2D` or `DiTTransformer2D`, and its parameters, float32.

    Raises:
      ValueError: diffusers has no such network; the message lists what differs.
    """
    there = architecture_of(module, event_shape)
    return there, converted(module, params, there)


def architecture_of(module: Any, event_shape: tuple[int, ...]) -> Any:
    """Returns the network of diffusers that one of ours is, without parameters.

    Args:
      module: `networks.UNet` or `networks.DiT`.
      event_shape: of an example: height, width, channels.

    Raises:
      ValueError: diffusers has no such network; the message lists what differs.
    """
    from diffusionflow.networks import DiT, UNet

    if type(module) not in (DiT, UNet):  # a subclass may compute something else
        raise ValueError(
            f"diffusers has no {type(module).__name__}: must be a UNet or a DiT of "
            "this library, not a subclass"
        )
    images = len(event_shape) == 3
    conditions = {
        f"data of shape {event_shape}: must be images": images,
        f"max_frequency={module.max_frequency:g}: must be {TIMESTEPS}": (
            module.max_frequency == TIMESTEPS
        ),
        f"vector_features={module.vector_features}: must be 0": (
            not module.vector_features
        ),
    }
    if not images:
        check_conditions(module, conditions)
    return _home(module).architecture(module, event_shape, conditions)


def converted(module: Any, params: Params, there: Any) -> dict[str, Any]:
    """Returns the parameters of a network of ours as those of diffusers, float32.

    Args:
      module: `networks.UNet` or `networks.DiT`.
      params: its parameters.
      there: its `architecture_of`.
    """
    params = jax.tree.map(np.asarray, jax.device_get(params))
    arrays = _home(module).arrays(module, params)
    return params_of(there, arrays, type(there).__name__)


def _home(module: Any) -> Any:
    """Returns the Python module that converts networks of a class."""
    return {"DiT": dit, "UNet": unet}[type(module).__name__]
