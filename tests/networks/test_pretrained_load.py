"""`interop.load`: a folder as diffusers wrote it, its samples, and what is refused.

`tests/data/pretrained/pipeline` was written by diffusers' `save_pretrained`,
`pipeline_samples.npz` is what its schedulers drew from it.
"""

import json
import shutil
import struct
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import interop, samplers
from tests.helpers import pretrained_weights
from tests.helpers.parametrize import check_all
from tests.helpers.pretrained_runs import WEIGHTS, close, last, write

numpy = pytest.importorskip("safetensors.numpy")

FOLDER = pretrained_weights.FOLDER / "pipeline"
SAMPLES = pretrained_weights.records("pipeline_samples")["samples"]
SAMPLERS = dict(
    DDIMScheduler=samplers.ddim(),
    DPMSolverMultistepScheduler=samplers.DPMSolver(2, lower_final=2),
    EulerDiscreteScheduler=samplers.Euler("eps"),
)


@pytest.fixture(scope="module")
def model():
    return interop.load(FOLDER)


@pytest.mark.ci
def test_samples_are_those_of_the_schedulers_of_diffusers(model):
    z, times = jnp.asarray(last(SAMPLES["z"])), model.grid(8)
    assert model.scheduler["timestep_spacing"] == "trailing"
    assert model.shape == z.shape[1:] == (8, 8, 3) and str(model.kind) == "eps"
    for name, sampler in SAMPLERS.items():
        timesteps = model.convention.clock_fn(times[:-1])
        np.testing.assert_allclose(timesteps, SAMPLES[f"{name}_timesteps"], atol=1e-9)
        first = model.schedule.sigma(1.0) if name.startswith("Euler") else 1.0
        found = samplers.sample(
            jax.random.key(0),  # of no effect
            model.denoise_fn,
            z * np.float32(first),
            times,
            sampler=sampler,
            schedule=model.schedule,
        )
        assert found.nfe == 8
        close(found.x, last(SAMPLES[name]), 2e-5)


@pytest.mark.ci
def test_weights_are_data_and_any_batch_goes(model):
    """Another network of the same shape takes no other program."""
    z = jax.random.normal(jax.random.key(0), (2, 3, 8, 8, 3))
    traces = []

    @jax.jit
    def predict(predict_fn, z, t):
        traces.append(None)
        return predict_fn(z, t)

    whole = predict(model.predict_fn, z, jnp.float32(0.5))
    part = predict(model.predict_fn, z[1], jnp.full(3, 0.5))
    np.testing.assert_allclose(whole[1], part, atol=1e-5)
    other = jax.tree.unflatten(
        jax.tree.structure(model.predict_fn),
        [
            jnp.zeros_like(leaf) if np.ndim(leaf) else leaf
            for leaf in jax.tree.leaves(model.predict_fn)
        ],
    )
    assert (predict(other, z, jnp.float32(0.5)) == 0).all() and len(traces) == 2


@pytest.mark.ci
def test_the_score_of_a_ve_network_is_called_at_sigma(tmp_path):
    """z = x + sigma eps, and the network is the score."""
    case = pretrained_weights.records("unet2d")["ncsnpp"]
    config = {"_class_name": "ScoreSdeVeScheduler", "sigma_max": 30.0}
    state = pretrained_weights.random_state(case["shapes"])
    state["time_proj.W"] = state["time_proj.weight"]  # as older files have it
    write(tmp_path, case["config"], state, config)
    model = interop.load(tmp_path)
    assert str(model.kind) == "score"
    t = model.schedule.inverse_logsnr(-2 * np.log(case["time"]))
    found = jax.jit(lambda fn, z, t: fn(z, t))(model.predict_fn, last(case["z"]), t)
    close(found, last(case["output"]), 1e-4)


def test_every_layout_holds_the_same_arrays(tmp_path):
    weights = interop.read_weights(FOLDER / "unet")
    names = [*weights]
    halves = dict(one=names[: len(names) // 2], two=names[len(names) // 2 :])
    index = {}
    for half, part in halves.items():
        numpy.save_file({n: weights[n] for n in part}, tmp_path / f"{half}.safetensors")
        index |= {name: f"{half}.safetensors" for name in part}
    whole = tmp_path / f"{WEIGHTS}.index.json"
    whole.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    np.savez(tmp_path / "all.npz", **weights)
    narrow = {name: array.astype(jnp.bfloat16) for name, array in weights.items()}
    numpy.save_file(narrow, tmp_path / "narrow.safetensors")
    for path in (tmp_path, whole):
        found = interop.read_weights(path)
        assert found.keys() == weights.keys()
        assert all((found[name] == weights[name]).all() for name in names)
    for name, exact in (("narrow.safetensors", narrow), ("all.npz", weights)):
        path = tmp_path / name
        content = path.read_bytes()
        for given in (None, content):
            found = interop.read_weights(path, content=given)
            assert found.keys() == exact.keys()
            assert all((found[each] == exact[each]).all() for each in names)
            assert {each.dtype for each in found.values()} == {exact[names[0]].dtype}
            path.write_bytes(b"")  # what was read already is not read again
    for several in (tmp_path, whole):
        with pytest.raises(ValueError, match="content must be of one file"):
            interop.read_weights(several, content=content)


def test_bytes_that_are_cut_off_are_refused(tmp_path):
    content = (FOLDER / "unet" / WEIGHTS).read_bytes()
    path = tmp_path / WEIGHTS
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{WEIGHTS}: corrupted or no such file"):
        interop.read_weights(path, content=content[:-100])


class Tensor:
    """The part of a torch tensor that is looked at."""

    dtype = "torch.float32"

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    def numpy(self):
        return self.array


def test_a_file_of_torch_that_is_cut_off_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "net.pth"
    torch.save({"a.weight": torch.ones(2, 3)}, path)
    for content in (None, path.read_bytes()):
        found = interop.read_weights(path, content=content)
        np.testing.assert_array_equal(found["a.weight"], 1)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="net.pth.* corrupted or "):
        interop.read_weights(path)


def test_files_of_torch_are_read_without_running_code(tmp_path, monkeypatch):
    """By `weights_only=True`; what holds more than arrays is refused."""
    path, asked = tmp_path / "net.pt", {}
    path.write_bytes(b"any")
    state = {"weight": Tensor(np.arange(3.0))}

    def load(path, **options):
        asked.update(options)
        return state

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    np.testing.assert_array_equal(interop.read_weights(path)["weight"], [0, 1, 2])
    assert asked == dict(map_location="cpu", weights_only=True)
    state |= {"opt": {}, "args": 3}
    with pytest.raises(ValueError, match=r"net.pt holds opt, args: must be one state"):
        interop.read_weights(path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match="net.pt needs torch: pip install torch"):
        interop.read_weights(path)


@pytest.mark.ci
def test_names_of_older_files_are_read(tmp_path):
    """Attention's query, key, value and proj_attn, of files before 2023."""
    config = json.loads((FOLDER / "unet" / "config.json").read_text())
    old = {}
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for name, array in interop.read_weights(FOLDER / "unet").items():
        for ours, theirs in new.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        old[name] = array
    write(tmp_path, config, old, {"_class_name": "DDPMScheduler"})
    first, second = (interop.load(path) for path in (FOLDER, tmp_path))
    assert jax.tree.all(
        jax.tree.map(
            lambda a, b: (a == b).all(), first.network.params, second.network.params
        )
    )


def copied(tmp_path, name):
    folder = tmp_path / name
    shutil.copytree(FOLDER / "unet", folder)
    shutil.copy(FOLDER / "scheduler" / "scheduler_config.json", folder)
    return folder


def edited(file, **entries):
    """Changes entries of a JSON file; None removes one."""

    def edit(folder):
        config = json.loads((folder / file).read_text()) | entries
        kept = {name: value for name, value in config.items() if value is not ...}
        (folder / file).write_text(json.dumps(kept))

    return edit


def weights_edited(change):
    def edit(folder):
        state = interop.read_weights(folder)
        change(state)
        numpy.save_file(state, folder / WEIGHTS)

    return edit


def bytes_edited(change, file=WEIGHTS):
    return lambda folder: (folder / file).write_bytes(
        change((folder / file).read_bytes())
    )


def removed(file):
    return lambda folder: (folder / file).unlink()


def only(name, content):
    """Another file in place of the weights."""

    def edit(folder):
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(content)

    return edit


def index_of(**entries):
    return only(f"{WEIGHTS}.index.json", json.dumps(entries).encode())


LARGE = struct.pack("<Q", 2**40)
REFUSED = {
    "cut off": (bytes_edited(lambda data: data[:-100]), "corrupted"),
    "empty": (bytes_edited(lambda data: b""), "corrupted"),
    "length of the header": (bytes_edited(lambda data: LARGE + data[8:]), "corrupted"),
    "header": (bytes_edited(lambda data: data[:8] + b"?" + data[9:]), "corrupted"),
    "page of a host": (bytes_edited(lambda data: b"<html></html>"), "corrupted"),
    "pointer": (bytes_edited(lambda data: b"version https://git-lfs"), "corrupted"),
    "missing": (
        weights_edited(lambda state: state.pop("conv_in.bias")),
        "missing: conv_in.bias",
    ),
    "additional": (
        weights_edited(lambda state: state.update(more=np.zeros(3))),
        "not of this network: more",
    ),
    "another shape": (
        weights_edited(lambda state: state.update({"conv_in.bias": np.zeros(9)})),
        r"of another shape: conv_in.bias \(9,\), must be \(4,\)",
    ),
    "integers": (
        weights_edited(lambda s: s.update({"conv_in.bias": np.zeros(4, np.int8)})),
        "conv_in.bias of type int8: must be of floats",
    ),
    "not finite": (
        weights_edited(lambda s: s.update({"conv_in.bias": np.full(4, np.nan)})),
        "conv_in.bias: 4 of 4 numbers are not finite",
    ),
    "no weights": (removed(WEIGHTS), "no weights in .*safetensors"),
    "no config": (removed("config.json"), "no network in"),
    "no scheduler": (removed("scheduler_config.json"), "no scheduler_config.json"),
    "config": (bytes_edited(lambda data: data[:-3], "config.json"), "corrupted"),
    "list": (bytes_edited(lambda data: b"[]", "config.json"), "a dictionary, not list"),
    "class": (edited("config.json", _class_name="UNet3D"), "unknown _class_name"),
    "entry": (edited("config.json", norm_epsilon=1e-5), "norm_epsilon.*'norm_eps'"),
    "block": (
        edited("config.json", down_block_types=["DownBlock2D", "KDownBlock2D"]),
        "'KDownBlock2D' of down_block_types",
    ),
    "levels": (edited("config.json", block_out_channels=[4, 8, 8]), "as many as"),
    "type of an entry": (edited("config.json", norm_num_groups="two"), "config.json"),
    "groups": (edited("config.json", norm_num_groups=3), "norm_num_groups=3: must"),
    "scheduler": (
        edited("scheduler_config.json", beta_schedule="quadratic"),
        "unknown beta_schedule",
    ),
    "index": (index_of(metadata={}), "'weight_map'"),
    "shard": (index_of(weight_map={"conv_in.bias": "a.safetensors"}), "no file"),
    "path": (index_of(weight_map={"conv_in.bias": "../a.npz"}), "of its folder"),
    "array of objects": (only("diffusion_pytorch_model.bin", b"cos\nsystem"), "torch"),
}


def is_refused(folder, edit, match):
    edit(folder)
    with pytest.raises(ValueError, match=match) as error:
        interop.load(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1500


@pytest.mark.ci
def test_what_is_corrupted_is_refused_in_one_line(tmp_path):
    assert len(REFUSED) > 20
    cases = {
        name: (copied(tmp_path, str(number)), *case)
        for number, (name, case) in enumerate(REFUSED.items())
    }
    check_all(is_refused, cases)
    with pytest.raises(ValueError, match="no folder .* or hf://owner/name"):
        interop.load(tmp_path / "nowhere")
    (tmp_path / "net.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file: load opens a folder.*load_edm"):
        interop.load(tmp_path / "net.pkl")
    with pytest.raises(ValueError, match="may run code"):
        interop.read_weights(tmp_path / "net.pkl")
