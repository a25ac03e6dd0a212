"""The data source of pairs: `data/pairs.py`, and what `DataSet` says of noise."""

import json
import re

import numpy as np
import pytest

from experiments import data
from experiments.config import adapters, build
from experiments.data import pairs
from experiments.data.base import flip
from experiments.runtime.errors import UsageError

RNG = np.random.RandomState(0)
ORIGINAL = {"data": {"name": "moons"}, "examples": {"num_train": 7, "digest": ""}}
SAMPLES, NOISE = RNG.standard_normal((2, 18, 3, 2)).astype(np.float32)
ARRAYS = dict(
    samples=SAMPLES,
    noise=NOISE,
    labels=np.arange(18, dtype=np.int32) % 2,
    num_classes=2,
    original=json.dumps(ORIGINAL),
)


def written(path, **changes):
    arrays = {k: v for k, v in (ARRAYS | changes).items() if v is not None}
    np.savez(path, **arrays)
    return str(path)


def refusal(path, **section):
    """The one line in which a config refuses a file."""
    with pytest.raises(UsageError) as caught:
        build.dataset(dict(name="pairs", path=str(path)) | section)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_noise_and_conditions_go_with_their_samples(tmp_path):
    conditions = np.arange(36, dtype=np.float32).reshape(18, 2)
    found = pairs.pairs(path=written(tmp_path / "a.npz", conditions=conditions))
    test, train = [16, 17], np.arange(16)
    for part, index in ((found.train, train), (found.test, test)):
        np.testing.assert_array_equal(part.values, SAMPLES[index])
        np.testing.assert_array_equal(part.noise, NOISE[index])
        np.testing.assert_array_equal(part.conditions, conditions[index])
        assert part.labels.tolist() == [i % 2 for i in index]
    some = found.train.gather(np.array([5, 2]))
    np.testing.assert_array_equal(some.noise, NOISE[[5, 2]])
    assert found.num_classes == 2 and found.event_shape == (3, 2)
    assert found.vector_features == 2 and found.transform.levels is None
    assert found.identity()["original"] == ORIGINAL


def test_levels_are_those_of_the_file_and_samples_stay_floats(tmp_path):
    """0.3 and 1.7 are no levels: they pass, and only what is drawn is rounded."""
    samples = np.where(SAMPLES > 0, np.float32(0.3), np.float32(1.7))
    path = written(tmp_path / "a.npz", samples=samples, levels=17)
    found = build.dataset(dict(name="pairs", path=path))
    assert found.transform.levels == 17
    x = np.asarray(found.transform.to_float(found.train.values))
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, samples[:16])
    stored = found.transform.to_stored(np.float32([0.3, 1.7]))
    assert stored.tolist() == [10, 16]
    np.testing.assert_allclose(found.transform.to_float(stored), [0.25, 1])


def test_classes_without_a_pair_count(tmp_path):
    labels = np.full(18, 3, np.int32)
    found = pairs.pairs(path=written(tmp_path / "a.npz", labels=labels, num_classes=10))
    assert found.num_classes == 10 and set(found.train.labels) == {3}
    found = pairs.pairs(
        path=written(tmp_path / "b.npz", labels=0 * labels, num_classes=0)
    )
    assert found.num_classes == 0 and not found.train.labels.any()


def test_the_digest_is_of_the_arrays_alone(tmp_path):
    digest = lambda name, **changes: (
        pairs.pairs(path=written(tmp_path / name, **changes)).digest
    )
    first = digest("a.npz")
    assert digest("b.npz") == first == digest("c.npz", recipe="said otherwise")
    for name in ("samples", "noise"):
        changed = ARRAYS[name].copy()
        changed[3, 0, 0] += 1e-6
        assert digest("d.npz", **{name: changed}) != first
    assert digest("e.npz", labels=1 - ARRAYS["labels"]) != first
    conditions = np.zeros((18, 1), np.float32)
    assert digest("f.npz", conditions=conditions) != first


def test_another_place_of_the_original_is_noted(tmp_path):
    path = written(tmp_path / "a.npz")
    found = build.dataset(dict(name="pairs", path=path, original="npz(path='b.npz')"))
    assert found.original["data"] == {"name": "npz(path='b.npz')"}
    assert found.original["examples"] == ORIGINAL["examples"]


def test_what_is_no_file_of_pairs_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    assert "no readable .npz file" in refusal(path)
    for name in ("samples", "noise", "labels", "num_classes", "original"):
        written(path, **{name: None})
        assert re.search(f"no {name}: must be a file of `diffusionflow", refusal(path))
    mistakes = {
        "samples of shape (18, 3, 2), noise of (17, 3, 2)": dict(noise=NOISE[:17]),
        "labels of (17,): must be": dict(labels=ARRAYS["labels"][:17]),
        "noise of type float64: must be float32": dict(noise=NOISE.astype(float)),
        "samples: 108 of 108 values are not finite in float32": dict(
            samples=np.full_like(SAMPLES, np.nan)
        ),
        "3 conditions for 18 pairs": dict(conditions=np.zeros((3, 1), np.float32)),
        "labels from 0 to 1: must be in 0..0": dict(num_classes=1),
        "num_classes=2.7: must be a whole number": dict(num_classes=2.7),
        "num_classes=1000000000000: must be a": dict(num_classes=10**12),
        "num_classes=shape (2,): must be a whole": dict(num_classes=[2, 2]),
        "levels=16.5: must be a whole number in 2..256": dict(levels=16.5),
        "labels of (): must be": dict(labels=np.int32(3)),
        "must be JSON with data and examples": dict(original="[]"),
        "original: must be JSON with": dict(original='{"data": 3, "examples": {}}'),
        "train.conditions of shape (16,)": dict(conditions=np.zeros(18, np.float32)),
    }
    for message, changes in mistakes.items():
        written(path, **changes)
        assert message in refusal(path)


def test_a_data_set_whose_noise_does_not_fit_is_refused():
    images = RNG.standard_normal((18, 4, 4, 1)).astype(np.float32)
    made = data.split(images, None, None, noise=images)
    assert adapters.as_dataset("data.name", made) is made
    wrong = made._replace(train=made.train._replace(noise=images[:16, :2]))
    mistakes = {
        "noise would not follow": made._replace(augment_fn=flip),
        "must be float32 of the shape (16, 4, 4, 1)": wrong,
        "floats have levels=None": data.split(images, None, 17),
    }
    for message, found in mistakes.items():
        with pytest.raises(UsageError, match=re.escape(message)):
            adapters.as_dataset("data.name", found)
