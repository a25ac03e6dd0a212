"""Samples from pictures and between seeds: `sampling/editing.py` and what it plans."""

import re

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.spatial import geometric_slerp

from diffusionflow import analytic, grids, processes, random, samplers, schedules
from experiments.checkpointing import restore
from experiments.checkpointing.loaded import Request
from experiments.runtime import rng
from experiments.runtime.errors import UsageError
from experiments.sampling import compiled_sampler, inversion
from experiments.sampling.edits import Parts
from experiments.sampling.interpolation import spherical
from experiments.sampling.sample_run import sample_run
from experiments.training import loop
from tests.helpers import all_schedules, arrays
from tests.helpers.parametrize import check_all

EVENT = (4, 4, 1)
PICTURES = np.random.RandomState(0).uniform(-1, 1, (5, *EVENT)).astype(np.float32)
STOCHASTIC = {"name": "ddpm", "num_steps": 4}
HEUN = {"name": "heun(variable='u')", "num_steps": 200}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run on floats of two classes with names, and files to begin from."""
    path = tmp_path_factory.mktemp("named")
    values = np.random.RandomState(1).uniform(-1, 1, (36, *EVENT)).astype(np.float32)
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        jax.numpy_dtype_promotion("standard"),
    ):
        config = arrays.config(
            monkeypatch,
            path / "a.npz",
            dict(values=values, labels=np.array(["cat", "zebra"] * 18)),
            data=dict(map_labels=True, low=-1.0, high=1.0),
            num_steps=10,
            optimizer__learning_rate=0.03,
            eval__every=0,
            samples__every=0,
            checkpoint__every=10,
        )
        loop.train_and_evaluate(config, path / "run")
        np.save(path / "five.npy", PICTURES)
        np.save(path / "other.npy", PICTURES[::-1])
        np.save(path / "one.npy", PICTURES[0])
        for name, known in (("empty", 0), ("full", 1)):
            np.save(path / f"{name}.npy", np.full(EVENT, known))
        half = np.zeros((4, 4), np.uint8)
        half[:2] = 255
        Image.fromarray(half).save(path / "half.png")
        yield path / "run"


def draw(workdir, edit=(), **settings):
    """The `.npz` of a request; options that end in a suffix are files of the run."""
    edit = {
        name: ",".join(str(workdir.parent / part) for part in value.split(","))
        if isinstance(value, str) and "." in value
        else value
        for name, value in dict(edit).items()
    }
    settings = {"num_samples": 20, "guidance": 2.0} | settings
    path = sample_run(workdir, Request(**settings, edit=edit))
    with np.load(path) as file:
        return dict(file)


def in_turn(count):
    return PICTURES[np.arange(count) % 5]


@pytest.mark.ci
def test_strength_0_is_the_input_and_1_is_sample(workdir):
    """Bit for bit, with guidance and noise in the steps; just below 1 as well."""
    plain = draw(workdir, sampler=STOCHASTIC)["samples"]
    for strength, expected in [(0.0, in_turn(20)), (1.0, plain), (0.99, plain)]:
        edit = dict(init_image="five.npy", strength=strength)
        found = draw(workdir, edit, sampler=STOCHASTIC)["samples"]
        np.testing.assert_array_equal(found, expected, err_msg=f"strength {strength}")


@pytest.mark.ci
def test_strength_between_noises_the_picture_to_the_level_of_its_step(workdir):
    loaded = restore.load(workdir, Request())
    edit = dict(init_image="five.npy", strength=0.5)
    euler = {"name": "euler(variable='x')", "num_steps": 4}
    found = draw(workdir, edit, sampler=euler, guidance=1.0, num_samples=3, seed=7)
    keys = random.example_keys(rng.stream(7, rng.SAMPLE), np.arange(3, dtype=np.uint32))
    eps = random.normal(random.split(keys)[0], (3, *EVENT))
    schedule = loaded.model.objective.schedule
    expected = samplers.sample(
        None,
        loaded.model.denoise_fn(loaded.params, found["labels"], 1),
        processes.add_noise(PICTURES[:3], eps, 0.5, schedule=schedule),
        np.array([0.5, 0.25, 0.0]),
        sampler=samplers.Euler("x"),
        schedule=schedule,
    ).x
    np.testing.assert_allclose(found["samples"], expected, atol=1e-5)
    assert str(found["recipe"]).endswith("at strength 0.5, 2 of 4 steps")


@pytest.mark.ci
def test_an_empty_mask_is_sample_and_a_full_one_the_input(workdir):
    plain = draw(workdir, sampler=STOCHASTIC)["samples"]
    for name, expected in [("empty", plain), ("full", in_turn(20))]:
        edit = dict(init_image="five.npy", mask=f"{name}.npy")
        found = draw(workdir, edit, sampler=STOCHASTIC)["samples"]
        np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.ci
def test_white_is_known_and_black_is_filled(workdir, capsys):
    edit = dict(init_image="five.npy", mask="half.png")
    found = draw(workdir, edit, sampler=STOCHASTIC)["samples"]
    np.testing.assert_array_equal(found[:, :2], in_turn(20)[:, :2])
    assert np.all(found[:, 2:] != in_turn(20)[:, 2:])
    output = capsys.readouterr().out
    assert "mask: 8 of 16 values are known" in output
    (picture,) = re.findall(r"\S+[.]png$", output, re.M)
    assert Image.open(picture).size == (2 * 66, 20 * 66)  # a row over each of ten


@pytest.mark.ci
def test_a_picture_comes_back_from_its_noise(workdir, capsys):
    found = draw(workdir, dict(init_image="five.npy", invert=True), sampler=HEUN)
    assert found["samples"].shape == found["noise"].shape == PICTURES.shape
    difference = (found["samples"] - PICTURES).reshape(5, -1)
    rms = np.sqrt(np.mean(difference.astype(float) ** 2, axis=1))
    np.testing.assert_allclose(found["rms"], rms, rtol=1e-4)
    assert 0 < np.sqrt(np.mean(rms**2)) < 2e-2
    assert "there and back: 0.0" in capsys.readouterr().out


def test_encoding_is_exact_for_normal_data():
    """The probability-flow ODE keeps z / sqrt(alpha^2 V + sigma^2)."""
    schedule, variance = schedules.FlowMatching(), 0.25
    denoise_fn = analytic.gaussian(np.zeros(3), variance).denoise_fn(schedule=schedule)
    times = grids.uniform(200)
    parts = Parts(samplers.Heun("u"), schedule, times, (3,))
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    noise = inversion.standardized(inversion.encode(parts, denoise_fn, x), parts)
    np.testing.assert_allclose(noise, x / np.sqrt(variance), atol=2e-4)


def test_the_way_up_begins_at_a_level_of_noise_that_a_network_knows():
    for schedule in all_schedules.SCHEDULES.values():
        for times in (grids.uniform(4), grids.uniform(3000)):
            found = inversion.rising(times, schedule)
            ratio = schedule.sigma(found[0]) / schedule.alpha(found[0])
            assert ratio > (1 - 1e-6) * inversion.RATIO
            assert np.all(np.diff(found) > 0) and found[-1] == 1
            assert np.all(np.isin(found[1:], times))


@pytest.mark.ci
def test_a_row_goes_from_one_seed_to_the_other(workdir):
    """Its ends are the samples of both seeds to rounding, stochastic ones too."""
    settings = dict(sampler=STOCHASTIC, label="zebra")
    edit = dict(interpolate="3,8", columns=5)
    rows = draw(workdir, edit, **settings)["samples"].reshape(4, 5, *EVENT)
    for column, seed in ((0, 3), (-1, 8)):
        expected = draw(workdir, seed=seed, **settings)["samples"][:4]
        np.testing.assert_allclose(rows[:, column], expected, atol=2e-6)
    assert len(np.unique(rows.reshape(20, -1), axis=0)) == 20
    labels = draw(workdir, edit, sampler=STOCHASTIC)["labels"]
    assert labels.tolist() == np.repeat([0, 1, 0, 1], 5).tolist()


@pytest.mark.ci
def test_a_row_goes_from_one_picture_to_the_other(workdir):
    edit = dict(interpolate="five.npy,other.npy", columns=3)
    rows = draw(workdir, edit, sampler=HEUN, num_samples=100, guidance=1.0)["samples"]
    rows = rows.reshape(5, 3, *EVENT)
    np.testing.assert_allclose(rows[:, 0], PICTURES, atol=2e-2)
    np.testing.assert_allclose(rows[:, 2], PICTURES[::-1], atol=2e-2)
    np.testing.assert_allclose(rows[2, 1], PICTURES[2], atol=2e-2)  # to itself
    assert np.abs(rows[0, 1] - (PICTURES[0] + PICTURES[4]) / 2).max() > 2e-2


def test_spherical_interpolation_is_that_of_scipy():
    a, b = np.random.RandomState(2).standard_normal((2, 6, 8))
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    weight = np.linspace(0, 1, 6)
    expected = [
        geometric_slerp(one, other, w)
        for one, other, w in zip(a, b, weight, strict=True)
    ]
    a, b, weight = (np.asarray(v, np.float32) for v in (a, b, weight))
    np.testing.assert_allclose(spherical(a, b, weight), expected, atol=1e-6)
    np.testing.assert_allclose(spherical(a, a, weight), a, atol=1e-6)
    np.testing.assert_array_equal(spherical(0 * a, 0 * a, weight), 0 * a)


@pytest.mark.ci
def test_a_sample_does_not_depend_on_how_many_there_are(workdir, tmp_path, monkeypatch):
    """On eight devices, in shards, and by itself; a stop loses no shard."""
    np.save(tmp_path / "many.npy", np.tile(PICTURES, (8, 1, 1, 1)))
    edit = dict(init_image=str(tmp_path / "many.npy"), invert=True)
    ask = lambda name, count, **settings: Request(
        num_samples=count,
        sampler=HEUN | {"num_steps": 4},
        label=1,
        out=str(tmp_path / name),
        edit=edit,
        **settings,
    )
    load = lambda path: dict(np.load(path))
    whole, few = load(sample_run(workdir, ask("whole", 40))), ask("few", 3)
    few = load(sample_run(workdir, few))
    make, drawn = compiled_sampler.make_sample_fn, []

    def stopping(*args, **settings):
        sample_fn = make(*args, **settings)

        def counted(params, seed, given, first, advance):
            drawn.append(first)
            if len(drawn) == 2:
                raise RuntimeError("the machine stops")
            return sample_fn(params, seed, given, first, advance)

        return counted

    monkeypatch.setattr(compiled_sampler, "make_sample_fn", stopping)
    request = ask("stopped", 40, shard_size=16)
    with pytest.raises(RuntimeError):
        sample_run(workdir, request)
    again = load(sample_run(workdir, request))
    assert drawn == [0, 16, 16, 32]
    for name in ("samples", "noise", "rms"):
        np.testing.assert_array_equal(whole[name][:3], few[name], err_msg=name)
        np.testing.assert_array_equal(whole[name], again[name], err_msg=name)


@pytest.mark.ci
def test_another_picture_is_another_result(workdir, tmp_path):
    """The file of an earlier one is not taken for it, nor written over."""
    path, out = tmp_path / "a.npy", tmp_path / "out"
    edit = dict(init_image=str(path), strength=0.0)
    recipes = []
    for picture in PICTURES[:2]:
        np.save(path, picture)
        found = draw(workdir, edit, num_samples=1)
        np.testing.assert_array_equal(found["samples"], picture[None])
        recipes.append(str(found["recipe"]))
    assert recipes[0] != recipes[1]
    draw(workdir, edit, num_samples=1, out=str(out))
    np.save(path, PICTURES[2])
    with pytest.raises(UsageError, match="other settings: init_image '[0-9a-f]{16}' t"):
        draw(workdir, edit, num_samples=1, out=str(out))


REFUSED = {
    "strength of no step": (
        dict(init_image="five.npy", strength=0.1),
        r"strength=0.1 of 4 steps is none: must be 0, or at least 0.12",
    ),
    "noise in the inversion": (
        dict(init_image="five.npy", invert=True),
        r"--invert with --sampler.name=ddpm: must be a deterministic .*euler",
    ),
    "noise in the encodings": (
        dict(interpolate="five.npy,other.npy"),
        r"--interpolate with --sampler.name=ddpm: must be a deterministic",
    ),
    "less than a row": (
        dict(interpolate="1,2", columns=21),
        "num_samples=20: must be at least 21, the columns of one row",
    ),
    "unlike numbers of pictures": (
        dict(interpolate="five.npy,one.npy"),
        "2 pictures in five.npy and 1 in one.npy: must be as many",
    ),
    "no mask": (
        dict(init_image="five.npy", mask="five.npy"),
        r"shape \[5, 4, 4, 1\]: must be that of the samples, \[4, 4, 1\]",
    ),
}


@pytest.mark.ci
def test_what_does_not_fit_is_refused_before_weights_are_read(workdir, monkeypatch):
    def read(*unused):
        raise AssertionError("weights were read")

    monkeypatch.setattr(restore.manager.Checkpoints, "restore", read)

    def is_refused(edit, message):
        sampler = HEUN if "as many" in message else STOCHASTIC
        with pytest.raises(UsageError, match=message):
            draw(workdir, edit, sampler=sampler)

    check_all(is_refused, REFUSED)
    edit = dict(init_image="five.npy", mask="half.png")
    with pytest.raises(UsageError, match="--mask with --sampler.name=flow_map: its"):
        draw(workdir, edit, sampler={"name": "flow_map"})
    with pytest.raises(UsageError, match="seed=5: must be left out with --interpolate"):
        draw(workdir, dict(interpolate="1,2"), seed=5)
    with pytest.raises(UsageError, match="label='zeebra': .*mean 'zebra'.*in 0..1"):
        draw(workdir, label="zeebra")
