"""Surrogate losses of distribution matching, on arrays.

A generator makes x; with `z = alpha x + sigma xi`, `x_real` and `x_fake` are what a
teacher and a network trained on the generator's own samples make of z. Then

    d KL(q_t | p_t) / d theta = E[alpha^2 / sigma^2 (x_fake - x_real) dx / d theta],

the gradient of `matching_loss` with `weight = alpha^2 / sigma^2` and kind
"reverse_kl". The losses have no meaning but their gradients.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import predictions
from diffusionflow._dataclass import check_batch_ndim, check_name
from diffusionflow.predictions import per_event

# h = f'' r^2 of a divergence E_q[f(r)] of the densities' ratio r = p / q
DIVERGENCES = {
    "reverse_kl": lambda ratio: jnp.ones_like(ratio),
    "forward_kl": lambda ratio: ratio,
    "js": lambda ratio: ratio / (1 + ratio),
    "hellinger": lambda ratio: jnp.sqrt(ratio) / 2,
    "jeffreys": lambda ratio: 1 + ratio,
}
MATCHING = ("dmd", "sid", *DIVERGENCES)


def matching_loss(
    x: Array,
    x_real: Array,
    x_fake: Array,
    *,
    kind: str = "dmd",
    weight: ArrayLike | None = None,
    ratio: ArrayLike | None = None,
    alpha: ArrayLike = 1.0,
    batch_ndim: int = 1,
) -> Array:
    """Computes a loss whose gradient moves a generator's law towards that of the data.

    With squares and products as means over the event:

    - "dmd": `k / 2 (x - stop(x - (x_fake - x_real)))^2`;
    - a divergence: the same, with k times `h(ratio)`;
    - "sid": `k ((x_real - x_fake) (x_real - x) - alpha (x_real - x_fake)^2)`.

    "dmd" takes 1 over the mean of `abs(x - x_real)` as the k of each example, which
    changes the way there and not where it ends. The divergences are those of
    `DIVERGENCES`; "reverse_kl" is the gradient of the KL itself. "sid" needs the
    gradients of x_real and x_fake with respect to z, with their parameters constant;
    its alpha = 1/2 is the gradient of the Fisher divergence, and the published 1 and
    1.2 are 0.907 and 0.870 of it in one dimension, where only the length differs.

    Args:
      x: generated, `[*batch, *event]`.
      x_real: of the teacher at z, like `x`.
      x_fake: of the network of the generator's law at z, like `x`.
      kind: "dmd", "sid", or the name of a divergence.
      weight: k, scalar or `[*batch]`; None for that of "dmd", else 1.
      ratio: densities' ratio p / q at z, of data over generator, `[*batch]`, as from a
        discriminator; divergences but "reverse_kl" need it.
      alpha: of "sid", scalar or `[*batch]`.
      batch_ndim: number of batch axes.

    Returns:
      `[*batch]`.

    Raises:
      ValueError: the kind is unknown, a ratio is missing or has no effect, or shapes
        disagree.

    Source: Yin et al. 2023, arXiv 2311.18828 ("dmd"); Zhou et al. 2024,
    arXiv 2404.04057 ("sid"); Xu et al. 2025, arXiv 2502.15681 (divergences).
    """
    check_name("kind", kind, MATCHING)
    if ratio is not None and kind not in DIVERGENCES:
        raise ValueError(
            f"ratio with kind={kind!r}: must be left out; only the divergences "
            f"{', '.join(DIVERGENCES)} have one"
        )
    x = predictions.as_data(x, "x")
    for name, value in (("x_real", x_real), ("x_fake", x_fake)):
        predictions.check_same_shape(name, value, "x", x)
    check_batch_ndim(batch_ndim, x.ndim)
    axes = tuple(range(batch_ndim, x.ndim))
    factor = _factor(x, x_real, kind, weight, ratio, axes)
    if kind == "sid":
        gap = x_real - x_fake
        share = per_event(_of_examples("alpha", alpha, factor.shape, x), x)
        return factor * jnp.mean(gap * (x_real - x) - share * gap**2, axis=axes)
    moved = jax.lax.stop_gradient(x - per_event(factor, x) * (x_fake - x_real))
    return jnp.mean((x - moved) ** 2, axis=axes) / 2


def _factor(
    x: Array,
    x_real: Array,
    kind: str,
    weight: ArrayLike | None,
    ratio: ArrayLike | None,
    axes: tuple[int, ...],
) -> Array:
    """Computes k of each example, `h(ratio)` included, `[*batch]`."""
    batch = tuple(size for i, size in enumerate(x.shape) if i not in axes)
    if weight is not None:
        factor = _of_examples("weight", weight, batch, x)
    elif kind == "dmd":
        mean = jnp.mean(jnp.abs(x - x_real), axis=axes)
        factor = jnp.where(mean > 0, 1 / jnp.where(mean > 0, mean, 1), 0)
    else:
        factor = jnp.ones(batch, x.dtype)
    if kind not in DIVERGENCES or kind == "reverse_kl":
        return factor
    if ratio is None:
        raise ValueError(
            f"ratio=None: must be the ratio of densities p / q for kind={kind!r}, as a "
            "discriminator estimates it; kind='reverse_kl' needs none"
        )
    return factor * DIVERGENCES[kind](_of_examples("ratio", ratio, batch, x))


def _of_examples(
    name: str, value: ArrayLike, batch: tuple[int, ...], x: Array
) -> Array:
    """Broadcasts a scalar or `[*batch]` to one number for each example, `[*batch]`."""
    array = jnp.asarray(value, x.dtype)
    if array.shape not in ((), batch):
        raise ValueError(
            f"{name} of shape {array.shape}: must be a scalar or {batch}, one number "
            "for each example"
        )
    return jnp.broadcast_to(array, batch)
