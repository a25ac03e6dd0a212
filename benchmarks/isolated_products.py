"""Times the convolutions and products of a program alone, in turns with all of it."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import hlo, stablehlo
from benchmarks.hlo import (
    Product,
    read_array,
    read_by_axis,
    read_labels,
    read_numbers,
)

SQUARE = 1024
LEAST = 2e-3  # seconds of a program in a round
MOST_CALLS = 50  # in a round

Run = Callable[..., Any]


class Timed(NamedTuple):
    """What is measured of a case; seconds are of each round.

    Fields:
      step: [rounds].
      alone: of each product, [rounds].
      square: of the product of large matrices, [rounds].
      flops: of each product.
    """

    step: np.ndarray
    alone: dict[Product, np.ndarray]
    square: np.ndarray
    flops: dict[Product, float]


def function_of(product: Product) -> tuple[Run, list[jax.ShapeDtypeStruct]]:
    """Returns a function that computes a product, and what its arguments are like.

    Raises:
      ValueError: a window that `jax.lax` does not have, or another type.
    """
    settings = dict(product.settings)
    kinds = [read_array(text) for text in (*product.operands, product.result)]
    *given, result = (jax.ShapeDtypeStruct(shape, dtype) for dtype, shape in kinds)
    if product.opcode == "dot":
        dims = lambda kind: tuple(
            read_numbers(settings.get(f"{side}_{kind}_dims", ""))
            for side in ("lhs", "rhs")
        )
        fn = functools.partial(
            jax.lax.dot_general,
            dimension_numbers=(dims("contracting"), dims("batch")),
            preferred_element_type=result.dtype,
        )
        return fn, given
    fn = functools.partial(
        jax.lax.conv_general_dilated,
        **_window(settings["window"], len(result.shape) - 2),
        dimension_numbers=read_labels(settings["dim_labels"]),
        feature_group_count=int(settings.get("feature_group_count", 1)),
        batch_group_count=int(settings.get("batch_group_count", 1)),
        preferred_element_type=result.dtype,
    )
    return fn, given


def compiled(product: Product, options: dict[str, Any]) -> tuple[Run, float, bool]:
    """Compiles a product alone.

    Returns:
      A program that runs it to its end, its floating-point operations, and whether the
      compiler leaves it as it stands in the step.
    """
    fn, given = function_of(product)
    lowered = jax.jit(fn).lower(*given)
    program = lowered.compile(compiler_options=options)
    found = hlo.occurrences(hlo.read(program.as_text()))
    generator = np.random.default_rng(0)
    arrays = [jnp.asarray(generator.normal(size=g.shape), g.dtype) for g in given]
    flops = sum(each.count * each.flops for each in stablehlo.operations(lowered))
    run = lambda: jax.block_until_ready(program(*arrays))
    return run, flops, [each.product for each in found] == [product]


def seconds_of(run: Run, calls: int) -> float:
    """Measures mean seconds of some calls, after one that is not counted."""
    run()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def measure(
    step: Run, wanted: list[Product], options: dict[str, Any], rounds: int
) -> Timed:
    """Measures the step and all products alone, in turns."""
    runs: dict[Any, Run] = {"step": step}
    flops, others = {}, 0
    for product in wanted:
        runs[product], flops[product], same = compiled(product, options)
        others += not same
    if others:
        print(f"{others} of {len(wanted)} have another form alone than in the step")
    square = f"f32[{SQUARE},{SQUARE}]"
    dims = ("lhs_contracting_dims", "{1}"), ("rhs_contracting_dims", "{0}")
    large = Product("dot", (square, square), square, dims)
    runs["square"], *_ = compiled(large, options)
    one = jnp.ones(())
    empty = jax.jit(jnp.negative).lower(one).compile(compiler_options=options)
    runs["empty"] = lambda: jax.block_until_ready(empty(one))
    calls = {
        name: int(np.clip(LEAST / seconds_of(run, 1), 1, MOST_CALLS))
        for name, run in runs.items()
    }
    seconds = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run, calls[name]))
    arrays = {name: np.array(each) for name, each in seconds.items()}
    alone = {product: arrays[product] - arrays["empty"] for product in wanted}
    return Timed(arrays["step"], alone, arrays["square"] - arrays["empty"], flops)


def _window(window: str, axes: int) -> dict[str, Any]:
    if "rhs_reversal" in window:
        raise ValueError(f"window={window}: must not be reversed, jax.lax has no such")
    read = lambda name, default: read_by_axis(window, name, axes, default)
    return dict(
        window_strides=read("stride", 1),
        padding=read("pad", (0, 0)),
        lhs_dilation=read("lhs_dilate", 1),
        rhs_dilation=read("rhs_dilate", 1),
    )
