"""What holds for the flags of every command: bounds, paths, files, help, pipes."""

import importlib
import pathlib
import re
import subprocess
import sys

import pytest
from absl import flags

from experiments.config import registry
from tests.helpers import commands, in_process

COMMANDS = (
    *("train", "sample", "evaluate", "compare", "study"),
    *("distill", "encode", "export", "grid", "pairs", "explain", "figures", "explore"),
)


def defined(command):
    """The flags of a command, in this process."""
    with in_process._main(f"experiments.{command}"):
        return [flags.FLAGS[name] for name in _own_names()]


def _own_names():
    modules = flags.FLAGS.flags_by_module_dict()
    return sorted(
        {
            flag.name
            for module, listed in modules.items()
            if module.startswith("experiments") or module.endswith(".py")
            for flag in listed
        }
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_of_a_flag_has_bounds(command):
    for flag in defined(command):
        if isinstance(flag.parser, flags.IntegerParser):
            assert flag.parser.upper_bound is not None, flag.name
            with pytest.raises(ValueError, match=r"range \["):
                flag.parser.parse("1000000000000000")
        if isinstance(flag.parser, flags.FloatParser):
            for text in ("nan", "inf", "-1e999"):
                with pytest.raises(ValueError, match="finite"):
                    flag.parser.parse(text)


WRONG = {
    "workdir": ("sample", ["--workdir="], "--workdir= is empty: give a path"),
    "out": ("explore", ["--out="], "out=: is empty: give a path"),
    "mask": ("sample", ["--workdir=x", "--mask="], "--mask= is empty: give a path"),
    "home": ("train", ["--config=toy2d", "--workdir=~/x"], r"write --workdir=\$HOME/x"),
    "home of data": (
        "train",
        ["--config=toy2d", "--workdir=x", "--config.data.path=~/x"],
        r"a shell does not replace ~ after an =.*--config.data.path=\$HOME/x",
    ),
    "config": ("train", ["--config=", "--workdir=x"], "--config= is empty"),
    "guidance": ("sample", ["--workdir=x", "--guidance=nan"], "guidance=nan.*finite"),
    "many": ("sample", ["--workdir=x", f"--num_samples={10**15}"], "num_samples=1000"),
    "inception": (
        "evaluate",
        ["--workdir=x", "--inception=nofile.pth"],
        "inception=nofile.pth: there is no such file",
    ),
    "coordinator": (
        "train",
        [
            *("--config=toy2d", "--workdir=x", "--coordinator=::::"),
            *("--num_processes=2", "--process_id=0"),
        ],
        "--coordinator=::::: must be HOST:PORT",
    ),
    "devices": (
        "train",
        ["--config=toy2d", "--workdir=x", "--config.cpu_devices=100000"],
        "cpu_devices=100000: must be at least 1 and at most 256",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_flag_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, arguments, message = WRONG[name]
    code, _, error = in_process.run(f"experiments.{command}", *arguments)
    assert code == 2 and error.startswith("error: "), error
    assert len(error.splitlines()) == 1 and len(error) < 300
    assert re.search(message, error), error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_every_flag_and_the_lines_of_the_examples(command):
    code, output, error = in_process.run(f"experiments.{command}", "--help")
    assert code == 0 and not error
    names = [flag.name for flag in defined(command)]
    assert [
        name for name in names if f"--{name}" not in output.replace("[no]", "")
    ] == []
    module = importlib.util.find_spec(f"experiments.{command}").origin
    text = pathlib.Path(module).read_text()
    for line in re.findall(
        r"^ {4}(?:diffusionflow|python) .*$", text.split('"""')[1], re.M
    ):
        assert line.rstrip("\\").strip() in output, line
    if command in ("train", "sample", "evaluate", "pairs", "distill"):
        for known in (registry.SAMPLERS, registry.GRIDS):
            assert ", ".join(known) in " ".join(output.split())


@pytest.mark.slow
def test_a_closed_pipe_is_no_traceback():
    command = f"{sys.executable} -m experiments.train --help | head -1"
    found = subprocess.run(
        ["bash", "-c", command], cwd=commands.ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert found.stderr == "" and len(found.stdout.splitlines()) == 1


@pytest.mark.slow
def test_few_file_descriptors_are_one_line(tmp_path):
    command = f"ulimit -n 40; {sys.executable} -m experiments.train --config=toy2d"
    found = subprocess.run(
        ["bash", "-c", f"{command} --workdir={tmp_path / 'run'}"],
        cwd=commands.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 2 and "ulimit -n 256 allows" in found.stderr
    assert len(found.stderr.splitlines()) == 1
