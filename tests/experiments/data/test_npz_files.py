"""Arrays of any shape and their own validation file: `data/npz_files.py`."""

import re

import numpy as np
import pytest

from experiments import data
from experiments.config import build
from experiments.runtime.errors import UsageError

RNG = np.random.RandomState(0)
SHAPES = [(3,), (6, 2), (4, 5, 1), (2, 3, 4, 1), (2, 1, 2, 1, 2)]


def written(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def floats(count, *shape):
    return RNG.standard_normal((count, *shape)).astype(np.float32)


def refusal(**section):
    """The one line in which a config refuses a data set."""
    with pytest.raises(UsageError) as caught:
        build.dataset({"name": "npz"} | section)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_events_of_any_rank_are_what_was_written(tmp_path, shape):
    """Bytes as they are; floats too, but for images, whose range must be declared."""
    stored = RNG.randint(0, 256, (18, *shape), np.uint8)
    found = data.npz(path=written(tmp_path / "a.npz", values=stored))
    np.testing.assert_array_equal(found.test.values, stored[[8, 17]])
    assert (found.event_shape, found.transform.levels) == (shape, 256)
    assert found.num_classes == 0 and not found.train.labels.any()
    values = floats(18, *shape)
    path = written(tmp_path / "b.npz", values=values.astype(np.float64))
    wide = dict(low=-np.inf, high=np.inf) if len(shape) == 3 else {}
    found = data.npz(path=path, **wide)
    np.testing.assert_array_equal(found.test.values, values[[8, 17]])
    assert found.transform.levels is None
    if wide:
        assert "floats need their range declared" in refusal(path=path)
    half = 2 * np.abs(values).max()
    found = data.npz(path=path, low=-half, high=half)
    np.testing.assert_allclose(found.test.values, values[[8, 17]] / half, atol=1e-7)


def test_an_entry_left_out_by_an_empty_name_is_not_read(tmp_path):
    path = written(tmp_path / "a.npz", values=floats(9, 2), labels=np.arange(9) % 2)
    assert data.npz(path=path, labels="").num_classes == 0
    with pytest.raises(ValueError, match="class needs 9"):
        data.npz(path=path)
    assert "no array 'kinds'; it has values, labels" in refusal(
        path=path, labels="kinds"
    )


@pytest.mark.parametrize(
    ("arrays", "section", "said"),
    [
        (dict(values=floats(9, 2), images=floats(9, 2)), {}, "more than one array"),
        (dict(values=np.full((9, 2), np.nan)), {}, "values that are not finite"),
        (dict(values=np.ones((9, 2), int)), {}, "must be uint8 or float"),
        (dict(values=floats(9, 2)), dict(low=-9.0), "low=-9.0, high=None"),
        (dict(values=floats(9, 2)), dict(low=-9.0, high=np.inf), "or neither"),
        (dict(values=floats(9, 6, 2)), dict(flips=True), "of shape [6, 2], and images"),
        (dict(values=np.ones((9, 0))), {}, "shape (9, 0): must be [n, *event]"),
    ],
)
def test_values_that_cannot_be_are_refused_in_one_line(tmp_path, arrays, section, said):
    path = written(tmp_path / "a.npz", **arrays)
    assert re.search(re.escape(said), refusal(path=path, **section))


def test_a_validation_file_is_the_held_out_part(tmp_path):
    train = dict(values=floats(5, 6, 2), labels=np.array([0, 2, 1, 1, 0]))
    test = dict(values=floats(3, 6, 2), labels=np.array([1, 1, 0]))
    path = written(tmp_path / "a.npz", **train)
    test_path = written(tmp_path / "b.npz", **test)
    found = data.npz(path=path, test_path=test_path)
    for part, arrays in ((found.train, train), (found.test, test)):
        np.testing.assert_array_equal(part.values, arrays["values"])
        np.testing.assert_array_equal(part.labels, arrays["labels"])
        assert part.labels.dtype == np.int32
    assert found.num_classes == 3
    first = found.identity()
    written(tmp_path / "b.npz", values=test["values"] + 1, labels=test["labels"])
    other = data.npz(path=path, test_path=test_path).identity()
    assert other.pop("digest") != first.pop("digest") and other == first


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (dict(values=floats(3, 5)), "no labels, unlike the file of training examples"),
        (
            dict(values=floats(3, 4), labels=np.arange(3)),
            "of shape [4] each, and those",
        ),
        (dict(values=floats(3, 5), labels=np.array([0, 1, 3])), "must be in 0..2"),
        (dict(values=np.ones((3, 5), "u1"), labels=np.arange(3)), "of type uint8, and"),
    ],
)
def test_a_validation_file_that_does_not_fit_is_refused_and_named(
    tmp_path, arrays, said
):
    path = written(tmp_path / "a.npz", values=floats(3, 5), labels=np.arange(3))
    test_path = written(tmp_path / "b.npz", **arrays)
    line = refusal(path=path, test_path=test_path)
    assert said in line and "b.npz: " in line


def test_conditions_are_the_arrays_side_by_side(tmp_path):
    arrays = dict(values=floats(18, 3), text=floats(18, 4), pose=np.arange(18))
    path = written(tmp_path / "a.npz", **arrays)
    assert data.npz(path=path).test.conditions is None
    assert data.npz(path=path).vector_features == 0
    found = data.npz(path=path, conditions=("pose", "text"))
    expected = np.concatenate([arrays["pose"][:, None], arrays["text"]], axis=1)
    together = np.concatenate([found.train.conditions, found.test.conditions])
    order = np.argsort(together[:, 0])
    np.testing.assert_array_equal(together[order], expected)
    np.testing.assert_array_equal(found.test.conditions[:, 0], [8, 17])
    np.testing.assert_array_equal(found.test.values, arrays["values"][[8, 17]])
    assert together.dtype == np.float32 and found.vector_features == 5
    named = written(tmp_path / "b.npz", values=arrays["values"], conditions=expected)
    by_default = data.npz(path=named)
    np.testing.assert_array_equal(by_default.train.conditions, found.train.conditions)
    for none in ("", ()):
        assert data.npz(path=named, conditions=none).train.conditions is None


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        (floats(8, 2), "8 conditions for 9 examples"),
        (floats(9, 2, 2), "of shape (9, 2, 2) and type float32: conditions must be"),
        (np.full(9, np.inf), "'conditions': conditions must be finite"),
        (np.array(["a"] * 9), "type <U1: conditions must be [n, k] or [n] numbers"),
    ],
)
def test_conditions_that_cannot_be_are_refused_in_one_line(tmp_path, conditions, said):
    path = written(tmp_path / "a.npz", values=floats(9, 2), conditions=conditions)
    assert said in refusal(path=path)
    line = refusal(path=path, conditions=("values", "pose"))
    assert "no array 'pose'; it has values, conditions" in line


def test_conditions_of_a_validation_file_have_as_many_features(tmp_path):
    path = written(tmp_path / "a.npz", values=floats(9, 2), conditions=floats(9, 3))
    short = dict(values=floats(2, 2), conditions=floats(2, 4))
    line = refusal(path=path, test_path=written(tmp_path / "b.npz", **short))
    assert "conditions of shape [4] each, and those of training are [3]" in line


@pytest.mark.parametrize("shape", [(6, 2), (6,), (6, 1), (1, 2), ()])
def test_a_mask_has_the_rank_of_the_values(tmp_path, shape):
    mask = RNG.randint(0, 2, (18, *shape))
    mask.reshape(18, -1)[:, 0] = 1
    stored = dict(values=floats(18, 6, 2), mask=mask)
    found = data.npz(path=written(tmp_path / "a.npz", **stored))
    full = found.test.mask
    assert full.dtype == bool and full.ndim == 3
    whole = np.zeros((18, 6, 2)) + mask.reshape(18, *shape, *(1,) * (2 - len(shape)))
    expected = whole[[8, 17]].astype(bool)
    np.testing.assert_array_equal(np.broadcast_to(full, (2, 6, 2)), expected)
    assert data.npz(path=str(tmp_path / "a.npz"), mask="").test.mask is None


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.ones((9, 2)), "'mask' of shape (9, 2): must begin as the values of shape"),
        (np.ones((8, 6)), "'mask' of shape (8, 6): must begin as"),
        (np.ones((1, 6)), "'mask' of shape (1, 6): must begin as"),
        (np.ones((9, 6, 2, 1)), "'mask' of shape (9, 6, 2, 1): must begin as"),
        (np.full((9, 6), 0.5), "'mask' of type float64: must be 1 where"),
        (np.eye(9, 6), "'mask' is zero everywhere for 3 examples, the first of them n"),
    ],
)
def test_a_mask_that_cannot_be_is_refused_in_one_line(tmp_path, mask, said):
    path = written(tmp_path / "a.npz", values=floats(9, 6, 2), mask=mask)
    assert said in refusal(path=path)
    moments = dict(mean=floats(9, 2), std=np.ones((9, 2)), mask=np.ones((9, 2)))
    line = refusal(name="latents", path=written(tmp_path / "l.npz", **moments))
    assert "latents take no mask" in line


def test_latents_of_a_validation_file_are_drawn_once(tmp_path):
    mean, std, text = floats(4, 6, 2), np.abs(floats(4, 6, 2)), floats(4, 3)
    path = written(tmp_path / "a.npz", mean=mean, std=std, conditions=text)
    held_out = dict(mean=mean[:2] + 1, std=0 * std[:2], conditions=text[:2])
    test_path = written(tmp_path / "b.npz", **held_out)
    found = data.latents(path=path, test_path=test_path)
    np.testing.assert_array_equal(found.test.values, mean[:2] + 1)
    np.testing.assert_array_equal(found.train.values, np.stack([mean, std], axis=1))
    np.testing.assert_array_equal(found.test.conditions, text[:2])
    assert (found.event_shape, found.vector_features) == ((6, 2), 3)
