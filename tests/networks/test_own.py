"""`interop.save`: networks of this library as files, and what `load` makes of them."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import interop, predictions, schedules
from diffusionflow.interop import own
from diffusionflow.interop.as_json import described, rebuilt
from diffusionflow.interop.by_schedule import OF_EDM
from diffusionflow.networks import DiT, ResidualMLP
from diffusionflow.networks.pretrained import DiTTransformer2D
from tests.helpers.all_schedules import FLOW, SCHEDULES
from tests.helpers.parametrize import check_all
from tests.helpers.trees import same

numpy = pytest.importorskip("safetensors.numpy")

BARE = {"edm_t", "fm_as_vp", "interpolated", "from_sde"}  # made of functions
CASES = {
    "images": (
        DiT(features=16, num_blocks=1, num_heads=2, num_classes=3),
        (4, 4, 2),
        dict(schedule=schedules.Shifted(FLOW, 3.0), kind="u", sigma_data=0.7),
    ),
    "points": (
        ResidualMLP(features=8, num_blocks=1, num_classes=2, vector_features=3),
        (2,),
        dict(schedule=schedules.EDM(), kind=predictions.edm_f(0.5)),
    ),
}


def filled(params):
    """Random numbers in every parameter, zeros at the start too."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.RandomState(0)
    values = [rng.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(tree, [0.2 * value for value in values])


def example(net, shape):
    z = jnp.asarray(np.random.RandomState(1).standard_normal((2, *shape)), jnp.float32)
    inputs = (z, jnp.zeros(2), jnp.zeros(2, int))
    if net.vector_features:
        inputs += (jnp.zeros((2, net.vector_features)),)
    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"]
    return z, filled(shapes)


@pytest.fixture
def open_to_others():
    """New files are readable to others, whatever the user's umask is."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize("name", CASES)
def test_what_was_saved_is_opened_bit_for_bit(name, tmp_path, open_to_others):
    """Weights, and the prediction as `precondition` makes it, with a label too."""
    net, shape, meaning = CASES[name]
    z, params = example(net, shape)
    path = interop.save(tmp_path / "net", net, params, event_shape=shape, **meaning)
    modes = {file.stat().st_mode for file in path.iterdir()}
    assert len(modes) == 1, modes  # the weights are open to whom the config is
    model = interop.load(path)
    assert same(model.network.params, params) and model.shape == shape
    assert model.network.module == net and model.schedule == meaning["schedule"]
    assert str(model.kind) == str(predictions.as_kind(meaning["kind"]))
    label = jnp.array([1, 0])
    bare = predictions.precondition(
        lambda z, time: net.apply(
            {"params": params}, z, jnp.broadcast_to(time, (2,)), label
        ),
        schedule=meaning["schedule"],
        sigma_data=meaning.get("sigma_data", 1.0),
    )
    t = jnp.array([0.3, 0.8])
    exact = jax.jit(bare)(z, t)
    assert np.abs(exact).max() > 0
    found = jax.jit(lambda z, t: model.predict_fn(z, t, label))(z, t)
    np.testing.assert_array_equal(found, exact)
    assert model.null_label == net.num_classes


def test_a_vector_takes_the_place_of_a_label(tmp_path):
    net, shape, meaning = CASES["points"]
    z, params = example(net, shape)
    path = interop.save(tmp_path / "net", net, params, event_shape=shape, **meaning)
    model = interop.load(path)
    vector = jnp.ones((2, 3))
    network = jax.jit(lambda network, z, label: network(z, jnp.array(0.5), label))
    found = network(model.network, z, vector)
    exact = net.apply({"params": params}, z, jnp.array(0.5), None, vector)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_plain_values_and_back(name):
    """Bit for bit; those of bare functions are refused."""
    schedule = SCHEDULES[name]
    if name in BARE:
        with pytest.raises(ValueError, match=r"schedule.*: .* is none of this library"):
            described("schedule", schedule)
        return
    text = json.dumps(described("schedule", schedule), allow_nan=False)
    found = rebuilt("schedule", json.loads(text))
    assert jax.tree.structure(found) == jax.tree.structure(schedule)
    assert same(jax.tree.leaves(found), jax.tree.leaves(schedule))


@pytest.mark.ci
def test_a_network_of_diffusers_is_called_as_there(tmp_path):
    """At the timesteps of its table, z unscaled."""
    net = DiTTransformer2D(
        num_attention_heads=2, attention_head_dim=4, in_channels=2, num_layers=1,
        sample_size=4, num_embeds_ada_norm=3,
    )  # fmt: skip
    inputs = net.example_inputs()
    params = filled(jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"])
    table = schedules.Discrete.linear_betas()
    path = interop.save(
        tmp_path / "net", net, params, schedule=table, kind="eps",
        event_shape=(4, 4, 2), convention="diffusers",
    )  # fmt: skip
    model = interop.load(path)
    z, label = jnp.ones((2, 4, 4, 2)), jnp.array([2, 3])
    found = jax.jit(lambda fn, z: fn(z, 0.5, label))(model.predict_fn, z)
    exact = net.apply({"params": params}, z, jnp.full(2, 499.0), label)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)


PUBLISHED = {
    "ddpm": interop.from_diffusers({"_class_name": "DDPMScheduler"}),
    "flow": interop.from_diffusers({"_class_name": "FlowMatchEulerDiscreteScheduler"}),
    "sit": interop.from_sit("Linear", "velocity"),
    "sit vp": interop.from_sit("VP", "noise"),
    "edm": interop.from_edm("edm"),
    "vp": interop.from_edm("vp", schedule=schedules.LinearBeta()),
    "ve": interop.from_edm("ve", schedule=schedules.VE(0.02, 100.0)),
    "iddpm": interop.from_edm("iddpm"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_conventions_of_schedules_are_the_published_ones(name):
    exact, t = PUBLISHED[name], jnp.array([0.25, 0.5, 1.0])
    source = name if name in OF_EDM else "sit" if "sit" in name else "diffusers"
    found = interop.from_schedule(exact.schedule, exact.kind, source=source)
    np.testing.assert_array_equal(found.clock_fn(t), exact.clock_fn(t))
    np.testing.assert_array_equal(found.scale_fn(t), exact.scale_fn(t))
    assert (found.sign, str(found.kind)) == (exact.sign, str(exact.kind))


def broken(folder, change):
    """A saved folder whose config is changed."""
    net, shape, meaning = CASES["images"]
    _, params = example(net, shape)
    path = interop.save(folder / "net", net, params, event_shape=shape, **meaning)
    config = json.loads((path / "config.json").read_text())
    change(config)
    (path / "config.json").write_text(json.dumps(config))
    return path


BROKEN = {
    "no schedule": (lambda config: config.pop("schedule"), "has no schedule"),
    "format": (lambda config: config.update(format=9), "format 9: must be 1"),
    "field": (lambda config: config["network"].update(depth=3), "'depth'"),
    "class": (
        lambda config: config["kind"].update(_class="os.system"),
        "class 'os.system' must be of this library",
    ),
    "another network": (
        lambda config: config["network"].update(num_blocks=2),
        "missing: block_1",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_config_that_is_wrong_is_refused(name, tmp_path):
    change, message = BROKEN[name]
    with pytest.raises(ValueError, match=message) as error:
        interop.load(broken(tmp_path, change))
    assert len(str(error.value).splitlines()) == 1


SHIFTED = {"_class": "schedules.Shifted", "base": {"_class": "schedules.FlowMatching"}}
CORRUPTED = {
    "no fields": ("schedule", {"_class": "schedules.Shifted"}, "schedule: .*Shifted: "),
    "array": ("schedule", SHIFTED | {"k": {"_array": [1]}}, r"schedule\.k: .*dtype"),
    "class": ("kind", {"_class": []}, "kind: class .* must be of this library"),
    "network": ("network", "unet", "network='unet': must be a network"),
    "schedule": ("schedule", 3, "schedule=3: must be a schedule"),
    "kind": ("kind", None, "kind=None: must be a prediction type"),
    "shape": ("event_shape", 5, "event_shape=5: must be a list of positive"),
    "scale": ("sigma_data", "1", "sigma_data='1': must be a positive number"),
    "convention": ("convention", ["sit"], "unknown convention of config.json"),
    "null label": ("null_label", "3", "null_label='3': must be an integer"),
    "field": ("network", {"_class": "networks.DiT", "num_heads": "x"}, "network: "),
}


def test_a_config_that_is_corrupted_is_refused_with_the_place(tmp_path):
    path = broken(tmp_path, lambda config: None)
    config = json.loads((path / "config.json").read_text())

    def is_refused(name, value, message):
        (path / "config.json").write_text(json.dumps(config | {name: value}))
        with pytest.raises(ValueError, match=message) as error:
            interop.load(path)
        assert len(str(error.value).splitlines()) == 1

    check_all(is_refused, CORRUPTED)


def test_what_is_cut_off_leaves_nothing_and_two_writers_do_not_mix(
    tmp_path, monkeypatch, open_to_others
):
    path, write = tmp_path / "net", numpy.save_file

    def fails(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(numpy, "save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        own.write_folder(path, {}, {"a": np.zeros(2)})
    assert not [*tmp_path.iterdir()]

    def overtaken(*arguments, **options):
        monkeypatch.setattr(numpy, "save_file", write)
        own.write_folder(path, {"second": 1}, {"b": np.ones(3)})
        write(*arguments, **options)

    monkeypatch.setattr(numpy, "save_file", overtaken)
    with pytest.raises(ValueError, match="exists: give the path of a new folder"):
        own.write_folder(path, {"first": 1}, {"a": np.zeros(2)})
    assert [*tmp_path.iterdir()] == [path]
    assert json.loads((path / "config.json").read_text()) == {"second": 1}
    assert [*interop.read_weights(path)] == ["b"]
    (tmp_path / "other").mkdir()  # open to other users as any new folder is
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_convention_without_such_a_schedule_or_scale_is_not_written(tmp_path):
    """On flow matching the noise level of EDM's networks is infinite at t = 1."""
    for schedule, source, sigma_data, said in (
        *((FLOW, source, 1.0, r"must have alpha\(1\) > 0") for source in OF_EDM),
        (schedules.EDM(), "edm", 1.0, "sigma_data=1.0: must be 0.5"),
        (schedules.EDM(), "sit", 1.0, "must be one of SiT's"),
    ):
        settings = dict(schedule=schedule, kind=predictions.edm_f(0.5))
        settings |= dict(event_shape=(2,), sigma_data=sigma_data, convention=source)
        with pytest.raises(ValueError, match=said):
            interop.save(tmp_path / "net", CASES["points"][0], {}, **settings)
    assert not (tmp_path / "net").exists()


def test_a_folder_that_is_there_is_not_overwritten(tmp_path):
    net, shape, meaning = CASES["images"]
    with pytest.raises(ValueError, match="exists: give the path of a new folder"):
        interop.save(tmp_path, net, {}, event_shape=shape, **meaning)
