"""The floor of a step: `benchmarks/step_floor.py`, on small programs."""

from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from benchmarks import hlo, isolated_products, step_floor, thread_time
from experiments.runtime import sharding

BATCH, SIZE, WIDE, NARROW = 2, 8, 16, 8
LAYOUT = ("NHWC", "HWIO", "NHWC")

LOOP = """HloModule loop

%fused (p: f32[4,6], q: f32[6,5]) -> f32[4,5] {
  %p = f32[4,6]{1,0} parameter(0)
  %q = f32[6,5]{1,0} parameter(1)
  ROOT %dot.1 = f32[4,5]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%moving (m: f32[4,6]) -> f32[6,4] {
  %m = f32[4,6]{1,0} parameter(0)
  ROOT %transpose.1 = f32[6,4]{1,0} transpose(%m), dimensions={1,0}
}

%body (arg: (s32[], f32[4,6], f32[6,5])) -> (s32[], f32[4,6], f32[6,5]) {
  %arg = (s32[], f32[4,6]{1,0}, f32[6,5]{1,0}) parameter(0)
  %x = f32[4,6]{1,0} get-tuple-element(%arg), index=1
  %y = f32[6,5]{1,0} get-tuple-element(%arg), index=2
  %fusion.1 = f32[4,5]{1,0} fusion(%x, %y), kind=kCustom, calls=%fused
  %fusion.2 = f32[6,4]{1,0} fusion(%x), kind=kLoop, calls=%moving
  %dot.2 = f32[4,4]{1,0} dot(%x, %fusion.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="a dot"}
  ROOT %out = (s32[], /*index=1*/f32[4,6]{1,0}, f32[6,5]{1,0}) tuple(%arg, %x, %y)
}

%test (arg.1: (s32[], f32[4,6], f32[6,5])) -> pred[] {
  %arg.1 = (s32[], f32[4,6]{1,0}, f32[6,5]{1,0}) parameter(0)
  ROOT %always = pred[] constant(true)
}

ENTRY %main (start: (s32[], f32[4,6], f32[6,5])) -> (s32[], f32[4,6], f32[6,5]) {
  %start = (s32[], f32[4,6]{1,0}, f32[6,5]{1,0}) parameter(0)
  ROOT %while.1 = (s32[], f32[4,6]{1,0}, /*index=2*/f32[6,5]{1,0}) while(%start), condition=%test, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""  # noqa: E501


def two_layers(kernels, x):
    """Sums the squares after two convolutions, the second with stride 2."""
    for kernel, stride in zip(kernels, (1, 2), strict=True):
        x = jax.lax.conv_general_dilated(
            jnp.tanh(x), kernel, (stride,) * 2, ((1, 1),) * 2, dimension_numbers=LAYOUT
        )
    return (x**2).sum()


@pytest.fixture(scope="module")
def found():
    """The convolutions of the gradient of `two_layers` in its kernels."""
    kernels = tuple(
        jax.ShapeDtypeStruct((3, 3, *ends), jnp.float32)
        for ends in ((WIDE, NARROW), (NARROW, WIDE))
    )
    x = jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, WIDE), jnp.float32)
    program = jax.jit(jax.grad(two_layers)).lower(kernels, x)
    options = sharding.compiler_options()
    text = program.compile(compiler_options=options).as_text()
    return hlo.occurrences(hlo.read(text))


def test_each_layer_has_three_convolutions_but_the_first(found):
    """The first has no gradient of its input."""
    ways = Counter(each.way for each in found)
    assert ways == {"forward": 2, "input gradient": 1, "kernel gradient": 2}
    assert {each.count for each in found} == {1}


def test_products_alone_are_those_of_the_program(found):
    """Windows, strides and dilations, and their operations by the definition."""
    every = 2 * BATCH * SIZE**2 * 9 * WIDE * NARROW
    strided = every / 4
    for each in found:
        _, flops, same = isolated_products.compiled(
            each.product, sharding.compiler_options()
        )
        assert same, each.product
        assert flops in (every, strided)


def test_windows_of_another_kind_are_refused(found):
    settings = dict(found[0].product.settings) | dict(window="{size=3 rhs_reversal=1}")
    product = found[0].product._replace(settings=tuple(settings.items()))
    with pytest.raises(ValueError, match="rhs_reversal"):
        isolated_products.function_of(product)
    with pytest.raises(ValueError, match="s8"):
        isolated_products.function_of(product._replace(result="s8[2,2]"))


def test_products_of_loops_and_fusions_are_counted():
    """Each in a loop of five; that of a fusion has the fusion's place in a profile."""
    program = hlo.read(LOOP)
    first, second = hlo.occurrences(program)
    assert (first.place, first.count) == ("fusion.1", 5)
    assert (second.place, second.count) == ("dot.2", 5)
    assert first.product.operands == ("f32[4,6]", "f32[6,5]")
    assert second.product.operands == ("f32[4,6]", "f32[6,4]")
    kinds = step_floor.kinds(program, [first, second])
    assert kinds["fusion.1"] == kinds["dot.2"] == "products"
    assert kinds["fusion.2"] == "copies and transposes"
    assert kinds["while.1"] == "others"


class Event(NamedTuple):
    """An event of a profile."""

    name: str
    start_ns: float
    duration_ns: float = 0.0
    stats: tuple[tuple[str, object], ...] = ()


def pool(name, start, **stats):
    return Event(f"ThreadpoolListener::{name}", start, 0.0, tuple(stats.items()))


def test_time_of_a_thread_goes_to_what_it_works_for():
    """A convolution hands a piece over, which starts another instruction at its end.

    The program itself is a piece that waits: nobody's time.
    """
    caller = [pool("Record", 0, _p=1)]
    client = [
        pool("StartRegion", 1, _c=1),
        Event("conv", 10, 20, (("hlo_op", "conv"),)),
        pool("Record", 15, _p=2),
        Event("end: conv", 60, 1, (("_c", 9),)),
        pool("StopRegion", 100),
    ]
    worker = [
        pool("StartRegion", 20, _c=2),
        Event("ThunkExecutor::Execute", 50, 30),
        Event("fusion", 55, 20, (("hlo_op", "fusion"),)),
        pool("StopRegion", 90),
    ]
    found = thread_time.attributed([caller, client, worker])
    seconds = {"conv": 20 + 70 - 30, "fusion": 20, thread_time.BETWEEN: 30 - 20}
    assert found == pytest.approx({name: 1e-9 * each for name, each in seconds.items()})


@pytest.mark.ci
def test_a_profile_has_the_products_of_a_program():
    x = jnp.ones((300, 300))
    program = jax.jit(lambda x: jnp.tanh(x @ x) @ x).lower(x).compile()
    read = hlo.read(program.as_text())
    found = hlo.occurrences(read)
    profiled, elapsed = step_floor.profile(lambda: jax.block_until_ready(program(x)))
    assert len(found) == 2
    assert all(profiled[each.place] > 0 for each in found)
    seconds = step_floor.by_kind(profiled, elapsed, step_floor.kinds(read, found))
    assert seconds["products"] == sum(profiled[each.place] for each in found)
