"""Computes the eps-MSE of each held-out example, of raw and averaged weights.

Training logs its mean (`heldout.EvalAccumulator`). With a mask it is the mean over the
unmasked values of each example.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.config.model import Model
from experiments.data import loader
from experiments.data.base import Examples
from experiments.evaluation import heldout
from experiments.evaluation.result_cache import Chunks
from experiments.runtime import progress, rng, sharding
from experiments.runtime.files import plain


def per_example(
    model: Model,
    params: Any,
    examples: Examples,
    chunks: Chunks,
    *,
    batch_size: int,
    what: str = "held-out eps-MSE",
) -> np.ndarray:
    """Computes the eps-MSE of each example at each log-SNR, NaN where not reached.

    Args:
      model: of the run.
      params: raw or averaged.
      examples: held out, with their labels.
      chunks: cache of the errors.
      batch_size: of a batch.
      what: name of the computation, for the progress.

    Returns:
      `[n, levels]`.
    """
    compute = lambda: _errors(model, params, examples, batch_size, what)
    errors = chunks.get("eps-mse", compute)["eps_mse"]
    reached = heldout.reached(model.objective.schedule)
    return np.where(reached, errors, np.nan)


def summary(by_weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Averages over examples at each log-SNR, with standard errors, by weights."""
    return {"logsnr": heldout.LEVELS.tolist()} | {
        weights: {
            "mean": plain(errors.mean(0)),
            "stderr": plain(errors.std(0, ddof=1) / np.sqrt(len(errors))),
        }
        for weights, errors in by_weights.items()
    }


def _errors(
    model: Model, params: Any, examples: Examples, batch_size: int, what: str
) -> dict[str, np.ndarray]:
    key = rng.stream(0, rng.EVALUATE)

    def program(params: Any, batch: Examples, number: jax.Array) -> jax.Array:
        return heldout.eps_mse(params, batch, number, key, model=model)

    eval_fn = jax.jit(program, compiler_options=sharding.compiler_options())
    rows, count = [], len(examples.labels)
    with progress.PartProgress(what, count, "examples") as reported:
        for number, mask in loader.padded(count, batch_size):
            errors = eval_fn(params, examples.gather(number), number.astype(np.int32))
            rows.append(np.asarray(errors)[mask])
            reported.advance(int(mask.sum()))
    return {"eps_mse": np.concatenate(rows)}
