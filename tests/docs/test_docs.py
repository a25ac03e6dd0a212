"""Every public name is documented, and what the documents say is run."""

import dataclasses
import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re

import jax
import pytest

import diffusionflow
from diffusionflow import (
    guidance,
    inverse,
    likelihood,
    predictions,
    samplers,
    schedules,
)
from diffusionflow.networks.embedding import ConditionalNetwork
from tests.helpers import not_shipped
from tests.helpers.parametrize import check_all

PROTOCOLS = (
    guidance.Guided,
    inverse.PosteriorDenoiser,
    likelihood.Trace,
    samplers.Sampler,
    schedules.Schedule,
    predictions.Denoiser,
    ConditionalNetwork,
)
PROMISED = {name for protocol in PROTOCOLS for name in vars(protocol)}
INHERITED = {"parent", "name"}  # fields of every Flax module


def walk():
    """Every public module, `diffusionflow.networks` included."""
    found = pkgutil.walk_packages(diffusionflow.__path__, "diffusionflow.")
    names = [each.name for each in found if "._" not in each.name]
    return [diffusionflow, *map(importlib.import_module, names)]


def is_documentable(value):
    return inspect.isclass(value) or inspect.isfunction(value)


def by_module(found):
    """`(name, ...)` by the top-level module: one item for each."""
    modules = {}
    for name, *arguments in found:
        modules.setdefault(name.split(".")[0], {})[name] = tuple(arguments)
    cases = [pytest.param(cases, id=module) for module, cases in modules.items()]
    return pytest.mark.parametrize("cases", cases)


def defined():
    """Every class and function without underscore, where it is defined."""
    for module in walk():
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if is_documentable(value) and own and not name.startswith("_"):
                yield f"{module.__name__[14:]}.{name}", value


def exported():
    """The names that people use: those of `__all__`, or of a module without one."""
    for module in walk():
        here = [name for name in vars(module) if not name.startswith("_")]
        own = [
            name
            for name in here
            if getattr(getattr(module, name), "__module__", None) == module.__name__
        ]
        inside = module.__name__.count(".") > 1 and module is not samplers.diffusions
        names = getattr(module, "__all__", [] if inside else own)
        for name in names:
            value = getattr(module, name)
            if is_documentable(value):
                yield f"{module.__name__[14:]}.{name}", module, value


def arguments(value):
    """Parameters of a function; fields of a class, or parameters of its `__init__`."""
    if inspect.isfunction(value):
        return list(inspect.signature(value).parameters)
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return [name for name in names if name not in INHERITED and name[0] != "_"]
    if getattr(value, "_is_protocol", False):
        return [name for name in inspect.get_annotations(value)]
    if hasattr(value, "_fields"):
        return list(value._fields)
    if "__init__" in vars(value):
        return list(inspect.signature(value.__init__).parameters)[1:]
    return []


def test_modules_have_docstrings():
    assert len(walk()) > 80
    for module in walk():
        assert module.__doc__, module.__name__


@by_module(defined())
def test_public_names_have_docstrings(cases):
    """Methods too, but those that are documented once for all, in their protocol."""
    check_all(has_docstring, cases)


def has_docstring(value):
    assert value.__doc__ and not value.__doc__.startswith(f"{value.__name__}(")
    if not inspect.isclass(value):
        return
    fields = arguments(value)
    for name, member in vars(value).items():
        if inspect.isfunction(member) and name[0] != "_" and name not in fields:
            assert member.__doc__ or name in PROMISED, f"{value.__name__}.{name}"


@by_module(exported())
def test_every_argument_and_field_is_explained(cases):
    """In `Args:` or `Fields:`; a class may name the function that makes it instead."""
    check_all(explains_arguments, cases)


def explains_arguments(module, value):
    text = value.__doc__
    maker = re.search(r"See `(\w+)`\.$", text)
    if inspect.isclass(value) and maker:
        assert inspect.isfunction(getattr(module, maker.group(1)))
        return
    missing = [
        name
        for name in arguments(value)
        if not re.search(rf"^ +\*{{0,2}}{name}:", text, re.M)
    ]
    assert not missing, f"{value.__name__}: {missing}"


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in walk():
        for found in finder.find(module, module.__name__):
            if found.examples:
                yield pytest.param(found, id=found.name[14:])


@pytest.mark.parametrize("example", list(examples()))
def test_the_example_of_a_docstring_runs(example):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        doctest.DebugRunner().run(example)  # which raises


def test_the_main_functions_have_examples():
    names = {param.id for param in examples()}
    assert len(names) >= 12


DOCS = pathlib.Path(__file__).parents[2] / "docs"


def test_the_algorithms_of_the_lecture_run():
    text = (DOCS / "lecture.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 6
    names = {}
    with jax.numpy_rank_promotion("allow"):
        for block in blocks:
            exec(compile(block, "lecture.md", "exec"), names)


def test_methods_that_are_not_shipped_are_listed():
    rows = re.findall(
        r"^\| (\w+) \| (.+?) \| (.+?) \|$", (DOCS / "samplers.md").read_text(), re.M
    )
    listed = {(library, settings): why for library, settings, why in rows}
    assert not_shipped.REASONS.items() <= listed.items()


def test_the_table_of_equivalences_names_tests_that_exist():
    text = (DOCS / "equivalences.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    tests = DOCS.parent / "tests" / "core"
    defined = set()
    for file in ("equivalences", "objectives*", "predictions*"):
        for path in tests.glob(f"test_{file}.py"):
            defined |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.M))
    assert len(named) >= 9 and named <= defined
    held = re.findall(
        r"^def (test_\w+)", (tests / "test_equivalences.py").read_text(), re.M
    )
    assert set(held) <= named


def test_what_choosing_quotes_of_samplers_stands_there():
    rows = (DOCS / "samplers.md").read_text().splitlines()
    text = (DOCS / "choosing.md").read_text()
    part = text[text.index("## The sampler") : text.index("## The grid")]
    quotes = re.findall(r"`([^`]+)` (\d+\.\d+)", part)
    assert len(quotes) > 12
    for name, value in quotes:
        found = [row for row in rows if row.startswith(f"| `{name}` |")]
        assert any(f" {value} (" in row for row in found), (name, value)


def test_the_tests_that_choosing_names_exist():
    text = (DOCS / "choosing.md").read_text()
    defined = set()
    for file in (DOCS.parent / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", file.read_text(), re.M))
    assert set(re.findall(r"`(test_[a-z]\w+)`", text)) <= defined
