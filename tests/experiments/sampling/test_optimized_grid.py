"""`diffusionflow grid`, and its files as grids of other commands."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest

from diffusionflow import grids, schedules
from diffusionflow.grids import optimized, refinement
from experiments.checkpointing import restore
from experiments.checkpointing.loaded import Request
from experiments.config import build, elsewhere, grid_check, grid_files
from experiments.evaluation import sample_quality
from experiments.runtime.errors import UsageError
from experiments.sampling import generate, optimized_grid
from tests.helpers import in_process

KEPT = pathlib.Path(__file__).parents[2] / "data" / "checkpoint"
FLOW = schedules.FlowMatching()
OWN = dict(name="ddim", num_steps=25, grid="uniform")
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return shutil.copytree(KEPT, tmp_path_factory.mktemp("run"), dirs_exist_ok=True)


def written(path, **changes):
    """A file of a grid, as the command writes it."""
    content = dict(
        format=1, times=[1.0, 0.5, 0.0], num_steps=2, sampler="heun(variable='u')",
        schedule=repr(FLOW),
    )  # fmt: skip
    path.write_text(json.dumps(content | changes))
    return str(path)


@pytest.mark.ci
def test_the_file_of_the_command_is_a_grid_of_others(run, tmp_path):
    flags = [f"--workdir={run}", f"--out={tmp_path / 'a.json'}"]
    command = ["--sampler.num_steps=2", "--num_noises=32", "--max_evaluations=10"]
    code, output, error = in_process.run("experiments.grid", *flags, *command)
    assert (code, error) == (0, "")
    said = json.loads((tmp_path / "a.json").read_text())
    times = np.array(said["times"])
    assert said["sampler"] == "ddim" and said["num_steps"] == 2
    assert re.fullmatch("[0-9a-f]{16}", said["recipe"]["parameters"])
    assert len(said["measured"]) == 1 + len(grids.candidates(2, schedule=FLOW))
    assert str(tmp_path / "a.json") in output
    saved = restore.describe(run, Request()).config["matmul_precision"]
    assert said["recipe"]["matmul_precision"] == saved
    assert said["recipe"]["conditions"] is None  # the data have none
    found = {each["name"]: each["times"] for each in said["measured"]}
    assert found[said["chosen"]] == said["times"]
    section = elsewhere.completed(OWN, {"grid": str(tmp_path / "a.json")})
    np.testing.assert_array_equal(build.grid(section, FLOW), times)  # every digit
    again = in_process.run("experiments.grid", *flags, *command)
    assert again[0] == 2 and "exists: remove it, or choose another" in again[2]


@pytest.mark.ci
def test_sample_takes_sampler_steps_and_grid_from_the_file(run, tmp_path):
    file = written(tmp_path / "a.json")
    drawn = []
    for name, flags in (
        ("file", [f"--sampler.grid={file}"]),
        ("same", ["--sampler.name=heun(variable='u')", "--sampler.num_steps=2"]),
    ):
        out = tmp_path / name
        common = [f"--workdir={run}", "--num_samples=4", f"--out={out}"]
        code, _, error = in_process.run("experiments.sample", *common, *flags)
        assert (code, error) == (0, "")
        with np.load(f"{out}.npz") as arrays:
            drawn.append(dict(arrays))
    np.testing.assert_array_equal(drawn[0]["samples"], drawn[1]["samples"])
    digest = grid_files.read(file).text[-8:]
    assert f"2 steps, grid a#{digest}, guidance" in str(drawn[0]["recipe"])


def test_a_file_is_part_of_what_a_request_says(tmp_path):
    file = written(tmp_path / "a.json")
    section = elsewhere.completed(OWN, {"grid": file})
    assert section | {"grid": ""} == {
        "name": "heun(variable='u')", "num_steps": 2, "grid": "",
    }  # fmt: skip
    parsed = sample_quality.sampler_section(f"ddim@2@{file}", OWN)
    assert parsed == dict(name="ddim", num_steps=2, grid=section["grid"])
    written(tmp_path / "a.json", times=[1.0, 0.4, 0.0])
    with pytest.raises(UsageError, match="has changed from .* put the file back"):
        build.grid(section, FLOW)
    assert elsewhere.completed(OWN, {"grid": file})["grid"] != section["grid"]


def test_the_file_of_the_config_leaves_its_sampler_and_steps(tmp_path):
    file = written(tmp_path / "a.json", num_steps=3)
    own = dict(name="ddim", num_steps=3, grid=file)
    assert elsewhere.completed(own, {}) == own | {"grid": grid_files.read(file).text}
    assert elsewhere.completed(own, {"name": "heun"})["num_steps"] == 3
    assert elsewhere.completed(own, {"grid": file})["num_steps"] == 2


def test_results_record_stem_and_digest_wherever_the_file_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "me@here"
    folder.mkdir()
    found = []
    for file in (written(tmp_path / "a.json"), "a.json", written(folder / "a.json")):
        settings = sample_quality.Settings(samplers=(f"heun@2@{file}", "ddim@9"))
        (section, _) = sample_quality.sampler_sections(settings, OWN)
        request = Request(sampler=section, guidance=1.0, step=0)
        found.append(
            (
                generate.settings(request, ""),
                generate.output_path(tmp_path, request),
                sample_quality.recorded_samplers(settings, OWN),
                sample_quality.sampler_text(section),
            )
        )
        assert len(build.grid(section, FLOW)) == 3  # the path still opens the file
    assert found[0] == found[1] == found[2]
    settings, path, samplers, text = found[0]
    digest = section["grid"][-8:]
    assert settings["sampler.grid"] == f"a#{digest}" and f"_a-{digest}_" in path.name
    assert samplers == [text, "ddim@9"] and text == f"heun@2@a#{digest}"


def test_steps_to_the_data_are_a_number_of_steps_too(tmp_path):
    file = written(tmp_path / "a.json", num_steps=3)
    for count in (2, 3):
        section = dict(name="ddim", num_steps=count, grid=file)
        assert len(build.grid(section, FLOW)) == 3


@pytest.mark.parametrize(
    ("own", "file", "warned"),
    [
        ("unipc", "unipc(order=2)", False),
        ("dpm_solver", "DPM++ 2M", False),
        ("ddim", "unipc(order=2)", True),
        ("unipc(order=3)", "unipc", True),
        ("ddim", "gone_module:Mine()", True),
    ],
)
def test_a_grid_of_another_sampler_is_a_warning(own, file, warned, tmp_path, capsys):
    grid = grid_files.read(written(tmp_path / "a.json", sampler=file)).text
    grid_check.warn_of_other_sampler(dict(name=own, num_steps=2, grid=grid))
    said = capsys.readouterr().err
    assert (f"is the grid of {file}, and not of {own}" in said) == warned
    assert warned or said == ""


WRONG = {
    "steps": ({}, dict(num_steps=7), "sampler.num_steps=7: must be 2, as in sampler"),
    "schedule": (dict(schedule="VE()"), {}, "has times of 'VE\\(\\)', and the sched"),
    "rising": (dict(times=[0.0, 1.0]), {}, "is no sampling grid .*each time must be"),
    "nothing": (dict(times=[]), {}, "is no sampling grid .*give a file of diffusion"),
    "format": (dict(format=9), {}, "format 9: must be 1"),
    "words": (dict(times="uniform"), {}, "is no sampling grid"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_refused(name, tmp_path):
    changes, entries, message = WRONG[name]
    section = OWN | dict(num_steps=2, grid=written(tmp_path / "a.json", **changes))
    with pytest.raises(UsageError, match=message):
        build.grid(section | entries, FLOW)


MISTAKES = {
    "no file": ("sample", ["--sampler.grid=gone.json"], "'gone.json': there is no"),
    "noise": (
        "grid", ["--sampler.name=ddpm", "--sampler.num_steps=3"], "must be determini",
    ),
    "suffix": ("grid", ["--out=grid.txt"], "out='grid.txt': must be a path that ends"),
    "empty": ("grid", ["--out="], "--out=.* is empty"),
    "folder": ("grid", ["--out=/dev/null/a.json"], "a.json: File exists"),
    "evaluations": (
        "grid", ["--sampler.num_steps=3", "--max_evaluations=13"],
        "max_evaluations=13: must be at least 14 for 3 steps.*=14 or more",
    ),
    "name": (
        "grid", ["--sampler.name=DPM++ 2M Karras"], "Karras': names a grid too.*give",
    ),
    "time": ("grid", ["--t_max=2"], r"t_max=2.0: must be in \(0, 1\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, flags, message = MISTAKES[name]
    code, _, error = in_process.run(
        f"experiments.{command}", f"--workdir={run}", *flags
    )
    assert code == 2 and len(error.splitlines()) == 1, error
    assert re.search(message, error), error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("num_steps", [2, 5, 12])
def test_the_fewest_evaluations_are_those_that_search(num_steps):
    least = optimized_grid.fewest_evaluations(num_steps)
    tried = []
    for evaluations in (least - 1, least):
        before = len(tried)
        refinement.refined(
            lambda times: tried.append(times) or (1.0, 1.0),
            grids.uniform(num_steps),
            ends_noisy=False,
            num_parameters=optimized_grid.NUM_PARAMETERS,
            max_evaluations=evaluations // optimized.NUM_STARTS,
        )
        assert (len(tried) > before + 1) == (evaluations == least)


@pytest.mark.parametrize("name", ["edm", "flow_matching"])
def test_the_grid_of_the_config_takes_equally_many_calls(name):
    schedule = schedules.EDM(0.002, 80.0, 7.0) if name == "edm" else FLOW
    section = dict(name="ddim", num_steps=18, grid="karras(rho=3.0)")
    times = optimized_grid.config_grid(section, schedule, 5)
    assert len(times) == 5  # and a step to the data
    assert optimized_grid.config_grid(section | {"grid": "a.json"}, schedule, 5) is None
    uniform = optimized_grid.config_grid(section | {"grid": "uniform"}, schedule, 5)
    np.testing.assert_array_equal(uniform, grids.uniform(len(uniform) - 1))
    assert len(uniform) == (5 if name == "edm" else 6)
