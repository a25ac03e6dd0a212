"""Reads the instructions of a compiled program: its convolutions and products."""

import re
from collections import Counter
from typing import Any, NamedTuple

import jax

DTYPES = dict(f64="float64", f32="float32", bf16="bfloat16", f16="float16")
PRODUCTS = ("convolution", "dot")
# the convolutions of a layer; a `dot` has no such
WAYS = ("forward", "input gradient", "kernel gradient")
# of a product; names of places and hints for the compiler are left out
SETTING = re.compile(
    r"\b(window|dim_labels|feature_group_count|batch_group_count|"
    r"(?:lhs|rhs)_(?:contracting|batch)_dims)=(\{[^}]*\}|[\w>-]+)"
)
HEADER = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
LINE = re.compile(
    r"  (?:ROOT )?%?(?P<name>[\w.-]+) = (?P<result>\(.*?\)|\S+) "
    r"(?P<opcode>[a-z][\w-]*)\((?P<operands>.*?)\)(?P<rest>.*)$"
)
CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|\w+_computations?)=(\{[^}]*\}|%?[\w.-]+)"
)
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
NAME = re.compile(r"%([\w.-]+)")


class Instruction(NamedTuple):
    """An instruction of a program.

    Fields:
      name: as profiles have it.
      opcode: such as "dot" or "fusion".
      result: type and sizes, such as "f32[128,32]", of an array.
      operands: names of instructions of the same computation.
      rest: all that follows.
    """

    name: str
    opcode: str
    result: str
    operands: tuple[str, ...]
    rest: str

    @property
    def called(self) -> list[str]:
        """Names of the computations that it calls."""
        return [
            name for part in CALLED.findall(self.rest) for name in NAME.findall(part)
        ]

    @property
    def scope(self) -> str:
        """Where it was traced, such as "jit(step)/transpose(jvp(UNet))/conv"; or ""."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""


class Product(NamedTuple):
    """A convolution or a product, wherever it stands.

    Fields:
      opcode: of `PRODUCTS`.
      operands: their types and sizes.
      result: its type and sizes.
      settings: pairs of name and value, as the program writes them.
    """

    opcode: str
    operands: tuple[str, ...]
    result: str
    settings: tuple[tuple[str, str], ...]


class Program(NamedTuple):
    """A compiled program.

    Fields:
      computations: instructions by name, by the name of their computation.
      entry: name of the computation that a run executes.
    """

    computations: dict[str, dict[str, Instruction]]
    entry: str


class Occurrence(NamedTuple):
    """A product at its place.

    Fields:
      product: what it is.
      place: name of the instruction of a profile: its own, or that of its fusion.
      count: how often a run executes it.
      way: one of `WAYS`, or "".
    """

    product: Product
    place: str
    count: int
    way: str


def read(text: str) -> Program:
    """Reads what `as_text()` of a compiled program gives."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif found := LINE.match(line):
            name, result, opcode, operands, rest = found.groups()
            names = tuple(NAME.findall(operands))
            array = result.partition("{")[0]
            current[name] = Instruction(name, opcode, array, names, rest)
    return Program(computations, entry)


def counts(program: Program) -> Counter[str]:
    """Counts how often a run executes each computation.

    A loop counts as often as the compiler knows it to run, or once, and every branch of
    a conditional as taken.
    """
    found, pending = Counter(), [(program.entry, 1)]
    while pending:  # a program has no recursion
        name, times = pending.pop()
        found[name] += times
        for each in program.computations[name].values():
            trips = TRIPS.search(each.rest) if each.opcode == "while" else None
            inside = times * (int(trips[1]) if trips else 1)
            pending += [(called, inside) for called in each.called]
    return found


def occurrences(program: Program) -> list[Occurrence]:
    """Finds all convolutions and products."""
    executed, places = counts(program), _places(program)
    return [
        Occurrence(
            product := _product(each, inside),
            places.get(computation, each.name),
            executed[computation],
            _way(product, each.scope),
        )
        for computation, inside in program.computations.items()
        for each in inside.values()
        if each.opcode in PRODUCTS and executed[computation]
    ]


def _places(program: Program) -> dict[str, str]:
    """Returns the names of the fusions that call the computations inside them."""
    return {
        called: each.name
        for inside in program.computations.values()
        for each in inside.values()
        if each.opcode == "fusion"
        for called in each.called
    }


def _product(each: Instruction, inside: dict[str, Instruction]) -> Product:
    operands = tuple(inside[name].result for name in each.operands)
    return Product(
        each.opcode, operands, each.result, tuple(sorted(SETTING.findall(each.rest)))
    )


def _way(product: Product, scope: str) -> str:
    """Says which convolution of a layer it is.

    The kernel gradient slides one map over another, so that its window is larger than
    its result; on maps smaller than the kernel this takes others for it.
    """
    if product.opcode == "dot":
        return ""
    settings, sizes = dict(product.settings), read_array(product.result)[1]
    labels = read_labels(settings["dim_labels"])
    window = read_by_axis(settings["window"], "size", len(sizes) - 2, 1)
    if all(w > sizes[i] for w, i in zip(window, labels.out_spec[2:], strict=True)):
        return "kernel gradient"
    return "input gradient" if "transpose(" in scope else "forward"


def read_array(text: str) -> tuple[str, tuple[int, ...]]:
    """Reads "f32[128,32]": the type as JAX names it, and the sizes."""
    kind, _, sizes = text.rstrip("]").partition("[")
    if kind not in DTYPES:
        raise ValueError(f"{text}: the type must be one of {', '.join(DTYPES)}")
    return DTYPES[kind], read_numbers(sizes)


def read_numbers(text: str) -> tuple[int, ...]:
    """Reads "{1,2}"."""
    return tuple(map(int, re.findall(r"\d+", text)))


def read_by_axis(window: str, name: str, axes: int, default: Any) -> list[Any]:
    """Reads "1_2x1_2" of "{.. pad=1_2x1_2 ..}": a pair, or a number, for each axis."""
    found = re.search(rf"\b{name}=([\d_x-]+)", window)
    if not found:
        return [default] * axes
    parts = [tuple(map(int, part.split("_"))) for part in found[1].split("x")]
    return [part if len(part) == 2 else part[0] for part in parts]


def read_labels(text: str) -> jax.lax.ConvDimensionNumbers:
    """Reads "b01f_01io->b01f"."""
    lhs, rhs, out = re.split("_|->", text)
    spatial = sorted(filter(str.isdigit, lhs))
    places = lambda labels, first: tuple(labels.index(x) for x in (*first, *spatial))
    return jax.lax.ConvDimensionNumbers(
        places(lhs, "bf"), places(rhs, "oi"), places(out, "bf")
    )
