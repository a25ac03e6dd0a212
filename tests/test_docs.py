"""Every public name is documented, and what the documents say is run."""

import inspect
import pathlib
import re

import jax
import pytest

import diffusionflow
from diffusionflow import likelihood, samplers, schedules
from tests import test_samplers_golden_deterministic, test_samplers_golden_stochastic

PROTOCOLS = (likelihood.Trace, samplers.Sampler, schedules.Schedule)


def public():
    for module_name in diffusionflow.__all__:
        module = getattr(diffusionflow, module_name)
        names = getattr(module, "__all__", None) or [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and (inspect.isclass(value) or inspect.isfunction(value))
            and value.__module__ == module.__name__
        ]
        for name in names:
            yield pytest.param(getattr(module, name), id=f"{module_name}.{name}")


@pytest.mark.parametrize("value", list(public()))
def test_public_names_have_docstrings(value):
    assert value.__doc__ and not value.__doc__.startswith(f"{value.__name__}(")
    if not inspect.isclass(value):
        return
    promised = {name for protocol in PROTOCOLS for name in vars(protocol)}
    for name, member in vars(value).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            assert member.__doc__ or name in promised, f"{value.__name__}.{name}"


@pytest.mark.parametrize("value", list(public()))
def test_arguments_are_named_in_the_docstring(value):
    """Functions with more than two arguments say what each is, or where it is said."""
    if not inspect.isfunction(value):
        return
    names = [name for name in inspect.signature(value).parameters if name != "self"]
    text = value.__doc__
    if len(names) > 2 and "rguments" not in text:
        missing = [name for name in names if f"{name}:" not in text]
        assert not missing, f"{value.__name__}: {missing}"


DOCS = pathlib.Path(__file__).parent.parent / "docs"


def test_the_algorithms_of_the_lecture_run():
    text = (DOCS / "lecture.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 6
    names = {}
    with jax.numpy_rank_promotion("allow"):
        for block in blocks:
            exec(compile(block, "lecture.md", "exec"), names)


@pytest.mark.parametrize("name", ["guidance", "likelihood", "metrics", "samplers"])
def test_the_example_of_a_document_runs(name):
    text = (DOCS / f"{name}.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    with jax.numpy_rank_promotion("allow"):  # it is how people write
        exec(compile(block, f"{name}.md", "exec"), {})


def test_methods_that_are_not_shipped_are_listed():
    rows = re.findall(
        r"^\| (\w+) \| (.+?) \| (.+?) \|$", (DOCS / "samplers.md").read_text(), re.M
    )
    reasons = {
        **test_samplers_golden_deterministic.NOT_SHIPPED,
        **test_samplers_golden_stochastic.NOT_SHIPPED,
    }
    listed = {(family, method): why for family, method, why in rows}
    assert reasons.items() <= listed.items()


def test_the_table_of_equivalences_names_tests_that_exist():
    text = (DOCS / "equivalences.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    tests = DOCS.parent / "tests"
    defined = set()
    for file in ("test_equivalences.py", "test_objectives.py", "test_predictions.py"):
        defined |= set(re.findall(r"^def (test_\w+)", (tests / file).read_text(), re.M))
    assert len(named) >= 9 and named <= defined
    held = re.findall(
        r"^def (test_\w+)", (tests / "test_equivalences.py").read_text(), re.M
    )
    assert set(held) <= named
