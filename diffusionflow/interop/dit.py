"""The checkpoints of DiT's and SiT's authors."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import Array

from diffusionflow._dataclass import check_name
from diffusionflow.interop.convention import Convention
from diffusionflow.interop.diffusers import from_diffusers
from diffusionflow.interop.parameters import as_parameter
from diffusionflow.interop.pretrained import Pretrained, assembled
from diffusionflow.interop.sit import from_sit
from diffusionflow.interop.weights import read_weights

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # of the sizes S, B, L and XL
SOURCES = ("dit", "sit")
NAMES = {
    "x_embedder.": "pos_embed.",
    "t_embedder.mlp.0.": "emb.timestep_embedder.linear_1.",
    "t_embedder.mlp.2.": "emb.timestep_embedder.linear_2.",
    "y_embedder.": "emb.class_embedder.",
    "final_layer.adaLN_modulation.1.": "proj_out_1.",
    "final_layer.linear.": "proj_out_2.",
    "blocks.": "transformer_blocks.",
}
BLOCK_NAMES = {
    "attn.proj.": "attn1.to_out.0.",
    "mlp.fc1.": "ff.net.0.proj.",
    "mlp.fc2.": "ff.net.2.",
    "adaLN_modulation.1.": "norm1.linear.",
}


def load_dit(
    path: str | pathlib.Path, *, source: str = "dit", num_heads: int | None = None
) -> Pretrained:
    """Opens a checkpoint of DiT's or SiT's authors.

    DiT's network is of eps on 1000 levels of a linear beta, SiT's of the velocity of
    the linear path; the variance that both learn is left out.

    Args:
      path: a state dict under the authors' names, in a file that `read_weights` reads:
        `DiT-XL-2-256x256.pt`, `SiT-XL-2-256.pt`, or the same as `.safetensors`.
      source: "dit" or "sit".
      num_heads: of the attention; None for that of the sizes S, B, L and XL.

    Returns:
      `Pretrained`; labels are 0..999, the null label is 1000.

    Raises:
      ValueError: the file cannot be read, is none of such a network, or its number of
        heads is not known.

    Source: Peebles & Xie 2022, arXiv 2212.09748; Ma et al. 2024, arXiv 2401.08740.
    """
    check_name("source", source, SOURCES)
    state = read_weights(path, put=as_parameter)
    module, state = renamed_dit(state, num_heads)
    fields = [each.name for each in dataclasses.fields(module)]
    config = {
        name: getattr(module, name) for name in fields if name not in ("parent", "name")
    }
    return assembled(module, state, _convention(source), config, "a DiT")


def renamed_dit(
    state: dict[str, Array], num_heads: int | None = None
) -> tuple[Any, dict[str, Any]]:
    """Returns the network of a state dict of DiT's authors, and its arrays.

    Args:
      state: `{name: array}` under the authors' names; used up.
      num_heads: of the attention; None for that of the sizes S, B, L and XL.

    Returns:
      `networks.pretrained.DiTTransformer2D`, and the arrays under its names.

    Raises:
      ValueError: they are none of such a network, or its number of heads is not known.
    """
    from diffusionflow.networks.pretrained import DiTTransformer2D

    config = _config(state, num_heads)
    _check_places(state.pop("pos_embed"), config)
    module = DiTTransformer2D(**config, shared_embedding=True, frequency_shift=0.0)
    return module, _renamed(state)


def _convention(source: str) -> Convention:
    if source == "sit":
        return from_sit("Linear", "velocity")
    return from_diffusers({"_class_name": "DDPMScheduler"})


def _config(state: Mapping[str, Array], num_heads: int | None) -> dict[str, Any]:
    """Reads the settings of the network from the shapes."""
    needed = {  # and the number of their axes
        "pos_embed": 3,
        "x_embedder.proj.weight": 4,
        "y_embedder.embedding_table.weight": 2,
        "final_layer.linear.bias": 1,
    }
    missing = [name for name in needed if name not in state]
    if missing:
        raise ValueError(
            f"the file holds no weights of a DiT: must have {', '.join(missing)} too"
        )
    for name, rank in needed.items():
        shape = tuple(state[name].shape)
        if len(shape) != rank or 0 in shape:
            raise ValueError(f"{name} {shape}: must have {rank} axes, none of length 0")
    features, channels, _, patch_size = state["x_embedder.proj.weight"].shape
    if num_heads is None and features not in HEADS:
        raise ValueError(
            f"{features} features: the number of heads is known for {sorted(HEADS)} "
            "only; pass num_heads"
        )
    heads = HEADS[features] if num_heads is None else num_heads
    if heads < 1 or features % heads:
        raise ValueError(
            f"num_heads={heads}: must be at least 1 and must divide {features} features"
        )
    places = state["pos_embed"].shape[1]
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    return dict(
        num_attention_heads=heads,
        attention_head_dim=features // heads,
        in_channels=channels,
        out_channels=state["final_layer.linear.bias"].size // patch_size**2,
        num_layers=len(blocks),
        sample_size=round(places**0.5) * patch_size,
        patch_size=patch_size,
        num_embeds_ada_norm=len(state["y_embedder.embedding_table.weight"]) - 1,
        norm_eps=1e-6,
    )


def _check_places(found: Array, config: Mapping[str, Any]) -> None:
    """Checks that the sinusoids of places in the file are those computed here."""
    from diffusionflow.networks.pretrained.dit import place_sinusoids

    side = config["sample_size"] // config["patch_size"]
    features = config["num_attention_heads"] * config["attention_head_dim"]
    exact = place_sinusoids(side, side, features, side)[None]
    if found.shape != exact.shape or np.abs(found - exact).max() > 1e-4:
        raise ValueError(
            "pos_embed: must be the sinusoids of a square grid of patches; learned "
            "positions are not supported"
        )


def _renamed(state: dict[str, Array]) -> dict[str, Any]:
    """Renames as diffusers; query, key and value apart. The arrays are used up."""
    renamed: dict[str, Any] = {}
    for name in list(state):
        array = state.pop(name)
        for theirs, ours in NAMES.items():
            if name.startswith(theirs):
                name = ours + name.removeprefix(theirs)
                break
        for theirs, ours in BLOCK_NAMES.items():
            name = name.replace(f".{theirs}", f".{ours}")
        if ".attn.qkv." in name:
            if not array.ndim or len(array) % 3:
                raise ValueError(f"{name} {array.shape}: must be of three equal parts")
            for part, value in zip("qkv", np.split(np.asarray(array), 3), strict=True):
                renamed[name.replace("attn.qkv", f"attn1.to_{part}")] = as_parameter(
                    value.copy()  # a view would keep the whole
                )
        else:
            renamed[name] = array
    return renamed
