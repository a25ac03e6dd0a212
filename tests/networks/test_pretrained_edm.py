"""EDM's networks against modules of diffusers put together as the paper says.

`tests/data/pretrained/edm.npz` is what torch gave on random weights under NVIDIA's
names (`benchmarks/record_edm.py`).
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import interop
from diffusionflow.networks.pretrained import DhariwalUNet, SongUNet
from tests.helpers import pretrained_weights
from tests.helpers.parametrize import check_all
from tests.helpers.pretrained_runs import close, last, reproduces

CASES = pretrained_weights.records("edm")
FAST = dict(ddpmpp=True, ncsnpp=False, adm=False)  # and whether by gradients too
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


def test_outputs_and_a_gradient_are_those_of_modules_of_diffusers(tmp_path):
    cases = {name: (name, gradient, tmp_path) for name, gradient in FAST.items()}
    check_all(is_reproduced, cases)


@pytest.mark.nightly
def test_outputs_and_gradients_of_every_architecture_are_theirs(tmp_path):
    assert len(CASES) == 4
    check_all(is_reproduced, {name: (name, True, tmp_path) for name in CASES})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("edm"), state_of("ddpmpp"))


@pytest.fixture(scope="module")
def model(path):
    return interop.load_edm(path, output="edm")


def test_what_the_shapes_say(model, tmp_path):
    assert model.network.module == SongUNet(
        img_resolution=8,
        label_dim=5,
        augment_dim=9,
        model_channels=16,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(4,),
    )
    assert model.shape == (8, 8, 3) and model.null_label == 5
    adm = interop.load_edm(saved(tmp_path, state_of("adm")), output="vp")
    assert adm.network.module.channel_mult == (1, 4)
    assert isinstance(adm.network.module, DhariwalUNet)


def test_labels_are_classes_mixtures_and_none(model):
    """Without one, the vector of the classes is zero; a mixture is a vector."""
    run = jax.jit(lambda network, z, label: network(z, jnp.float32(0.3), label))
    z = last(CASES["ddpmpp"]["z"])
    one, null = (run(model.network, z, jnp.array(label)) for label in (3, 5))
    mixed = run(model.network, z, jnp.array([[0, 0, 0, 1, 0], [0.0] * 5]))
    np.testing.assert_allclose(mixed[0], one[0], atol=1e-5)
    np.testing.assert_allclose(mixed[1], null[1], atol=1e-5)
    assert abs(one - null).max() > 1e-3 and np.isnan(run(model.network, z, -1)).all()
    with pytest.raises(ValueError, match=r"label=6: must be in 0\.\.5"):
        model.denoiser(6)


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
    state = state_of("ddpmpp") | (dict(u=LEVELS) if output == "iddpm" else {})
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


def test_the_preconditionings_are_those_of_table_1(tmp_path):
    check_all(is_preconditioned, {name: (name, tmp_path) for name in TABLE_1})


def test_the_grid_is_that_of_the_paper(model):
    """18 levels are a grid of 17 steps, and the step to the data is added."""
    rising = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 18) ** 7
    np.testing.assert_allclose(model.schedule.sigma(model.grid(17)), rising, rtol=1e-9)


def test_the_options_of_a_training_name_the_preconditioning(tmp_path):
    options = {"network_kwargs": {"class_name": "training.networks.VEPrecond"}}
    path = saved(tmp_path, state_of("ddpmpp"), options)
    assert type(interop.load_edm(path).schedule).__name__ == "VE"
    with pytest.raises(ValueError, match="output='edm': the file is of 've'"):
        interop.load_edm(path, output="edm")


def without(part):
    kept = {name: a for name, a in state_of("ddpmpp").items() if part not in name}
    assert len(kept) < len(state_of("ddpmpp"))
    return kept


SKEW = np.array([[1.0, 2], [2, 1]], np.float32)[None, None] / 6
LATER = "model.enc.4x4_down.conv0.resample_filter"
REFUSED = {
    "preconditioning": (dict, {}, "give output='edm' for EDMPrecond"),
    "levels": (dict, dict(output="iddpm"), "no table of levels"),
    "other levels": (lambda: dict(u=LEVELS * 1.1), {}, "not the levels of improved"),
    "filter": (lambda: {LATER: SKEW}, dict(output="edm"), "one separable filter"),
    "bias": (
        lambda: {"model.map_layer0.bias": np.zeros(3)},
        dict(output="edm"),
        r"weights of a SongUNet; of another shape: map_layer0.bias \(3,\)",
    ),
    "name": (dict, dict(output="EDMPrecond"), "unknown output"),
}


def is_refused(more, options, match, path):
    state = state_of("ddpmpp") | more()
    with pytest.raises(ValueError, match=match):
        interop.load_edm(saved(path, state), **options)


def test_what_is_no_such_network_is_refused(tmp_path):
    cases = {
        n: (*case, tmp_path / str(i)) for i, (n, case) in enumerate(REFUSED.items())
    }
    check_all(is_refused, cases)
    for part, match in (
        ("resample_filter", "save the whole state dict"),
        ("_block0", "no state dict of a network of EDM"),
        ("in1.conv0.bias", "missing: dec.4x4_in1.conv0.bias"),
    ):
        with pytest.raises(ValueError, match=match):
            interop.load_edm(saved(tmp_path / "other", without(part)), output="edm")


def count(module):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *module.example_inputs())
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_the_number_of_parameters_is_that_of_the_published_networks():
    """FFHQ's in a log of EDM's training; ImageNet's 296 M of the paper."""
    ffhq = SongUNet(img_resolution=64, channel_mult=(1, 2, 2, 2), augment_dim=9)
    assert count(ffhq) == 61_805_571
    imagenet = DhariwalUNet(
        img_resolution=64,
        label_dim=1000,
        model_channels=192,
        channel_mult=(1, 2, 3, 4),
        num_blocks=3,
        attn_resolutions=(32, 16, 8),
    )
    assert round(count(imagenet) / 1e6) == 296
