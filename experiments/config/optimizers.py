"""The optimizer of a run: any of optax by name, warm-up and decay, clipping.

optax is imported when an optimizer is built, so that what draws or evaluates does not
wait for it.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from experiments.config.parsing import parse
from experiments.runtime.errors import UsageError, naming, require

if TYPE_CHECKING:
    import optax

FIXED = (".map_noise.freqs", ".time_proj.weight")  # of published networks
MASKS = ("mask", "weight_decay_mask")  # what optimizers call the leaves that decay


@functools.cache
def known_optimizers() -> dict[str, Callable[..., Any]]:
    """Maps names to the optimizers of optax (and contrib) that take a learning rate."""
    import optax.contrib

    return {
        name: _bounded(fn)
        for module in (optax.contrib, optax)
        for name, fn in inspect.getmembers(module, inspect.isfunction)
        if "learning_rate" in inspect.signature(fn).parameters
        and not name.startswith("scale_by")
    }


BOUNDS = {
    "b1": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "b2": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "weight_decay": (lambda value: 0 <= value < float("inf"), "at least 0 and finite"),
}


def _bounded(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `fn` to check the arguments that optax takes whatever they are."""
    signature = inspect.signature(fn)

    @functools.wraps(fn)
    def bounded(*arguments: Any, **keywords: Any) -> Any:
        given = signature.bind_partial(*arguments, **keywords).arguments
        for name, (holds, bound) in BOUNDS.items():
            if isinstance(value := given.get(name), int | float) and not holds(value):
                raise ValueError(f"{name}={value}: must be {bound}")
        return fn(*arguments, **keywords)

    return bounded


@functools.cache
def known_schedules() -> dict[str, Callable[..., Any]]:
    """Maps names to the learning-rate schedules of optax, two also by short names."""
    import optax

    short = {
        "constant": optax.constant_schedule,
        "cosine": optax.cosine_decay_schedule,
    }
    full = {
        name: fn
        for name, fn in inspect.getmembers(optax.schedules, inspect.isfunction)
        if name.endswith(("schedule", "decay"))
    }
    return short | full


def learning_rate(section: Mapping[str, Any], num_steps: int) -> "optax.Schedule":
    """Makes the learning rate: linear warm-up, then optax's or the user's own schedule.

    Arguments of the schedule that are not given are filled in: `value`, `init_value`
    and `peak_value` with the peak, `decay_steps` and `transition_steps` with the steps
    after the warm-up; `cosine` then ends at zero.

    Args:
      section: `learning_rate` (the peak), `warmup_steps`, `schedule`.
      num_steps: of the whole run.

    Returns:
      `step -> learning rate`.

    Raises:
      UsageError: the schedule is unknown, or the warm-up is as long as the run.
    """
    import optax

    peak, warmup = section["learning_rate"], section["warmup_steps"]
    inside = 0 <= warmup < num_steps
    bound = f"in [0, num_steps={num_steps}), shorter than the run; 0 is no warm-up"
    require("optimizer.warmup_steps", warmup, inside, bound)
    left = num_steps - warmup
    filled = dict(value=peak, init_value=peak, peak_value=peak)
    filled |= dict(decay_steps=left, transition_steps=left)
    where = "optimizer.schedule"
    after = parse(where, section["schedule"], known_schedules(), defaults=filled)
    with naming(where), jax.numpy_dtype_promotion("standard"):
        step = jax.ShapeDtypeStruct((), jnp.int32)
        jax.eval_shape(lambda step: jnp.asarray(after(step)).reshape(()), step)
    if not warmup:
        return after
    return optax.join_schedules(
        [optax.linear_schedule(peak / (warmup + 1), peak, warmup), after], [warmup]
    )


def decayed(params: Any) -> Any:
    """Marks the leaves of weight decay: all but biases, scales and fixed sinusoids."""

    def shrinks(path: Any, leaf: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        fixed = f".{name}".endswith(FIXED) and leaf.ndim == 1
        return not fixed and name.rpartition(".")[2] not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(shrinks, params)


def optimizer(
    section: Mapping[str, Any], num_steps: int, rate: "optax.Schedule"
) -> "optax.GradientTransformation":
    """Chains clipping by the global norm and the optimizer `section["name"]`.

    It is given the learning rate, and where it takes a mask of weight decay, `decayed`.

    Args:
      section: `name`, such as "adamw(b2=0.99, weight_decay=0.01)", "muon" or
        "module:function"; and `clip_norm` (0 for no clipping).
      num_steps: of the whole run.
      rate: of `learning_rate`.

    Raises:
      UsageError: the name or an argument is unknown, or it is no optimizer whose update
        needs gradients, its state and the parameters alone.
    """
    import optax

    filled = dict(learning_rate=rate, **dict.fromkeys(MASKS, decayed))
    filled["num_steps"] = num_steps
    where = "optimizer.name"
    found = parse(where, section["name"], known_optimizers(), defaults=filled)
    _check(where, section["name"], found)
    clip_norm = section["clip_norm"]
    if not clip_norm:
        return found
    return optax.chain(clip_by_global_norm(clip_norm), found)


def clip_by_global_norm(max_norm: float) -> "optax.GradientTransformation":
    """Scales gradients by `max_norm / norm` where their norm is not below `max_norm`.

    optax's divides each array by the norm, and XLA stores what it divided; a product
    with one number is fused with what reads it.
    """
    import optax

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        norm = optax.tree.norm(gradients)
        scale = jnp.where(norm < max_norm, 1.0, max_norm / norm)
        scaled = lambda leaf: leaf * scale.astype(leaf.dtype)
        return jax.tree.map(scaled, gradients), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _check(where: str, name: str, found: Any) -> None:
    """Traces an update of two leaves."""
    if not (hasattr(found, "init") and hasattr(found, "update")):
        raise UsageError(
            f"{where}: {name} gives a {type(found).__name__}: must be an "
            "optax.GradientTransformation"
        )
    leaf = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    params = {"kernel": leaf(2, 2), "bias": leaf(2)}
    update = lambda params: found.update(params, found.init(params), params)[0]
    with jax.numpy_dtype_promotion("standard"):
        try:
            shapes = jax.eval_shape(update, params)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"{where}: {name}: cannot be called as update(gradients, state, "
                f"parameters), without further arguments: {reason}"
            ) from error
    structures: list[Any] = [jax.tree.structure(each) for each in (shapes, params)]
    if structures[0] != structures[1]:
        raise UsageError(
            f"{where}: {name}: its updates must have the structure of the parameters"
        )
