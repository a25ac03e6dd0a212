"""`diffusionflow export`: a run's weights as files, and what is refused."""

import dataclasses
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
from experiments.checkpointing import diffusers_format, exporting, restore
from experiments.checkpointing.loaded import Request
from experiments.checkpointing.manager import Checkpoints
from experiments.config.published import PublishedNetwork
from experiments.runtime.errors import UsageError
from experiments.training import loop
from tests.helpers import in_process, tiny
from tests.helpers.pretrained_weights import state_of
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
    "diffusers": (
        ["--format=diffusers"],
        "no ResidualMLP: must be a UNet .*; train a",
    ),
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
    config = diffusers_format.scheduler_config(schedule, kind)
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
    config = json.loads(json.dumps(diffusers_format.configs(model)[0]))
    assert config["sample_size"] == size
    assert folders.ARCHITECTURES[config["_class_name"]](config) == module


def test_a_shared_embedding_is_copied_into_each_block():
    module = DiTTransformer2D(
        num_attention_heads=2, attention_head_dim=4, in_channels=1, num_layers=2,
        sample_size=8, num_embeds_ada_norm=2, shared_embedding=True,
    )  # fmt: skip
    state = state_of(module)
    params = interop.parameters.params_of(module, state, "a DiT")
    model = types.SimpleNamespace(
        net=PublishedNetwork(module, "diffusers", 2), event_shape=(8, 8, 1)
    )
    moved = diffusers_format.params(model, params)
    there = dataclasses.replace(module, shared_embedding=False)
    z, time, label = jnp.ones((2, 8, 8, 1)), jnp.array([3.0, 500.0]), jnp.array([0, 2])
    exact, found = (
        jax.jit(net.apply)({"params": each}, z, time, label)
        for net, each in ((module, params), (there, moved))
    )
    assert np.abs(exact).max() > 0
    np.testing.assert_array_equal(found, exact)


def test_timesteps_of_our_networks_are_their_times():
    """Level n of the table is the network's time at timestep n."""
    model = types.SimpleNamespace(
        objective=types.SimpleNamespace(schedule=schedules.FlowMatching(), kind="x"),
        sigma_data=1.0,
    )
    config = json.loads(json.dumps(diffusers_format.level_config(model)))
    found = interop.from_diffusers(config)
    n = np.array([1, 2, 50, 1234, 9998, 9999])
    t = (n + 1) / 10_000
    np.testing.assert_allclose(found.clock_fn(t), n, rtol=1e-12)
    level = found.schedule.noise_level(t)
    np.testing.assert_allclose(level, n / 10_000, rtol=1e-8)
    assert str(found.kind) == "x"


OURS = {
    "scale": (dict(sigma_data=0.5), "sigma_data=0.5: must be 1, as no scheduler"),
    "u": (dict(kind="u"), "u on .*: must be eps or x, or v on a schedule with"),
    "v": (dict(kind="v"), "v on FlowMatching"),
    "v of a chain": (dict(kind="v", schedule=schedules.Cosine()), None),
}


@pytest.mark.parametrize("name", OURS)
def test_what_no_scheduler_of_diffusers_does_is_refused(name):
    change, message = OURS[name]
    settings = dict(schedule=schedules.FlowMatching(), kind="eps", sigma_data=1.0)
    settings |= change
    scale = settings.pop("sigma_data")
    model = types.SimpleNamespace(
        objective=types.SimpleNamespace(**settings), sigma_data=scale
    )
    if message is None:
        assert diffusers_format.level_config(model)["prediction_type"] == "v_prediction"
        return
    with pytest.raises(ValueError, match=message):
        diffusers_format.level_config(model)


@pytest.mark.ci
def test_our_dit_is_exported_as_one_of_diffusers(tmp_path):
    """It predicts what the run does at the same noise, of z scaled to unit variance."""
    config = tiny.config(num_steps=3, eval__every=0, samples__every=0)
    config.network = dict(
        name="dit", features=16, num_blocks=1, num_heads=2, max_frequency=1e4
    )
    config.data = dict(name="digits")
    config.objective.update(kind="x", weighting="mse(kind='x')")
    loop.train_and_evaluate(config, tmp_path / "run")
    settings = exporting.Settings(str(tmp_path / "out"), "diffusers", "raw")
    model = interop.load(exporting.export(tmp_path / "run", settings))
    loaded = restore.load(tmp_path / "run", Request(weights="raw"))
    assert isinstance(model.network.module, DiTTransformer2D)
    z = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    n, label = jnp.array([3.0, 500.0, 6000.0]), jnp.array([0, 9, 10])
    predict_fn = loaded.model.predict_fn(loaded.params, label)
    exact = jax.jit(lambda z, t: predict_fn(z, t))(z, n / 10_000)  # flow matching
    scale = jnp.sqrt((1 - n / 10_000) ** 2 + (n / 10_000) ** 2)[:, None, None, None]
    found = jax.jit(lambda z, t: model.predict_fn(z, t, label))(
        z / scale, (n + 1) / 10_000
    )
    assert np.abs(exact).max() > 0
    np.testing.assert_allclose(found, exact, atol=1e-4 * np.abs(exact).max())


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
        diffusers_format.scheduler_config(schedules.Cosine(), "eps")
