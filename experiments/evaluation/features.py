"""Maps samples to what metrics compare: pixels, or features of a network.

A network is a classifier trained here, Inception for FID, or the user's own. Its name,
which goes into the recipe of a metric, has a digest of its weights.
"""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusionflow.interop import read_weights
from diffusionflow.networks.inception import Inception, inception_params, resized
from diffusionflow.networks.layers import Conv3x3
from experiments.config import external, functions
from experiments.data.base import DataSet
from experiments.runtime import pytrees
from experiments.runtime.errors import UsageError

BATCH = 100
MOST_SEEN = 40_000  # examples, in the training of a classifier
INCEPTION_BATCH = 25  # 1 GB of activations


class Features(NamedTuple):
    """A map from samples to what metrics compare.

    Fields:
      name: of the features, for recipes.
      features_fn: floats `[n, *event]`, as the model sees them, to `[n, features]`.
      accuracy: of the classifier on held-out labels, or None.
    """

    name: str
    features_fn: Callable[[np.ndarray], np.ndarray]
    accuracy: float | None = None


def pixels() -> Features:
    """Makes features of the values themselves."""
    return Features("pixels", lambda x: np.asarray(x).reshape(len(x), -1))


def own(text: str) -> Features:
    """Makes a user's own features, `module:function` or `module:Class(arguments)`.

    Args:
      text: names a function of floats `[n, *event]`, as the model sees them, that
        returns `[n, features]`.

    Raises:
      UsageError: there is no such function.
    """
    fn = functions.function("--features", text)

    def features_fn(x: np.ndarray) -> np.ndarray:
        values = np.asarray(fn(x), np.float32)
        if values.ndim != 2 or len(values) != len(x) or not np.isfinite(values).all():
            raise UsageError(
                f"--features={text}: gives shape {values.shape} for {len(x)} examples: "
                "must be [n, features], finite"
            )
        return values

    (module, _), *_ = external.references(text)
    return Features(f"{text} (module {external.digest_of(module)})", features_fn)


class Classifier(nn.Module):
    """A small CNN; the last layer but one is the features."""

    num_classes: int
    channels: int = 32
    features: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps images [batch, height, width, channels] to (logits, features)."""
        x = nn.relu(Conv3x3(self.channels)(x))
        x = nn.relu(Conv3x3(2 * self.channels, stride=2)(x))
        # not relu: a third of the features would be 0 for every image
        x = nn.silu(nn.Dense(self.features)(x.reshape(len(x), -1)))
        return nn.Dense(self.num_classes)(x), x


def epochs_of(count: int) -> int:
    """Returns over how many epochs a classifier of `count` examples is trained.

    20, and fewer of so many examples that it would see more than `MOST_SEEN`.
    """
    return max(1, min(20, MOST_SEEN // count))


def classifier(
    data: DataSet,
    *,
    seed: int = 0,
    epochs: int = 20,
    advance_fn: Callable[[], object] = lambda: None,
) -> Features:
    """Trains a classifier of the labels and makes features of it.

    The same seed gives the same weights on the same machine with the same settings of
    JAX. Training on the 1,602 digits takes seconds.

    Args:
      data: images [height, width, channels] with labels.
      seed: of the weights and of the order of the examples.
      epochs: passes over the training examples, at least 1.
      advance_fn: called after each of them.

    Raises:
      ValueError: the data are no images, or there are fewer than 100 training examples
        or 2 classes.
    """
    if len(data.event_shape) != 3:
        raise ValueError(f"events of shape {data.event_shape}: must be images")
    count = len(data.train.labels)
    if count < BATCH or data.num_classes < 2 or epochs < 1:
        raise ValueError(
            f"{count} training examples of {data.num_classes} classes, epochs={epochs}:"
            f" a classifier needs {BATCH} examples, 2 classes and an epoch at least"
        )
    net = Classifier(data.num_classes)
    params = _trained(net, data, np.random.RandomState(seed), seed, epochs, advance_fn)
    features_fn = _in_batches(jax.jit(lambda x: net.apply(params, x)[1]), BATCH)
    logits_fn = _in_batches(jax.jit(lambda x: net.apply(params, x)[0]), BATCH)
    test = np.asarray(data.transform.to_float(_all(data.test.values)))
    right = logits_fn(test).argmax(1) == data.test.labels
    name = f"classifier(seed={seed}, epochs={epochs}, weights={pytrees.digest(params)})"
    return Features(name, features_fn, float(right.mean()))


def inception(path: str | pathlib.Path) -> Features:
    """Makes FID's 2,048 features, for images of 1 or 3 channels in [-1, 1].

    Nothing is downloaded: the file is one that you have, such as the port of the
    weights of 2015 to PyTorch.

    Args:
      path: arrays under torchvision's names, in a file that `interop.read_weights`
        reads: `.npz`, `.safetensors` or `.pth`.

    Raises:
      ValueError: there is no such file, it cannot be read, or its names or shapes are
        not those of the network, which are then listed.
    """
    params = inception_params(read_weights(path))
    apply = jax.jit(lambda x: Inception().apply({"params": params}, resized(x)))

    def features_fn(x: np.ndarray) -> np.ndarray:
        if x.ndim != 4 or x.shape[-1] not in (1, 3):
            raise ValueError(f"images of shape {x.shape}: must be [n, h, w, 1 or 3]")
        channels = (*x.shape[:-1], 3)
        return _in_batches(apply, INCEPTION_BATCH)(np.broadcast_to(x, channels))

    return Features(f"inception(weights={pytrees.digest(params)})", features_fn)


def _trained(
    net: nn.Module,
    data: DataSet,
    rng: np.random.RandomState,
    seed: int,
    epochs: int,
    advance_fn: Callable[[], object],
) -> Any:
    every = np.arange(len(data.train.labels))
    images = data.transform.to_float(data.training_values(every))
    labels = jnp.asarray(data.train.labels)
    steps = len(labels) // BATCH
    params = jax.jit(net.init)(jax.random.key(seed), images[:1])
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps * epochs))

    @jax.jit
    def step(params: Any, state: Any, index: jax.Array) -> tuple[Any, Any]:
        def loss_fn(params: Any) -> jax.Array:
            logits, _ = net.apply(params, images[index])
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, labels[index]
            ).mean()

        updates, state = optimizer.update(jax.grad(loss_fn)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        for _ in range(epochs):
            order = rng.permutation(len(labels))[: steps * BATCH]
            for index in order.reshape(steps, BATCH).astype(np.int32):
                params, state = step(params, state, index)
            jax.block_until_ready(params)
            advance_fn()
    return params


def _in_batches(
    fn: Callable[[Any], jax.Array], batch: int
) -> Callable[[Any], np.ndarray]:
    """Applies `fn` to any number of rows, compiled for one batch size."""

    def run(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.float32)
        padding = np.zeros((-len(x) % batch, *x.shape[1:]), np.float32)
        batches = np.split(np.concatenate([x, padding]), range(batch, len(x), batch))
        return np.concatenate([np.asarray(fn(part)) for part in batches])[: len(x)]

    return run


def _all(values: Any) -> np.ndarray:
    """Reads all rows, which may be lazy."""
    return np.asarray(values[np.arange(len(values))])
