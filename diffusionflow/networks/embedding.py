"""Conditioning: time, class-label and vector embeddings, and their networks."""

from collections.abc import Mapping, Sequence

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def embed_time(time: jax.Array, features: int) -> jax.Array:
    """Embeds `time` in sinusoids at geometric frequencies from 1 to 1000 radians.

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


Vectors = jax.Array | Sequence[jax.Array] | Mapping[str, jax.Array]


def join_vectors(parts: Sequence[jax.Array], batch: int) -> jax.Array:
    """Concatenates vectors [batch, any] to condition on, as float32.

    The linear map of the result is the sum of a linear map of each.
    """
    chex.assert_shape(list(parts), (batch, None))
    return jnp.concatenate([part.astype(jnp.float32) for part in parts], axis=-1)


class Conditioning(nn.Module):
    """Conditioning vector: sum of time MLP, label embedding and projected vector.

    The table of labels has `num_classes + 1` rows; row `num_classes` is the null label.
    The map of `vector` has no bias, so the null vector is zero. Without classes there
    is no table, and labels are ignored.

    Fields:
      features: of the result.
      num_classes: of the labels; 0 for none.
      vector_features: of `vector`; 0 for none.
      time_features: sinusoids of the time; by default `features`.
    """

    features: int
    num_classes: int
    vector_features: int = 0
    time_features: int | None = None

    @nn.compact
    def __call__(
        self,
        time: jax.Array,
        label: jax.Array | None,
        vector: Vectors | None,
        batch: int,
    ) -> jax.Array:
        """Computes the vector of each example.

        Args:
          time: [] or [batch] in [0, 1].
          label: int [batch], or None for the null label.
          vector: [batch, vector_features], several that are concatenated to it, or
            None for the null vector.
          batch: number of examples.

        Returns:
          [batch, features], float32.

        Raises:
          ValueError: a vector is given to a network without `vector_features`.
        """
        time = jnp.asarray(time)
        chex.assert_rank(time, {0, 1})
        waves = embed_time(
            jnp.broadcast_to(time, (batch,)), self.time_features or self.features
        )
        hidden = nn.silu(nn.Dense(self.features, name="time_in")(waves))
        total = nn.Dense(self.features, name="time_out")(hidden)
        if self.num_classes:
            if label is None:
                label = jnp.full(batch, self.num_classes)
            chex.assert_shape(label, (batch,))
            chex.assert_type(label, int)
            table = nn.Embed(self.num_classes + 1, self.features, name="label")
            total = total + table(label)
        parts = jax.tree.leaves(vector)
        if parts and not self.vector_features:
            shapes = ", ".join(str(part.shape) for part in parts)
            raise ValueError(
                f"a vector of shape {shapes} for a network without vectors: set "
                "vector_features"
            )
        if self.vector_features:
            shape = (batch, self.vector_features)
            whole = join_vectors(parts, batch) if parts else jnp.zeros(shape)
            chex.assert_shape(whole, shape)
            project = nn.Dense(self.features, use_bias=False, name="vector")
            total = total + project(whole)
        return nn.silu(total)


class ConditionalNetwork(nn.Module, kw_only=True):
    """Base class of networks `(z, time, label, vector) -> prediction`.

    Subclasses give `predict(z, vector, train)`, with the vector that `Conditioning`
    makes, and its size `conditioning_features`.

    Several conditions are a tuple of vectors [batch, k], or a dict of them by name,
    in place of the one: they are concatenated, those of a dict in the order of their
    names, and their k add up to `vector_features`. A zero array is the null vector of
    one of them.

    Fields:
      num_classes: labels are 0..num_classes-1; 0 makes the network unconditional.
      vector_features: of a vector to condition on, such as a text's; 0 for none.
    """

    num_classes: int = 0
    vector_features: int = 0

    @property
    def null_label(self) -> int:
        """The null label, for unconditional predictions."""
        return self.num_classes

    @property
    def conditioning_features(self) -> int:
        """Number of features of the conditioning vector."""
        raise NotImplementedError

    @property
    def time_features(self) -> int:
        """Number of sinusoids of the time."""
        return self.conditioning_features

    def predict(self, z: jax.Array, vector: jax.Array, train: bool) -> jax.Array:
        """Computes the prediction for z, given the conditioning `[batch, features]`."""
        raise NotImplementedError

    @nn.compact
    def __call__(
        self,
        z: jax.Array,
        time: jax.Array,
        label: jax.Array | None = None,
        vector: Vectors | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Computes the prediction for z.

        Args:
          z: [batch, *event], of the rank that the network is for.
          time: [] or [batch], sigma / (alpha + sigma), in [0, 1].
          label: int [batch]; None means the null label.
          vector: [batch, vector_features], or several, see above; None means the null
            vector, zero.
          train: whether to drop; needs the rng "dropout" where `dropout` > 0.

        Returns:
          An array like z.

        Raises:
          ValueError: a shape that the network does not take.
        """
        self.check_data(z)
        conditioning = Conditioning(
            self.conditioning_features,
            self.num_classes,
            self.vector_features,
            self.time_features,
        )
        return self.predict(z, conditioning(time, label, vector, z.shape[0]), train)

    def check_data(self, z: jax.Array) -> None:
        """Raises where the network cannot take data of the shape of z."""
