"""The error of eps of held-out examples at fixed log-SNRs, of raw and averaged weights.

What is measured while training (`evaluation.py`) is a mean; here it is each example's.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments import batches, devices, evaluation, step
from experiments.data import Examples
from experiments.metrics import plain
from experiments.model import Model
from experiments.parts import Parts


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
    told = evaluation.reached(model.objective.schedule)
    return np.where(told, errors, np.nan)


def summary(found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The mean at each level over all examples and its standard error, by weights."""
    return {"logsnr": evaluation.LEVELS.tolist()} | {
        weights: {
            "mean": plain(errors.mean(0)),
            "stderr": plain(errors.std(0, ddof=1) / np.sqrt(len(errors))),
        }
        for weights, errors in found.items()
    }


def _errors(
    model: Model, params: Any, examples: Examples, batch_size: int
) -> dict[str, np.ndarray]:
    draws = len(evaluation.LEVELS)  # then `evaluation.levels_of` has them in order
    key = step.stream(0, step.EVALUATE)

    def program(params: Any, batch: Examples, number: jax.Array) -> jax.Array:
        return evaluation.eval_step(
            params, batch, number, key, model=model, draws=draws
        ).eps_mse

    eval_fn = jax.jit(program, compiler_options=devices.compiler_options())
    rows = []
    for number, mask in batches.padded(len(examples.labels), batch_size):
        found = eval_fn(params, examples.gather(number), number.astype(np.int32))
        rows.append(np.asarray(found)[mask])
    return {"eps_mse": np.concatenate(rows)}
