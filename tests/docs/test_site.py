"""The pages of the documentation: their code runs, their links lead somewhere.

The slow test builds the site; Sphinx's warnings, broken links and names among them, are
errors there.
"""

import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import diffusionflow
import diffusionflow.networks.pretrained  # a name of the pages
from diffusionflow import schedules
from tests.helpers.parametrize import check_all

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
ELSEWHERE = {"lecture.md": "test_docs", "extending.md": "test_extending"}
PACKAGES = [
    name
    for name in diffusionflow.__all__
    if inspect.ismodule(getattr(diffusionflow, name))
] + ["networks", "testing"]
MODULES = {name: importlib.import_module(f"diffusionflow.{name}") for name in PACKAGES}
LIBRARIES = sorted((DOCS / "coming_from").glob("*.md"))


def name_of(page):
    return str(page.relative_to(DOCS))


def python_of(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


WITH_PYTHON = [
    pytest.param(page, id=name_of(page))
    for page in PAGES
    if python_of(page) and name_of(page) not in ELSEWHERE
]


@pytest.mark.ci
@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """Its blocks one after another, with JAX as people have it."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for block in python_of(page):
            exec(compile(block, name_of(page), "exec"), names)


def test_links_lead_somewhere():
    check_all(has_targets, {name_of(page): (page,) for page in PAGES})


def has_targets(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for path in re.findall(r"\]\(((?!http)[^)#]+)[^)]*\)", text):
        target = page.parent / path
        if target.suffix == ".ipynb":  # copied there by conf.py
            target = ROOT / "notebooks" / target.name
        assert target.exists(), path


def test_every_package_has_a_page():
    pages = {page.stem: page.read_text() for page in (DOCS / "api").glob("*.rst")}
    assert len(PACKAGES) > 15
    assert set(pages) == {"index", *PACKAGES}
    for name in PACKAGES:
        assert f".. package:: diffusionflow.{name}\n" in pages[name]
        assert f":doc:`{name}`" in pages["index"]


def test_every_page_is_in_the_table_of_contents():
    text = (DOCS / "index.md").read_text()
    trees = "\n".join(re.findall(r"```{toctree}\n(.*?)```", text, re.S))
    for page in PAGES:
        name = name_of(page).removesuffix(".md")
        found = re.search(rf"^(?:.*<)?{re.escape(name)}>?$", trees, re.M)
        assert found or name == "index", name


def test_names_of_this_library_exist():
    check_all(has_names, {name_of(page): (page,) for page in PAGES})


def has_names(page):
    path = rf"(?:df\.)?({'|'.join(PACKAGES)})\.((?!jsonl)\w+)(?:\.([a-z]\w*))?"
    for package, *rest in re.findall(rf"`{path}[^`/]*`", page.read_text()):
        value = MODULES[package]
        for name in filter(None, rest):
            assert hasattr(value, name), f"{package}.{name}"
            value = getattr(value, name)


# ---- coming from other libraries


def test_names_of_this_library_exist_and_take_their_arguments():
    check_all(evaluates_its_names, {page.stem: (page,) for page in LIBRARIES})


def evaluates_its_names(page):
    names = {**MODULES, "np": np}
    code = re.findall(rf"`((?:{'|'.join(names)})\.[^`]+)`", page.read_text())
    assert len(code) > 20
    for each in code:
        assert eval(each, names) is not None, each


@pytest.mark.parametrize("page", ["diffusers", "k_diffusion"])
def test_samplers_that_a_page_names_are_recorded(page):
    """And so are replayed by `tests/golden`, or named there as not shipped.

    Or they are tested by closed forms.
    """
    text = (DOCS / "coming_from" / f"{page}.md").read_text()
    (part,) = re.findall(r"\n## Samplers\n(.*?)\n## ", text, re.S)
    rows = re.findall(r"^\| (`.+?) \|", part, re.M)
    names = re.findall(r"`(\w+)`", "\n".join(rows))
    records = (ROOT / "tests" / "golden" / "data" / "index.json").read_text()
    records += (ROOT / "tests" / "core" / "test_interop_schedulers.py").read_text()
    assert len(names) >= 10
    assert not [name for name in names if f'"{name}"' not in records]


# ---- the reference


@pytest.fixture(scope="module")
def docstrings():
    """The extension that converts docstrings."""
    sys.path.insert(0, str(DOCS / "_extensions"))
    yield importlib.import_module("docstrings")
    sys.path.remove(str(DOCS / "_extensions"))


def test_a_docstring_is_converted(docstrings):
    text = """Adds `x` to |y|, see `add`.

    As a formula:

        x + y

    | name | meaning |
    |------|---------|
    | `x`  | *one*   |

    Args:
      x: `[*batch]`, of
        two lines.
      *more: the rest.

    Returns:
      The sum: a number.

    Raises:
      ValueError: `x` is missing.

    Source: A paper.
    """
    assert docstrings.to_rest(text, {"add": "package.add"}.get) == [
        r"Adds ``x`` to \|y\|, see :py:obj:`add <package.add>`.",
        "",
        "As a formula:",
        "",
        ".. code-block:: none",
        "",
        "    x + y",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "",
        "   * - name",
        "     - meaning",
        "   * - ``x``",
        r"     - \*one\*",
        "",
        "",
        ":param x: ``[*batch]``, of",
        "   two lines.",
        ":param more: the rest.",
        "",
        ":returns:",
        "   The sum: a number.",
        "",
        ":raises ValueError: ``x`` is missing.",
        "",
        "Source: A paper.",
        "",
    ]


def test_an_example_and_fields_are_converted(docstrings):
    text = """A pair.

    Fields:
      x: first.

    Example: of two lines.
      >>> 1 + 1
      2
    """
    assert docstrings.to_rest(text, lambda name: None) == [
        "A pair.",
        "",
        ":Fields:",
        "   - **x**: first.",
        "",
        ".. rubric:: Example",
        "",
        "of two lines.",
        "",
        ">>> 1 + 1",
        "2",
        "",
    ]


OUTSIDE = re.compile(r"<(?:script|img|link)\b[^>]*(?:src|href)=\"(?:https?:)?//[^>]*>")


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs"]
    site = tmp_path / "site"
    done = subprocess.run(
        [*command, str(site)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for page in (*PAGES, *(DOCS / "api").glob("*.rst")):
        assert (site / page.relative_to(DOCS).with_suffix(".html")).exists()
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert (site / "tutorials" / f"{notebook.stem}.html").exists()
    page = (site / "api" / "schedules.html").read_text()
    words = schedules.Schedule.alpha.__doc__.split("`")[0]
    assert page.count(words) > 10  # of every schedule
    assert 'id="diffusionflow.schedules.Cosine.alpha"' in page
    for page in site.rglob("*.html"):
        assert not OUTSIDE.findall(page.read_text()), page
