"""The README's Python runs, and the files and commands it names exist."""

import pathlib
import re

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


def test_links_lead_somewhere():
    paths = re.findall(r"\]\(((?!http)[^)#]+)\)", TEXT)
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert paths and not missing


def test_commands_exist():
    modules = sorted(set(re.findall(r"-m (experiments\.\w+)", TEXT)))
    paths = [ROOT / f"{module.replace('.', '/')}.py" for module in modules]
    assert paths and not [path for path in paths if not path.exists()]


def test_make_targets_exist():
    targets = set(re.findall(r"^make (\w+)", TEXT, re.M))
    there = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert targets and not targets - there
