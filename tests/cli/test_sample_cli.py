"""The command line of sampling, and images in the levels of their data."""

import re

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.training import loop
from tests.helpers import commands, in_process, tiny


def train(workdir, **overrides):
    """A short run in this process."""
    config = tiny.config(
        num_steps=3, eval__every=0, samples__every=0, checkpoint__every=3, **overrides
    )
    with jax.numpy_dtype_promotion("standard"):
        loop.train_and_evaluate(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    return train(tmp_path_factory.mktemp("points"))


MISTAKES = {
    "unknown sampler": (["--sampler.name=hun"], "sampler.name: .*did you mean 'heun'?"),
    "unknown argument": (
        ["--sampler.name=heun(varible='v')"],
        "did you mean 'variable'?",
    ),
    "class out of range": (["--label=10"], r"label=10: must be in 0\.\.1"),
    "no samples": (["--num_samples=0"], "--num_samples=0"),
    "unknown weights": (["--weights=emma"], "should be one of <ema|raw>"),
    "misspelt flag": (["--guidence=2"], "'guidence'. Did you mean: guidance"),
    "stray argument": (["3"], "unexpected argument '3'"),
    "no such class": (["--label=cat"], r"label='cat': must be in 0\.\.1, .*no names"),
    "too strong": (
        ["--init_image=/", "--strength=1.5"],
        r"strength=1.5: must be in \[0, 1\]",
    ),
    "no strength": (
        ["--init_image=/", "--strength=nan"],
        "strength=nan: must be a finite number",
    ),
    "no picture": (["--init_image=gone.png"], "'gone.png': no such file or folder"),
    "strength of nothing": (["--strength=1"], "--strength needs --init_image"),
    "mask of nothing": (["--mask=/"], "--mask needs --init_image"),
    "two wishes": (["--init_image=/", "--mask=/", "--invert"], "--mask does not go"),
    "one column": (
        ["--interpolate=1,2", "--columns=1"],
        "columns=1: .*range .2, 1000.",
    ),
    "one end": (["--interpolate=1"], "'1': must be two seeds or two paths, such as"),
    "one seed": (["--interpolate=1,1"], "two different seeds in 0..4294967295"),
    "no end": (["--interpolate=1,b"], "interpolate='1': no such file or folder"),
    "a picture for points": (["--init_image=/etc/hosts"], "have shape .2.: give an"),
    "no name": (["--out=."], "out='.': must be a path that ends in a name"),
    "no folder": (["--out=/etc/hosts/x"], "--out=/etc/hosts/x: Not a directory"),
    "a long name": ([f"--out={'x' * 300}"], "--out=x*: File name too long"),
    "no grid": (["--sampler.grid=karras(rho='a')"], "sampler.grid: karras: "),
    "no plan": (
        ["--sampler.name=restart(rho_max=0.5)", "--sampler.grid=uniform(t_min=0.5)"],
        "sampler.name: .*rho_max=0.5: must be above",
    ),
    "no run": (["--workdir=/nowhere/at/all"], "no checkpoints in /nowhere/at/all"),
}


@pytest.mark.parametrize(
    ("run", "name"),
    [(in_process.run, name) for name in MISTAKES] + [(commands.run, "unknown sampler")],
    ids=[*MISTAKES, "unknown sampler, as a process"],
)
def test_a_mistake_gives_one_line_and_exit_code_2(points, run, name):
    arguments, message = MISTAKES[name]
    code, output, error = run("experiments.sample", f"--workdir={points}", *arguments)
    assert (code, commands.without_announcements(output)) == (2, "")
    assert len(error.splitlines()) == 1, error
    assert error.startswith("error: ")
    assert re.search(message, error), error


def test_a_picture_of_somebodys_is_not_overwritten(points, tmp_path):
    (tmp_path / "mine.png").write_text("a picture")
    out = f"--out={tmp_path / 'mine'}"
    found = in_process.run("experiments.sample", f"--workdir={points}", out)
    assert found[0] == 2 and "mine.png is there without mine.npz" in found[2]
    assert (tmp_path / "mine.png").read_text() == "a picture"


@pytest.mark.ci
def test_flags_arrive(points, tmp_path):
    code, output, error = commands.run(
        "experiments.sample",
        f"--workdir={points}",
        f"--out={tmp_path / 'drawn'}",
        "--num_samples=6",
        "--label=1",
        "--seed=3",
        "--guidance=2.5",
        "--weights=raw",
        "--batch_size=2",
        "--sampler.name=churn(churn=0.25)",
        "--sampler.num_steps=3",
        "--sampler.grid=logsnr_uniform(logsnr_min=-5.0)",
    )
    assert (code, error) == (0, "")
    with np.load(tmp_path / "drawn.npz") as file:
        assert file["samples"].shape == (6, 2)
        assert file["labels"].tolist() == [1] * 6
        recipe = str(file["recipe"])
    assert recipe == (
        "raw weights of step 3, churn(churn=0.25), 3 steps, "
        "grid logsnr_uniform(logsnr_min=-5.0), guidance 2.5, seed 3"
    )
    assert recipe in output


@pytest.mark.slow
def test_images_come_in_the_levels_of_their_data(tmp_path):
    network = dict(name="unet", channels=8, multipliers=(1,), num_blocks=1)
    workdir = train(tmp_path / "run", data={"name": "digits"}, network=network)
    code, output, error = commands.run(
        "experiments.sample", f"--workdir={workdir}", "--num_samples=23", "--guidance=3"
    )
    assert (code, error) == (0, "")
    path = re.search(r"^(\S+[.]npz)", output, re.MULTILINE)[1]
    with np.load(path) as file:
        samples, labels, levels = file["samples"], file["labels"], int(file["levels"])
    assert samples.shape == (23, 8, 8, 1)
    assert samples.dtype == np.uint8
    assert levels == 17
    assert samples.max() == 16  # an untrained network leaves noise, which is clamped
    assert labels.tolist() == [i % 10 for i in range(23)]
    assert re.search(r"[1-9]\d*[.]\d+% of their values lay outside", output)
    grid = Image.open(path.replace(".npz", ".png"))
    assert grid.size == (10 * 66, 3 * 66)


@pytest.mark.ci
def test_samples_that_are_not_finite_are_no_result(points, tmp_path):
    out = tmp_path / "black"
    code, _, error = in_process.run(
        "experiments.sample",
        f"--workdir={points}",
        "--guidance=1e30",
        "--num_samples=4",
        f"--out={out}",
    )
    assert code == 3 and len(error.splitlines()) == 1
    assert re.match(r"error: 4 of 4 samples are not finite.*guidance 1e\+30", error)
    assert not list(tmp_path.iterdir())  # nor a folder of no shards
