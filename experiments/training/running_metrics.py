"""Accumulates training metrics by log-SNR, for the averages of a logged row."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusionflow import losses


class Bins(NamedTuple):
    """Equal bins of the log-SNR; the two outer ones include what lies beyond.

    Fields:
      low: lower edge of the first bin.
      high: upper edge of the last bin.
      count: number of bins.
    """

    low: float
    high: float
    count: int  # type: ignore[assignment]

    def one_hot(self, logsnr: jax.Array) -> jax.Array:
        """Returns in which bin each log-SNR [batch] lies: bool [batch, count]."""
        width = (self.high - self.low) / self.count
        place = jnp.clip(jnp.floor((logsnr - self.low) / width), 0, self.count - 1)
        return place[:, None] == jnp.arange(self.count, dtype=place.dtype)[None]


class RunningMetrics(NamedTuple):
    """Sums since the last logged step; saved, so that averages resume.

    Steps that are not finite are excluded.

    Fields:
      steps: number of steps, int32.
      loss: of the batch means, float32.
      grad_norm: before clipping, float32.
      bin_examples: examples per log-SNR bin, int32 [bins].
      bin_importance: their importance weights, float32 [bins].
      bin_loss: their losses, importance-weighted, float32 [bins].
      bin_eps_mse: their eps-MSE, likewise, float32 [bins].
    """

    steps: jax.Array
    loss: jax.Array
    grad_norm: jax.Array
    bin_examples: jax.Array
    bin_importance: jax.Array
    bin_loss: jax.Array
    bin_eps_mse: jax.Array

    @classmethod
    def zeros(cls, num_bins: int) -> "RunningMetrics":
        """Returns the sums before any step."""
        scalar, bins = jnp.zeros(()), jnp.zeros(num_bins)
        count = jnp.zeros((), jnp.int32)
        examples = jnp.zeros(num_bins, jnp.int32)
        return cls(count, scalar, scalar, examples, bins, bins, bins)

    def add(
        self, loss: jax.Array, grad_norm: jax.Array, terms: losses.Terms, bins: Bins
    ) -> "RunningMetrics":
        """Adds a step to the sums."""
        member = bins.one_hot(terms.logsnr)
        total = lambda value: jnp.where(member, value[:, None], 0).sum(0)
        return RunningMetrics(
            steps=self.steps + 1,
            loss=self.loss + loss,
            grad_norm=self.grad_norm + grad_norm,
            bin_examples=self.bin_examples + member.sum(0, dtype=jnp.int32),
            bin_importance=self.bin_importance + total(terms.importance),
            bin_loss=self.bin_loss + total(terms.loss),
            bin_eps_mse=self.bin_eps_mse + total(terms.importance * terms.eps_mse),
        )


def averages(sums: RunningMetrics) -> dict[str, Any]:
    """Computes the averages as one row of the log; bins without examples are NaN.

    The means of a bin are those of the objective's own times, whatever proposal the
    times were drawn from: sums of weighted values over sums of weights.
    """
    sums = jax.device_get(sums)
    full = sums.bin_importance > 0
    mean = lambda total: [
        value / weight if ok else float("nan")
        for value, weight, ok in zip(total, sums.bin_importance, full, strict=True)
    ]
    return {
        "loss": sums.loss / sums.steps if sums.steps else float("nan"),
        "grad_norm": sums.grad_norm / sums.steps if sums.steps else float("nan"),
        "loss_by_logsnr": mean(sums.bin_loss),
        "eps_mse_by_logsnr": mean(sums.bin_eps_mse),
        "examples_by_logsnr": [int(count) for count in sums.bin_examples],
    }
