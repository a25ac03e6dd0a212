"""The error of eps of held-out examples at fixed log-SNRs, of raw and averaged weights.

What is measured while training (`evaluation.py`) is a mean; here it is each example's.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.config.model import Model
from experiments.data import Examples, loader
from experiments.evaluation import heldout
from experiments.evaluation.result_cache import Parts
from experiments.runtime import rng, sharding
from experiments.runtime.files import plain


def per_example(
    model: Model, params: Any, examples: Examples, parts: Parts, *, batch_size: int
) -> np.ndarray:
    """The squared error of each example at each level, NaN where there is none.

    Args:
      model: of the run.
      params: raw or averaged.
      examples: held out, with their labels.
      parts: where the errors are kept.
      batch_size: of a batch.

    Returns:
      `[n, levels]`.
    """
    compute = lambda: _errors(model, params, examples, batch_size)
    errors = parts.get("eps-mse", compute)["eps_mse"]
    told = heldout.reached(model.objective.schedule)
    return np.where(told, errors, np.nan)


def summary(found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The mean at each level over all examples and its standard error, by weights."""
    return {"logsnr": heldout.LEVELS.tolist()} | {
        weights: {
            "mean": plain(errors.mean(0)),
            "stderr": plain(errors.std(0, ddof=1) / np.sqrt(len(errors))),
        }
        for weights, errors in found.items()
    }


def _errors(
    model: Model, params: Any, examples: Examples, batch_size: int
) -> dict[str, np.ndarray]:
    draws = len(heldout.LEVELS)  # then `evaluation.levels_of` has them in order
    key = rng.stream(0, rng.EVALUATE)

    def program(params: Any, batch: Examples, number: jax.Array) -> jax.Array:
        return heldout.eval_step(
            params, batch, number, key, model=model, draws=draws
        ).eps_mse

    eval_fn = jax.jit(program, compiler_options=sharding.compiler_options())
    rows = []
    for number, mask in loader.padded(len(examples.labels), batch_size):
        found = eval_fn(params, examples.gather(number), number.astype(np.int32))
        rows.append(np.asarray(found)[mask])
    return {"eps_mse": np.concatenate(rows)}
