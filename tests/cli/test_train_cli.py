"""The command line of training: one line and exit code 2 for a mistake."""

import os
import re
import shlex

import pytest

from experiments.config import overrides, schema
from tests.helpers import commands, in_process, programs, tiny

CONFIG = "--config=configs/digits.py"
MISTAKES = {
    "misspelt key": (
        [CONFIG, "--config.optimizer.lerning_rate=1"],
        "--config.optimizer: unknown name 'lerning_rate'; did you mean 'learning_rate'",
    ),
    "misspelt section": (
        [CONFIG, "--config.optimiser.b1=1"],
        "--config: unknown name 'optimiser'; did you mean 'optimizer'?",
    ),
    "key inside a number": ([CONFIG, "--config.seed.x=1"], "--config.seed: unknown"),
    "wrong type": (
        [CONFIG, "--config.optimizer.learning_rate=abc"],
        "--config.optimizer.learning_rate=abc: must be a number",
    ),
    "float for an int": ([CONFIG, "--config.num_steps=1.5"], "--config.num_steps=1.5"),
    "number for a section": (
        [CONFIG, "--config.optimizer=3"],
        r"write --config.optimizer.name=3 for an entry .*learning_rate",
    ),
    "recipe for a section": (
        [CONFIG, "--config.objective=edm"],
        "--config.objective.schedule=VALUE .*, or --config=digits_edm for a config",
    ),
    "wrong type in a tuple": (
        [CONFIG, "--config.network.multipliers=a"],
        "network.multipliers='a': must be a whole number",
    ),
    "unknown schedule": (
        [CONFIG, "--config.objective.schedule=cosin"],
        "objective.schedule: unknown name 'cosin'; did you mean 'cosine'?",
    ),
    "unknown network": (
        [CONFIG, "--config.network.name=unt"],
        "network.name: unknown name 'unt'; did you mean 'unet'?",
    ),
    "bad value": (
        [CONFIG, "--config.batch_size=0"],
        "batch_size=0: must be (a )?positive",
    ),
    "stray argument": ([CONFIG, "stray"], "unexpected argument 'stray'"),
    "missing file": (
        ["--config=configs/digit.py"],
        "no file 'configs/digit.py'; did you mean 'configs/digits.py'?",
    ),
    "missing file, space": (["--config", "configs/digit.py"], "did you mean"),
    "file of a long name": (
        [f"--config={'x' * 5_000}/a.py"],
        "no file 'xx.*known: none",
    ),
    "long name": ([f"--config={'x' * 5_000}"], "no file and no shipped config"),
    "long flag": ([CONFIG, f"--{'x' * 5_000}=1"], "unknown flag --x{38}[.]{3};"),
    "no UTF-8": ([CONFIG, "--config.data.name=\udce9"], "udce9.*: is no UTF-8"),
    "deep brackets": (
        [CONFIG, f"--config.sampler.name={'(' * 5_000}"],
        "sampler.name=.*must be a name, with arguments in brackets if any",
    ),
    "deep signs": (
        [CONFIG, f"--config.objective.schedule={'-' * 5_000}1"],
        "objective.schedule=.*must be a name, with arguments",
    ),
    "deep argument": (
        [CONFIG, f"--config.objective.schedule=cosine(logsnr_min={'-' * 900}1)"],
        "objective.schedule: .* is no number, string, bool, None or tuple",
    ),
    "key of a dict": (
        [CONFIG, "--config.objective.schedule=cosine(logsnr_min={[]:1})"],
        "objective.schedule: .* is no number, string, bool, None or tuple",
    ),
    "deep tuple": (
        [CONFIG, f"--config.network.multipliers={'-' * 5_000}1"],
        "network.multipliers=.*must be a whole number",
    ),
    "number of many digits": (
        [CONFIG, "--config.num_steps=1e9999999"],
        r"--config.num_steps=.*must be below 10\*\*18",
    ),
    "no config": ([], "--config must have a value"),
    "misspelt flag": ([CONFIG, "--wrkdir=3"], "'wrkdir'. Did you mean: workdir"),
    "override too early": (["--config.seed=3", CONFIG], "must come after --config"),
    "no such backend": (
        [CONFIG, "--require_backend=gpu"],
        "--require_backend=gpu: JAX .* found only 'cpu'",
    ),
    "broken file": (["--config=README.md"], "README.md gives no config: SyntaxError"),
    "no config in it": (
        ["--config={}/dict.py"],
        "returns a dict, not an ml_coll",
    ),
    "missing value": (
        ["--config={}/values.py:placeholder"],
        "num_steps has no value: give it with --config.num_steps=VALUE",
    ),
    "required value": (
        ["--config={}/values.py:required_placeholder"],
        "num_steps has no value: give it with --config.num_steps=VALUE",
    ),
    "text in the file": (
        ["--config={}/values.py:text"],
        "num_steps='10': must be a whole number",
    ),
    "text for a placeholder": (
        ["--config={}/values.py:placeholder", "--config.num_steps=ten"],
        "--config.num_steps=ten: must be a whole number",
    ),
    "workdir is a file": (
        ["--config=configs/toy2d.py", "--workdir=README.md"],
        "--workdir=README.md: Not a directory: README.md/samples; choose another",
    ),
    "workdir has a long name": (
        ["--config=configs/toy2d.py", f"--workdir=tests/{'x' * 300}"],
        "File name too long: tests/x*/samples; choose another",
    ),
}
VALUES = """
from ml_collections import config_dict
from configs import digits
def get_config(what):
    config = digits.get_config()
    del config.num_steps
    config.num_steps = "10" if what == "text" else getattr(config_dict, what)(int)
    return config
"""


REAL = ("misspelt key", "bad value", "workdir is a file")  # as processes too


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "values.py").write_text(VALUES)
    (tmp_path / "dict.py").write_text("get_config = dict")
    return tmp_path / "run"


@pytest.fixture
def tiny_config(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(
        "import json, ml_collections\n"
        f"VALUES = json.loads({tiny.config().to_json()!r})\n"
        "def get_config():\n"
        "    return ml_collections.ConfigDict(VALUES)\n"
    )
    return path


@pytest.mark.parametrize(
    ("run", "name"),
    [(in_process.run, name) for name in MISTAKES]
    + [(commands.run, name) for name in REAL],
    ids=[*MISTAKES, *(f"{name}, as a process" for name in REAL)],
)
def test_a_mistake_gives_one_line_and_exit_code_2(workdir, run, name):
    """And nothing is written."""
    given, message = MISTAKES[name]
    filled = [text.replace("{}", str(workdir.parent)) for text in given]
    code, output, error = run("experiments.train", f"--workdir={workdir}", *filled)
    begun = "diffusionflow: training in " if "workdir" in name else ""
    said = commands.without_announcements(output)
    assert said.startswith(begun) and len(said.splitlines()) == bool(begun)
    assert len(error.splitlines()) == 1, error
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert code == 2
    assert not workdir.exists()


def test_a_missing_workdir_is_a_mistake_too():
    code, _, error = in_process.run("experiments.train", CONFIG)
    assert code == 2
    assert error.startswith("error: flag --workdir")
    assert len(error.splitlines()) == 1


@pytest.mark.ci
def test_ctrl_c_before_a_run_begins_is_one_line(tmp_path):
    """Where nothing else is done about it: reading the config, and imports."""
    path = tmp_path / "config.py"
    path.write_text(
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # or inherited
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    found = commands.run("experiments.explain", f"--config={path}")
    assert found == (130, "", "stopped by SIGINT\n")


LEFT = """
import asyncio, gc
from experiments import cli
from experiments.runtime.errors import SaveError
async def fail():
    raise ValueError("no room")
async def leave():
    task = asyncio.ensure_future(fail())
    await asyncio.sleep(0)
def main():
    asyncio.run(leave())
    gc.collect()
    raise SaveError("the one line")
cli.run(main)
"""


@pytest.mark.ci
def test_the_other_writes_of_a_save_that_failed_say_nothing(tmp_path):
    (tmp_path / "left.py").write_text(LEFT)
    found = commands.run("left", PYTHONPATH=str(tmp_path))
    assert found == (1, "", "error: the one line\n")


@pytest.mark.ci
def test_help_is_no_mistake():
    code, output, _ = commands.run("experiments.train", "--help")
    assert code == 0
    assert "--workdir" in output
    assert "Trains a model" in output


UNET2D = "--config.network.name=unet2d"  # with arguments that the file has not


def read(*arguments):
    """The config that a command line gives."""
    argv, given = overrides.split(overrides.with_values(["train", *arguments]))
    (flag,) = [text for text in argv if text.startswith("--config=")]
    config = overrides.load_config(flag.removeprefix("--config="))
    schema.add_defaults(config)
    overrides.apply(config, given)
    schema.settle(config)
    return config


@pytest.mark.parametrize(
    ("given", "entry", "value"),
    [
        (["--config.num_steps=1e5"], "num_steps", 100_000),
        (["--config.num_steps", "2.5e3"], "num_steps", 2_500),
        (["--config.seed=4294967295"], "seed", 2**32 - 1),
        (["--config.network.multipliers=1e0,2"], "network.multipliers", (1, 2)),
        (["--config.network.multipliers=(1, 2)"], "network.multipliers", (1, 2)),
        (["--config.network.multipliers=3"], "network.multipliers", (3,)),
        (["--config.network.dtype=1e5"], "network.dtype", "1e5"),
        (["--config.guidance=1e1"], "guidance", 10.0),
        (["--config.guidance=-1"], "guidance", -1.0),
        (["--config.ema.sigma_rel=0.1"], "ema.sigma_rel", (0.1,)),
        (["--config.callbacks=own:log"], "callbacks", ("own:log",)),
        (["--config.seed=1", "--config.seed=2"], "seed", 2),
        (
            ["--config.network.up_block_types=UpBlock2D,AttnUpBlock2D", UNET2D],
            "network.up_block_types",
            ("UpBlock2D", "AttnUpBlock2D"),
        ),
        (
            [UNET2D, "--config.network.block_out_channels=32"],
            "network.block_out_channels",
            (32,),
        ),
        ([UNET2D, "--config.network.norm_eps=1"], "network.norm_eps", 1.0),
    ],
    ids=str,
)
def test_a_text_is_read_by_the_type_of_its_entry(given, entry, value):
    config = read(CONFIG, *given)
    for key in entry.split("."):
        config = config[key]
    assert repr(config) == repr(value)


def test_another_network_is_given_without_the_entries_of_the_first(capsys):
    name = "--config.network.name=residual_mlp(num_blocks=2)"
    config = read(CONFIG, name, "--config.network.features=8")
    assert config.network.to_dict() == {
        "name": "residual_mlp(num_blocks=2)",
        "features": 8,
    }
    assert "residual_mlp in place of unet, without" in capsys.readouterr().out
    again = ["--config.network.name=dit", "--config.network.dropout=0.1"]
    assert read(CONFIG, *again).network.dropout == 0.1
    said = capsys.readouterr().out
    assert "dit in place of unet, without" in said
    assert "channels" in said and "dropout" not in said
    data = read(CONFIG, "--config.data.workers=2", "--config.data.name=moons").data
    assert data.to_dict() == {"name": "moons", "workers": 2}
    assert not capsys.readouterr().out
    same = read(CONFIG, "--config.network.name=unet")
    assert same.network.channels == 32 and not capsys.readouterr().out


def test_an_entry_is_added_to_a_section_inside_data(tmp_path):
    """It belongs to no argument of the data set, and nothing says its type."""
    path = tmp_path / "config.py"
    path.write_text(
        "from configs import digits\n"
        "def get_config():\n"
        "    config = digits.get_config()\n"
        "    config.data.options = {'a': 1}\n"
        "    return config\n"
    )
    config = read(f"--config={path}", "--config.data.options.b=2")
    assert config.data.options.to_dict() == {"a": 1, "b": 2}


UNTYPED = """
from ml_collections import config_dict
from configs import digits
def get_config():
    config = digits.get_config()
    for section, name, value in (
        (config, "num_steps", 1e3),
        (config, "guidance", config_dict.required_placeholder(float)),
        (config.ema, "sigma_rel", [0.2]),
        (config.network, "multipliers", [1, 2]),
        (config.objective, "schedule", None),
    ):
        del section[name]
        section[name] = value
    return config
"""


def test_the_schema_says_how_a_text_is_read_where_the_file_does_not(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(UNTYPED)
    given = {
        "num_steps": ("2e3", 2000.0),
        "guidance": ("2", 2),
        "ema.sigma_rel": ("0.05,0.1", (0.05, 0.1)),
        "network.multipliers": ("1e0,4", (1, 4)),
        "objective.schedule": ("cosine", "cosine"),
    }
    flags = [f"--config.{name}={text}" for name, (text, _) in given.items()]
    config = read(f"--config={path}", *flags)
    for name, (_, value) in given.items():
        section, _, key = name.rpartition(".")
        found = config[section][key] if section else config[key]
        assert found == value
    command = ["experiments.train", f"--config={path}", f"--workdir={tmp_path}"]
    code, printed, error = in_process.run(*command, *flags, "--print_config")
    assert (code, error) == (0, "")
    lines = [shlex.split(line)[0] for line in printed.splitlines()]
    for entry in ("num_steps=2000", "guidance=2.0", "ema.sigma_rel=(0.05, 0.1)"):
        assert f"--config.{entry}" in lines


OPEN = """
import ml_collections
from ml_collections import config_dict
from configs import digits
def get_config():
    config = digits.get_config()
    config.data = dict(name="npz", path=config_dict.placeholder(str), low=None)
    config.num_steps = config_dict.placeholder(int)
    return config
"""


def test_entries_without_a_value_take_one_and_are_printed_as_they_are_read(tmp_path):
    (tmp_path / "my configs").mkdir()
    path = tmp_path / "my configs" / "open.py"
    path.write_text(OPEN)
    command = ["experiments.train", f"--config={path}", f"--workdir={tmp_path}"]
    code, printed, error = in_process.run(*command, "--print_config")
    assert (code, error) == (0, "")
    lines = [shlex.split(line)[0] for line in printed.splitlines()]
    for name in ("num_steps", "data.path", "data.low"):
        assert f"--config.{name}=None" in lines
    assert in_process.run(*command, "--print_config", *lines) == (0, printed, "")
    given = ["--config.num_steps=2e3", "--config.data.path=a.npz"]
    code, printed, error = in_process.run(
        *command, *given, "--config.data.low=-1.5", "--print_config"
    )
    assert (code, error) == (0, "")
    lines = printed.splitlines()
    for name in ("num_steps=2000", "data.path=a.npz", "data.low=-1.5"):
        assert f"--config.{name}" in lines
    code, _, error = in_process.run(*command, "--config.num_steps=2")
    assert code == 2 and len(error.splitlines()) == 1


def test_a_config_is_printed_without_a_workdir_but_not_trained(tiny_config):
    command = ["experiments.train", f"--config={tiny_config}"]
    code, printed, error = in_process.run(*command, "--print_config")
    assert (code, error) == (0, "") and "--config.num_steps=" in printed
    code, printed, error = in_process.run(*command)
    assert (code, printed) == (2, "") and len(error.splitlines()) == 1
    assert "Flag --workdir must have a value" in error


@pytest.mark.ci
def test_a_printed_config_is_read_back_as_it_is(tmp_path):
    command = ["experiments.train", CONFIG, f"--workdir={tmp_path / 'none'}"]
    changes = ["--config.network.multipliers=1,2,4", "--config.num_steps=1e3"]
    code, printed, error = commands.run(*command, "--print_config", *changes)
    assert (code, error) == (0, "") and not (tmp_path / "none").exists()
    lines = [shlex.split(line)[0] for line in printed.splitlines()]
    assert "--config.network.multipliers=(1, 2, 4)" in lines
    assert "--config.num_steps=1000" in lines
    assert "--config.objective.weighting=mse(kind='u')" in lines
    again = in_process.run(*command, "--print_config", *lines)
    assert again == (0, printed, "")


def test_an_empty_run_to_start_from_is_a_mistake(tiny_config, tmp_path):
    command = ("experiments.train", f"--config={tiny_config}", f"--workdir={tmp_path}")
    code, _, error = in_process.run(*command, "--init_from=")
    assert code == 2 and len(error.splitlines()) == 1
    assert error.startswith("error: --init_from= is empty: give a path")


@pytest.mark.slow
def test_training_writes_to_its_directory_and_reuses_compiled_programs(
    tiny_config, tmp_path
):
    cache = tmp_path / "cache"
    command = ["experiments.train", f"--config={tiny_config}", "--config.num_steps=4"]
    for name in ("first", "second"):
        workdir = tmp_path / name
        code, output, error = commands.run(
            *command,
            f"--workdir={workdir}",
            XDG_CACHE_HOME=str(cache),
            JAX_COMPILATION_CACHE_DIR="",
        )
        assert (code, error) == (0, "")
        lines = output.splitlines()
        assert lines[0].startswith("diffusionflow: training in ")
        assert any(line.startswith("backend     cpu, 1 x cpu") for line in lines)
        assert any(line.startswith("step 4/4  loss ") for line in lines)
        assert lines[-1].startswith("done: step 4, loss ")
        assert (workdir / "metrics.jsonl").exists()
        compiled = {
            path.name: path.stat().st_mtime_ns
            for path in cache.rglob("*train_step*-cache")
        }
        assert len(compiled) == 1  # what compiles in less than a second may be left out
        if name == "first":
            made = compiled
    assert compiled == made
    assert "diffusionflow" in os.listdir(cache)


def test_a_bad_warm_up_compiles_nothing(tmp_path):
    """It took 111 small programs once."""
    with programs.counted() as counted:
        code, _, error = in_process.run(
            "experiments.train",
            CONFIG,
            f"--workdir={tmp_path / 'run'}",
            "--config.optimizer.warmup_steps=5000000",
        )
    assert (code, counted.compiled) == (2, 0)
    assert "warmup_steps=5000000: must be in [0, num_steps=" in error
