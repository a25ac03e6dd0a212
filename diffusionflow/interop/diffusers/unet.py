"""The U-Net of this library as `UNet2DModel` of diffusers."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow.interop.diffusers.layers import (
    EPSILON,
    Params,
    check_conditions,
    time_embedding,
)

LEAVES = {"scale": "weight", "kernel": "weight", "embedding": "weight", "bias": "bias"}
RESNET = {
    "norm_in": "norm1",
    "conv_in": "conv1",
    "film": "time_emb_proj",
    "norm_out": "norm2",
    "conv_out": "conv2",
    "skip": "conv_shortcut",
}
ATTENTION = {
    "norm": "group_norm",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "out": "to_out.0",
}


def architecture(
    module: Any, event_shape: tuple[int, ...], conditions: Mapping[str, bool]
) -> Any:
    """Returns the network of diffusers without parameters.

    Args:
      module: `networks.UNet`.
      event_shape: of an example: height, width, channels.
      conditions: of `check_conditions`, of any network; those of a U-Net are added.

    Raises:
      ValueError: diffusers has no such network; the message lists what differs.
    """
    from diffusionflow.networks.pretrained import UNet2D

    attends = _attends(module, event_shape)
    groups, heads = _groups(module, event_shape), _heads(module, attends)
    check_conditions(module, {**conditions, **_conditions(module, groups, heads)})
    return UNet2D(
        in_channels=event_shape[2],
        out_channels=event_shape[2],
        freq_shift=1,
        down_block_types=_block_types(attends, "Down"),
        up_block_types=_block_types(attends[::-1], "Up"),
        block_out_channels=tuple(each * module.channels for each in module.multipliers),
        layers_per_block=module.num_blocks,
        dropout=module.dropout,
        attention_head_dim=heads[0],
        norm_num_groups=groups[0],
        attn_norm_num_groups=groups[0],
        norm_eps=EPSILON,
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=module.num_classes + 1 if module.num_classes else None,
    )


def _conditions(module: Any, groups: list[int], heads: list[int]) -> dict[str, bool]:
    """Returns what must hold of a U-Net whose norms and heads are of these sizes."""
    return {
        f"channels={module.channels}: must be at least 4": module.channels >= 4,
        f"multipliers={module.multipliers}: must start with 1": (
            module.multipliers[0] == 1
        ),
        f"time_features={module.time_features}: must be channels={module.channels}": (
            module.time_features == module.channels
        ),
        f"normalisations of {_listed(groups)} groups: must be of one number, as with "
        "channels a multiple of 128": len(groups) == 1,
        f"heads of {_listed(heads)} channels: must be of one number, as with attention "
        "at the levels of one multiplier alone": len(heads) == 1,
    }


def arrays(module: Any, params: Params) -> dict[str, Any]:
    """Returns the arrays of a U-Net under their names in diffusers.

    Args:
      module: `networks.UNet`, of which `architecture` found no fault.
      params: its parameters, NumPy arrays.
    """
    rest = dict(params)
    conditioning = rest.pop("Conditioning_0")
    found = time_embedding(conditioning, "time_embedding.")
    if module.num_classes:
        found["class_embedding.weight"] = conditioning["label"]["embedding"]
    for path, array in jax.tree_util.tree_leaves_with_path(rest):
        first, *inner = (key.key for key in path)
        name = ".".join((*_place(first, len(module.multipliers)), *_inside(inner)))
        found[name] = _as_torch(array, convolution="conv_shortcut" in name)
    return found


def _place(name: str, levels: int) -> tuple[str, ...]:
    """Returns where a part of the U-Net is in diffusers."""
    fixed = {
        "middle_in": "mid_block.resnets.0",
        "middle_attention": "mid_block.attentions.0",
        "middle_out": "mid_block.resnets.1",
        "norm_out": "conv_norm_out",
    }
    way, *rest = name.split("_")
    if way not in ("encoder", "decoder", "down", "up"):
        return (fixed.get(name, name),)
    level = int(rest[0])
    if way == "down":
        return (f"down_blocks.{level - 1}.downsamplers.0.conv",)
    block = f"up_blocks.{levels - 1 - level}"
    if way == "up":
        return (f"{block}.upsamplers.0.conv",)
    block = f"down_blocks.{level}" if way == "encoder" else block
    return block, "attentions" if len(rest) > 2 else "resnets", rest[1]


def _inside(path: list[str]) -> list[str]:
    """Returns the name of a parameter in its part of the U-Net."""
    names = RESNET | ATTENTION
    return [*(names[each] for each in path[:-1]), LEAVES[path[-1]]]


def _as_torch(array: np.ndarray, *, convolution: bool) -> np.ndarray:
    """Moves the axis of outputs first.

    Args:
      array: of a convolution, a matrix or a vector.
      convolution: whether a matrix is that of a 1 x 1 convolution there.
    """
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim < 2:
        return array
    return array.T[..., None, None] if convolution else array.T


def _groups(module: Any, event_shape: tuple[int, ...]) -> list[int]:
    """Returns the different numbers of groups of the normalisations."""
    from diffusionflow.networks.layers import num_groups

    z = jax.ShapeDtypeStruct((1, *event_shape), jnp.float32)
    one = jax.ShapeDtypeStruct((1,), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), z, one)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    norms = [leaf.shape[0] for path, leaf in leaves if path[-1].key == "scale"]
    return sorted({num_groups(channels) for channels in norms})


def _attends(module: Any, event_shape: tuple[int, ...]) -> list[bool]:
    """Returns of each level whether its blocks attend."""
    shortest = min(event_shape[:2])
    return [
        shortest // 2**level in module.attention_resolutions
        for level in range(len(module.multipliers))
    ]


def _block_types(attends: list[bool], way: str) -> tuple[str, ...]:
    """Returns the names of the blocks of a way, "Down" or "Up"."""
    return tuple(f"{'Attn' * each}{way}Block2D" for each in attends)


def _heads(module: Any, attends: list[bool]) -> list[int]:
    """Returns the different numbers of channels of a head."""
    levels = zip(module.multipliers, attends, strict=True)
    attending = [multiplier for multiplier, attends_here in levels if attends_here]
    channels = {each * module.channels for each in (*attending, module.multipliers[-1])}
    return sorted(each // module.num_heads for each in channels)


def _listed(numbers: list[int]) -> str:
    return " and ".join(map(str, numbers))
