"""Users' own parts, named `module:Name` in a config, in a run and in its samples."""

import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest

from experiments.checkpointing import restore
from experiments.checkpointing.loaded import Request
from experiments.config import build, experiment, external, schema
from experiments.runtime.errors import UsageError
from experiments.sampling import sample_run
from experiments.training import loop
from experiments.training.trainer import Trainer
from tests.helpers import tiny

OWN = """
import diffusionflow
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn, nnx
from diffusionflow import grids, predictions, samplers, schedules, times, weightings
import equinox as eqx


@diffusionflow.register
class Power(schedules.Schedule):
    power: float = 2.0

    def alpha(self, t):
        return 1 - t**self.power

    def sigma(self, t):
        return t


@diffusionflow.register
class Flat(weightings.Weighting):
    kind: str = diffusionflow.static(default="x")

    def __call__(self, t, *, schedule):
        return 0 * schedule.alpha(t) + 1


@diffusionflow.register
class Early(times.InverseTransform):
    def density(self, t, *, schedule):
        return 2 * (1 - t)

    def cdf(self, t, *, schedule):
        return 1 - (1 - t) ** 2

    def quantile(self, u, *, schedule):
        return 1 - (1 - u) ** 0.5


@diffusionflow.register
class Step:
    num_noises = 0

    def plan(self, t, s, schedule):
        return dict(t=t, a=schedule.alpha(s), b=schedule.sigma(s))

    def init(self, z):
        return z

    def step(self, z, row, noise, denoise_fn):
        found = denoise_fn(z, row["t"])
        return row["a"] * found.x + row["b"] * found.eps

    def output(self, z):
        return z


def grid(num_steps):
    return np.linspace(1.0, 0.0, num_steps + 1) ** 2


def waves(count=90, length=6):
    phase = np.random.RandomState(0).rand(count, 1)
    return np.sin(2 * np.pi * (np.arange(length) / length + phase)).astype("f4")


class Linen(nn.Module):
    width: int = 8
    num_classes: int = 0

    @nn.compact
    def __call__(self, z, time, label=None, train=False):
        hidden = nn.Dense(self.width)(jnp.concatenate([z, time[:, None]], axis=-1))
        return nn.Dense(z.shape[-1])(nn.silu(hidden))


class Net(nnx.Module):
    def __init__(self, width=8, size=6, *, rngs):
        self.inner = nnx.Linear(size + 1, width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.outer = nnx.Linear(width, size, rngs=rngs)

    def __call__(self, z, time):
        hidden = self.inner(jnp.concatenate([z, time[:, None]], axis=-1))
        return self.outer(self.drop(nnx.silu(hidden)))


class Eqx(eqx.Module):
    layers: list

    def __init__(self, width=8, size=6, *, key):
        keys = jax.random.split(key)
        self.layers = [
            eqx.nn.Linear(size + 1, width, key=keys[0]),
            eqx.nn.Linear(width, size, key=keys[1]),
        ]

    def __call__(self, z, time):
        first, second = self.layers
        return second(jax.nn.silu(first(jnp.append(z, time))))


class NetOfTwo(nnx.Module):
    def __init__(self, size=6, *, rngs):
        self.map = nnx.Linear(size + 1, size, rngs=rngs)

    def __call__(self, z, time, second_time):
        interval = (time - second_time)[:, None]
        return self.map(jnp.concatenate([z, interval], axis=-1))


class EqxOfTwo(eqx.Module):
    map: eqx.nn.Linear

    def __init__(self, size=6, *, key):
        self.map = eqx.nn.Linear(size + 1, size, key=key)

    def __call__(self, z, time, *, second_time, key=None):
        return self.map(jnp.append(z, time - second_time))


def rate(init_value, decay_steps):
    return optax.linear_schedule(init_value, 0.0, decay_steps)


def chain(learning_rate, clip=1.0):
    return optax.chain(optax.clip(clip), optax.sgd(learning_rate))


class Rising(Power):
    def alpha(self, t):
        return t

    def sigma(self, t):
        return 1 - t


class NoSigma(schedules.Schedule):
    def alpha(self, t):
        return 1 - t


@diffusionflow.register
class NoKind:
    def __call__(self, t, *, schedule):
        return 1 + t


class Swapped(Step):
    def plan(self, t, s):
        return dict(t=t, a=1 - s, b=s)


class Wide(nnx.Module):
    def __init__(self, width=8, *, rngs):
        self.inner = nnx.Linear(6, width, rngs=rngs)

    def __call__(self, z, time):
        return self.inner(z)


def listed():
    return [[0.5, 0.25]] * 90


class Log:
    rows = []

    def __call__(self, step, row):
        self.rows.append((step, "loss" in row))


value = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module `own` in the current directory, imported by nobody yet."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("own", None)
    yield tmp_path
    sys.modules.pop("own", None)


def config(**overrides):
    settings = dict(
        num_steps=4,
        log__every=2,
        eval__every=0,
        objective__schedule="own:Power(power=3.0)",
        objective__kind="u",
        objective__weighting="own:Flat()",
        objective__times="stratified(own:Early)",
        sampler__name="own:Step",
        sampler__grid="own:grid",
        optimizer__name="own:chain(clip=0.5)",
        optimizer__schedule="own:rate",
        callbacks=("own:Log",),
    )
    found = tiny.config(**settings | overrides)
    found.data = dict(name="own:waves(length=6)", count=90)
    found.network = dict(name="own:Net", width=4)
    return found


@pytest.mark.ci
def test_everything_may_be_the_users_own(own):
    workdir = own / "run"
    state = loop.train_and_evaluate(config(), workdir)
    assert int(state.step) == 4
    assert set(state.params) == {
        f"{layer}.{leaf}" for layer in ("inner", "outer") for leaf in ("kernel", "bias")
    }
    assert sys.modules["own"].Log.rows[-1] == (4, True)
    found = restore.load(workdir, Request())
    assert repr(found.model.objective.schedule) == "Power(power=3.0)"
    assert type(build.sampler(found.config["sampler"])).__name__ == "Step"
    sample_run.sample_run(workdir, Request(num_samples=3))
    (path,) = (workdir / "samples").glob("*seed0*.npz")
    with np.load(path) as file:
        assert file["samples"].shape == (3, 6)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["own:Linen", "own:Net", "own:Eqx"])
def test_a_network_of_each_library_trains_and_resumes_bit_for_bit(own, network):
    settings = config(optimizer__schedule="constant", optimizer__warmup_steps=0)
    settings.network = dict(name=network, width=4)
    whole = loop.train_and_evaluate(settings, own / "whole")
    settings.num_steps = 2
    loop.train_and_evaluate(settings, own / "half")
    settings.num_steps = 4
    resumed = loop.train_and_evaluate(settings, own / "half")
    for one, other in zip(
        *(map(np.asarray, jax.tree.leaves(state.params)) for state in (whole, resumed)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.ci
def test_a_run_is_understood_from_another_directory_and_a_change_is_noticed(
    own, monkeypatch, capfd
):
    workdir = own / "run"
    loop.train_and_evaluate(config(), workdir)
    elsewhere = own / "elsewhere"
    elsewhere.mkdir()

    def again():
        sys.modules.pop("own", None)
        monkeypatch.setattr(
            sys, "path", [each for each in sys.path if each not in ("", str(own))]
        )
        monkeypatch.chdir(elsewhere)
        capfd.readouterr()
        restore.load(workdir, Request())
        return capfd.readouterr().err

    assert again() == ""
    (own / "own.py").write_text(OWN + "\n# another day\n")
    error = again()
    assert "module 'own'" in error and "has changed since" in error
    kept = pathlib.Path(error.split("is in ")[1].strip())
    assert (kept / "own.py").read_text() == OWN
    shutil.move(own / "own.py", own / "gone.py")
    assert again() == ""  # the copy that the run keeps
    shutil.rmtree(workdir / external.FOLDER)
    with pytest.raises(UsageError, match="needs the module 'own', which was .*own.py"):
        again()


@pytest.mark.ci
def test_a_resume_with_a_changed_module_is_refused(own):
    loop.train_and_evaluate(config(), own / "run")
    (own / "own.py").write_text(OWN + "\n# another day\n")
    sys.modules.pop("own")
    with pytest.raises(UsageError, match="modules.own.digest: .*in the checkpoint"):
        loop.train_and_evaluate(config(), own / "run")


@pytest.mark.parametrize(
    ("entry", "text", "message"),
    [
        ("objective__schedule", "owm:Power", "no module 'owm' for owm:Power"),
        ("objective__schedule", "own:Powr", "has no 'Powr'; did you mean 'Power'"),
        ("objective__schedule", "own:Power(pwr=1.0)", "unknown name 'pwr'; did you"),
        ("objective__schedule", "own:Flat", "objective.schedule: .*schedules.Schedule"),
        ("objective__schedule", "own:value", "is no class or function"),
        ("objective__times", "own:Flat", "objective.times"),
        ("objective__weighting", "own:value", "is no class or function"),
        ("objective__schedule", "own:Rising", "log-SNR must fall .* write 1 - t"),
        ("objective__schedule", "own:NoSigma", "NoSigma must define sigma"),
        ("objective__weighting", "own:NoKind", "has no kind, the prediction type"),
        ("sampler__name", "own:Power", "sampler.name: own:Power"),
        ("sampler__name", "own:Swapped", "sampler.name: own:Swapped: TypeError"),
        ("sampler__grid", "own:waves", "sampler.grid: own:waves gives"),
        ("optimizer__name", "own:waves", "must be an optax.GradientTransformation"),
        ("optimizer__name", "adamv", "unknown name 'adamv'; did you mean 'adam"),
        ("optimizer__name", "lbfgs", "cannot be called as update"),
        ("optimizer__schedule", "own:chain", "optimizer.schedule"),
        ("callbacks", ("own:value",), "own:value gives 3: must be callable"),
        ("callbacks", ("own:lag",), "has no 'lag'"),
    ],
)
def test_what_keeps_no_protocol_is_refused_at_once(own, entry, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        experiment.from_config(config(**{entry: text}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (dict(network=dict(name="own:Wide")), "own:Wide: its output of shape .2, 8."),
        (dict(network=dict(name="own:Net", widht=3)), "'widht'; did you mean 'width'"),
        (dict(network=dict(name="own:Net", size=5)), "network.name: own:Net: "),
        (dict(network=dict(name="own:value")), "is no class or function"),
        (dict(data=dict(name="own:listed")), "gives a list: must be an array"),
    ],
    ids=str,
)
def test_a_network_or_data_that_do_not_fit_are_refused(own, section, message):
    settings = config()
    for name, entries in section.items():
        settings[name] = entries
    with pytest.raises(UsageError, match=message) as caught:
        loop.train_and_evaluate(settings, own / "run")
    assert "\n" not in str(caught.value) and not (own / "run").exists()


@pytest.mark.parametrize("name", ["own:NetOfTwo", "own:EqxOfTwo"])
def test_a_network_of_ones_own_may_take_two_times(own, name):
    """It is given the time as the second one where there is none."""
    settings = config()
    settings.network = dict(name=name)
    trainer = Trainer(settings)
    assert trainer.model.two_times
    params = trainer.init().params
    z, label = np.ones((3, 6), np.float32), np.zeros(3, np.int32)
    train = trainer.model.predict_fn(params, label, jax.random.key(0))
    for predict_fn in trainer.model.predict_fn(params, label), train:
        np.testing.assert_allclose(
            predict_fn(z, 0.5), predict_fn(z, 0.5, 0.5), atol=1e-6
        )
        assert np.abs(predict_fn(z, 0.5) - predict_fn(z, 0.5, 0.1)).max() > 1e-3


def test_a_network_of_ones_own_that_fails_with_two_times_is_refused(own):
    text = OWN.replace("(time - second_time)[:, None]", "second_time")
    (own / "own.py").write_text(text)
    settings = config()
    settings.network = dict(name="own:NetOfTwo")
    with pytest.raises(UsageError, match="network.name: own:NetOfTwo: ") as caught:
        Trainer(settings)
    assert "\n" not in str(caught.value)


def test_modules_are_found_in_call_strings_and_not_in_words():
    texts = {
        "stratified(own:Early(a=1))": [("own", "Early")],
        "a.b.c:Name": [("a.b.c", "Name")],
        "mse(kind='u:v')": [],
        "uniform": [],
    }
    for text, found in texts.items():
        assert external.references(text) == found


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "adafactor", "sgd"])
def test_optimizers_of_optax_by_name(name):
    experiment.from_config(tiny.config(optimizer__name=name))
    experiment.from_config(
        tiny.config(optimizer__schedule="exponential_decay(decay_rate=0.5)")
    )


def test_the_identity_of_a_run_without_modules_has_none():
    settings = tiny.config()
    schema.settle(settings)
    assert json.dumps(external.modules(settings)) == "{}"
