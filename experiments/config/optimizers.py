"""The optimizer of a run: warm-up and decay of the learning rate, clipping, AdamW."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from experiments.runtime.errors import check_name, require

LEARNING_RATES = ("constant", "cosine")


def learning_rate(section: Mapping[str, Any], num_steps: int) -> optax.Schedule:
    """Linear warm-up, then constant, or a cosine that ends at zero at `num_steps`.

    Raises:
      UsageError: if the name is unknown, or the warm-up is as long as the run.
    """
    name, peak = section["schedule"], section["learning_rate"]
    check_name("optimizer.schedule", name, LEARNING_RATES)
    warmup = section["warmup_steps"]
    inside = 0 <= warmup < num_steps
    bound = f"in [0, num_steps={num_steps})"
    require("optimizer.warmup_steps", warmup, inside, bound)
    after = (
        optax.constant_schedule(peak)
        if name == "constant"
        else optax.cosine_decay_schedule(peak, num_steps - warmup)
    )
    return optax.join_schedules(
        [optax.linear_schedule(peak / (warmup + 1), peak, warmup), after], [warmup]
    )


def decayed(params: Any) -> Any:
    """Which leaves weight decay shrinks: all but those named bias or scale."""
    named = lambda path, _: path[-1].key not in ("bias", "scale")
    return jax.tree_util.tree_map_with_path(named, params)


def optimizer(
    section: Mapping[str, Any], num_steps: int
) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm; no weight decay of biases and scales.

    Args:
      section: `learning_rate`, `warmup_steps`, `schedule` ("constant" or "cosine"),
        `b1`, `b2`, `weight_decay`, `clip_norm` (0 for no clipping).
      num_steps: of the whole run.
    """
    adamw = optax.adamw(
        learning_rate(section, num_steps),
        b1=section["b1"],
        b2=section["b2"],
        weight_decay=section["weight_decay"],
        mask=decayed,
    )
    clip_norm = section["clip_norm"]
    if not clip_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(clip_norm), adamw)
