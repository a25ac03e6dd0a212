"""Searches the coefficients of a sampler that have the least error on some starts."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusionflow.grids.end_points import EndPoints
from diffusionflow.samplers.fixed_plan import FixedPlan, free_columns, with_changes

LEAST = 1e-3  # effect of a change on the end points, relative to that of the largest
DERIVATIVES = (
    "denoise_fn: must have finite derivatives in z on the grid; begin the grid later, "
    "or pass a function that JAX can differentiate"
)
HUBER = 0.25  # distance below which the loss is quadratic, in those of the start


class Search:
    """Minimises the error on `own` starts over few changes of the coefficients.

    Args:
      ends: of the starts.
      start: the given coefficients.
      own: indices of starts.
      num_parameters: changes, at most.

    Raises:
      ValueError: the end points of the given coefficients, or their derivatives, are
        not finite.
    """

    def __init__(
        self, ends: EndPoints, start: FixedPlan, own: np.ndarray, num_parameters: int
    ) -> None:
        times = np.asarray(start.times)
        self.start, self.own = start, own
        self.end_fn = ends.end_fn(start, times)
        dtype = jax.eval_shape(self.end_fn, start.rows).dtype
        self.exact = jnp.asarray(ends.reference, dtype)
        self.distance = float(ends.distances(start, times)[own].mean())
        if not np.isfinite(self.distance):
            raise ValueError(
                f"sampler={start.sampler!r}: must have finite end points on the grid; "
                "take more steps, or another sampler"
            )
        self.free = free_columns(start.sampler, start.rows)
        self.basis = self._changes(num_parameters)
        self.count = self.basis.shape[1]

    def minimize(self, held_out: np.ndarray, max_evaluations: int) -> FixedPlan:
        """Returns the coefficients passed that are best on held-out starts."""
        from scipy import optimize

        path: list[tuple[float, float, np.ndarray]] = []
        error_fn, left = self._error_fn(), iter(range(max_evaluations))

        def error(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            next(left)  # SciPy's own limit lets a line search end
            (own, distances), slope = error_fn(self.end_fn, jnp.asarray(parameters))
            own, slope = float(own), np.asarray(slope, np.float64)
            if not (np.isfinite(own) and np.isfinite(slope).all()):
                if not path:
                    raise ValueError(DERIVATIVES)
                return 10 * path[0][0], np.zeros_like(slope)
            if not path or own < path[-1][0]:
                selected = float(np.asarray(distances)[held_out].mean())
                path.append((own, selected, parameters.copy()))
            return own, slope

        zero = np.zeros(self.count)
        if self.count:
            options = dict(maxiter=max_evaluations)
            with contextlib.suppress(StopIteration):
                optimize.minimize(
                    error, zero, jac=True, method="L-BFGS-B", options=options
                )
        best = min(path, key=lambda each: each[1])[2] if path else zero
        rows = with_changes(self.start.rows, self.free, self.basis @ best)
        return dataclasses.replace(self.start, rows=rows)

    def _error_fn(self) -> Callable[..., Any]:
        """Compiles `(end_fn, parameters) -> ((loss, distances), gradient)`."""
        width = HUBER * self.distance
        basis = jnp.asarray(self.basis, self.exact.dtype)

        def loss(parameters: Array, end_fn: Any) -> tuple[Array, Array]:
            change = basis @ parameters.astype(basis.dtype)
            x = end_fn(with_changes(self.start.rows, self.free, change))
            square = jnp.mean((x.reshape(self.exact.shape) - self.exact) ** 2, axis=1)
            rounded = jnp.sqrt(square + width**2)
            return jnp.mean(rounded[self.own]) - width, jnp.sqrt(square)

        slope = jax.value_and_grad(loss, has_aux=True)
        return jax.jit(lambda end_fn, parameters: slope(parameters, end_fn))

    def _changes(self, count: int) -> np.ndarray:
        """Returns changes of the coefficients that move the end points most.

        Of shape `[size, count]`. Each moves them by the distance of the start in the
        root mean square, to first order. They are the singular vectors of the
        derivative of the end points.
        """
        leaves = zip(jax.tree.leaves(self.start.rows), self.free, strict=True)
        size = sum(np.size(leaf) for leaf, free in leaves if free)
        own = jnp.asarray(self.own)

        def end(end_fn: Any, change: Array) -> Array:
            return end_fn(with_changes(self.start.rows, self.free, change))[own]

        @jax.jit
        def derivatives(end_fn: Any) -> Array:
            zero = jnp.zeros(size, self.exact.dtype)
            along = lambda unit: jax.jvp(lambda c: end(end_fn, c), (zero,), (unit,))[1]
            return jax.lax.map(along, jnp.eye(size, dtype=zero.dtype))

        if not size or not self.distance:
            return np.zeros((size, 0))
        matrix = np.asarray(derivatives(self.end_fn), np.float64).reshape(size, -1)
        if not np.isfinite(matrix).all():
            raise ValueError(DERIVATIVES)
        values, vectors = np.linalg.eigh(matrix @ matrix.T / matrix.shape[1])
        effect = np.sqrt(np.maximum(values, 0))[::-1][:count]
        kept = effect > LEAST * max(effect[0], np.finfo(np.float32).tiny)
        return vectors[:, ::-1][:, :count][:, kept] * self.distance / effect[kept]
