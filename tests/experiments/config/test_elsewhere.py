"""Names of other libraries in `sampler.name`, and the grids that go with them."""

import numpy as np
import pytest

from diffusionflow import samplers, schedules
from experiments.config import build, elsewhere
from experiments.runtime.errors import UsageError

FLOW = schedules.FlowMatching()


def section(name, grid="by_name"):
    return dict(name=name, num_steps=6, grid=grid)


@pytest.mark.parametrize("name", ["DPM++ 2M Karras", "euler_a", "LMS", "DPM fast"])
def test_a_name_gives_its_sampler_and_grid(name):
    found, expected = build.sampling(section(name), FLOW), samplers.by_name(name)
    assert found.sampler is expected.sampler
    times = expected.grid_fn(6, schedule=FLOW)
    np.testing.assert_array_equal(found.times, times)


def test_a_grid_that_is_given_is_kept():
    own = section("ddim", "quadratic")
    completed = elsewhere.completed(own, {"name": "DPM++ 2M"})
    assert completed["grid"] == "by_name"
    completed = elsewhere.completed(own, {"name": "DPM++ 2M", "grid": "cosine"})
    found = build.sampling(completed, FLOW)
    assert found.sampler == samplers.DPMSolver(2) and len(found.times) == 7
    assert elsewhere.completed(own, {"name": "heun"})["grid"] == "quadratic"
    assert elsewhere.completed(own, {"num_steps": 3})["grid"] == "quadratic"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (section("DPM++ 2M Karras", "uniform"), "names a grid too; .*=by_name"),
        (section("heun"), "'heun' is no name of another library"),
        (section("DPM adaptive"), "sampler.name: .*not shipped; samplers.solve_dpm"),
        (section("DPM++ 2M Beta"), "sampler.name: .*grid 'beta'"),
        (section("DDIM", "uniform"), "sampler.name: unknown name 'DDIM'; known: ddim"),
        (section("DPM++ 9M", "uniform"), "sampler.name='DPM.*must be a name"),
    ],
)
def test_refusals(given, message):
    with pytest.raises(UsageError, match=message):
        build.sampling(given, FLOW)
