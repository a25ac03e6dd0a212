"""Perturbed networks: worse on purpose, for `guidance.autoguidance`.

The same parameters with some layers of attention changed. The change is made from
outside, by intercepting the method `attend` of these layers while the network is
traced, so that a network which nobody perturbs is not touched at all.

| function             | what the named layers do           | source                   |
|----------------------|------------------------------------|--------------------------|
| `identity_attention` | each token attends to itself alone | PAG, arXiv 2403.17377    |
| `blurred_attention`  | queries are blurred over tokens    | SEG, arXiv 2408.00760    |
| `skipped_layers`     | their input is their output        | SLG, arXiv 2411.18664    |
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow._dataclass import check_bound
from diffusionflow.networks.layers import Sizes

Change = Callable[[str, Callable[..., Any], tuple], Any]  # (method, next_fn, args)


@dataclasses.dataclass(frozen=True, eq=False)
class Perturbed:
    """A network with changed layers, called like `net.apply`.

    Fields:
      net: any network of this package.
      layers: names of the changed ones in its parameters, such as "block_3" of a
        `DiT` or "middle_attention" of a `UNet`.
      change: what is called in place of their methods.
    """

    net: nn.Module
    layers: tuple[str, ...]
    change: Change

    def __call__(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Applies the perturbed network.

        Args:
          variables: as of `net.apply`.
          *args: of the network: z, time, label, vector.
          **kwargs: likewise.

        Raises:
          ValueError: a layer has no attention, or there is none of its name.
        """
        known: list[str] = []

        def intercept(
            next_fn: Callable[..., Any], args: tuple, kwargs: Any, context: Any
        ) -> Any:
            module, method = context.module, context.method_name
            if not hasattr(module, "attend"):
                return next_fn(*args, **kwargs)
            name = "/".join(module.path)
            if name not in known:
                known.append(name)
            if name not in self.layers:
                return next_fn(*args, **kwargs)
            if kwargs:
                raise ValueError(
                    f"layers={self.layers}: {name}.{method} is called with keywords "
                    f"({', '.join(kwargs)}): pass its arguments by position"
                )
            return self.change(method, next_fn, args)

        with nn.intercept_methods(intercept):
            result = self.net.apply(variables, *args, **kwargs)
        unknown = [name for name in self.layers if name not in known]
        if unknown:
            raise ValueError(
                f"layers={self.layers}: {unknown[0]!r} is no layer with attention of "
                f"this {type(self.net).__name__}; known: {', '.join(known) or 'none'}"
            )
        return result


def identity_attention(net: nn.Module, layers: Sequence[str]) -> Perturbed:
    """Applies perturbed attention (PAG): in the named layers a token sees itself alone.

    The map of attention is the identity, so that the values are the result.

    Args:
      net: any network of this package.
      layers: names in its parameters, such as ("middle_attention",).

    Returns:
      A function like `net.apply`.

    Source: Ahn et al. 2024, arXiv 2403.17377.

    Example: perturbed-attention guidance.
      >>> from diffusionflow import guidance, predictions, schedules
      >>> from diffusionflow.networks import UNet
      >>> net, schedule = UNet(channels=8, multipliers=(1,)), schedules.FlowMatching()
      >>> z = jnp.ones((1, 4, 4, 1))
      >>> variables = net.init(jax.random.key(0), z, jnp.ones(1))
      >>> worse = identity_attention(net, ["middle_attention"])
      >>> good, bad = (
      ...     predictions.denoiser(
      ...         lambda z, t, apply=apply: apply(variables, z, t), kind="u",
      ...         schedule=schedule,
      ...     )
      ...     for apply in (net.apply, worse)
      ... )
      >>> guided = guidance.autoguidance(good, bad, scale=3.0)
      >>> guided(z, 0.5).x.shape
      (1, 4, 4, 1)
    """

    def change(method: str, next_fn: Callable[..., Any], args: tuple) -> Any:
        return args[2] if method == "attend" else next_fn(*args)

    return Perturbed(net, _names(layers), change)


def blurred_attention(
    net: nn.Module, layers: Sequence[str], *, std: float = math.inf
) -> Perturbed:
    """Applies smoothed energy (SEG): in the named layers the queries are blurred.

    A Gaussian over the tokens, in each dimension of the data, with weights that add up
    to 1 inside. With std = inf every token has the mean query, and all have the same
    attention; std = 0 is the network itself.

    Args:
      net: any network of this package.
      layers: names in its parameters.
      std: in tokens.

    Returns:
      A function like `net.apply`.

    Raises:
      ValueError: `std` is negative.

    Source: Hong 2024, arXiv 2408.00760.
    """
    check_bound("std", std, lambda std: std >= 0, "at least 0")

    def change(method: str, next_fn: Callable[..., Any], args: tuple) -> Any:
        if method != "attend":
            return next_fn(*args)
        query, key, value, sizes = args
        return next_fn(_blurred(query, sizes, std), key, value, sizes)

    return Perturbed(net, _names(layers), change)


def skipped_layers(net: nn.Module, layers: Sequence[str]) -> Perturbed:
    """Skips layers (SLG): the named layers return their input.

    Of a `DiT` that is a block, attention and MLP, of a `UNet` a layer of attention.

    Args:
      net: any network of this package.
      layers: names in its parameters.

    Returns:
      A function like `net.apply`.

    Source: Hyung et al. 2024, arXiv 2411.18664, for videos; the published code of
    Stable Diffusion 3.5 has it as skip-layer guidance.
    """

    def change(method: str, next_fn: Callable[..., Any], args: tuple) -> Any:
        return args[0] if method == "__call__" else next_fn(*args)

    return Perturbed(net, _names(layers), change)


def _names(layers: Sequence[str]) -> tuple[str, ...]:
    if isinstance(layers, str) or not layers:
        raise ValueError(
            f"layers={layers!r}: must be names of layers, such as ['block_3']"
        )
    return tuple(layers)


def _blurred(query: jax.Array, sizes: Sizes, std: float) -> jax.Array:
    """Blurs queries [batch, tokens, heads, features] over a grid of tokens."""
    batch, tokens, *rest = query.shape
    grid = query.reshape(batch, *sizes, *rest)
    for axis, size in enumerate(sizes):
        matrix = jnp.asarray(_gaussian(size, std), query.dtype)
        moved = jnp.tensordot(matrix, grid, axes=(1, axis + 1))
        grid = jnp.moveaxis(moved, 0, axis + 1)
    return grid.reshape(batch, tokens, *rest)


def _gaussian(size: int, std: float) -> np.ndarray:
    """Computes rows of normalised Gaussian weights around each of `size` places."""
    if std == 0:
        return np.eye(size)
    places = np.arange(size)
    weights = np.exp(-(((places[:, None] - places) / std) ** 2) / 2)
    return weights / weights.sum(axis=1, keepdims=True)
