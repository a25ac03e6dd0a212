"""U-Net and DiT of this library as architectures of diffusers, where these have them.

The weights are renamed, transposed and put in another order, and the function is the
same: of the z that the network sees, and at the timestep `TIMESTEPS` times its time, as
diffusers' sinusoids are ours with `max_frequency=10000`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from diffusionflow.interop import diffusers_dit, diffusers_unet
from diffusionflow.interop.parameters import params_of

TIMESTEPS = 10_000  # the quotient of the highest and the lowest frequency there
Params = Mapping[str, Any]


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
    from diffusionflow.networks import DiT

    there = architecture_of(module, event_shape)
    params = jax.tree.map(np.asarray, jax.device_get(params))
    home = diffusers_dit if isinstance(module, DiT) else diffusers_unet
    arrays = home.arrays(module, params)
    return there, params_of(there, arrays, type(there).__name__)


def architecture_of(module: Any, event_shape: tuple[int, ...]) -> Any:
    """Returns the network of diffusers that one of ours is, without parameters.

    Args:
      module: `networks.UNet` or `networks.DiT`.
      event_shape: of an example: height, width, channels.

    Raises:
      ValueError: diffusers has no such network; the message lists what differs.
    """
    from diffusionflow.networks import DiT, UNet

    if not isinstance(module, DiT | UNet):
        raise ValueError(
            f"diffusers has no {type(module).__name__}: must be a UNet or a DiT"
        )
    images = len(event_shape) == 3
    needed = {
        f"data of shape {event_shape}: must be images": images,
        f"max_frequency={module.max_frequency:g}: must be {TIMESTEPS}": (
            module.max_frequency == TIMESTEPS
        ),
        f"vector_features={module.vector_features}: must be 0": (
            not module.vector_features
        ),
    }
    home = diffusers_dit if isinstance(module, DiT) else diffusers_unet
    needed |= home.conditions(module, event_shape) if images else {}
    wrong = [text for text, holds in needed.items() if not holds]
    if wrong:
        raise ValueError(
            f"diffusers has no such {type(module).__name__}: {'; '.join(wrong)}"
        )
    return home.architecture(module, event_shape)
