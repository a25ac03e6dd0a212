"""What a network is told besides `z`: the noise level and the label."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def embed_time(time: jax.Array, features: int) -> jax.Array:
    """Sinusoids of `time` at geometric frequencies from 1 to 1000 radians.

    [cos(w_k time), sin(w_k time)] with w_k = 1000^(k / (features / 2 - 1)): periods
    from six times the unit interval down to 1/159 of it. Frequencies made for
    0..1000 would leave a network nearly blind to a time in [0, 1].

    Args:
      time: [batch] in [0, 1].
      features: even number of features.

    Returns:
      [batch, features], float32.
    """
    frequencies = np.geomspace(1.0, 1000.0, features // 2, dtype=np.float32)
    angles = time.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Conditioning(nn.Module):
    """The vector that every block reads: an MLP of the time plus a row of a table.

    The table has `num_classes + 1` rows; row `num_classes` is the null label. Without
    classes there is no table and labels are not looked at.
    """

    features: int
    num_classes: int

    @nn.compact
    def __call__(
        self, time: jax.Array, label: jax.Array | None, batch: int
    ) -> jax.Array:
        """The vector of each example.

        Args:
          time: [] or [batch] in [0, 1].
          label: int [batch], or None for the null label.
          batch: number of examples.

        Returns:
          [batch, features], float32.
        """
        time = jnp.asarray(time)
        chex.assert_rank(time, {0, 1})
        features = embed_time(jnp.broadcast_to(time, (batch,)), self.features)
        hidden = nn.silu(nn.Dense(self.features, name="time_in")(features))
        vector = nn.Dense(self.features, name="time_out")(hidden)
        if self.num_classes:
            if label is None:
                label = jnp.full(batch, self.num_classes)
            chex.assert_shape(label, (batch,))
            chex.assert_type(label, int)
            table = nn.Embed(self.num_classes + 1, self.features, name="label")
            vector = vector + table(label)
        return nn.silu(vector)
