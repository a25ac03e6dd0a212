"""Long draws in parts: the files, and the command that is killed and goes on."""

import contextlib
import json
import os
import pathlib
import signal
import time

import jax
import numpy as np
import pytest

from experiments.checkpointing.loaded import Request
from experiments.runtime.errors import UsageError
from experiments.sampling import compiled_sampler
from experiments.sampling.sample_run import sample_run
from experiments.sampling.shards import Shards, quarantine
from experiments.training import loop
from tests.helpers import commands, tiny

SETTINGS = {"seed": 0, "label": None, "sampler.name": "ddim", "shard_size": 4}
X = np.random.default_rng(0).normal(size=(10, 2, 3)).astype(np.float32)


def shards(path, settings=SETTINGS, count=10, size=4):
    return Shards(path, settings, count=count, size=size)


def begin(parts):
    """As a process that has ended since."""
    with contextlib.ExitStack() as stack:
        parts.begin(stack)


def filled(path, numbers=(0, 1, 2)):
    parts = shards(path)
    begin(parts)
    for number in numbers:
        start, stop = parts.bounds[number]
        other = np.arange(start, stop, dtype=np.int16)
        parts.write(number, number, samples=X[start:stop], other=other)
    return parts


def test_shards_become_one_file(tmp_path):
    parts = filled(tmp_path / "a")
    assert parts.bounds == [(0, 4), (4, 8), (8, 10)]
    np.testing.assert_array_equal(parts.first(6), X[:6])
    assert parts.first(6, "other").tolist() == list(range(6))
    assert not parts.complete()
    assert parts.conclude(labels=np.arange(10), recipe="how") == 3
    begin(parts)  # as left by a kill after the result was written
    assert parts.complete() and shards(tmp_path / "a").complete()
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["samples"], X)
        assert file["other"].tolist() == list(range(10))
        assert file["other"].dtype == np.int16
        assert set(file.files) == {"samples", "other", "labels", "recipe", "settings"}
        assert file["labels"].tolist() == list(range(10))
        assert str(file["recipe"]) == "how"
        settings = json.loads(str(file["settings"]))
    assert settings == {key: SETTINGS[key] for key in SETTINGS if key != "shard_size"}


def test_finished_shards_are_checked(tmp_path, capsys):
    parts = filled(tmp_path / "a", numbers=(0, 1))
    assert [parts.finished(number) for number in range(3)] == [True, True, False]
    assert parts.num_finished() == 2 and capsys.readouterr().out == ""
    path = parts.folder / "000000004.npz"
    whole = path.read_bytes()
    for corrupted in (whole[:-30], whole[:150] + b"\0" * 8 + whole[158:], b""):
        path.write_bytes(corrupted)
        assert not parts.finished(1)
        assert "made again, as it is corrupted" in capsys.readouterr().out
    path.write_bytes((parts.folder / "000000000.npz").read_bytes())
    assert parts.finished(1)  # of the right size: names are trusted
    for short in ({"samples": X[:3]}, {"samples": X[:4], "other": X[:3]}):
        parts.write(1, **short)
        assert not parts.finished(1)


def test_half_written_files_are_swept_away(tmp_path):
    parts = filled(tmp_path / "a", numbers=(0,))
    left, other = (
        parts.folder / f".000000004.npz.{pid}.tmp" for pid in (4_999_999, os.getppid())
    )
    for path in (left, other):
        path.write_bytes(b"half")
    begin(shards(tmp_path / "a"))
    assert not left.exists() and parts.finished(0)
    assert other.exists()  # of a process that is at it


def test_draws_of_another_value_are_renamed_and_those_of_the_same_are_not(tmp_path):
    """Ended or under way; each gets a name of its own, and nothing is lost."""
    for turn in range(3):
        parts = filled(tmp_path / "a", numbers=(0, 1, 2))
        if turn < 2:
            parts.conclude(labels=np.full(10, turn))
        (tmp_path / "a.png").write_text(str(turn))
        assert quarantine(tmp_path / "a", "seed", 0) is None
        new = quarantine(tmp_path / "a", "seed", 1)
        assert new == f"a_seed_0_{turn + 1}"
        assert not list(tmp_path.glob("a.*"))
        assert (tmp_path / f"{new}.png").read_text() == str(turn)
        if turn < 2:
            with np.load(tmp_path / f"{new}.npz") as file:
                assert file["labels"].tolist() == [turn] * 10
        else:
            assert len(list((tmp_path / f"{new}.shards").glob("*.npz"))) == 3


def test_the_draw_is_renamed_last(tmp_path, monkeypatch):
    """Or one that is killed on the way would leave its picture to be overwritten."""
    filled(tmp_path / "a").conclude()
    (tmp_path / "a.png").write_text("")
    rename = pathlib.Path.rename

    def killed(path, new):
        rename(path, new)
        raise KeyboardInterrupt

    monkeypatch.setattr(pathlib.Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        quarantine(tmp_path / "a", "seed", 1)
    monkeypatch.undo()
    assert (tmp_path / "a.npz").exists() and (tmp_path / "a_seed_0_1.png").exists()
    assert quarantine(tmp_path / "a", "seed", 1) == "a_seed_0_2"


@pytest.mark.parametrize("done", [False, True])
def test_other_settings_are_refused_in_one_line(tmp_path, done):
    parts = filled(tmp_path / "a")
    if done:
        parts.conclude()
    shards(tmp_path / "a")
    with pytest.raises(
        UsageError, match=r"seed 0 there, 1 now; give the same"
    ) as error:
        shards(tmp_path / "a", SETTINGS | {"seed": 1})
    assert len(str(error.value).splitlines()) == 1
    other = SETTINGS | {"shard_size": 5}
    if done:
        assert shards(tmp_path / "a", other, size=5).complete()
    else:
        with pytest.raises(UsageError, match="shard_size 4 there, 5 now"):
            shards(tmp_path / "a", other, size=5)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    """But for what a start leaves that was killed before it had settings."""
    folder = tmp_path / "a.shards"
    folder.mkdir()
    for name in (".lock", ".settings.json.7.tmp"):
        (folder / name).touch()
    begin(shards(tmp_path / "a"))
    (folder / "settings.json").rename(folder / "mine.json")
    with pytest.raises(UsageError, match="a.shards was not written by this command"):
        shards(tmp_path / "a")
    assert (folder / "mine.json").exists()


def test_a_file_of_something_else_is_not_overwritten(tmp_path):
    np.savez(tmp_path / "a.npz", samples=X)
    with pytest.raises(
        UsageError, match="was not written by this command: choose another"
    ):
        shards(tmp_path / "a")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run on points."""
    workdir = tmp_path_factory.mktemp("run")
    config = tiny.config(
        num_steps=3, eval__every=0, samples__every=0, checkpoint__every=3
    )
    with jax.numpy_dtype_promotion("standard"):
        loop.train_and_evaluate(config, workdir)
    return workdir


def samples(path):
    with np.load(path) as file:
        return file["samples"]


@pytest.mark.slow
def test_sample_i_does_not_depend_on_shards_and_devices(workdir, tmp_path, monkeypatch):
    draw = lambda name, **settings: samples(
        sample_run(
            workdir, Request(num_samples=150, out=str(tmp_path / name), **settings)
        )
    )
    whole = draw("whole")  # on eight devices, 128 at once
    for size in (16, 37):
        np.testing.assert_array_equal(draw(f"{size}", shard_size=size), whole)
    one = jax.devices()[:1]
    monkeypatch.setattr(
        compiled_sampler.sharding, "data_mesh", lambda count=None: mesh_of(one)
    )
    np.testing.assert_array_equal(draw("one", shard_size=64), whole)


def mesh_of(devices):
    kinds = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), ("data",), axis_types=kinds, devices=devices)


@pytest.mark.ci
def test_what_is_there_is_not_drawn_again(workdir, tmp_path, monkeypatch, capsys):
    request = Request(num_samples=40, shard_size=16, out=str(tmp_path / "a"))
    drawn, original = [], compiled_sampler.make_sample_fn

    def counting(*args, **settings):
        sample_fn = original(*args, **settings)

        def draw(params, seed, labels, first, advance):
            drawn.append(first)
            if len(drawn) == 3:
                raise RuntimeError("the machine stops")
            return sample_fn(params, seed, labels, first, advance)

        return draw

    monkeypatch.setattr(compiled_sampler, "make_sample_fn", counting)
    with pytest.raises(RuntimeError):
        sample_run(workdir, request)
    path = sample_run(workdir, request)
    assert drawn == [0, 16, 32, 32]
    assert "8 samples in" in capsys.readouterr().out
    assert sample_run(workdir, request) == path
    assert len(drawn) == 4 and "sampled already" in capsys.readouterr().out
    expected = sample_run(workdir, request._replace(out=str(tmp_path / "b")))
    np.testing.assert_array_equal(samples(path), samples(expected))


def command(workdir, out, *arguments):
    return (
        "experiments.sample",
        f"--workdir={workdir}",
        f"--out={out}",
        "--num_samples=160",
        "--sampler.name=ddpm",
        "--sampler.num_steps=4000",
        *arguments,
    )


def interrupted(number, *arguments, **environment):
    """Sends a signal once two shards are there; exit code and standard error."""
    process = commands.start(*arguments, **environment)
    out = next(text for text in arguments if text.startswith("--out="))[6:]
    folder = type(commands.ROOT)(out + ".shards")
    deadline = time.monotonic() + 240
    while len(list(folder.glob("0*.npz"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    _, error = process.communicate(timeout=240)
    return process.returncode, error


@pytest.mark.slow
def test_a_killed_draw_goes_on_and_is_the_same(workdir, tmp_path):
    """1 device against 8, shards of 16 against 64, straight against SIGKILL."""
    given = os.environ.get("XLA_FLAGS", "")
    eight = {"XLA_FLAGS": f"{given} --xla_force_host_platform_device_count=8"}
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    code, _, error = commands.run(
        *command(workdir, straight, "--shard_size=64"), **eight
    )
    assert code == 0, error
    arguments = command(workdir, killed, "--shard_size=16")
    code, _ = interrupted(signal.SIGKILL, *arguments)
    assert code == -signal.SIGKILL
    assert not killed.with_suffix(".npz").exists()
    code, _, error = commands.run(*arguments, "--seed=1")
    assert code == 2 and len(error.splitlines()) == 1
    assert "seed 0 there, 1 now" in error
    before = len(list((tmp_path / "killed.shards").glob("0*.npz")))
    for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")):
        if before > 7:
            break
        process = commands.start(*arguments)
        while len(list((tmp_path / "killed.shards").glob("0*.npz"))) <= before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(number)
        _, error = process.communicate(timeout=240)
        assert process.returncode == 128 + number
        assert error.startswith(f"stopped by {name}: ")
        assert len(error.splitlines()) == 1 and "the same command goes on" in error
        before = len(list((tmp_path / "killed.shards").glob("0*.npz")))
    code, output, error = commands.run(*arguments)
    assert code == 0, error
    assert f"{160 - 16 * before} samples in" in output
    np.testing.assert_array_equal(
        samples(killed.with_suffix(".npz")), samples(straight.with_suffix(".npz"))
    )
    assert not (tmp_path / "killed.shards").exists()
    code, output, _ = commands.run(*arguments)
    assert code == 0 and "sampled already" in output
