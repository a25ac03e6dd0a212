"""The layers of the library, read from its imports, and what it needs to run."""

import ast
import pathlib
import subprocess
import sys

import pytest

from tests.helpers.parametrize import check_all

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "diffusionflow"

# module: what it may import from the library besides the private helpers
ALLOWED = {
    "random": set(),
    "schedules": {"schedules"},
    "ema": {"ema"},
    "predictions": {"schedules", "predictions"},
    "times": {"random", "schedules", "predictions", "times"},
    "grids": {"schedules", "predictions", "grids", "samplers"},  # these in functions
    "weightings": {"schedules", "predictions", "weightings"},
    "analytic": {"schedules", "predictions"},
    "processes": {"schedules", "predictions", "processes"},
    "guidance": {"schedules", "predictions", "guidance"},
    "inverse": {
        "random",
        "schedules",
        "predictions",
        "analytic",
        "grids",
        "guidance",
        "samplers",
        "inverse",
    },
    "interop": {
        "schedules",
        "predictions",
        "grids",
        "guidance",
        "samplers",
        "networks",
        "interop",
    },
    "objectives": {
        "schedules",
        "predictions",
        "times",
        "weightings",
        "objectives",
    },
    "losses": {
        "random",
        "schedules",
        "predictions",
        "processes",
        "weightings",
        "objectives",
        "losses",
    },
    "samplers": {"random", "schedules", "predictions", "grids", "samplers"},
    "distillation": {
        "random",
        "schedules",
        "predictions",
        "grids",
        "samplers",
        "distillation",
    },
    "couplings": {"random", "predictions", "couplings"},
    "likelihood": {
        "random",
        "schedules",
        "predictions",
        "times",
        "weightings",
        "grids",
        "objectives",
        "losses",
        "samplers",
        "likelihood",
    },
    "metrics": {"random", "schedules", "analytic", "metrics"},
    "networks": {"networks"},
    "testing": {
        "random",
        "schedules",
        "predictions",
        "weightings",
        "analytic",
        "grids",
        "samplers",
    },
}
OUTSIDE = {"jax", "chex", "numpy"}
HELPERS = {"_dataclass", "_numeric", "_xp"}


def imports(path):
    """`(library modules, other top-level packages)` that a file imports."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
            if node.module == "diffusionflow":
                names = [f"diffusionflow.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, *rest = name.split(".")
            if top == "diffusionflow":
                ours.add(rest[0])
            elif top not in sys.stdlib_module_names:
                others.add(top)
    return ours, others


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in HELPERS and parts != ("__init__",):
            yield "/".join(parts), (parts[0], path)


def test_imports_go_one_way():
    check_all(imports_are_allowed, dict(modules()))


def imports_are_allowed(module, path):
    ours, others = imports(path)
    assert ours - HELPERS <= ALLOWED[module]
    # diffrax, safetensors, torch, and scipy and ml_dtypes, which jax needs itself, in
    # functions
    extra = {
        "couplings": {"scipy"},
        "grids": {"scipy"},
        "interop": {"huggingface_hub", "ml_dtypes", "safetensors", "scipy", "torch"},
        "networks": {"flax"},
        "samplers": {"diffrax", "scipy"},
        "metrics": {"scipy"},
    }
    assert others <= OUTSIDE | extra.get(module, set())


def test_helpers_import_no_module_of_the_library():
    for helper in HELPERS:
        ours, others = imports(PACKAGE / f"{helper}.py")
        extra = {"scipy"} if helper == "_xp" else set()  # which jax needs itself
        assert ours <= HELPERS and others <= OUTSIDE | extra


def test_the_library_loads_scipy_when_it_is_used():
    """It takes a fifth of the time in which the library is imported."""
    program = """
import sys, diffusionflow
assert "scipy" not in sys.modules
print(diffusionflow._xp.ndtr(0.0), "scipy" in sys.modules)
"""
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.split() == ["0.5", "True"]


def test_configs_import_only_ml_collections():
    for path in (ROOT / "configs").glob("*.py"):
        ours, others = imports(path)
        assert not ours and others <= {"ml_collections", "configs"}


def test_orbax_is_imported_in_one_place():
    for path in (ROOT / "experiments").rglob("*.py"):
        _, others = imports(path)
        assert ("orbax" in others) == (
            path.parts[-2:] == ("checkpointing", "manager.py")
        )


TESTS = ROOT / "tests"
APPLICATION = {
    "experiments",
    "configs",
    "flax",
    "optax",
    "orbax",
    "grain",
    "matplotlib",
}


def imported(path):
    """Every module that a file of tests imports, and every name of one, dotted."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.ci
def test_no_file_of_tests_imports_another():
    """What they share stands in `tests/helpers`."""
    for path in TESTS.rglob("*.py"):
        for name in imported(path):
            part = name.split(".")
            assert part[0] != "tests" or part[1:2] in ([], ["helpers"]), (path, name)


def with_helpers(path):
    """The top-level packages that a file imports, or a helper that it imports."""
    names, seen, waiting = set(), {path}, [path]
    while waiting:
        for name in imported(waiting.pop()):
            names.add(name.split(".")[0])
            helper = ROOT.joinpath(*name.split(".")).with_suffix(".py")
            if TESTS in helper.parents and helper.exists() and helper not in seen:
                seen.add(helper)
                waiting.append(helper)
    return names


def test_tests_of_the_core_need_nothing_of_the_application():
    """Such a worker starts sooner, and the core stands alone."""
    paths = [TESTS / "conftest.py", *(TESTS / "core").glob("*.py")]
    assert len(paths) > 30
    for path in paths:
        assert not with_helpers(path) & APPLICATION, path
    manager = TESTS / "experiments" / "checkpointing" / "test_manager.py"
    assert "optax" in with_helpers(manager)
    assert "experiments" in with_helpers(TESTS / "cli" / "test_resume.py")


WITHOUT = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    names = {"flax", "optax", "orbax", "ml_collections", "grain", "tensorboardX",
             "rich", "sklearn", "matplotlib", "PIL", "diffrax", "equinox",
             "tensorflow", "torch"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is hidden")

sys.meta_path.insert(0, Refuse())
import jax, jax.numpy as jnp
import diffusionflow as df

schedule = df.schedules.FlowMatching()
net = lambda z, t: 0.5 * z
loss = df.losses.objective_loss(
    jax.random.key(0), net, jnp.ones((4, 3)), objective=df.objectives.flow_matching())
denoise_fn = df.predictions.denoiser(net, kind="u", schedule=schedule)
z = df.samplers.prior(jax.random.key(1), (4, 3), schedule=schedule)
x = df.samplers.sample(jax.random.key(2), denoise_fn, z, df.grids.uniform(4),
                       sampler=df.samplers.ddpm(), schedule=schedule).x
assert loss.shape == (4,) and x.shape == (4, 3)
loaded = sorted({name.split(".")[0] for name in sys.modules} & Refuse.names)
assert not loaded, loaded
print("ok")
"""


@pytest.mark.ci
def test_losses_and_samplers_work_with_jax_and_chex_alone():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "ok\n", done.stderr


def test_requirements_of_a_plain_install_are_jax_and_chex():
    """And NumPy and SciPy, which jax itself needs."""
    import configparser

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split()
    assert [line.split(">")[0] for line in lines] == ["jax", "chex"]
