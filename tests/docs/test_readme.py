"""The README's Python runs, and the files and commands it names exist."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def test_the_examples_run_one_after_another():
    assert len(BLOCKS) >= 3
    names = {}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
    assert names["result"].nfe == 50


def test_the_import_example_is_about_ten_lines():
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 10


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!http)[^)#]+)\)", TEXT))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize(
    "module", sorted(set(re.findall(r"-m (experiments\.\w+)", TEXT)))
)
def test_commands_exist(module):
    assert (ROOT / f"{module.replace('.', '/')}.py").exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make (\w+)", TEXT, re.M))))
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
