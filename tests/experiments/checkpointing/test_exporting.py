"""`diffusionflow export`: a run's weights as files, and what is refused."""

import json
import pathlib
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import interop, schedules
from diffusionflow.interop import folders
from diffusionflow.networks.pretrained import DiTTransformer2D, UNet2D
from experiments.checkpointing import exporting, restore
from experiments.checkpointing.loaded import Request
from experiments.checkpointing.manager import Checkpoints
from experiments.config.published import PublishedNetwork
from experiments.runtime.errors import UsageError
from experiments.training import loop
from tests.helpers import in_process, tiny
from tests.helpers.trees import same

pytest.importorskip("safetensors.numpy")
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A few steps that store averages of two widths."""
    workdir = tmp_path_factory.mktemp("run")
    widths = dict(ema__sigma_rel=(0.1, 0.2), ema__store_every=2)
    never = dict(eval__every=0, samples__every=0)
    with jax.numpy_dtype_promotion("standard"):
        loop.train_and_evaluate(tiny.config(num_steps=4, **widths, **never), workdir)
    return workdir


KINDS = {
    "ema": {},
    "raw": {"weights": "raw"},
    "any width": {"sigma_rel": 0.15},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_weights_are_those_of_the_checkpoint_bit_for_bit(name, run, tmp_path):
    given = {"weights": "ema", **KINDS[name]}
    loaded = restore.load(run, Request(**given))
    out = exporting.export(run, exporting.Settings(str(tmp_path / "out"), **given))
    model = interop.load(out)
    assert same(model.network.params, loaded.params)
    assert model.config["exported"]["digest"] == loaded.digest
    assert model.config["num_classes"] == loaded.model.num_classes == 2
    z, t = jnp.ones((2, 2)), jnp.array([0.2, 0.9])
    label = jnp.array([0, 1])
    exact = jax.jit(loaded.model.predict_fn(loaded.params, label))(z, t)
    found = jax.jit(lambda z, t: model.predict_fn(z, t, label))(z, t)
    np.testing.assert_array_equal(found, exact)


MISTAKES = {
    "format": (["--format=onnx"], "format=onnx"),
    "diffusers": (["--format=diffusers"], "diffusers has no ResidualMLP as it is"),
    "exists": (["--out=."], "exists: give the path of a new folder"),
    "empty": (["--out="], "--out=: is empty|out= is empty|out.*is empty"),
    "no step": (["--step=3"], r"step=3: must be one of \[4\], the steps in "),
    "no run": (["--workdir=/nowhere/at/all"], "no checkpoints in /nowhere/at/all"),
    "width": (["--sigma_rel=9"], "sigma_rel"),
}


@pytest.mark.ci
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong, message = MISTAKES[name]
    given = [f"--workdir={run}", "--out=out", *wrong]
    code, _, error = in_process.run("experiments.export", *given)
    assert code == 2 and len(error.splitlines()) == 1, error
    assert re.search(message, error), error
    assert not list(tmp_path.iterdir())


@pytest.mark.ci
def test_flags_arrive(run, tmp_path):
    out = tmp_path / "out"
    flags = ["--weights=raw", "--step=4", f"--out={out}"]
    code, output, error = in_process.run(
        "experiments.export", f"--workdir={run}", *flags
    )
    assert (code, error) == (0, "")
    assert re.search(r"^raw weights of step 4, weights [0-9a-f]{16}$", output, re.M)
    said = json.loads((out / "config.json").read_text())["exported"]
    assert (said["step"], said["weights"]) == (4, "raw weights of step 4")
    assert sorted(path.name for path in pathlib.Path(out).iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]


SCHEDULERS = {
    "chain": (schedules.Discrete.linear_betas(), "eps"),
    "flow": (schedules.FlowMatching(), "u"),
    "shifted": (schedules.Shifted(schedules.FlowMatching(), 3.0), "u"),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_scheduler_means_the_same_schedule(name):
    schedule, kind = SCHEDULERS[name]
    config = exporting.scheduler_config(schedule, kind)
    found = interop.from_diffusers(json.loads(json.dumps(config)))
    t = np.linspace(0.1, 1, 10)
    assert str(found.kind) == kind
    np.testing.assert_allclose(found.schedule.alpha(t), schedule.alpha(t), rtol=1e-12)
    exact = interop.from_schedule(schedule, kind).clock_fn(t)
    np.testing.assert_allclose(found.clock_fn(t), exact, rtol=1e-12)


NETWORKS = {  # on data of 8 x 8
    "DiT": (DiTTransformer2D(in_channels=1, sample_size=16), 16),
    "U-Net": (UNet2D(in_channels=1, out_channels=1, num_class_embeds=3), 8),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_config_for_diffusers_is_of_the_same_network(name):
    """A DiT places its patches by its own sample_size, not by the data's."""
    module, size = NETWORKS[name]
    objective = types.SimpleNamespace(
        schedule=schedules.Discrete.linear_betas(), kind="eps"
    )
    model = types.SimpleNamespace(
        net=PublishedNetwork(module, "diffusers", 2),
        objective=objective,
        event_shape=(8, 8, 1),
    )
    config = json.loads(json.dumps(exporting.for_diffusers(model)[0]))
    assert config["sample_size"] == size
    assert folders.ARCHITECTURES[config["_class_name"]](config) == module


@pytest.mark.ci
def test_a_network_of_ones_own_is_refused_before_the_weights_are_read(
    run, tmp_path, monkeypatch
):
    own = lambda net: (types.SimpleNamespace(depth=3), "diffusionflow")
    monkeypatch.setattr(exporting.published, "unwrapped", own)
    monkeypatch.setattr(Checkpoints, "restore", lambda *each: pytest.fail("was read"))
    with pytest.raises(UsageError, match="network: .* is none of this library"):
        exporting.export(run, exporting.Settings(str(tmp_path / "out")))


def test_a_schedule_that_diffusers_has_not_is_refused():
    with pytest.raises(ValueError, match="no scheduler for eps on Cosine"):
        exporting.scheduler_config(schedules.Cosine(), "eps")
