"""What an installation holds: packages, shipped configs, the command, extras."""

import configparser
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from experiments import __main__ as command
from experiments.config import overrides
from tests.helpers.parametrize import check_all

ROOT = pathlib.Path(__file__).parents[2]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
EXTRAS = dict(SETUP["options.extras_require"])


def words(text):
    return text.split()


def test_every_package_is_installed():
    there = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for name in ("diffusionflow", "experiments")
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert {*words(SETUP["options"]["packages"])} == there | {"experiments.configs"}


def test_importing_the_library_needs_jax_and_chex_alone():
    needed = SETUP["options"]["install_requires"].split()
    assert [name.partition(">")[0] for name in needed] == ["jax", "chex"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what is installed, since pip builds where the source is."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("diffusionflow", "experiments", "configs"):
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=leave)
    return copy


@pytest.mark.slow
def test_a_wheel_holds_configs_templates_and_the_command(source, tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    build += ["--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {path.name for path in (ROOT / "configs").glob("*.py")}
    inside = {name for name in names if name.startswith("experiments/configs/")}
    assert {pathlib.Path(name).name for name in inside} >= shipped
    assert any(name.endswith("curves/digits.json") for name in inside)
    assert any("visualization/templates/" in name for name in names)
    assert {name.partition("/")[0] for name in names} == {
        "diffusionflow",
        "experiments",
        next(name for name in names if ".dist-info" in name).partition("/")[0],
    }
    (entries,) = (name for name in names if name.endswith("entry_points.txt"))
    text = zipfile.ZipFile(wheel).read(entries).decode()
    assert "diffusionflow = experiments.__main__:main" in text


@pytest.mark.nightly
def test_every_extra_can_be_resolved(source):
    check_all(is_resolved, {name: (source, name) for name in EXTRAS})


def is_resolved(source, name):
    """Nothing is installed."""
    install = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet"]
    wanted = [*install, f"{source}[{name}]"]
    found = subprocess.run(wanted, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_extras_are_those_that_are_promised():
    assert {*EXTRAS} >= {
        "train",
        "cuda12",
        "tpu",
        "notebooks",
        "interop",
        "docs",
        "test",
    }


def test_shipped_configs_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in sorted((ROOT / "configs").glob("*.py")):
        assert overrides.find_file(path.stem).samefile(path)
    assert overrides.load_config("digits").num_steps == 2_000
    (tmp_path / "digits").write_text("get_config = 3")
    assert overrides.find_file("digits") == pathlib.Path("digits")  # here comes first


def run(*arguments, **options):
    command = [sys.executable, "-m", "experiments", *arguments]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_the_command_lists_its_commands_and_names_the_nearest():
    found = run()
    assert found.returncode == 0
    assert all(f"  {name} " in found.stdout for name in command.COMMANDS)
    found = run("trian")
    assert found.returncode == 2
    assert "no command 'trian': did you mean 'train'?" in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.ci
def test_a_command_is_the_entry_point_of_its_name():
    for name in command.COMMANDS:
        assert (ROOT / "experiments" / f"{name}.py").exists()
    found = run("train", "--help", cwd=ROOT)
    assert "Trains a model" in found.stdout and found.returncode == 0
    assert "optimizer.name: optimizer of optax" in found.stdout
