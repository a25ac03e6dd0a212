"""The residual MLP, for vectors: (z, time, label, vector) -> an array like z."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from diffusionflow.networks.embedding import ConditionalNetwork
from diffusionflow.networks.layers import Pointwise, fan_in, zeros


class ResidualMLP(ConditionalNetwork):
    """Residual MLP of blocks x + W silu(film(norm(W' silu(x)))), with W zero at first.

    It takes vectors [batch, d] of any d. Data of more axes are refused: flatten them
    first, which loses who is next to whom, or use `UNet` or `DiT`.

    Fields:
      features: width.
      num_blocks: residual blocks.
      dropout: rate inside the blocks, when training.
      num_classes: labels are 0..num_classes-1; 0 makes the network unconditional.
      vector_features: of a vector to condition on; 0 for none.
      max_frequency: the highest of the sinusoids of the time, in radians; 8 to 16 for
        networks of two times.
      two_times: whether the network takes a second time, see `ConditionalNetwork`.
      dtype: of the products, "float32" or "bfloat16".

    Raises:
      ValueError: `max_frequency` is not positive. At a call: z is not [batch, d].
    """

    features: int = 256
    num_blocks: int = 4
    dropout: float = 0.0
    dtype: DTypeLike = "float32"

    @property
    def conditioning_features(self) -> int:
        return max(64, self.features)

    def check_data(self, z: jax.Array) -> None:
        if z.ndim != 2:
            raise ValueError(
                f"z of shape {z.shape}: a ResidualMLP takes vectors [batch, features]; "
                "flatten the data, or choose `UNet` or `DiT` for sequences, images and "
                "videos"
            )

    def predict(self, z: jax.Array, vector: jax.Array, train: bool) -> jax.Array:
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
