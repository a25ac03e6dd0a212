"""The rooms of the application: imports run downwards only, in short chains."""

import ast
import functools
import pathlib
import re
import subprocess
import sys

from tests.helpers.parametrize import check_all

ROOT = pathlib.Path(__file__).parents[2]
APPLICATION = ROOT / "experiments"

# package: those of the application that it may import besides itself
ALLOWED = {
    "runtime": set(),
    "data": {"runtime"},
    "config": {"runtime", "data"},
    "checkpointing": {"runtime", "data", "config"},
    "analysis": {"runtime", "config"},
    "visualization": {"runtime", "data", "analysis"},
    "sampling": {"runtime", "data", "config", "checkpointing", "visualization"},
    "evaluation": {"runtime", "data", "config", "checkpointing", "sampling"},
}
ALLOWED["training"] = {*ALLOWED, "evaluation"}
ALLOWED["comparison"] = {*ALLOWED, "training"}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
        ".__init__"
    ): path
    for path in sorted(APPLICATION.rglob("*.py"))
}


@functools.cache
def imported(module):
    """Modules of the application that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in FILES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "experiments"} - {
        "experiments",
        module,
    }


def package(module):
    return module.split(".")[1] if module.count(".") else ""


def test_every_package_is_in_the_table():
    assert {package(module) for module in FILES if module.count(".") > 1} == {*ALLOWED}


def test_the_page_has_the_rooms_and_what_they_may_import():
    text = (ROOT / "docs" / "architecture.md").read_text()
    (part,) = re.findall(r"\n## The rooms of the application\n(.*?)\n## ", text, re.S)
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.+?) \|$", part, re.M)
    assert [room for room, _ in rows] == [*ALLOWED]
    for room, allowed in rows:
        if "above" in allowed:
            assert ALLOWED[room] == {name for name, _ in rows[: len(ALLOWED[room])]}
        else:
            assert set(re.findall(r"`(\w+)`", allowed)) == ALLOWED[room]


def test_imports_run_downwards():
    inside = [name for name in FILES if package(name) in ALLOWED]
    check_all(imports_are_allowed, {name: (name,) for name in inside})


def imports_are_allowed(module):
    own = package(module)
    others = {package(name) for name in imported(module)} - {own}
    assert others <= ALLOWED[own], others - ALLOWED[own]


def test_only_entry_points_import_the_command_line():
    for module in FILES:
        if package(module) in ALLOWED:
            assert "experiments.cli" not in imported(module), module


def test_entry_points_are_thin():
    for module, path in FILES.items():
        if module.count(".") == 1 and package(module) not in {*ALLOWED, "cli"}:
            assert len(path.read_text().splitlines()) < 80, module


@functools.cache
def depth(module):
    """Modules on the longest chain of imports that starts here, within packages too."""
    return 1 + max(map(depth, sorted(imported(module))), default=0)


def test_the_pictures_need_neither_checkpoints_nor_optimizers():
    names = [name for name in FILES if package(name) == "visualization"]
    program = (
        f"import sys, {', '.join(names)}; "
        "sys.exit(str(sorted({'orbax', 'optax', 'grain'} & {*sys.modules})) "
        "if {'orbax', 'optax', 'grain'} & {*sys.modules} else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
