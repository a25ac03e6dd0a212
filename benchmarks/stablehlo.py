"""Reads the operations of a lowered program: kinds, types, bytes, flops, names."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

PRODUCTS = ("dot_general", "convolution")


class Operation(NamedTuple):
    """An operation of a program.

    Fields:
      kind: name of the operation, without the dialect.
      dtype: of its first operand, or of its result where it has none.
      shapes: of operands and result, "128x64,64x32->128x32".
      count: how often a run of the program executes it, loops counted once.
      flops: floating-point operations of a product, 0 of others.
      bytes: of operands and results.
      scope: where it was traced, such as "transpose(jvp(UNet))/middle_in/film".
      is_outer: whether it is a product without a contraction of more than one entry.
      of_ones: whether an operand of a product is a constant that is broadcast.
      by_flag: whether it is a select of arrays by one flag.
      target: of a custom call.
    """

    kind: str
    dtype: str
    shapes: str
    count: int
    flops: float
    bytes: int
    scope: str
    is_outer: bool = False
    of_ones: bool = False
    by_flag: bool = False
    target: str = ""


def operations(lowered: Any) -> list[Operation]:
    """Reads all operations of what `jax.jit(fn).trace(...).lower()` gives."""
    module = lowered.compiler_ir("stablehlo")
    functions = {
        ir.StringAttr(each.attributes["sym_name"]).value: each
        for each in module.body.operations
    }
    counts = _counts(functions)
    return [
        _read(each, counts[name])
        for name, function in functions.items()
        for each in _inside(function)
        if each.operation.name.startswith("stablehlo.")
        and not each.operation.name.endswith(("return", ".constant"))
    ]


def donated_bytes(lowered: Any) -> int:
    """Counts bytes of the arguments whose memory results take."""
    (main,) = (
        each
        for each in lowered.compiler_ir("stablehlo").body.operations
        if ir.StringAttr(each.attributes["sym_name"]).value == "main"
    )
    given = [ir.DictAttr(each) for each in ir.ArrayAttr(main.attributes["arg_attrs"])]
    return sum(
        _num_bytes(argument.type)
        for argument, facts in zip(
            main.regions[0].blocks[0].arguments, given, strict=True
        )
        if "tf.aliasing_output" in facts or "jax.buffer_donor" in facts
    )


def _inside(operation: Any) -> Iterator[Any]:
    """All operations in the regions of one, in the regions of these as well."""
    for region in operation.regions:
        for block in region.blocks:
            for each in block.operations:
                yield each
                yield from _inside(each)


def _counts(functions: dict[str, Any]) -> Counter[str]:
    """How often each function of a module is called in a run, loops counted once."""
    calls = {name: Counter() for name in functions}
    for name, function in functions.items():
        for each in _inside(function):
            if each.operation.name in ("func.call", "call"):
                callee = ir.FlatSymbolRefAttr(each.attributes["callee"]).value
                calls[name][callee] += 1
    counts, pending = Counter({"main": 1}), Counter({"main": 1})
    while pending:  # a program has no recursion
        name, number = pending.popitem()
        for callee, times in calls[name].items():
            counts[callee] += number * times
            pending[callee] += number * times
    return counts


def _read(operation: Any, count: int) -> Operation:
    kind = operation.operation.name.removeprefix("stablehlo.")
    operands = [ir.RankedTensorType(each.type) for each in _tensors(operation.operands)]
    results = [ir.RankedTensorType(each.type) for each in _tensors(operation.results)]
    first = (operands or results or [None])[0]
    read = Operation(
        kind=kind,
        dtype=str(first.element_type) if first is not None else "",
        shapes=f"{_shapes(operands)}->{_shapes(results)}",
        count=count,
        flops=0.0,
        bytes=sum(map(_num_bytes, (*operands, *results))),
        scope=_scope(operation),
    )
    if kind == "custom_call":
        target = ir.StringAttr(operation.attributes["call_target_name"]).value
        return read._replace(target=target, flops=_attention_flops(target, operands))
    if kind == "select":
        return read._replace(by_flag=_is_one_flag(operation.operands[0]))
    if kind not in PRODUCTS:
        return read
    contracted = _contracted(kind, operation, operands)
    return read._replace(
        flops=2.0 * math.prod(results[0].shape) * contracted,
        is_outer=contracted == 1,
        of_ones=any(map(_is_broadcast_constant, operation.operands)),
    )


def _attention_flops(target: str, operands: list[Any]) -> float:
    """Of cuDNN's attention: two products forward, five backward; 0 of others."""
    if not target.startswith("__cudnn$fmha"):
        return 0.0
    query, key = (operands[i].shape for i in range(2))  # [batch, tokens, heads, any]
    each = 2.0 * math.prod(query) * key[1]
    return (5 if target.endswith("Backward") else 2) * each


def _contracted(kind: str, operation: Any, operands: list[Any]) -> float:
    """Multiply-adds for each entry of the result of a product."""
    if kind == "dot_general":
        numbers = stablehlo.DotDimensionNumbers(
            operation.attributes["dot_dimension_numbers"]
        )
        shape = operands[0].shape
        return math.prod(shape[i] for i in numbers.lhs_contracting_dimensions)
    numbers = stablehlo.ConvDimensionNumbers(operation.attributes["dimension_numbers"])
    shape = operands[1].shape
    taps = math.prod(shape[i] for i in numbers.kernel_spatial_dimensions)
    dilation = 1
    if "lhs_dilation" in operation.attributes:  # zeros between the entries
        dilation = math.prod(ir.DenseI64ArrayAttr(operation.attributes["lhs_dilation"]))
    return taps * shape[numbers.kernel_input_feature_dimension] / dilation


def _is_broadcast_constant(value: Any) -> bool:
    owner = value.owner
    if not isinstance(owner, ir.OpView | ir.Operation):  # an argument of a block
        return False
    while owner.operation.name in ("stablehlo.broadcast_in_dim", "stablehlo.reshape"):
        owner = owner.operands[0].owner
        if not isinstance(owner, ir.OpView | ir.Operation):
            return False
    return owner.operation.name == "stablehlo.constant"


def _is_one_flag(value: Any) -> bool:
    """Whether a predicate is a scalar, or one that is broadcast."""
    owner = value.owner
    broadcast = isinstance(owner, ir.OpView | ir.Operation) and (
        owner.operation.name == "stablehlo.broadcast_in_dim"
    )
    kind = (owner.operands[0] if broadcast else value).type
    return not ir.RankedTensorType(kind).shape


def _tensors(values: Any) -> list[Any]:
    return [each for each in values if isinstance(each.type, ir.RankedTensorType)]


def _shapes(types: list[Any]) -> str:
    return ",".join("x".join(map(str, each.shape)) or "scalar" for each in types)


def _num_bytes(kind: Any) -> int:
    kind = ir.RankedTensorType(kind)
    text = str(kind.element_type)
    bits = 8 if text == "i1" else int("".join(filter(str.isdigit, text)) or 8)
    return math.prod(kind.shape) * bits // 8


def _scope(operation: Any) -> str:
    """The names that were traced through, without the function and the operation."""
    text = str(operation.location)
    if '"' not in text:
        return ""
    names = text.split('"')[1].split("/")
    return "/".join(names[1:-1])
