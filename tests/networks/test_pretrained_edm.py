"""EDM's networks against modules of diffusers put together as the paper says.

`tests/data/pretrained/edm.npz` is what torch gave on random weights under NVIDIA's
names (`benchmarks/record_edm.py`).
"""

import collections
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import interop, predictions
from diffusionflow.networks.pretrained import DhariwalUNet, SongUNet
from tests.helpers import pretrained_weights
from tests.helpers.parametrize import check_all
from tests.helpers.pretrained_runs import close, reproduces
from tests.helpers.trees import same

CASES = pretrained_weights.records("edm")
FAST = ("ddpmpp", "ncsnpp", "adm")
RESIZED = ("_down.conv0", "_down.skip", "_up.conv0", "_up.skip", "aux_residual")


def state_of(name):
    """A state dict as that of EDMPrecond: prefixed names, and filters as buffers."""
    shapes = CASES[name]["shapes"]
    state = pretrained_weights.random_state(shapes)
    taps = np.array([1.0, 3, 3, 1] if "map_noise.freqs" in shapes else [1.0, 1])
    square = np.outer(taps, taps)[None, None] / taps.sum() ** 2
    for part in [name.removesuffix(".weight") for name in shapes]:
        if part.endswith(RESIZED):
            state[f"{part}.resample_filter"] = square.astype(np.float32)
    return {f"model.{name}": array for name, array in state.items()}


def saved(path, state, options=None):
    path.mkdir(exist_ok=True)
    np.savez(path / "network.npz", **state)
    if options is not None:
        (path / "training_options.json").write_text(json.dumps(options))
    return path / "network.npz"


def is_reproduced(name, gradient, path):
    model = interop.load_edm(saved(path / name, state_of(name)), output="edm")
    reproduces(model.network, CASES[name], gradient=gradient)


@pytest.mark.slow
def test_outputs_are_those_of_modules_of_diffusers(tmp_path):
    check_all(is_reproduced, {name: (name, False, tmp_path) for name in FAST})


@pytest.mark.nightly
def test_outputs_and_gradients_of_every_architecture_are_theirs(tmp_path):
    assert len(CASES) == 4
    check_all(is_reproduced, {name: (name, True, tmp_path) for name in CASES})


TINY = SongUNet(
    img_resolution=4,
    in_channels=2,
    out_channels=2,
    label_dim=3,
    model_channels=8,
    channel_mult=(1,),
    num_blocks=1,
    attn_resolutions=(),
)


STATE = pretrained_weights.state_of(TINY)  # of one level, without filters


@pytest.mark.parametrize("wrapped", [False, True], ids=["tensors", "parameters"])
@pytest.mark.parametrize("zipped", [True, False], ids=["today", "before 1.6"])
@pytest.mark.parametrize("network", CASES)
def test_a_state_dict_that_torch_wrote_is_opened(network, wrapped, zipped, tmp_path):
    """As `torch.save(net.state_dict(), path)` writes it, by `weights_only=True`."""
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(each) for name, each in state_of(network).items()}
    if wrapped:
        state = {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}
    torch.save(
        collections.OrderedDict(state),
        tmp_path / "edm.pt",
        _use_new_zipfile_serialization=zipped,
    )
    found = interop.load_edm(tmp_path / "edm.pt", output="edm")
    exact = interop.load_edm(saved(tmp_path / "npz", state_of(network)), output="edm")
    assert same(found.network.params, exact.network.params)
    assert found.network.module == exact.network.module


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return interop.load_edm(saved(tmp_path_factory.mktemp("edm"), STATE), output="edm")


@pytest.mark.ci
def test_what_the_shapes_say(model, tmp_path):
    assert model.network.module == TINY
    assert model.shape == (4, 4, 2) and model.null_label == 3
    adm = interop.load_edm(saved(tmp_path, state_of("adm")), output="vp")
    assert adm.network.module == DhariwalUNet(
        img_resolution=8,
        label_dim=5,
        augment_dim=9,
        model_channels=32,
        channel_mult=(1, 4),
        num_blocks=1,
        attn_resolutions=(4,),
    )


@pytest.mark.ci
def test_labels_are_classes_mixtures_and_none(model):
    """Without one, the vector of the classes is zero; a mixture is a vector."""
    z = jax.random.normal(jax.random.key(0), (4, 4, 4, 2))
    run = jax.jit(lambda network, z, label: network(z, jnp.float32(0.3), label))
    found = run(model.network, z, jnp.array([2, 3, 0, -1]))
    mixed = run(
        model.network, z, jnp.array([[0, 0, 1.0], [0, 0, 0], [0.5, 0, 0.5]] * 2)[:4]
    )
    np.testing.assert_allclose(mixed[:2], found[:2], atol=1e-5)
    assert abs(mixed[2] - found[2]).max() > 1e-3 and np.isnan(found[3]).all()
    with pytest.raises(ValueError, match=r"label=4: must be in 0\.\.3"):
        model.denoiser(4)
    with pytest.raises(ValueError, match=r"mixture must be \[batch, label_dim=3\]"):
        model.network(z, jnp.float32(0.3), jnp.ones((4, 2)))


class Plain:
    """A network in place of the one that was opened."""

    def __call__(self, z, time, label=None):
        return 0.3 * z + jnp.reshape(time / 100, (-1, 1))


jax.tree_util.register_static(Plain)
SIGMA = np.array([0.05, 1.0, 40.0])


def beta_time(sigma):
    """EDM's inverse of `sigma(t)^2 = e^(19.9 t^2 / 2 + 0.1 t) - 1`."""
    return (np.sqrt(0.01 + 2 * 19.9 * np.log1p(sigma**2)) - 0.1) / 19.9


def table(levels):
    return lambda sigma: 999 - abs(sigma[:, None] - levels).argmin(1)


LEVELS = interop.iddpm_levels(1000)
ONE, UNIT = lambda s: 1 + 0 * s, lambda s: 1 / np.sqrt(1 + s**2)
TABLE_1 = dict(  # c_skip, c_out, c_in, c_noise
    edm=(
        lambda s: 0.25 / (s**2 + 0.25),
        lambda s: 0.5 * s / np.sqrt(s**2 + 0.25),
        lambda s: 1 / np.sqrt(s**2 + 0.25),
        lambda s: np.log(s) / 4,
    ),
    vp=(ONE, lambda s: -s, UNIT, lambda s: 999 * beta_time(s)),
    ve=(ONE, lambda s: s, ONE, lambda s: np.log(s / 2)),
    iddpm=(ONE, lambda s: -s, UNIT, table(LEVELS)),
)
OWN = dict(edm="EDM", vp="LinearBeta", ve="VE", iddpm="Discrete")


def is_preconditioned(output, path):
    """D = c_skip z + c_out F(c_in z, c_noise) of table 1, z = x + sigma eps."""
    state = STATE | (dict(u=LEVELS) if output == "iddpm" else {})
    model = interop.load_edm(saved(path / output, state), output=output)
    schedule = model.schedule
    assert type(schedule).__name__ == OWN[output]
    plain = dataclasses.replace(model.predict_fn, network=Plain())
    model = dataclasses.replace(model, predict_fn=plain)
    t = np.asarray(schedule.inverse_logsnr(-2 * np.log(SIGMA)), np.float32)
    sigma = np.asarray(schedule.sigma(t) / schedule.alpha(t), np.float64)[:, None]
    z = np.linspace(-2, 2, 12).reshape(3, 4) * np.sqrt(1 + sigma**2)
    c_skip, c_out, c_in, c_noise = (c(sigma[:, 0])[:, None] for c in TABLE_1[output])
    exact = c_skip * z + c_out * (0.3 * c_in * z + c_noise / 100)
    scaled = z * np.asarray(schedule.alpha(t))[:, None]
    found = model.denoiser(None)(jnp.asarray(scaled, jnp.float32), jnp.asarray(t)).x
    close(found, exact, 2e-5)


@pytest.mark.ci
def test_the_preconditionings_are_those_of_table_1(tmp_path):
    check_all(is_preconditioned, {name: (name, tmp_path) for name in TABLE_1})


def test_the_grid_is_that_of_the_paper(model):
    """18 levels are a grid of 17 steps, and the step to the data is added."""
    rising = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 18) ** 7
    np.testing.assert_allclose(model.schedule.sigma(model.grid(17)), rising, rtol=1e-9)


def test_the_options_of_a_training_name_the_preconditioning(tmp_path):
    options = {"network_kwargs": {"class_name": "training.networks.VEPrecond"}}
    path = saved(tmp_path, STATE, options)
    assert type(interop.load_edm(path).schedule).__name__ == "VE"
    with pytest.raises(ValueError, match="output='edm': the file is of 've'"):
        interop.load_edm(path, output="edm")


def test_the_options_of_a_training_name_the_scale_of_the_data(tmp_path):
    named = {"class_name": "training.networks.EDMPrecond", "sigma_data": 1}
    path = saved(tmp_path, STATE, {"network_kwargs": named})
    assert interop.load_edm(path).kind == predictions.edm_f(1.0)
    with pytest.raises(ValueError, match="sigma_data=0.5: .* has 1.0; leave it out"):
        interop.load_edm(path, sigma_data=0.5)
    saved(tmp_path, STATE, {"network_kwargs": named | {"sigma_data": "1"}})
    with pytest.raises(ValueError, match="sigma_data='1': must be a positive number"):
        interop.load_edm(path)
    saved(tmp_path, STATE, {"network_kwargs": {"sigma_data": "1"}})
    assert interop.load_edm(path, output="vp").kind == predictions.as_kind("eps")


SKEW = np.array([[1.0, 2], [2, 1]], np.float32)[None, None] / 6
MORE = {  # in the file, what is asked for, and the message
    "preconditioning": ({}, None, "give output='edm' for EDMPrecond"),
    "levels": ({}, "iddpm", "no table of levels"),
    "other levels": (dict(u=LEVELS * 1.1), None, "not the levels of improved"),
    "filter": ({"enc.2x2_down.resample_filter": SKEW}, "edm", "one separable filter"),
    "additional": (dict(more=np.ones(2)), "edm", "not of this network: more"),
    "shape": (
        {"map_layer0.bias": np.zeros(3)},
        "edm",
        r"weights of a SongUNet; of another shape: map_layer0.bias \(3,\)",
    ),
    "name": ({}, "EDMPrecond", "unknown output"),
    "axes": ({"map_layer0.weight": np.ones(3)}, "edm", r"weight \(3,\): must have 2 "),
    "labels": (
        {"map_label.weight": np.ones(3)},
        "edm",
        "map_label.*: must have 2 axes",
    ),
    "filter axes": ({"enc.2x2_down.resample_filter": np.ones(2)}, "edm", "side, side"),
    "levels axes": (dict(u=np.float32(1)), None, "must be a table of two levels"),
}
LESS = {
    "conv": ("ddpmpp", "_conv.weight", r"missing: enc\.\d+x\d+_conv\.weight"),
    "filter": ("ddpmpp", "resample_filter", "save the whole state dict"),
    "block": ("ddpmpp", "_block0", "no state dict of a network of EDM"),
    "missing": ("ddpmpp", "in1.conv0.bias", "missing: dec.4x4_in1.conv0.bias"),
}


def more_is_refused(more, output, match, path):
    with pytest.raises(ValueError, match=match) as error:
        interop.load_edm(saved(path, STATE | more), output=output)
    assert "\n" not in str(error.value)


def less_is_refused(name, part, match, path):
    state = {key: array for key, array in state_of(name).items() if part not in key}
    with pytest.raises(ValueError, match=match):
        interop.load_edm(saved(path, state), output="edm")


@pytest.mark.ci
def test_what_is_no_such_network_is_refused(tmp_path):
    cases = {name: (*case, tmp_path) for name, case in MORE.items()}
    check_all(more_is_refused, cases)
    check_all(less_is_refused, {name: (*case, tmp_path) for name, case in LESS.items()})


def count(module):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *module.example_inputs())
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.ci
def test_ffhq_has_as_many_parameters_as_a_log_of_its_training_says():
    ffhq = SongUNet(img_resolution=64, channel_mult=(1, 2, 2, 2), augment_dim=9)
    assert count(ffhq) == 61_805_571


@pytest.mark.nightly
def test_imagenet_has_the_296_million_parameters_of_the_paper():
    imagenet = DhariwalUNet(
        img_resolution=64,
        label_dim=1000,
        model_channels=192,
        channel_mult=(1, 2, 3, 4),
        num_blocks=3,
        attn_resolutions=(32, 16, 8),
    )
    assert round(count(imagenet) / 1e6) == 296
