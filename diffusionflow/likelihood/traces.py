"""Divergence of a field: exact trace, or Hutchinson's estimator."""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffusionflow import random
from diffusionflow._dataclass import check_count, check_name, register, static
from diffusionflow.likelihood.summary import standard_error

Field = Callable[[Array], Array]


class Traced(NamedTuple):
    """A field and its divergence.

    Fields:
      value: `[*batch, *event]`.
      divergence: `[num, *batch]`.
    """

    value: Array
    divergence: Array


class Trace(Protocol):
    """Divergence estimator: `num` estimates, with the same probes throughout.

    Fields:
      num: number of estimates.
    """

    num: int

    def probes(self, key: Array | None, y: Array) -> Array:
        """Samples the probes of `divergence`, once before the solve."""

    def divergence(
        self, field: Field, y: Array, probes: Array, batch_ndim: int
    ) -> Traced:
        """Computes `field(y)` and its divergences, `[num, *batch]`."""

    def stderr(self, estimates: Array) -> Array:
        """Computes the standard error of the mean of `[num, *batch]`, `[*batch]`."""


@register
class Exact:
    """Exact trace of the Jacobian: one Jacobian-vector product per coordinate.

    No example's field may depend on another example: the products of all examples are
    taken at once.

    Args:
      at_once: products computed together; None for all, which takes the memory of as
        many evaluations as an event has coordinates.

    Raises:
      ValueError: `at_once` is below 1.
    """

    at_once: int | None = static(default=None)
    num = 1

    def __post_init__(self) -> None:
        if self.at_once is not None:
            check_count("at_once", self.at_once)

    def probes(self, key: Array | None, y: Array) -> Array:
        """Returns no probes: `[0, *y.shape]`."""
        del key
        return jnp.zeros((0, *y.shape), y.dtype)

    def divergence(
        self, field: Field, y: Array, probes: Array, batch_ndim: int
    ) -> Traced:
        """Computes `field(y)` and `sum_i d field_i / d y_i`, `[1, *batch]`."""
        del probes
        event = y.shape[batch_ndim:]
        count = math.prod(event)
        value, push = jax.linearize(field, y)

        def entry(index: Array) -> Array:
            unit = jnp.zeros(count, y.dtype).at[index].set(1)
            unit = jnp.broadcast_to(unit.reshape(event), y.shape)
            return _dot(unit, push(unit), batch_ndim)

        together = count if self.at_once is None else self.at_once
        entries = jax.lax.map(entry, jnp.arange(count), batch_size=together)
        return Traced(value, jnp.sum(entries, axis=0)[None])

    def stderr(self, estimates: Array) -> Array:
        """Returns 0: the trace is exact."""
        return jnp.zeros_like(estimates[0])


LAWS = ("rademacher", "normal")


@register
class Hutchinson:
    """Hutchinson's estimator `xi^T J xi`, `E[xi xi^T] = I`: unbiased.

    One Jacobian-vector product per random probe xi. With S the symmetric part of J, the
    variance of one probe is `2 (||S||_F^2 - sum_i S_ii^2)` for signs and
    `2 ||S||_F^2` for normal ones. The probes are sampled once and kept through the
    solve, so that the field stays smooth and the same key gives the same number.

    Args:
      num_probes: independent ones; the standard error is taken across them.
      law: "rademacher" (signs) or "normal".

    Raises:
      ValueError: `num_probes` is below 1, or the law is unknown.

    Source: Hutchinson 1989, Communications in Statistics 18(3) (signs); Grathwohl et
    al. 2019, arXiv 1810.01367, fixed through the solve.
    """

    num_probes: int = static(default=1)
    law: str = static(default="rademacher")

    def __post_init__(self) -> None:
        check_count("num_probes", self.num_probes)
        check_name("law", self.law, LAWS)

    @property
    def num(self) -> int:
        """Number of estimates of a divergence."""
        return self.num_probes

    def probes(self, key: Array | None, y: Array) -> Array:
        """Samples probes `[num_probes, *y.shape]`; `key` is scalar or `[*batch]`."""
        if key is None:
            raise ValueError(
                f"key=None: must be a random key, as {self} draws probes; pass one "
                "such as jax.random.key(0), or trace=Exact()"
            )
        draw = {"rademacher": _signs, "normal": random.normal}[self.law]
        keys = random.split(key, self.num_probes)
        return jnp.stack([draw(key, y.shape, y.dtype) for key in keys])

    def divergence(
        self, field: Field, y: Array, probes: Array, batch_ndim: int
    ) -> Traced:
        """Computes `field(y)` and `xi^T J xi`, `[num_probes, *batch]`."""
        value, push = jax.linearize(field, y)
        product = lambda probe: _dot(probe, push(probe), batch_ndim)
        return Traced(value, jax.vmap(product)(probes))

    def stderr(self, estimates: Array) -> Array:
        """Computes the standard error across the probes; NaN for one."""
        return standard_error(estimates)


def _signs(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    return jnp.where(random.uniform(key, shape) < 0.5, -1, 1).astype(dtype)


def _dot(a: Array, b: Array, batch_ndim: int) -> Array:
    return jnp.sum(a * b, axis=tuple(range(batch_ndim, a.ndim)))
