"""Every shipped config builds, trains and samples, and all its entries are read.

Data that users bring are replaced by a few generated examples of each class.
"""

import functools
import importlib
import pathlib

import jax
import ml_collections
import numpy as np
import PIL.Image
import pytest

from diffusionflow import objectives
from diffusionflow.networks.embedding import Conditioning
from experiments.checkpointing.loaded import Request
from experiments.config import build, experiment, schema
from experiments.data import cifar
from experiments.runtime import sharding
from experiments.sampling import encoding, pairs
from experiments.training import console, loop
from tests.helpers.networks import directions
from tests.helpers.tiny_autoencoder import write_autoencoder, write_images

ROOT = pathlib.Path(__file__).parents[3]
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
BROUGHT = {
    "cifar10",
    "imagenet64",
    "imagenet256_latents",
    "digits_reflow",
}  # their data are brought along
SHORT = {
    "num_steps": 2,
    "batch_size": 8,
    "optimizer.warmup_steps": 1,
    "sampler.num_steps": 1,
    "samples.per_class": 1,
    "eval.draws": 1,
    "sharding.fsdp": 2,
}
SMALL = {
    "unet": {"network.channels": 8, "network.num_blocks": 1},
    "dit": {"network.features": 16, "network.num_heads": 2},
    "residual_mlp": {"network.features": 8},
}


class Recorder:
    """A config that writes down which of its entries are read one by one."""

    def __init__(self, config, prefix="", read=None):
        self._config, self._prefix = config, prefix
        self.read = set() if read is None else read

    def __getitem__(self, key):
        value = self._config[key]
        if isinstance(value, ml_collections.ConfigDict):
            return Recorder(value, f"{self._prefix}{key}.", self.read)
        self.read.add(self._prefix + key)
        return value

    __getattr__ = __getitem__

    def __iter__(self):
        return iter(self._config)

    def to_dict(self):
        return self._config.to_dict()


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(cifar, "CIFAR_RECORDS", 10)


def entries(config, prefix=""):
    """All dotted names of a config."""
    found = set()
    for key, value in config.items():
        section = isinstance(value, ml_collections.ConfigDict)
        found |= entries(value, f"{prefix}{key}.") if section else {prefix + key}
    return found


def with_data(name, folder):
    """A shipped config; data that must be brought along stand in `folder`."""
    config = importlib.import_module(f"configs.{name}").get_config()
    values = np.random.RandomState(0)
    if config.data.name == "cifar10":
        for number in (*range(1, 6), None):
            file = f"data_batch_{number}.bin" if number else "test_batch.bin"
            records = values.randint(0, 256, (10, 3_073)).astype(np.uint8)
            records[:, 0] = np.arange(10)
            records.tofile(folder / file)
        config.data.path = str(folder)
    if config.data.name == "folder":
        for part, entry in (("train", "path"), ("val", "test_path")):
            for label in ("cat", "dog"):
                (folder / part / label).mkdir(parents=True)
                for number in range(6):
                    pixels = values.randint(0, 256, (70, 80, 3)).astype(np.uint8)
                    file = folder / part / label / f"{number}.png"
                    PIL.Image.fromarray(pixels).save(file)
            config.data[entry] = str(folder / part)
    if config.data.name == "latents":
        images = write_images(folder / "images")
        vae, out = write_autoencoder(folder / "vae"), folder / "latents"
        settings = encoding.Settings(str(images), str(vae), str(out))
        config.data.path = str(encoding.encode(settings))
    if config.get("distillation", {}).get("teacher"):
        teacher = short("digits", folder)
        with jax.numpy_dtype_promotion("standard"):
            loop.train_and_evaluate(teacher, folder / "teacher")
        config.distillation.teacher = str(folder / "teacher")
    if config.data.name == "pairs":
        request = Request(num_samples=90, sampler=dict(num_steps=1))
        config.data.path = str(pairs.write_pairs(folder / "teacher", request))
    return config


def short(name, folder):
    config = with_data(name, folder)
    config.update_from_flattened_dict(SHORT | SMALL[config.network.name])
    if "progressive" in config.get("distillation", {}).get("method", ""):
        config.num_steps = 10  # two steps for each stage
    return config


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_valid_and_says_how_it_is_run(name):
    module = importlib.import_module(f"configs.{name}")
    experiment.from_config(module.get_config())
    assert f"--config=configs/{name}.py" in module.__doc__
    assert f"--workdir=runs/{name}" in module.__doc__


@pytest.fixture
def compiled():
    """The names of the programs that are compiled from here on, in a list."""
    found = []

    def note(event, duration, **of):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(of.get("fun_name"))

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.parametrize("name", NAMES)
def test_judging_a_config_compiles_nothing(name, compiled):
    config = importlib.import_module(f"configs.{name}").get_config()
    experiment.from_config(config)
    assert compiled == []
    jax.jit(jax.numpy.sin)(1.0)
    assert len(compiled) == 1  # so they are counted


def networks():
    """The first config of each network."""
    first = {}
    for name in NAMES:
        config = importlib.import_module(f"configs.{name}").get_config()
        first.setdefault(config.network.to_json(sort_keys=True), name)
    return list(first.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", networks())
def test_its_blocks_read_a_vector_that_resolves_time(name, tmp_path):
    """32 directions or more, of 1 % of the largest, over 101 times.

    Fewer where the network is differentiated in its times.
    """
    config = with_data(name, tmp_path)
    schema.add_defaults(config)
    least = 32 if config.network.get("max_frequency", 1000.0) > 64 else 6
    built = experiment.from_config(config).model(build.dataset(config.data))
    time = jax.numpy.linspace(0, 1, 101)
    read = lambda module, _: isinstance(module, Conditioning)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def vectors(key):  # nothing else is computed
        z, label = jax.numpy.zeros((101, *built.event_shape)), None
        variables = built.net.init(key, z, time, label)
        return built.net.apply(variables, z, time, label, capture_intermediates=read)[
            1
        ]["intermediates"]

    found = jax.tree.leaves(vectors(jax.random.key(0)))
    assert [leaf.shape[0] for leaf in found] == [101]
    assert directions(found[0]) >= least


@pytest.mark.parametrize("name", sorted({*NAMES} - BROUGHT))
def test_sigma_data_is_that_of_the_data(name):
    """To the 20 % at which a run warns; the others' data are not here."""
    config = importlib.import_module(f"configs.{name}").get_config()
    dataset = build.dataset(config.data)
    x = np.asarray(dataset.transform.to_float(dataset.train.values), np.float64)
    measured = np.sqrt(np.mean(x**2))
    assert console.sigma_data_warning(config.sigma_data, measured) is None


def test_the_transformer_on_latents_has_the_size_of_sit_xl():
    """675 M parameters, arXiv 2401.08740, table 2 (to 1 %)."""
    config = importlib.import_module("configs.imagenet256_latents").get_config()
    net, of = build.network(config.network, 1_000), jax.ShapeDtypeStruct
    z, label = of((1, 32, 32, 4), jax.numpy.float32), of((1,), jax.numpy.int32)
    time = of((1,), jax.numpy.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), z, time, label)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert abs(count / 675e6 - 1) < 0.01


RECIPES = {
    "digits": objectives.flow_matching(),
    "digits_ddpm": objectives.ddpm(),
    "digits_edm": objectives.edm(sigma_data=0.85),
    "digits_sd3": objectives.sd3(),
    "digits_vcosine": objectives.v_cosine(),
    "digits_vdm": objectives.vdm(),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_digits_are_trained_by_the_recipe_that_is_named(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    built, recipe = build.objective(config.objective), RECIPES[name]
    found = objectives.same_objective(built, recipe, logsnr_range=(-4.9, 7.0))
    assert found.same, found
    assert built.schedule == recipe.schedule
    assert str(built.kind) == str(recipe.kind)


# four differ from `digits` in the objective alone, for which there is the test above;
# three and four resolutions with attention take minutes to compile; stages of
# progressive distillation are trained in `test_few_step.py`
NIGHTLY = {
    "cifar10",
    "digits_ddpm",
    "digits_progressive",
    "digits_sd3",
    "digits_vcosine",
    "digits_vdm",
    "imagenet64",
    "patches",
}
MARKED = [
    pytest.param(
        name, marks=getattr(pytest.mark, "nightly" if name in NIGHTLY else "slow")
    )
    for name in NAMES
]


@pytest.mark.parametrize("name", MARKED)
def test_it_trains_and_every_entry_is_read(
    name, tmp_path, monkeypatch, standard_promotion
):
    config = short(name, tmp_path)
    schema.add_defaults(config)
    recorder = Recorder(config)
    monkeypatch.setattr(experiment, "_check_values", lambda config: None)
    monkeypatch.setattr(experiment, "FrozenConfigDict", lambda config: config)
    quick = {"xla_backend_optimization_level": 0}
    monkeypatch.setattr(sharding, "compiler_options", lambda: quick)
    workdir = tmp_path / "run"
    state = loop.train_and_evaluate(recorder, workdir)
    assert int(state.step) == config.num_steps
    unread = {"cpu_devices"}  # but by cli.start_jax
    if not config.distillation.teacher:
        unread.add("distillation.weights")
    assert entries(config) - recorder.read == unread
    pictures = 2 if config.samples.every else 0
    assert len(list((workdir / "samples").iterdir())) == pictures
    assert all(jax.numpy.isfinite(leaf).all() for leaf in jax.tree.leaves(state.ema))
