"""Data of one's own in an `.npz`, and a network that takes events of any shape."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow.networks.embedding import ConditionalNetwork
from diffusionflow.networks.layers import Pointwise
from experiments.config import registry
from tests.helpers import tiny


class Copy:
    """A network whose prediction is the vector, whatever z and the label are."""

    def apply(self, variables, z, time, label, vector, *, train, rngs):
        self.label, self.vector = label, vector
        return vector.reshape(z.shape).astype(z.dtype)


class Flat(ConditionalNetwork):
    """An affine map of z, flattened, and its conditioning: the smallest network."""

    @property
    def conditioning_features(self) -> int:
        return 8

    def predict(self, z: jax.Array, vector: jax.Array, train: bool) -> jax.Array:
        h = jnp.concatenate([z.reshape(len(z), -1), vector], axis=1)
        return Pointwise(z[0].size, name="out")(h).reshape(z.shape)


class Elementwise(ConditionalNetwork):
    """A multiple of z, the same for every value."""

    @nn.compact
    def __call__(self, z, time, label=None, vector=None, train=False):
        return z * self.param("factor", jax.nn.initializers.ones, ())


def config(monkeypatch, path, arrays, *, data=(), **overrides):
    """The smallest config of `arrays`, which are written to `path`, and of `Flat`."""
    monkeypatch.setitem(registry.NETWORKS, "flat", Flat)
    np.savez(path, **arrays)
    found = tiny.config(**dict(optimizer__warmup_steps=0) | overrides)
    found.data = dict(name="npz", path=str(path), **dict(data))
    found.network = dict(name="flat")
    return found
