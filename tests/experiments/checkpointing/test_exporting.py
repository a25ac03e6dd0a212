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
from diffusionflow.networks import DiT, UNet
from diffusionflow.networks.pretrained import DiTTransformer2D, UNet2D
from experiments.checkpointing import diffusers_format, exporting, restore
from experiments.checkpointing.loaded import Loaded, Request
from experiments.checkpointing.manager import Checkpoints
from experiments.config.model import Model
from experiments.config.published import PublishedNetwork
from experiments.data.base import DataTransform
from experiments.runtime.errors import UsageError
from experiments.training import loop
from tests.helpers import in_process, tiny
from tests.helpers.networks import arguments, perturbed
from tests.helpers.pretrained_runs import close
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


CHAIN = "diffusers"  # the convention of its chains of levels
NETWORKS = {  # on data of 8 x 8
    "DiT": (DiTTransformer2D(in_channels=1, sample_size=16), 16),
    "U-Net": (UNet2D(in_channels=1, out_channels=1, num_class_embeds=3), 8),
}


def objective(schedule, kind):
    return types.SimpleNamespace(schedule=schedule, kind=kind)


def model_of(net, objective, sigma_data=1.0, shape=(8, 8, 1)):
    return Model(net, objective, DataTransform(None), shape, 2, sigma_data)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_config_for_diffusers_is_of_the_same_network(name):
    """A DiT places its patches by its own sample_size, not by the data's."""
    module, size = NETWORKS[name]
    chain = objective(schedules.Discrete.linear_betas(), "eps")
    plan = diffusers_format.plan(model_of(PublishedNetwork(module, CHAIN, 2), chain))
    config = json.loads(json.dumps(plan.config))
    assert config["sample_size"] == size
    assert folders.ARCHITECTURES[config["_class_name"]](config) == module


SMALL = DiTTransformer2D(in_channels=1, num_layers=1, num_embeds_ada_norm=2)
NOT_IN_DIFFUSERS = {
    "sit": (
        PublishedNetwork(SMALL, "sit", 2),
        "no DiTTransformer2D as it is called by network.convention=sit; or take",
    ),
    "frequency": (
        PublishedNetwork(SMALL.clone(frequency_shift=0.0), CHAIN, 2),
        "network.frequency_shift=0: must be 1, as diffusers has it, or take",
    ),
    "ours": (
        DiT(features=8, num_heads=2),
        "max_frequency=1000: must be 10000; train a network that it has, such as",
    ),
}


@pytest.mark.parametrize("name", NOT_IN_DIFFUSERS)
def test_a_network_that_diffusers_has_not_is_refused(name):
    net, message = NOT_IN_DIFFUSERS[name]
    chain = objective(schedules.Discrete.linear_betas(), "eps")
    with pytest.raises(UsageError, match=f"^--format=diffusers: .*{message}"):
        diffusers_format.plan(model_of(net, chain))


def test_a_shared_embedding_is_copied_into_each_block():
    module = DiTTransformer2D(
        num_attention_heads=2, attention_head_dim=4, in_channels=1, num_layers=2,
        sample_size=8, num_embeds_ada_norm=2, shared_embedding=True,
    )  # fmt: skip
    state = state_of(module)
    params = interop.parameters.params_of(module, state, "a DiT")
    model = model_of(PublishedNetwork(module, CHAIN, 2), None)
    moved = diffusers_format.params(model, module, params)
    there = dataclasses.replace(module, shared_embedding=False)
    z, time, label = jnp.ones((2, 8, 8, 1)), jnp.array([3.0, 500.0]), jnp.array([0, 2])
    exact, found = (
        jax.jit(net.apply)({"params": each}, z, time, label)
        for net, each in ((module, params), (there, moved))
    )
    assert np.abs(exact).max() > 0
    np.testing.assert_array_equal(found, exact)


def products(betas, dtype):
    """`alphas_cumprod` as diffusers computes it from betas, float32.

    PyTorch's product on a CPU accumulates float64, that of some accelerators float32.
    """
    alphas = np.float32(1) - np.float32(betas)
    return np.cumprod(alphas, dtype=dtype).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_levels_in_the_float32_of_diffusers_are_times_of_our_networks(dtype):
    """At timestep n it is `sigma / (alpha + sigma) = n / 10000`.

    Numbers below alpha^2 = 1 are 2^-24 apart; the lowest 7 levels are nearer than that.
    """
    model = model_of(None, objective(schedules.FlowMatching(), "x"))
    config = json.loads(json.dumps(diffusers_format.level_config(model)))
    betas = config["trained_betas"]
    np.testing.assert_array_equal(np.float32(betas), betas)
    found = products(betas, dtype).astype(float)
    assert (np.diff(found) < 0).all() and found[0] == 1 - 2.0**-24
    n = np.arange(7, 10_000)
    exact = (10_000.0 - n) ** 2 / ((10_000.0 - n) ** 2 + n**2)
    drift = 0 if dtype == np.float64 else 1e-5  # of 10,000 roundings
    np.testing.assert_allclose(found[7:], exact, rtol=drift, atol=2.0**-24)
    off = np.sqrt((1 - found[7:]) / (1 - exact)) - 1  # of sigma
    assert abs(off).max() < 0.015 and abs(off[n >= 50]).max() < 1e-3


def test_timesteps_of_our_networks_are_their_times():
    """As `interop.from_diffusers` reads the config."""
    model = model_of(None, objective(schedules.FlowMatching(), "x"))
    config = json.loads(json.dumps(diffusers_format.level_config(model)))
    found = interop.from_diffusers(config)
    n = np.array([1, 2, 100, 1234, 9998, 9999])
    t = (n + 1) / 10_000
    np.testing.assert_allclose(found.clock_fn(t), n, rtol=1e-12)
    level = found.schedule.noise_level(t)
    np.testing.assert_allclose(level[2:], n[2:] / 10_000, rtol=2e-4)
    assert str(found.kind) == "x" and config["timestep_spacing"] == "trailing"


OURS = {
    "scale": (dict(sigma_data=0.5), "sigma_data=0.5: must be 1, as no scheduler"),
    "u": (dict(kind="u"), "u on .*: must be eps or x, or v on a schedule with"),
    "v": (dict(kind="v"), "v on FlowMatching"),
    "v of scaled z": (
        dict(kind="v", schedule=schedules.VE(0.02, 100.0)),
        r"v on VE.*alpha\^2 \+ sigma\^2 = 1",
    ),
}


@pytest.mark.parametrize("name", OURS)
def test_what_no_scheduler_of_diffusers_does_is_refused(name):
    change, message = OURS[name]
    given = dict(schedule=schedules.FlowMatching(), kind="eps", sigma_data=1.0) | change
    model = model_of(
        None, objective(given["schedule"], given["kind"]), given["sigma_data"]
    )
    with pytest.raises(ValueError, match=message):
        diffusers_format.level_config(model)


@pytest.mark.parametrize(
    "schedule",
    [schedules.Cosine(), schedules.Discrete.linear_betas()],
    ids=["cosine", "chain"],
)
def test_v_of_a_variance_preserving_schedule_is_written(schedule):
    model = model_of(None, objective(schedule, "v"))
    assert diffusers_format.level_config(model)["prediction_type"] == "v_prediction"


FREQUENCY = dict(num_classes=2, max_frequency=10_000.0)
OWN = {
    "DiT": DiT(features=16, num_blocks=1, num_heads=2, **FREQUENCY),
    "U-Net": UNet(
        channels=128, num_blocks=1, time_features=128, multipliers=(1, 1), **FREQUENCY
    ),
}


@pytest.fixture
def stored(monkeypatch):
    """Puts a model and its parameters in place of the checkpoint of a run."""

    def put(model, params):
        def load_each(workdir, request, names, check_fn):
            check_fn(request, model)
            return [Loaded(request._replace(step=3), {}, model, params, "0" * 16)]

        monkeypatch.setattr(restore, "load_each", load_each)

    return put


@pytest.mark.parametrize("name", ["DiT", pytest.param("U-Net", marks=pytest.mark.ci)])
def test_a_network_of_ours_is_exported_as_one_of_diffusers(name, tmp_path, stored):
    """It predicts what the run does at the same noise, of z scaled to unit variance.

    In float32 an angle of up to 10,000 radians has errors of 5e-4.
    """
    net = OWN[name]
    z, _, _ = arguments((4, 8, 8, 1))
    label = jnp.array([0, 1, 2, 0])
    params = perturbed(net, z, jnp.zeros(4), label)
    model = model_of(net, objective(schedules.FlowMatching(), "x"))
    stored(model, params)
    settings = exporting.Settings(str(tmp_path / "out"), "diffusers", "raw")
    opened = interop.load(exporting.export(tmp_path, settings))
    assert type(opened.network.module).__name__ == {
        "DiT": "DiTTransformer2D", "U-Net": "UNet2D",
    }[name]  # fmt: skip
    ours = jax.jit(lambda z, t: model.predict_fn(params, label)(z, t))
    theirs = jax.jit(lambda z, t: opened.predict_fn(z, t, label))
    for n, tolerance in (
        (np.array([1, 7, 30, 99]), 1e-5),
        (np.array([500, 2500, 6000, 9999]), 2e-4),
    ):
        t = n / 10_000  # of flow matching
        exact = ours(z, jnp.asarray(t, jnp.float32))
        assert np.abs(exact).max() > 0.1
        scale = np.sqrt((1 - t) ** 2 + t**2)[:, None, None, None]
        at = jnp.asarray((n + 1) / 10_000, jnp.float32)
        close(theirs(z / np.float32(scale), at), exact, tolerance)


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
