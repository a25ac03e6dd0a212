"""Conditioning: times, class-label and vector embeddings, and their networks."""

from collections.abc import Mapping, Sequence

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow._dataclass import check_bound, check_count, check_positive
from diffusionflow.networks.layers import zeros

INTERVAL = "interval"  # the map of two times, in the tree of parameters


def embed_time(
    time: jax.Array, features: int, max_frequency: float = 1000.0
) -> jax.Array:
    """Embeds `time` in sinusoids at geometric frequencies from 1 to `max_frequency`.

    [cos(w_k time), sin(w_k time)] with w_k = max_frequency^(k / (features / 2 - 1)):
    for 1000, periods from six times the unit interval down to 1/159 of it. Frequencies
    made for 0..1000 would leave a network nearly blind to a time in [0, 1].

    Args:
      time: [batch] in [0, 1].
      features: even number of features.
      max_frequency: in radians per unit of time.

    Returns:
      [batch, features], float32.
    """
    frequencies = np.geomspace(1.0, max_frequency, features // 2, dtype=np.float32)
    angles = time.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def embed_interval(
    time: jax.Array, second_time: jax.Array, max_frequency: float = 1000.0
) -> jax.Array:
    """Embeds the interval `h = time - second_time`; it is exactly zero for h = 0.

    [sin(w_k h), 1 - cos(w_k h)] at four frequencies, geometric from 1 to the smaller of
    8 and `max_frequency`: a jump is a smooth function of the time where it ends, and a
    higher frequency would make its derivative in that time large.

    Args:
      time: [batch] in [0, 1].
      second_time: [batch] in [0, 1].
      max_frequency: that of `embed_time`.

    Returns:
      [batch, 8], float32.
    """
    frequencies = np.geomspace(1.0, min(8.0, max_frequency), 4, dtype=np.float32)
    interval = time.astype(jnp.float32) - second_time.astype(jnp.float32)
    angles = interval[:, None] * frequencies[None]
    versines = 2 * jnp.sin(angles / 2) ** 2  # 1 - cos, without its cancellation
    return jnp.concatenate([jnp.sin(angles), versines], axis=-1)


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
    is no table, and labels are ignored. With two times, a map of `embed_interval` is
    added, without bias: it adds nothing where they are equal, whatever its numbers.

    Fields:
      features: of the result.
      num_classes: of the labels; 0 for none.
      vector_features: of `vector`; 0 for none.
      time_features: sinusoids of the time; by default `features`.
      max_frequency: the highest of them, in radians.
      two_times: whether there is a map of the interval between two times.
    """

    features: int
    num_classes: int
    vector_features: int = 0
    time_features: int | None = None
    max_frequency: float = 1000.0
    two_times: bool = False

    @nn.compact
    def __call__(
        self,
        time: jax.Array,
        label: jax.Array | None,
        vector: Vectors | None,
        batch: int,
        second_time: jax.Array | None = None,
    ) -> jax.Array:
        """Computes the vector of each example.

        Args:
          time: [] or [batch] in [0, 1].
          label: int [batch], or None for the null label.
          vector: [batch, vector_features], several that are concatenated to it, or
            None for the null vector.
          batch: number of examples.
          second_time: [] or [batch] in [0, 1], or None for `time`.

        Returns:
          [batch, features], float32.

        Raises:
          ValueError: a vector is given to a network without `vector_features`, or a
            second time to one without `two_times`.
        """
        time = _per_example(time, batch)
        sinusoids = self.time_features or self.features
        waves = embed_time(time, sinusoids, self.max_frequency)
        hidden = nn.silu(nn.Dense(self.features, name="time_in")(waves))
        total = nn.Dense(self.features, name="time_out")(hidden)
        if second_time is not None and not self.two_times:
            raise ValueError(
                "a second time for a network of one time: set two_times=True"
            )
        if self.two_times:
            second = time if second_time is None else _per_example(second_time, batch)
            waves = embed_interval(time, second, self.max_frequency)
            project = nn.Dense(
                self.features, use_bias=False, kernel_init=zeros, name=INTERVAL
            )
            total = total + project(waves)
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


def _per_example(time: jax.Array, batch: int) -> jax.Array:
    """Broadcasts a time, [] or [batch], to [batch]."""
    time = jnp.asarray(time)
    chex.assert_rank(time, {0, 1})
    return jnp.broadcast_to(time, (batch,))


LEAST = {  # of whole numbers among the fields of networks
    **dict.fromkeys(("features", "channels", "multipliers"), 1),
    **dict.fromkeys(("num_heads", "expansion"), 1),
    **dict.fromkeys(("num_blocks", "num_classes", "vector_features"), 0),
}


class ConditionalNetwork(nn.Module, kw_only=True):
    """Base class of networks `(z, time, label, vector) -> prediction`.

    Subclasses give `predict(z, vector, train)`, with the vector that `Conditioning`
    makes, and its size `conditioning_features`.

    Several conditions are a tuple of vectors [batch, k], or a dict of them by name,
    in place of the one: they are concatenated, those of a dict in the order of their
    names, and their k add up to `vector_features`. A zero array is the null vector of
    one of them.

    With `two_times` the network is P(z, time, second_time), what jumps from one time to
    the other are made of. At equal times it is the network of one time with the same
    other parameters, whatever those of the map `interval` are, and so it is at the
    start at any times. The derivative in `time` that losses of such networks contain
    grows with `max_frequency`: train them with 8 to 16.

    Fields:
      num_classes: labels are 0..num_classes-1; 0 makes the network unconditional.
      vector_features: of a vector to condition on, such as a text's; 0 for none.
      max_frequency: the highest of the sinusoids of the time, in radians.
      two_times: whether the network takes a second time.

    Raises:
      ValueError: `max_frequency` is not positive and finite, or a field of the names
        `LEAST`, or `dropout`, is out of bounds.
    """

    num_classes: int = 0
    vector_features: int = 0
    max_frequency: float = 1000.0
    two_times: bool = False

    def __post_init__(self) -> None:
        check_positive("max_frequency", self.max_frequency)
        for name, least in LEAST.items():
            found = getattr(self, name, least)
            for number in found if isinstance(found, tuple) else (found,):
                check_count(name, number, least)
        inside = lambda rate: 0 <= rate < 1
        check_bound("dropout", getattr(self, "dropout", 0.0), inside, "in [0, 1)")
        super().__post_init__()

    @property
    def null_label(self) -> int:
        """The null label, for unconditional predictions."""
        return self.num_classes

    @property
    def num_labels(self) -> int | None:
        """Number of labels, with the null label; None of an unconditional network."""
        return self.num_classes + 1 if self.num_classes else None

    @property
    def conditioning_features(self) -> int:
        """Number of features of the conditioning vector."""
        raise NotImplementedError(
            f"{type(self).__name__} must define conditioning_features, the number of "
            "features of its conditioning vector"
        )

    @property
    def time_features(self) -> int:
        """Number of sinusoids of the time."""
        return self.conditioning_features

    def predict(self, z: jax.Array, vector: jax.Array, train: bool) -> jax.Array:
        """Computes the prediction for z, given the conditioning `[batch, features]`."""
        raise NotImplementedError(
            f"{type(self).__name__} must define predict(z, vector, train), which "
            "returns its prediction"
        )

    @nn.compact
    def __call__(
        self,
        z: jax.Array,
        time: jax.Array,
        label: jax.Array | None = None,
        vector: Vectors | None = None,
        train: bool = False,
        second_time: jax.Array | None = None,
    ) -> jax.Array:
        """Computes the prediction for z.

        Args:
          z: [batch, *event], of the rank that the network is for.
          time: [] or [batch], sigma / (alpha + sigma), in [0, 1].
          label: int [batch]; None means the null label.
          vector: [batch, vector_features], or several, see above; None means the null
            vector, zero.
          train: whether to drop; needs the rng "dropout" where `dropout` > 0.
          second_time: [] or [batch], of the same scale as `time`; None means `time`.

        Returns:
          An array like z.

        Raises:
          ValueError: a shape that the network does not take, a vector for a network
            without `vector_features` or a second time for one without `two_times`.
        """
        self.check_data(z)
        conditioning = Conditioning(
            self.conditioning_features,
            self.num_classes,
            self.vector_features,
            self.time_features,
            self.max_frequency,
            self.two_times,
        )
        batch = z.shape[0]
        condition = conditioning(time, label, vector, batch, second_time)
        return self.predict(z, condition, train)

    def check_data(self, z: jax.Array) -> None:
        """Raises where the network cannot take data of the shape of z."""
