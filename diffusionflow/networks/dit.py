"""The diffusion transformer: (z, time, label, vector) -> an array like z."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from diffusionflow.networks import positions
from diffusionflow.networks.embedding import ConditionalNetwork
from diffusionflow.networks.forms import attend
from diffusionflow.networks.layers import (
    Pointwise,
    Sizes,
    check_dimensions,
    check_remat,
    rematerialized,
    zeros,
)
from diffusionflow.networks.patches import (
    PatchSize,
    check_patch_size,
    patch_sides,
    patchify,
    unpatchify,
)

POSITIONS = ("sinusoidal", "learned", "rotary", "none")
TIME_FEATURES = 256
glorot = nn.initializers.xavier_uniform()


def modulate(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """Computes `norm(x) (1 + scale) + shift`, float32; no parameters in the norm."""
    norm = nn.LayerNorm(epsilon=1e-6, use_scale=False, use_bias=False)
    return norm(x.astype(jnp.float32)) * (1 + scale) + shift


class Modulation(nn.Module):
    """`count` float32 vectors [batch, 1, features] of the conditioning; zero first."""

    count: int
    features: int

    @nn.compact
    def __call__(self, vector: jax.Array) -> list[jax.Array]:
        """Projects the conditioning, vector: [batch, any], to `count` vectors."""
        dense = nn.Dense(self.count * self.features, kernel_init=zeros, name="dense")
        return jnp.split(dense(vector)[:, None], self.count, axis=-1)


class TransformerBlock(nn.Module):
    """x + gate attention(modulate(x)), then x + gate mlp(modulate(x)); gates 0 first.

    Softmax, norms and gates are float32.
    """

    num_heads: int
    expansion: int
    rotary: bool
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: jax.Array, vector: jax.Array, places: np.ndarray, train: bool
    ) -> jax.Array:
        """Applies the block to x: [batch, tokens, features] and vector: [batch, any].

        Returns like x.
        """
        modulation = Modulation(6, x.shape[-1], name="modulation")(vector)
        branches = self._attention, self._mlp
        for i, branch in enumerate(branches):
            shift, scale, gate = modulation[3 * i : 3 * i + 3]
            y = branch(modulate(x, scale, shift), places)
            y = nn.Dropout(self.dropout, deterministic=not train)(y)
            x = x + (gate * y.astype(jnp.float32)).astype(x.dtype)
        return x

    def _attention(self, x: jax.Array, places: np.ndarray) -> jax.Array:
        batch, tokens, features = x.shape
        parts = (batch, tokens, 3, self.num_heads, features // self.num_heads)
        y = Pointwise(3 * features, self.dtype, glorot, name="query_key_value")(x)
        query, key, value = jnp.moveaxis(y.reshape(parts), 2, 0)
        if self.rotary:
            query, key = (positions.rotate(part, places) for part in (query, key))
        sizes = tuple(int(size) for size in places.max(axis=0) + 1)
        y = self.attend(query, key, value, sizes).reshape(x.shape)
        return Pointwise(features, self.dtype, glorot, name="attention_out")(y)

    def attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, sizes: Sizes
    ) -> jax.Array:
        """Calls `forms.attend`; a method, so that `perturbed` finds it."""
        del sizes
        return attend(query, key, value)

    def _mlp(self, x: jax.Array, places: np.ndarray) -> jax.Array:
        del places
        hidden = self.expansion * x.shape[-1]
        y = nn.gelu(Pointwise(hidden, self.dtype, glorot, name="mlp_in")(x))
        return Pointwise(x.shape[-1], self.dtype, glorot, name="mlp_out")(y)


class DiT(ConditionalNetwork):
    """Transformer blocks on patches, scaled, shifted and gated by the conditioning.

    It takes sequences [batch, length, channels], images [batch, height, width,
    channels] and videos [batch, frames, height, width, channels]; all tokens attend to
    all. The block is adaLN-Zero: at first every block is the identity and the output
    is zero. Parameters are float32 and the output has the type of z.

    | size | features | num_blocks | num_heads | parameters, patch_size 2, 32 x 32 x 4 |
    |---|---|---|---|---|
    | S | 384 | 12 | 6 | 33 M |
    | B | 768 | 12 | 12 | 130 M |
    | L | 1024 | 24 | 16 | 458 M |
    | XL | 1152 | 28 | 16 | 675 M |

    Source: Peebles & Xie, arXiv:2212.09748, section 3 and table 1. It differs in that
    the output has the channels of z and no second half for variances (a learned
    variance is a network of its own kind here), that the frequencies of the time are
    those of `embed_time`, and that positions may be learned, rotary or left out.

    Fields:
      features: of a token.
      num_blocks: of attention and MLP.
      num_heads: of the attention.
      patch_size: side of the squares that become tokens, or one number for each
        dimension, such as (1, 2, 2) for single frames in squares.
      positions: "sinusoidal" (added, constant), "learned" (added; for data of one
        size), "rotary" (in the attention, relative) or "none". For data of n
        dimensions, the features of a token (sinusoidal) or of a head (rotary) must be
        a multiple of 2 n: each axis has an equal share.
      expansion: hidden features of the MLP as a multiple of `features`.
      dropout: rate after attention and MLP, when training.
      num_classes: labels are 0..num_classes-1; 0 makes the network unconditional.
      vector_features: of a vector to condition on, such as a text's; 0 for none.
      max_frequency: the highest of the sinusoids of the time, in radians; 8 to 16 for
        networks of two times.
      two_times: whether the network takes a second time, see `ConditionalNetwork`.
      dtype: of the products and of what runs between blocks, "float32" or "bfloat16".
      remat: what the blocks store for the gradient, see `layers.rematerialized`; the
        rest is computed twice. Empty for all that it needs.
      scan: whether one block is compiled and looped over; its parameters, `blocks`,
        have a leading axis of `num_blocks`. Compiles in less time.

    Raises:
      ValueError: `positions` or `remat` is unknown, `patch_size` or `max_frequency` is
        not positive, or the heads do not divide the features. At a call: the data do
        not have one to three dimensions, `patch_size` does not divide their sizes, or
        `features` is not a multiple that `positions` needs.
    """

    features: int = 384
    num_blocks: int = 12
    num_heads: int = 6
    patch_size: PatchSize = 2
    positions: str = "sinusoidal"
    expansion: int = 4
    dropout: float = 0.0
    dtype: DTypeLike = "float32"
    remat: str = ""
    scan: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_remat(self.remat)
        check_patch_size(self.patch_size)
        if self.positions not in POSITIONS:
            raise ValueError(
                f"positions={self.positions!r}: must be one of {', '.join(POSITIONS)}"
            )
        if self.features % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads} does not divide features={self.features}: "
                "must be a divisor of it"
            )

    @property
    def conditioning_features(self) -> int:
        return self.features

    @property
    def time_features(self) -> int:
        return TIME_FEATURES

    def check_data(self, z: jax.Array) -> None:
        check_dimensions(z)
        patch_sides(self.patch_size, z.shape[1:-1])
        shared = 2 * (z.ndim - 2)
        least = {"sinusoidal": shared, "rotary": shared * self.num_heads}
        if self.features % least.get(self.positions, 1):
            raise ValueError(
                f"features={self.features}: must be a multiple of "
                f"{least[self.positions]} for positions={self.positions!r}, num_heads="
                f"{self.num_heads} and data of {z.ndim - 2} dimensions; or choose "
                "positions='learned'"
            )

    def predict(self, z: jax.Array, vector: jax.Array, train: bool) -> jax.Array:
        *sizes, channels = z.shape[1:]
        sides = patch_sides(self.patch_size, sizes)
        grid = (size // side for size, side in zip(sizes, sides, strict=True))
        places = positions.places(*grid)
        h = self._blocks(self._tokens(z, places), vector, places, train)
        shift, scale = Modulation(2, self.features, name="modulation_out")(vector)
        patch = math.prod(sides) * channels
        h = Pointwise(patch, self.dtype, zeros, name="out")(modulate(h, scale, shift))
        return unpatchify(h, self.patch_size, *sizes).astype(z.dtype)

    def _tokens(self, z: jax.Array, places: np.ndarray) -> jax.Array:
        """Embeds the patches and adds the positional embedding."""
        project = Pointwise(self.features, self.dtype, glorot, name="in")
        h = project(patchify(z, self.patch_size))
        if self.positions == "sinusoidal":
            table = positions.sinusoids(places, self.features)
        elif self.positions == "learned":
            small: Any = nn.initializers.normal(0.02)
            table = self.param("positions", small, (len(places), self.features))
        else:
            return h
        return h + jnp.asarray(table, h.dtype)[None]

    def _blocks(
        self, h: jax.Array, vector: jax.Array, places: np.ndarray, train: bool
    ) -> jax.Array:
        """Applies all blocks, one after another."""

        def apply(block: nn.Module, h: jax.Array, _: None) -> tuple[jax.Array, None]:
            return block(h, vector, places, train), None

        if not self.scan:
            for i in range(self.num_blocks):
                h, _ = apply(self._block(f"block_{i}"), h, None)
            return h
        rngs: dict[Any, bool] = {"params": True, "dropout": True}
        axes: dict[Any, int] = {"params": 0}
        loop = nn.scan(apply, axes, split_rngs=rngs, length=self.num_blocks)
        return loop(self._block("blocks"), h, None)[0]

    def _block(self, name: str) -> nn.Module:
        kind = rematerialized(TransformerBlock, self.remat, static=(3, 4))
        return kind(
            self.num_heads,
            self.expansion,
            self.positions == "rotary",
            self.dropout,
            self.dtype,
            name=name,
        )
