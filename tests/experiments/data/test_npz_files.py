"""Arrays of any shape and their own validation file: `data/npz_files.py`."""

import re

import numpy as np
import pytest

from experiments.data import npz_files
from tests.helpers.npz import RNG, floats, refusal, written

SHAPES = [(3,), (6, 2), (4, 5, 1), (2, 3, 4, 1), (2, 1, 2, 1, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_events_of_any_rank_are_what_was_written(tmp_path, shape):
    """Bytes as they are; floats too, but for images, whose range must be declared."""
    stored = RNG.randint(0, 256, (18, *shape), np.uint8)
    found = npz_files.npz(path=written(tmp_path / "a.npz", values=stored))
    np.testing.assert_array_equal(found.test.values, stored[[8, 17]])
    assert (found.event_shape, found.transform.levels) == (shape, 256)
    assert found.num_classes == 0 and not found.train.labels.any()
    values = floats(18, *shape)
    path = written(tmp_path / "b.npz", values=values.astype(np.float64))
    wide = dict(unscaled=True) if len(shape) == 3 else {}
    found = npz_files.npz(path=path, **wide)
    np.testing.assert_array_equal(found.test.values, values[[8, 17]])
    assert found.transform.levels is None
    if wide:
        assert "floats need their range declared" in refusal(path=path)
    half = 2 * np.abs(values).max()
    found = npz_files.npz(path=path, low=-half, high=half)
    np.testing.assert_allclose(found.test.values, values[[8, 17]] / half, atol=1e-7)


def test_an_entry_left_out_by_an_empty_name_is_not_read(tmp_path):
    path = written(tmp_path / "a.npz", values=floats(9, 2), labels=np.arange(9) % 2)
    assert npz_files.npz(path=path, labels="").num_classes == 0
    with pytest.raises(ValueError, match="class needs 9"):
        npz_files.npz(path=path)
    assert "no array 'kinds'; it has values, labels" in refusal(
        path=path, labels="kinds"
    )


@pytest.mark.parametrize(
    ("arrays", "section", "said"),
    [
        (dict(values=floats(9, 2), images=floats(9, 2)), {}, "more than one array"),
        (
            dict(values=np.full((9, 2), np.nan)),
            {},
            "18 of 18 values are not finite in float32, the first nan at [0, 0]",
        ),
        (dict(values=np.ones((9, 2), int)), {}, "must be uint8 or float"),
        (dict(values=floats(9, 2)), dict(low=-9.0), "low=-9.0, high=None"),
        (
            dict(values=floats(9, 2)),
            dict(low=-9.0, high=np.inf),
            "low=-9.0, high=inf: must be finite",
        ),
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
    found = npz_files.npz(path=path, test_path=test_path)
    for part, arrays in ((found.train, train), (found.test, test)):
        np.testing.assert_array_equal(part.values, arrays["values"])
        np.testing.assert_array_equal(part.labels, arrays["labels"])
        assert part.labels.dtype == np.int32
    assert found.num_classes == 3
    first = found.identity()
    written(tmp_path / "b.npz", values=test["values"] + 1, labels=test["labels"])
    other = npz_files.npz(path=path, test_path=test_path).identity()
    assert other.pop("digest") != first.pop("digest") and other == first


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (dict(values=floats(3, 5)), "has no labels, and the file of training"),
        (
            dict(values=floats(3, 4), labels=np.arange(3)),
            "of shape [4] each: must be [5]",
        ),
        (
            dict(values=floats(3, 5), labels=np.array([0, 1, 3])),
            "label 3, and 1 labels in all, are none of training, which has 0, 1, 2",
        ),
        (
            dict(values=np.full((3, 5), 9, "u1"), labels=np.arange(3)),
            "of type uint8: must be float32",
        ),
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
    assert npz_files.npz(path=path).test.conditions is None
    assert npz_files.npz(path=path).vector_features == 0
    found = npz_files.npz(path=path, conditions=("pose", "text"))
    expected = np.concatenate([arrays["pose"][:, None], arrays["text"]], axis=1)
    together = np.concatenate([found.train.conditions, found.test.conditions])
    order = np.argsort(together[:, 0])
    np.testing.assert_array_equal(together[order], expected)
    np.testing.assert_array_equal(found.test.conditions[:, 0], [8, 17])
    np.testing.assert_array_equal(found.test.values, arrays["values"][[8, 17]])
    assert together.dtype == np.float32 and found.vector_features == 5
    named = written(tmp_path / "b.npz", values=arrays["values"], conditions=expected)
    by_default = npz_files.npz(path=named)
    np.testing.assert_array_equal(by_default.train.conditions, found.train.conditions)
    for none in ("", ()):
        assert npz_files.npz(path=named, conditions=none).train.conditions is None


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        (floats(8, 2), "8 conditions for 9 examples"),
        (floats(9, 2, 2), "of shape (9, 2, 2) and type float32: conditions must be"),
        (
            np.full(9, np.inf),
            "9 of 9 values are not finite in float32, the first inf at [0]",
        ),
        (np.array(["a"] * 9), "type <U1: conditions must be [n, k] or [n] numbers"),
    ],
)
def test_conditions_that_cannot_be_are_refused_in_one_line(tmp_path, conditions, said):
    arrays = dict(values=floats(9, 2), conditions=conditions, age=np.ones(9))
    path = written(tmp_path / "a.npz", **arrays)
    assert said in refusal(path=path)
    line = refusal(path=path, conditions=("age", "pose"))
    assert "no array 'pose'; it has values, conditions, age" in line


def test_conditions_of_a_validation_file_have_as_many_features(tmp_path):
    path = written(tmp_path / "a.npz", values=floats(9, 2), conditions=floats(9, 3))
    short = dict(values=floats(2, 2), conditions=floats(2, 4))
    line = refusal(path=path, test_path=written(tmp_path / "b.npz", **short))
    assert "conditions of shape [4] each: must be [3], as in the file of" in line


@pytest.mark.parametrize("shape", [(6, 2), (6,), (6, 1), (1, 2), ()])
def test_a_mask_has_the_rank_of_the_values(tmp_path, shape):
    mask = RNG.randint(0, 2, (18, *shape))
    mask.reshape(18, -1)[:, 0] = 1
    stored = dict(values=floats(18, 6, 2), mask=mask)
    found = npz_files.npz(path=written(tmp_path / "a.npz", **stored))
    full = found.test.mask
    assert full.dtype == bool and full.ndim == 3
    whole = np.zeros((18, 6, 2)) + mask.reshape(18, *shape, *(1,) * (2 - len(shape)))
    expected = whole[[8, 17]].astype(bool)
    np.testing.assert_array_equal(np.broadcast_to(full, (2, 6, 2)), expected)
    assert npz_files.npz(path=str(tmp_path / "a.npz"), mask="").test.mask is None


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


IMAGES = RNG.randint(0, 256, (18, 4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.arange(18) % 4 + 1, "labels 1, 2, 3, 4: of 5 classes 1 have no example"),
        (np.arange(18) % 4 * 100, "labels 0, 100, 200, 300: of 301 classes 297 have"),
        (np.arange(18) // 17 * 2**31, "2147483648: of 2,147,483,649 classes"),
        (np.arange(18) // 17 * 10**9, "1000000000: of 1,000,000,001 classes"),
        (np.arange(18) % 2 - 1, "labels from -1 to 0, 9 of them negative"),
        (np.arange(18) % 2 * 1.0, "type float64, floats such as 0.0"),
        (np.array(["a", "b"] * 9), "type <U1, words such as 'a'"),
        (np.array([0, None] * 9), "'labels' holds Python objects, which are not read"),
        (np.eye(18), "of one-hot rows save argmax(1)"),
        (np.int64(3), "1 labels for 18 examples"),
    ],
)
def test_labels_that_are_no_classes_are_refused_in_one_line(tmp_path, labels, said):
    path = written(tmp_path / "a.npz", images=IMAGES, labels=labels)
    assert said in refusal(path=path)
    assert npz_files.npz(path=path, labels="").num_classes == 0


@pytest.mark.parametrize("held_out", [False, True])
def test_labels_are_mapped_on_request(tmp_path, held_out):
    words, images = np.array(["b", "a", "c"] * 9), floats(27, 2)
    path = written(tmp_path / "a.npz", images=images, labels=words)
    more = {}
    if held_out:
        other = dict(images=images[:2], labels=np.array(["c", "a"]))
        more = dict(test_path=written(tmp_path / "b.npz", **other))
    found = npz_files.npz(path=path, map_labels=True, **more)
    assert found.class_names == ("a", "b", "c") and found.num_classes == 3
    assert found.identity()["class_names"] == ["a", "b", "c"]
    if held_out:
        assert found.train.labels.tolist() == [1, 0, 2] * 9
        assert found.test.labels.tolist() == [2, 0]
    bare = written(tmp_path / "c.npz", images=IMAGES)
    assert "map_labels=True, but the file has no labels" in refusal(
        path=bare, map_labels=True
    )


@pytest.mark.parametrize("name", ["y", "Label", "targets", "class_ids", "category"])
def test_labels_under_another_name_are_noticed(tmp_path, name):
    arrays = {"images": IMAGES, name: np.arange(18) % 2}
    path = written(tmp_path / "a.npz", **arrays)
    assert f"no array 'labels', but '{name}': labels='{name}' reads" in refusal(
        path=path
    )
    assert npz_files.npz(path=path, labels=name).num_classes == 2
    assert npz_files.npz(path=path, labels="").num_classes == 0
    assert npz_files.npz(path=path, conditions=name).num_classes == 0


@pytest.mark.parametrize("bound", [np.nan, np.inf, -np.inf])
def test_a_range_is_finite(tmp_path, bound):
    path = written(tmp_path / "a.npz", values=floats(9, 2))
    for more in (dict(low=bound, high=9.0), dict(low=-9.0, high=bound)):
        line = refusal(path=path, **more)
        assert "must be finite" in line or "range declared" in line
    assert "unscaled=True" in refusal(path=path, low=-np.inf, high=np.inf)
    assert "must be finite" in refusal(path=path, low=-1.5e308, high=1.5e308)


@pytest.mark.parametrize(
    ("values", "section", "said"),
    [
        (IMAGES.astype(np.int64), {}, "these from 0 to 255 fit in numpy.uint8"),
        (IMAGES.astype(np.uint16) * 9, {}, "are floats of a range, low and high"),
        (IMAGES > 99, {}, "save them .astype(numpy.uint8) and set levels=2"),
        (IMAGES.astype(complex), {}, "type complex128: must be uint8 or float"),
        (IMAGES.astype(str), {}, "must be uint8 or float"),
        (np.array([{}] * 9), {}, "'images' holds Python objects"),
        (IMAGES // 200, {}, "from 0 to 1 of type uint8, nearly black"),
        (IMAGES, {"levels": 17}, "levels=17: values up to 255, must be below it"),
        (IMAGES / 255, {"levels": 17}, "levels=17: must be left out of values"),
        (IMAGES, {"unscaled": True}, "must be left out of values of type uint8"),
        (IMAGES / 255, dict(low=0.0, high=255.0), "less than a hundredth of [low, hi"),
        (IMAGES / 255, dict(low=0.0, unscaled=True), "unscaled=True with "),
        (IMAGES * 1.0, dict(low=0.0, high=1.0), "must be in [low, high] = [0.0, 1.0]"),
        (IMAGES // 200, {"levels": 300}, "levels=300: must be in 2..256"),
    ],
)
def test_floats_as_integers_and_integers_as_floats_are_refused(
    tmp_path, values, section, said
):
    path = written(tmp_path / "a.npz", images=values)
    assert said in refusal(path=path, **section)


def test_integers_of_fewer_levels_are_said(tmp_path):
    bits = IMAGES // 200
    path = written(tmp_path / "a.npz", images=bits)
    for levels in (2, 17, 256):
        found = npz_files.npz(path=path, levels=levels)
        assert found.transform.levels == levels
        np.testing.assert_array_equal(found.test.values, bits[[8, 17]])
