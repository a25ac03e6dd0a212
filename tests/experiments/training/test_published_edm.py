"""EDM's networks in a run: begun from a state dict, trained, evaluated and sampled."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import interop
from diffusionflow.networks.pretrained import DhariwalUNet, SongUNet
from experiments.checkpointing import exporting
from experiments.checkpointing.loaded import Request
from experiments.checkpointing.manager import Checkpoints
from experiments.config import build, optimizers
from experiments.evaluation import evaluate
from experiments.runtime import sharding
from experiments.runtime.errors import UsageError
from experiments.sampling.sample_run import sample_run
from experiments.training import loop, weight_files
from experiments.training.initial_weights import Source
from experiments.training.resume import begin
from experiments.training.trainer import Trainer
from tests.helpers import tiny
from tests.helpers.pretrained_runs import predicts_as
from tests.helpers.pretrained_weights import state_of
from tests.helpers.trees import same

safetensors = pytest.importorskip("safetensors.numpy")
pytestmark = pytest.mark.usefixtures("standard_promotion")

FIELDS = dict(
    img_resolution=8,
    in_channels=1,
    out_channels=1,
    label_dim=10,  # the digits
    model_channels=8,
    channel_mult=(1, 1),
    num_blocks=1,
    attn_resolutions=(),
)
RESIZED = ("_down.conv0", "_down.skip", "_up.conv0", "_up.skip")


def config(**overrides):
    """EDM's objective, two steps, and an average of another width."""
    config = tiny.config(
        num_steps=2, eval__every=2, samples__every=0, sigma_data=0.5,
        optimizer__warmup_steps=1,
        ema__sigma_rel=(0.1,), ema__store_every=1, **overrides,
    )  # fmt: skip
    config.network = dict(name="song_unet", **FIELDS)
    config.data = dict(name="digits")
    config.objective.update(
        schedule="edm",
        kind="edm_f(sigma_data=0.5)",
        weighting="mse(kind=edm_f(sigma_data=0.5))",
        times="log_normal_sigma(mean=-1.2, std=1.2)",
    )
    return config


def write(folder, preconditioning=None, change=lambda state: None, **stated):
    """A state dict as NVIDIA's, with prefixed names and filters as buffers."""
    state = state_of(SongUNet(**FIELDS))
    for part in [name.removesuffix(".weight") for name in state]:
        if part.endswith(RESIZED):
            state[f"{part}.resample_filter"] = np.full((1, 1, 2, 2), 0.25, np.float32)
    change(state)
    folder.mkdir()
    file = folder / "network.safetensors"
    safetensors.save_file({f"model.{name}": state[name] for name in state}, file)
    if preconditioning:
        named = {"class_name": f"networks.{preconditioning}"}
        options = {"network_kwargs": named | stated}
        (folder / "training_options.json").write_text(json.dumps(options))
    return file


@pytest.mark.slow
def test_a_run_begins_with_the_published_prediction_and_goes_on(
    tmp_path, capsys, monkeypatch
):
    """It trains, averages, evaluates, samples, and is opened where it was exported."""
    quick = {"xla_backend_optimization_level": 0}
    monkeypatch.setattr(sharding, "compiler_options", lambda: quick)
    file, workdir = write(tmp_path / "edm"), tmp_path / "run"
    there, trainer = interop.load_edm(file, output="edm"), Trainer(config())
    with Checkpoints(tmp_path / "new") as saved:
        state, _ = begin(trainer, saved, Source(file))
    assert same(state.params, there.network.params)
    assert same(state.ema, there.network.params)
    assert "note:" not in capsys.readouterr().out
    predicts_as(trainer.model, state.params, there)
    state = loop.train_and_evaluate(config(), workdir, source=Source(file))
    assert not same(state.params, there.network.params)
    for width in (None, 0.1):
        request = Request(num_samples=2, sigma_rel=width, sampler=dict(num_steps=2))
        with np.load(sample_run(workdir, request)) as drawn:
            assert drawn["samples"].shape == (2, 8, 8, 1)
    left_out = ("likelihood", "sample quality")  # they take long to compile
    asked = evaluate.Request(num_examples=4, batch_size=4, leave_out=left_out)
    found = json.loads(evaluate.evaluate_run(workdir, asked).read_text())
    assert np.isfinite(found["eps_mse"]["ema"]["mean"]).all()
    out = exporting.Settings(str(tmp_path / "out"), "safetensors", "raw")
    again = interop.load(exporting.export(workdir, out))
    predicts_as(trainer.model, state.params, again)
    assert again.null_label == 10


def refused(change, file, match, folder):
    """Whether a run does not begin, with one line."""
    changed = config()
    change(changed)
    with (
        pytest.raises(UsageError, match=match) as error,
        Checkpoints(folder / "run") as saved,
    ):
        begin(Trainer(changed), saved, Source(file))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.ci
def test_what_does_not_fit_is_one_line(tmp_path):
    """Names of arrays, the preconditioning of the files, and the scale of the data."""
    same_config = lambda config: None
    wrong = write(
        tmp_path / "wrong", change=lambda state: state.pop("map_layer1.weight")
    )
    refused(same_config, wrong, "missing: map_layer1.weight", tmp_path)
    file = write(tmp_path / "vp", "VPPrecond")
    refused(same_config, file, "convention: vp in the files, edm now", tmp_path)
    read = weight_files.read(
        write(tmp_path / "scale", "EDMPrecond", sigma_data=1.5), None
    )
    said = weight_files.differences(read[1], Trainer(config()).model)
    assert "sigma_data: 1.5 in the files, 0.5 now" in said
    wider = lambda config: config.network.update(channel_mult_emb=2)
    refused(wider, file, r"map_layer0.bias \(32,\), must be \(16,\)", tmp_path)
    scaled = lambda config: config.update(sigma_data=1.0)
    match = "network.convention=edm: sigma_data=1.0: must be 0.5, that of edm_f"
    refused(scaled, file, match, tmp_path)


def test_a_network_of_edm_is_called_by_a_preconditioning_of_edm():
    section = dict(name="dhariwal_unet", label_dim=10)
    net = build.network(section, 10)
    assert isinstance(net.module, DhariwalUNet) and net.convention == "edm"
    assert net.null_label == 10
    with pytest.raises(UsageError, match="'diffusers'.*known: edm, vp, ve, iddpm"):
        build.network(section | {"convention": "diffusers"}, 10)
    with pytest.raises(UsageError, match="10 classes: set network.label_dim=10"):
        build.network(dict(name="song_unet"), 10)


def test_fixed_sinusoids_do_not_decay():
    """They are no parameters to shrink; a matrix of that name is one."""
    params = {
        "map_noise": {"freqs": jnp.zeros(3)},
        "time_proj": {"weight": jnp.zeros(3)},
        "other": {"time_proj": {"weight": jnp.zeros((3, 3))}},
    }
    assert jax.tree.leaves(optimizers.decayed(params)) == [False, True, False]
