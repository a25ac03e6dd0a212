"""The rooms of the application: imports run downwards only, in short chains."""

import ast
import functools
import pathlib
import re
import subprocess
import sys

import pytest

from diffusionflow import samplers, schedules
from experiments.config import build, experiment, registry
from tests.helpers import tiny
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
LONGEST = 10  # modules in a chain of imports, an entry point and those in functions too
ADDED = """
import numpy as np
from diffusionflow import samplers, schedules
from flax import linen


def schedule():
    return schedules.Cosine(logsnr_min=-9.0)


def sampler():
    return samplers.Heun("v")


def points():
    return np.zeros((9, 3), np.float32)


class Linear(linen.Module):
    @linen.compact
    def __call__(self, z, time, label, train):
        return linen.Dense(z.shape[-1])(z)
"""
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
            assert len(path.read_text().splitlines()) < 100, module


@functools.cache
def depth(module):
    """Modules on the longest chain of imports that starts here, within packages too."""
    return 1 + max(map(depth, sorted(imported(module))), default=0)


def test_chains_of_imports_are_short():
    deepest = max(FILES, key=depth)
    assert depth(deepest) <= LONGEST, deepest


def test_every_entry_of_a_registry_can_be_imported():
    for known in vars(registry).values():
        if isinstance(known, registry.Registry):
            assert all(map(callable, known.values()))


def run_without(others, *modules):
    """Imports modules in a process of its own, which must not load the others."""
    program = f"import sys, {', '.join(modules)}; print(*{others!r} & {{*sys.modules}})"
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert not run.stdout.split()


def test_names_of_a_config_load_nothing():
    """The registry names all sources of data and networks, and imports none of them."""
    names = {"flax", "diffusionflow", "experiments.data", "experiments.config.methods"}
    run_without(names, "experiments.config.registry as known")


def test_an_addition_is_one_file_and_one_line(tmp_path, monkeypatch):
    (tmp_path / "added.py").write_text(ADDED)
    monkeypatch.syspath_prepend(tmp_path)
    for known, attribute in (
        (registry.SCHEDULES, "schedule"),
        (registry.SAMPLERS, "sampler"),
        (registry.DATASETS, "points"),
        (registry.NETWORKS, "Linear"),
    ):
        monkeypatch.setitem(known, "mine", f"added:{attribute}")
    config = tiny.config(objective__schedule="mine", sampler__name="mine")
    config.data = config.network = {"name": "mine"}
    built = experiment.from_config(config)
    model = built.model(build.dataset(config.data))
    assert model.objective.schedule == schedules.Cosine(logsnr_min=-9.0)
    assert built.sampling.sampler == samplers.Heun("v")
    assert model.event_shape == (3,) and type(model.net).__name__ == "Linear"


@pytest.mark.ci
def test_the_pictures_need_neither_checkpoints_nor_optimizers():
    names = [name for name in FILES if package(name) == "visualization"]
    run_without({"orbax", "optax", "grain"}, *names)


@pytest.mark.ci
def test_images_are_sampled_without_matplotlib():
    run_without({"matplotlib", "optax", "grain"}, "experiments.sampling.sample_run")
