"""The residual MLP, for vectors: (z, time, label, vector) -> an array like z."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from diffusionflow.networks.embedding import Conditioning
from diffusionflow.networks.layers import Pointwise, fan_in, zeros


class ResidualMLP(nn.Module):
    """Blocks x + W silu(film(norm(W' silu(x)))), with W zero at first.

    Fields:
      features: width.
      num_blocks: residual blocks.
      dropout: rate inside the blocks, when training.
      num_classes: labels are 0..num_classes-1; 0 makes the network unconditional.
      vector_features: of a vector to condition on; 0 for none.
      dtype: of the products, "float32" or "bfloat16".
    """

    features: int = 256
    num_blocks: int = 4
    dropout: float = 0.0
    num_classes: int = 0
    vector_features: int = 0
    dtype: DTypeLike = "float32"

    @property
    def null_label(self) -> int:
        """The label that means no label."""
        return self.num_classes

    @nn.compact
    def __call__(
        self,
        z: jax.Array,
        time: jax.Array,
        label: jax.Array | None = None,
        vector: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """The prediction for z.

        Args:
          z: [batch, features of the data].
          time: [] or [batch], sigma / (alpha + sigma), in [0, 1].
          label: int [batch]; None means the null label.
          vector: [batch, vector_features]; None means the null vector, zero.
          train: whether to drop; needs the rng "dropout" where `dropout` > 0.

        Returns:
          An array like z.
        """
        chex.assert_rank(z, 2)
        vector = Conditioning(
            max(64, self.features), self.num_classes, self.vector_features
        )(time, label, vector, z.shape[0])
        h = Pointwise(self.features, self.dtype, name="in")(z)
        for i in range(self.num_blocks):
            h = self._block(h, vector, train, f"block_{i}")
        h = nn.silu(nn.LayerNorm(name="norm_out")(h.astype(jnp.float32)))
        out = Pointwise(z.shape[-1], self.dtype, zeros, name="out")
        return out(h).astype(z.dtype)

    def _block(
        self, x: jax.Array, vector: jax.Array, train: bool, name: str
    ) -> jax.Array:
        h = Pointwise(self.features, self.dtype, name=f"{name}_in")(nn.silu(x))
        h = nn.LayerNorm(name=f"{name}_norm")(h.astype(jnp.float32))
        film = nn.Dense(2 * self.features, kernel_init=fan_in, name=f"{name}_film")
        scale, shift = jnp.split(film(vector), 2, axis=-1)
        h = nn.silu(h * (1 + scale) + shift)
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        return x + Pointwise(self.features, self.dtype, zeros, name=f"{name}_out")(h)
