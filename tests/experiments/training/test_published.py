"""Published architectures in a run: begun from files, trained, sampled, written out."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from diffusionflow import interop
from diffusionflow.interop import hub, own
from diffusionflow.networks.pretrained import DiTTransformer2D, UNet2D
from experiments.checkpointing import exporting, restore
from experiments.checkpointing.loaded import Loaded, Request
from experiments.checkpointing.manager import Checkpoints
from experiments.config import build, registry
from experiments.config.published import PublishedNetwork
from experiments.runtime import pytrees
from experiments.runtime.errors import UsageError
from experiments.sampling.sample_run import sample_run
from experiments.training import initial_weights, loop, resume, weight_files
from experiments.training.initial_weights import Source
from experiments.training.resume import begin
from experiments.training.trainer import Trainer
from tests.helpers import tiny
from tests.helpers.pretrained_runs import predicts_as
from tests.helpers.pretrained_weights import random_state, records, state_of
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
    state = state_of(UNet2D(**FIELDS))
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
    predicts_as(trainer.model, state.params, there)


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
    assert again.null_label == 10


@pytest.mark.ci
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


@pytest.mark.ci
def test_another_meaning_of_the_weights_is_said(folder, tmp_path, capsys):
    other = config()
    other.objective.kind = "v"
    with Checkpoints(tmp_path) as saved:
        begin(Trainer(other), saved, Source(folder))
    assert "kind: eps in the files, v now" in capsys.readouterr().out


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    """The network of the folder in the format of `interop.save`."""
    with jax.numpy_dtype_promotion("standard"):
        model, params = Trainer(config()).model, interop.load(folder).network.params
        loaded = Loaded(Request(step=1), {"examples": {}}, model, params, "0")
        out = tmp_path_factory.mktemp("exported") / "out"
        exporting._save(out, loaded)
    return out


def test_an_export_has_the_null_label(exported):
    assert interop.load(exported).null_label == 10


OTHERS = {
    "sinusoids": (dict(flip_sin_to_cos=False), "flip_sin_to_cos: True in the files, F"),
    "shift": (dict(freq_shift=1), "freq_shift: 0 in the files, 1 now"),
    "epsilon": (dict(norm_eps=1e-6), "norm_eps: 1e-05 in the files, 1e-06 now"),
    "dropout": (dict(dropout=0.5), None),
}


@pytest.mark.parametrize("source", ["folder", "exported"])
def test_arrays_of_a_network_that_computes_something_else_are_refused(source, request):
    said = weight_files.meaning(request.getfixturevalue(source))
    for change, message in OTHERS.values():
        module = UNet2D(**(FIELDS | change))
        refused(said, PublishedNetwork(module, "diffusers", 10), message)
    sit = PublishedNetwork(UNet2D(**FIELDS), "sit", 10)
    refused(said, sit, "convention: diffusers in the files, sit now")


def refused(said, net, message):
    if message is None:
        weight_files.check_function(said, net, "--init_from=x")
        return
    with pytest.raises(UsageError, match=f"^--init_from=x: .*{message}") as error:
        weight_files.check_function(said, net, "--init_from=x")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.ci
def test_files_of_other_sinusoids_do_not_start_a_run(folder, tmp_path):
    other = config()
    other.network.freq_shift = 1
    with (
        Checkpoints(tmp_path) as saved,
        pytest.raises(UsageError, match="freq_shift: 0 in the files, 1 now; set"),
    ):
        begin(Trainer(other), saved, Source(folder))


def test_a_file_of_the_authors_is_of_the_runs_heads(tmp_path):
    """The file does not say them; norm_eps and frequency_shift are the authors'."""
    case, path = records("dit_authors")["dit"], tmp_path / "dit.npz"
    np.savez(path, pos_embed=case["places"], **random_state(case["shapes"]))
    exact = interop.load_dit(path, num_heads=2)
    state, said = weight_files.read(path, exact.network.module)
    assert said == {"network": exact.network.module}
    flat = traverse_util.flatten_dict(exact.network.params, sep=".")
    assert same(state, flat)
    other = dataclasses.replace(
        exact.network.module, norm_eps=1e-5, frequency_shift=1.0
    )
    message = "norm_eps: 1e-06 in the files, 1e-05 now; frequency_shift: 0.0 in the"
    refused(said, PublishedNetwork(other, "sit", 10), message)


def test_a_resume_needs_its_files_no_more(tmp_path):
    gone, recorded = tmp_path / "gone", {"files": str(tmp_path / "gone"), "digest": "0"}
    resume._check_source(Source(gone), recorded)
    with pytest.raises(UsageError, match="leave --init_from out to resume"):
        resume._check_source(Source(tmp_path / "other"), recorded)


def test_a_folder_on_the_hub_is_a_source(folder, monkeypatch):
    source = Source("hf://owner/name@v1")
    monkeypatch.setattr(hub, "local_path", lambda path, parts: folder)
    assert initial_weights.located(source) == folder
    assert initial_weights.origin(source) == {"files": "hf://owner/name@v1"}
    monkeypatch.undo()
    with pytest.raises(UsageError, match="--init_from: .*must be hf://owner/name"):
        initial_weights.located(Source("hf://name"))


def test_classes_without_a_table_are_refused():
    section = {"name": "unet2d", **FIELDS, "num_class_embeds": None}
    with pytest.raises(UsageError, match="10 classes: set network.num_class_embeds=11"):
        build.network(section, 10)
    assert build.network(section, 0).null_label is None


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
    with pytest.raises(UsageError, match="num_embeds_ada_norm=9: must be at least 10"):
        build.network(small, 10)
    rows = dict(name="unet2d", num_class_embeds=10)
    with pytest.raises(
        UsageError, match="must be at least 11 for .*, one more for the"
    ):
        build.network(rows, 10)
    with pytest.raises(
        UsageError, match="network.label_dim=9: must be at least 10 for"
    ):
        build.network(dict(name="song_unet", label_dim=9), 10)
    with pytest.raises(UsageError, match="unknown name 'ddpm'.*known: diffusers, sit"):
        build.network(section | {"convention": "ddpm"}, 10)


def test_nothing_to_begin_with_is_said_before_the_data_are_read(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="no checkpoints in .* give one of these"):
            initial_weights.check(Source(path), tmp_path / "run")
    assert {"unet2d", "dit_transformer2d"} <= {*registry.NETWORKS}
