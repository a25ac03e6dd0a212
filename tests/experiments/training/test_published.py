"""Published architectures in a run: begun from files, trained, sampled, written out."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import interop
from diffusionflow.interop import own
from diffusionflow.networks.pretrained import DiTTransformer2D, UNet2D
from experiments.checkpointing import exporting, restore
from experiments.checkpointing.loaded import Request
from experiments.checkpointing.manager import Checkpoints
from experiments.config import build, registry
from experiments.runtime import pytrees
from experiments.runtime.errors import UsageError
from experiments.sampling.sample_run import sample_run
from experiments.training import initial_weights, loop
from experiments.training.initial_weights import Source
from experiments.training.resume import begin
from experiments.training.trainer import Trainer
from tests.helpers import tiny
from tests.helpers.pretrained_weights import random_state
from tests.helpers.trees import same

pytest.importorskip("safetensors.numpy")
pytestmark = pytest.mark.usefixtures("standard_promotion")

FIELDS = dict(
    in_channels=1,
    out_channels=1,
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    block_out_channels=(4,),
    layers_per_block=1,
    norm_num_groups=2,
    add_attention=False,
    num_class_embeds=11,  # the digits, and the null label
)
DDPM = {"_class_name": "DDPMScheduler"}


def config(**overrides):
    config = tiny.config(num_steps=3, eval__every=0, samples__every=0, **overrides)
    config.network = dict(name="unet2d", **FIELDS)
    config.data = dict(name="digits")
    config.objective.update(schedule="linear_betas", kind="eps")
    config.objective.weighting = "mse(kind='eps')"
    return config


def write(folder, change=lambda state: None):
    """A folder of diffusers with random weights."""
    net = UNet2D(**FIELDS)
    inputs = net.example_inputs()
    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    named = {".".join(key.key for key in path): leaf.shape for path, leaf in leaves}
    state = random_state(named)
    change(state)
    config = {"_class_name": "UNet2DModel", "sample_size": 8} | FIELDS
    own.write_folder(folder, config, state, {"scheduler_config.json": DDPM})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("published") / "unet")


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    with jax.numpy_dtype_promotion("standard"):
        state = loop.train_and_evaluate(config(), workdir, source=Source(folder))
    return workdir, state


@pytest.mark.slow
def test_a_run_begins_with_the_published_prediction(folder, tmp_path, capsys):
    """Weights, average, and what they predict at every label, the null one too."""
    trainer, there = Trainer(config()), interop.load(folder)
    with Checkpoints(tmp_path) as saved:
        state, meaning = begin(trainer, saved, Source(folder))
    assert same(state.params, there.network.params)
    assert same(state.ema, there.network.params)
    digest = pytrees.digest(there.network.params)
    assert meaning["init_from"] == {"files": str(folder), "digest": digest}
    assert "note:" not in capsys.readouterr().out
    z, t, label = jnp.ones((2, 8, 8, 1)), jnp.array([0.3, 1.0]), jnp.array([3, 10])
    predict_fn = trainer.model.predict_fn(state.params, label)
    found = jax.jit(lambda z, t: predict_fn(z, t))(z, t)
    exact = jax.jit(lambda z, t: there.predict_fn(z, t, label))(z, t)
    np.testing.assert_array_equal(found, exact)


@pytest.mark.slow
def test_it_trains_samples_and_is_written_for_diffusers(run, tmp_path):
    """And the folder is opened as one of diffusers, with the run's prediction."""
    workdir, state = run
    request = Request(num_samples=2, sampler=dict(num_steps=2))
    with np.load(sample_run(workdir, request)) as file:
        assert file["samples"].shape == (2, 8, 8, 1)
    out = exporting.export(
        workdir, exporting.Settings(str(tmp_path / "out"), "diffusers", "raw")
    )
    said = json.loads((out / "config.json").read_text())
    assert (said["_class_name"], said["sample_size"]) == ("UNet2DModel", 8)
    model, loaded = interop.load(out), restore.load(workdir, Request(weights="raw"))
    assert same(model.network.params, state.params)
    z, t, label = jnp.ones((2, 8, 8, 1)), jnp.array([0.3, 1.0]), jnp.array([3, 9])
    found = jax.jit(lambda z, t: model.predict_fn(z, t, label))(z, t)
    predict_fn = loaded.model.predict_fn(loaded.params, label)
    exact = jax.jit(lambda z, t: predict_fn(z, t))(z, t)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)
    own_format = exporting.Settings(str(tmp_path / "own"), "safetensors", "raw")
    again = interop.load(exporting.export(workdir, own_format))
    found = jax.jit(lambda z, t: again.predict_fn(z, t, label))(z, t)
    np.testing.assert_array_equal(found, exact)


def test_what_is_not_the_networks_is_one_line_with_names(tmp_path):
    def change(state):
        state["conv_in.weight"] = state["conv_in.weight"][:2]
        del state["conv_out.bias"]
        state["more.weight"] = np.zeros(2, np.float32)

    trainer, wrong = Trainer(config()), write(tmp_path / "wrong", change)
    with (
        Checkpoints(tmp_path / "run") as saved,
        pytest.raises(UsageError) as error,
    ):
        begin(trainer, saved, Source(wrong))
    text = str(error.value)
    assert len(text.splitlines()) == 1 and text.startswith(f"--init_from={wrong}: ")
    for part in (
        "missing: conv_out.bias",
        "more.weight",
        "conv_in.weight (2, 1, 3, 3)",
    ):
        assert part in text


def test_another_meaning_of_the_weights_is_said(folder, tmp_path, capsys):
    other = config()
    other.objective.kind = "v"
    with Checkpoints(tmp_path) as saved:
        begin(Trainer(other), saved, Source(folder))
    assert "kind: eps in the files, v now" in capsys.readouterr().out


def test_labels_of_fewer_classes_keep_the_null_label():
    """Of a DiT of 1,000 classes on data of 10 it is 1,000, and 10 is a class."""
    section = dict(
        name="dit_transformer2d", num_attention_heads=1, attention_head_dim=4,
        num_layers=1, in_channels=1, sample_size=8,
    )  # fmt: skip
    net = build.network(section, 10)
    assert isinstance(net.module, DiTTransformer2D)
    assert net._label(jnp.array([3, 9, 10])).tolist() == [3, 9, 1000]
    small = section | {"num_embeds_ada_norm": 9}
    with pytest.raises(UsageError, match="a table of 10 labels for 10 classes"):
        build.network(small, 10)
    with pytest.raises(UsageError, match="unknown name 'ddpm'.*known: diffusers, sit"):
        build.network(section | {"convention": "ddpm"}, 10)


def test_nothing_to_begin_with_is_said_before_the_data_are_read(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="no checkpoints in .* give one of these"):
            initial_weights.check(Source(path), tmp_path / "run")
    assert {"unet2d", "dit_transformer2d"} <= {*registry.NETWORKS}
