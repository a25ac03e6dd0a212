"""Skips, counts and explains steps whose loss or gradient is not finite.

A step checks and counts on the device; the loop reads the counts where it reads the
running averages, so that no step waits for the host. Unlike `optax.apply_if_finite`
this leaves averages and an adaptive proposal unchanged too, and names times and leaves.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import losses
from experiments.runtime import pytrees

SHOWN = 4  # times and leaves in the warning line; the metrics have them all


class Faults(NamedTuple):
    """Counts and first example of non-finite steps; saved, so that counts resume.

    Fields:
      count: such steps of the whole run, int32.
      in_row: those in a row up to the last step, int32.
      recent: those since the last logged step, int32.
      first: number of the first of the recent ones, int32; 0 for none.
      t: the training times of the first one, float32 [batch].
      examples: which of its examples have a loss that is not finite, bool [batch].
      leaves: of which leaves of its gradient the norm is not finite, bool [leaves].
    """

    count: jax.Array  # type: ignore[assignment]
    in_row: jax.Array
    recent: jax.Array
    first: jax.Array
    t: jax.Array
    examples: jax.Array
    leaves: jax.Array

    @classmethod
    def zeros(cls, batch_size: int, num_leaves: int) -> "Faults":
        """Returns the state before any fault."""
        none = lambda: jnp.zeros((), jnp.int32)  # each an array of its own: donated
        return cls(
            none(),
            none(),
            none(),
            none(),
            t=jnp.zeros(batch_size),
            examples=jnp.zeros(batch_size, bool),
            leaves=jnp.zeros(num_leaves, bool),
        )

    def stopped(self, limit: int) -> jax.Array:
        """Returns whether `limit` steps in a row were not finite; then none counts."""
        return self.in_row >= limit

    def after(
        self,
        number: jax.Array,
        finite: jax.Array,
        terms: losses.Terms,
        gradients: Any,
        *,
        resets: jax.Array,
        limit: int,
    ) -> "Faults":
        """Updates the counts after step `number`, which is `finite` or not.

        Args:
          number: of the step, from 1.
          finite: whether its loss and its gradient are.
          terms: of its examples.
          gradients: pytree like the parameters.
          resets: whether `recent` begins again: the step before was a logged one.
          limit: steps in a row that stop the run; after them nothing changes.
        """
        recent = jnp.where(resets, 0, self.recent)
        fault = (~finite).astype(jnp.int32)
        new = ~finite & (recent == 0)
        # the squares are summed already, for the norm of the whole gradient
        squares = [jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradients)]
        seen = Faults(
            count=self.count + fault,
            in_row=jnp.where(finite, 0, self.in_row + 1),
            recent=recent + fault,
            first=jnp.where(new, number, jnp.where(recent == 0, 0, self.first)),
            t=jnp.where(new, terms.t, self.t),
            examples=jnp.where(new, ~jnp.isfinite(terms.loss), self.examples),
            leaves=jnp.where(new, ~jnp.isfinite(jnp.stack(squares)), self.leaves),
        )
        keep = self.stopped(limit)
        return jax.tree.map(lambda old, now: jnp.where(keep, old, now), self, seen)


def row(faults: Faults, params: Any) -> dict[str, Any]:
    """Reports the non-finite steps since the last logged row; empty for none.

    Args:
      faults: after the step of the row.
      params: of the network, for the names of its leaves.

    Returns:
      `skipped_steps`, their number; `skipped_first`, the first one; `skipped_times`,
      its times where the loss of an example is not finite (all of them where the
      gradient alone is not); `skipped_leaves`, paths where the norm of
      its gradient is not.
    """
    faults = jax.device_get(faults)
    if not faults.recent:
        return {}
    faulty = faults.examples if faults.examples.any() else np.ones_like(faults.examples)
    return {
        "skipped_steps": int(faults.recent),
        "skipped_first": int(faults.first),
        "skipped_times": faults.t[faulty].tolist(),
        "skipped_leaves": chosen(pytrees.named_leaves(params), faults.leaves),
    }


def warning(row: dict[str, Any], count: int) -> str:
    """Formats a row of `row` as a line; `count` steps of the run were skipped."""
    times = [f"{t:.6g}" for t in row["skipped_times"]]
    leaves = row["skipped_leaves"]
    return (
        f"warning: step {row['skipped_first']:,} is not finite at t = {_some(times)}, "
        f"gradient of {_some(leaves) if leaves else 'no leaf (its norm overflows)'}; "
        f"steps skipped since the last report: {row['skipped_steps']:,}, in all: "
        f"{count:,}; they changed nothing"
    )


def _some(words: Sequence[str]) -> str:
    rest = len(words) - SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    return ", ".join(words[:SHOWN]) + more


def chosen(names: Iterable[str], which: Iterable[Any]) -> list[str]:
    """Selects the names where `which` is true."""
    return [name for name, bad in zip(names, which, strict=True) if bad]


@jax.jit
def _leaves_not_finite(tree: Any) -> list[jax.Array]:
    return [~jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]


def not_finite(tree: Any) -> list[str]:
    """Lists the paths of leaves that hold a non-finite value."""
    return chosen(pytrees.named_leaves(tree), jax.device_get(_leaves_not_finite(tree)))
