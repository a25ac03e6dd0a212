"""The DiT of this library as `DiTTransformer2DModel` of diffusers."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from diffusionflow.interop.diffusers.layers import (
    EPSILON,
    Params,
    check_conditions,
    linear,
    time_embedding,
)

# The features of a token here are, a quarter each, sines of row and of column, then
# cosines; there sines and cosines of the column, then of the row.
QUARTERS = (1, 3, 0, 2)


def architecture(
    module: Any, event_shape: tuple[int, ...], conditions: Mapping[str, bool]
) -> Any:
    """Returns the network of diffusers without parameters.

    Args:
      module: `networks.DiT`.
      event_shape: of an example: height, width, channels.
      conditions: of `check_conditions`, of any network; those of a DiT are added.

    Raises:
      ValueError: diffusers has no such network; the message lists what differs.
    """
    from diffusionflow.networks.pretrained import DiTTransformer2D

    check_conditions(module, {**conditions, **_conditions(module, event_shape)})
    return DiTTransformer2D(
        num_attention_heads=module.num_heads,
        attention_head_dim=module.features // module.num_heads,
        in_channels=event_shape[2],
        num_layers=module.num_blocks,
        sample_size=event_shape[0],
        patch_size=module.patch_size,
        num_embeds_ada_norm=max(1, module.num_classes),
        norm_eps=EPSILON,
    )


def _conditions(module: Any, event_shape: tuple[int, ...]) -> dict[str, bool]:
    height, width, _ = event_shape
    return {
        f"images of {height} x {width}: must be square": height == width,
        f"patch_size={module.patch_size}: must be one number": (
            isinstance(module.patch_size, int)
        ),
        f"positions={module.positions!r}: must be 'sinusoidal'": (
            module.positions == "sinusoidal"
        ),
        f"expansion={module.expansion}: must be 4": module.expansion == 4,
    }


def arrays(module: Any, params: Params) -> dict[str, Any]:
    """Returns the arrays of a DiT under their names in diffusers.

    Args:
      module: `networks.DiT`, of which `architecture` found no fault.
      params: its parameters, NumPy arrays.
    """
    features, size = module.features, module.patch_size
    quarters = np.arange(features).reshape(4, -1)
    order = quarters[list(QUARTERS)].ravel()  # of the features of a token
    kernel = params["in"]["kernel"].reshape(size, size, -1, features)[..., order]
    conditioning = params["Conditioning_0"]
    table = np.zeros((2, features))  # diffusers has no DiT without classes
    if module.num_classes:
        table = conditioning["label"]["embedding"]
    embedding = time_embedding(conditioning, "timestep_embedder.")
    embedding["class_embedder.embedding_table.weight"] = table
    found = {
        "pos_embed.proj.weight": kernel.transpose(3, 2, 0, 1),
        "pos_embed.proj.bias": params["in"]["bias"][order],
        **_modulation("proj_out_1.", params["modulation_out"]["dense"], order),
        **linear("proj_out_2.", params["out"], rows=order),
    }
    for i in range(module.num_blocks):
        block = _block(params, i)
        name = f"transformer_blocks.{i}."
        parts = {
            **{f"norm1.emb.{key}": array for key, array in embedding.items()},
            **_modulation("norm1.linear.", block["modulation"]["dense"], order),
            **_query_key_value(block["query_key_value"], order),
            **linear("attn1.to_out.0.", block["attention_out"], columns=order),
            **linear("ff.net.0.proj.", block["mlp_in"], rows=order),
            **linear("ff.net.2.", block["mlp_out"], columns=order),
        }
        found |= {name + key: array for key, array in parts.items()}
    return found


def _block(params: Params, i: int) -> Any:
    """Returns the parameters of a block, of a network with or without `scan`."""
    if "blocks" in params:
        return jax.tree.map(lambda array: array[i], params["blocks"])
    return params[f"block_{i}"]


def _modulation(name: str, dense: Params, order: np.ndarray) -> dict[str, Any]:
    """Returns a map to several vectors of a token's features, each in their order."""
    count = dense["bias"].size // order.size
    columns = (np.arange(count)[:, None] * order.size + order).ravel()
    return linear(name, dense, columns=columns)


def _query_key_value(dense: Params, order: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i, part in enumerate("qkv"):
        columns = np.arange(order.size) + i * order.size
        found |= linear(f"attn1.to_{part}.", dense, order, columns)
    return found
