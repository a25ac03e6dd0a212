"""Pairs of noise and sample of a run: `sampling/pairs.py`."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, metrics, random, samplers, schedules
from experiments.checkpointing import restore
from experiments.checkpointing.loaded import Loaded, Request
from experiments.config import build
from experiments.runtime import rng
from experiments.runtime.errors import UsageError
from experiments.sampling import compiled_sampler, pairs
from experiments.sampling.pairs import write_pairs
from experiments.sampling.sample_run import sample_run
from experiments.training import loop
from tests.helpers import tiny
from tests.helpers.exact_model import STD, model_of

SAMPLER = {"name": "heun(variable='u')", "num_steps": 4, "grid": "uniform"}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run on points, long enough for labels to matter."""
    workdir = tmp_path_factory.mktemp("run")
    config = tiny.config(
        num_steps=20,
        optimizer__learning_rate=0.03,
        eval__every=0,
        samples__every=0,
        checkpoint__every=20,
    )
    with jax.numpy_dtype_promotion("standard"):
        loop.train_and_evaluate(config, workdir)
    return workdir


def draw(workdir, **settings):
    """The arrays of a request."""
    request = Request(**{"num_samples": 40, "sampler": SAMPLER} | settings)
    with np.load(write_pairs(workdir, request)) as file:
        return dict(file)


@pytest.mark.ci
def test_what_is_written(workdir, tmp_path, capsys):
    drawn = draw(workdir, num_samples=5, guidance=2.0, sampler={})
    assert {name: (each.shape, each.dtype.kind) for name, each in drawn.items()} == {
        "samples": ((5, 2), "f"),
        "noise": ((5, 2), "f"),
        "labels": ((5,), "i"),
        "num_classes": ((), "i"),
        "recipe": ((), "U"),
        "settings": ((), "U"),
        "original": ((), "U"),
        "straightness": ((), "U"),
    }
    assert drawn["samples"].dtype == drawn["noise"].dtype == np.float32
    assert drawn["labels"].tolist() == [0, 1, 0, 1, 0] and drawn["num_classes"] == 2
    recipe = (
        "ema weights of step 20, heun(variable='u'), 50 steps, grid uniform, "
        "guidance 2, seed 0"
    )
    assert str(drawn["recipe"]) == recipe
    original = json.loads(str(drawn["original"]))
    assert original["data"] == {"name": "moons", "size": 330}
    assert original["examples"]["num_train"] == 294
    output = capsys.readouterr().out
    assert recipe in output and "straightness of 5 paths: " in output
    assert f"{workdir / 'pairs'}/pairs_step0000020_ema_heun" in output
    assert json.loads(str(drawn["settings"]))["guidance"] == 2


@pytest.mark.ci
@pytest.mark.parametrize(
    "name", [pytest.param("heun(variable='u')", marks=pytest.mark.slow), "ddpm"]
)
def test_a_pair_is_the_noise_and_the_sample_of_its_seed_and_index(
    workdir, tmp_path, name
):
    """By the samplers themselves; samples of the same seed start from other noise."""
    sampler = SAMPLER | {"name": name}
    drawn = draw(workdir, sampler=sampler, guidance=2.0, seed=3)
    request = Request(num_samples=40, sampler=sampler, guidance=2.0, seed=3)
    with np.load(sample_run(workdir, request)) as file:
        assert np.abs(drawn["samples"] - file["samples"]).min() > 1e-6
    loaded = restore.load(workdir, request)
    keys = random.example_keys(rng.stream(3, rng.PAIRS), jnp.arange(40))
    start_keys, noise_keys = random.split(keys)
    noise = random.normal(start_keys, (40, 2))
    np.testing.assert_allclose(drawn["noise"], noise, atol=1e-6)
    denoise_fn = loaded.model.denoise_fn(
        loaded.params, jnp.asarray(drawn["labels"]), 2.0
    )
    result = samplers.sample(
        noise_keys,
        denoise_fn,
        jnp.asarray(drawn["noise"]),
        build.grid(sampler, loaded.model.objective.schedule),
        sampler=build.sampler(sampler),
        schedule=loaded.model.objective.schedule,
    )
    np.testing.assert_allclose(drawn["samples"], result.x, atol=1e-5)


@pytest.mark.ci
def test_pair_i_does_not_depend_on_batches_and_shards(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled_sampler, "CPU_WIDTHS", (16, 16))  # several programs
    whole = draw(workdir)
    for batch_size, shard_size in ((1, 7), (64, 16)):
        out = str(tmp_path / f"{batch_size}")
        again = draw(workdir, batch_size=batch_size, shard_size=shard_size, out=out)
        for name in ("samples", "noise", "labels"):
            np.testing.assert_array_equal(again[name], whole[name])
    fewer = draw(workdir, num_samples=3)
    np.testing.assert_array_equal(fewer["noise"], whole["noise"][:3])
    np.testing.assert_array_equal(fewer["samples"], whole["samples"][:3])
    other = draw(workdir, seed=1)
    assert np.abs(other["noise"] - whole["noise"]).min() > 1e-6


@pytest.mark.ci
def test_a_stopped_draw_goes_on_with_the_next_shard(workdir, tmp_path, monkeypatch):
    """And ends with the arrays of one that was not stopped, straightness included."""
    settings = {"shard_size": 16, "out": str(tmp_path / "a")}
    first, original = [], compiled_sampler.make_sample_fn

    def counting(*args, **given):
        sample_fn = original(*args, **given)

        def counted(params, seed, conditions, start=0, advance=None):
            first.append(start)
            if len(first) == 3:
                raise RuntimeError("the machine stops")
            return sample_fn(params, seed, conditions, start, advance)

        return counted

    monkeypatch.setattr(compiled_sampler, "make_sample_fn", counting)
    with pytest.raises(RuntimeError):
        draw(workdir, **settings)
    with pytest.raises(UsageError, match="seed 0 there, 1 now"):
        draw(workdir, **settings, seed=1)
    found = draw(workdir, **settings)
    assert first == [0, 16, 32, 32, 0]  # the last one is of the straightness
    draw(workdir, **settings)
    assert len(first) == 5
    expected = draw(workdir, shard_size=16, out=str(tmp_path / "b"))
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def exact(model, **settings):
    """The straightness that is measured of a model, with Heun's method."""
    sampler = {"name": "heun(variable='u')", "num_steps": 100, "grid": "uniform"}
    request = Request(guidance=1.0, sampler=sampler | settings, num_samples=800)
    loaded = Loaded(request, {}, model, {}, "")
    given = pairs.Conditions(np.zeros(800, np.int32))
    return pairs.path_straightness(loaded, given)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["flow_matching", "cosine", "ve"])
def test_the_straightness_of_gaussian_data_is_that_of_theory(name):
    """(2 - pi / 2) STD in each dimension, on every schedule; off by its own error."""
    by_level = {"ve": {"grid": "logsnr_uniform(logsnr_min=-7.8, logsnr_max=9.2)"}}
    found = exact(model_of(name), **by_level.get(name, {}))
    expected = (2 - np.pi / 2) * STD
    assert found["dimensions"] == 4 and found["num_paths"] == 800
    mean, error = found["mean"] / 4, found["standard_error"] / 4
    assert 0.005 < error < 0.02
    assert abs(mean - expected) < 3 * error


@pytest.mark.ci
def test_a_last_step_to_the_data_counts(workdir):
    """Against the metric itself on the states, whose last time is that of level 0."""
    schedule = schedules.FlowMatching()
    denoise_fn = analytic.gaussian(jnp.zeros(()), 0.25).denoise_fn(schedule=schedule)
    times = np.array([1.0, 0.5, 0.25])
    z = jnp.array([[1.0], [-0.3]])
    result = samplers.sample(
        None,
        denoise_fn,
        z,
        times,
        sampler=samplers.Heun("u"),
        schedule=schedule,
        trajectory=True,
    )
    assert len(result.trajectory) == 4
    expected = metrics.straightness(result.trajectory, np.append(times, 0))
    found = pairs._straightness(result, times, schedule)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.ci
def test_a_sampler_with_noise_has_no_straightness(workdir, capsys):
    assert "straightness" not in draw(workdir, sampler=SAMPLER | {"name": "ddpm"})
    assert "straightness: not measured, as the sampler" in capsys.readouterr().out


def test_the_noise_is_that_of_the_start_divided_by_sigma():
    """VE's start is 50 eps, and that of a grid from t = 1/2 less."""
    model = model_of("ve")
    for t_max, sigma in ((1.0, 50.0), (0.5, model.objective.schedule.sigma(0.5))):
        sample_fn = compiled_sampler.make_sample_fn(
            model,
            {"name": "ddim", "num_steps": 1, "grid": f"uniform(t_max={t_max})"},
            guidance=1,
            batch_size=16,
            most=64,
            output_fn=lambda result, noise: (result.trajectory[0], noise),
            trajectory=True,
        )
        conditions = pairs.Conditions(np.zeros(16, np.int32))
        start, noise = sample_fn({}, 0, conditions)
        np.testing.assert_allclose(start, sigma * noise, rtol=1e-6)
        np.testing.assert_allclose(noise.std(), 1, atol=0.3)
