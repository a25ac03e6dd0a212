"""Notebooks and their scripts: the same cells, outputs that can be kept, thin.

The slow test executes them all; `make notebooks` does so and writes the outputs.
"""

import ast
import re
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.visualization import notebook_display
from notebooks import build
from tests.helpers.parametrize import check_all

SCRIPTS = build.scripts()
EACH = {name: (name,) for name in SCRIPTS}
LARGEST = 300_000  # bytes of a notebook
LIMIT = 90  # seconds of CPU time of a notebook: all take less than 12 minutes
IMPORTS = {"dataclasses", "importlib", "json", "pathlib", "tempfile"} | {
    "diffusionflow",
    "equinox",
    "experiments",
    "flax",
    "jax",
    "numpy",
    "optax",
    "safetensors",
    *("diffusers", "torch"),  # where they are installed
}
# names of a machine, of its user, and addresses of objects
PRIVATE = re.compile(
    r"(?<![\w.])/(?:home|Users|root|tmp|work|usr|opt|var|mnt|proc)\b|0x[0-9a-f]{6,}"
)


def notebook(name):
    return nbformat.read(SCRIPTS[name].with_suffix(".ipynb"), as_version=4)


def outputs(name):
    for cell in notebook(name).cells:
        yield from cell.get("outputs", [])


def text_of(output):
    if output.output_type == "stream":
        return output.text
    data = output.get("data", {})
    return "".join(v for k, v in data.items() if not k.startswith("image/"))


def test_every_notebook_has_a_script():
    notebooks = {path.stem for path in build.DIRECTORY.glob("*.ipynb")}
    assert notebooks == set(SCRIPTS) and len(SCRIPTS) >= 4


def test_the_notebook_has_the_cells_of_its_script():
    """Otherwise: `make notebooks`, or `make notebooks ARGS=--name=NAME`."""
    check_all(has_the_cells_of_its_script, EACH)


def has_the_cells_of_its_script(name):
    script = build.read_script(SCRIPTS[name])
    nbformat.validate(notebook(name))
    assert build.cells(notebook(name)) == build.cells(script)


def test_outputs_are_there_and_small():
    check_all(has_small_outputs, EACH)


def has_small_outputs(name):
    path = SCRIPTS[name].with_suffix(".ipynb")
    assert path.stat().st_size < LARGEST
    found = [cell for cell in notebook(name).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in found)
    kinds = [kind for output in outputs(name) for kind in output.get("data", {})]
    assert "text/markdown" in kinds
    assert kinds.count("image/png") == SCRIPTS[name].read_text().count("Picture(")


def test_outputs_hold_no_errors_and_name_no_machine():
    check_all(has_clean_outputs, EACH)


def has_clean_outputs(name):
    for output in outputs(name):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        assert not PRIVATE.search(text_of(output)), text_of(output)


def test_the_first_cell_names_the_source_and_the_last_what_to_change():
    check_all(names_source_and_change, EACH)


def names_source_and_change(name):
    first, *_, last = build.cells(build.read_script(SCRIPTS[name]))
    assert first[0] == last[0] == "markdown"
    assert re.match(r"# \w", first[1]) and "\nSource: " in first[1]
    assert "## Now change\n" in last[1]


def test_a_notebook_is_thin():
    """It imports what it shows: no classes, short cells, and no stranger."""
    check_all(is_thin, EACH)


def is_thin(name):
    tree = ast.parse(SCRIPTS[name].read_text())
    tops = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            tops.add(node.module.split(".")[0])
    assert tops <= IMPORTS
    script = build.read_script(SCRIPTS[name])
    code = [source for kind, source in build.cells(script) if kind == "code"]
    assert max(source.count("\n") for source in code) < 40


def test_the_files_that_a_notebook_names_exist():
    check_all(names_files_that_exist, EACH)


def names_files_that_exist(name):
    root, text = build.ROOT, SCRIPTS[name].read_text()
    for path in re.findall(r"`((?:docs|configs|tests)/[\w/.]+)`", text):
        assert (root / path).exists(), path
    for other in re.findall(r"`(\d\d_\w+)`", text):
        assert other in SCRIPTS


# they train, or make the weights of three architectures, which other tests do too
LONGEST = {"07_lecture_algorithms", "09_few_steps", "10_published_networks"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=getattr(pytest.mark, "nightly" if name in LONGEST else "slow")
        )
        for name in SCRIPTS
    ],
)
def test_the_notebook_runs(name):
    made, seconds = build.execute(SCRIPTS[name])
    assert seconds < LIMIT
    for output in (o for cell in made.cells for o in cell.get("outputs", [])):
        assert output.output_type != "error" and output.get("name") != "stderr"


def test_a_misspelt_name_is_one_line():
    command = [sys.executable, "notebooks/build.py", "--name=02_straight"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=build.ROOT)
    assert done.returncode == 2
    assert "02_straight_or_curved" in done.stderr.splitlines()[-1]


# --- what cells end with ------------------------------------------------------


def test_a_picture_is_a_small_png():
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot(np.arange(5))
    found = notebook_display.Picture(figure)._repr_png_()
    assert found[:8] == b"\x89PNG\r\n\x1a\n" and len(found) < 10_000
    assert notebook_display.Picture(figure)._repr_png_() == found


def test_a_table_is_text_and_markdown():
    table = notebook_display.Table(
        {"a": [1, 2], "b": [0.123456, 1e-15], "c": ["x", "y"]}
    )
    assert table._repr_markdown_().splitlines() == [
        "| a | b | c |",
        "|---|---|---|",
        "| 1 | 0.1235 | x |",
        "| 2 | < 1e-12 | y |",
    ]
    assert repr(table).splitlines()[1].split() == ["1", "0.1235", "x"]


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        notebook_display.Table({"a": [1, 2], "b": [1]})
