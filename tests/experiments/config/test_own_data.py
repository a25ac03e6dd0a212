"""Arrays of a function of one's own as data: `adapters.as_dataset`."""

import numpy as np
import pytest

from experiments import data
from experiments.config import adapters
from experiments.runtime.errors import UsageError

VALUES = np.random.RandomState(0).standard_normal((18, 6, 2))


def with_value(value):
    found = VALUES.copy()
    found[3, 1, 0] = value
    return found


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (with_value(np.nan), r"1 of 216 values are not finite .* nan at \[3, 1, 0\]"),
        (with_value(1e300), "1 of 216 values are not finite in float32, the first 1e"),
        (np.zeros((18, 4, 8, 8)), r"shape \[4, 8, 8\]: are the 4 .*numpy.moveaxis"),
        ((VALUES, np.arange(18) % 2 + 1), "from 1 to 2, none of class 0"),
        ((VALUES, np.arange(18) // 17 * 10**9), "none of class 1: must be 0..1"),
        ((VALUES, np.arange(18) // 17 * 2**32), "none of class 1: must be 0..1"),
        ((VALUES, np.arange(18) % 2 - 1), "labels from -1 to 0: must be in 0.."),
        ((VALUES, np.arange(18) % 2 * 1.0), "type float64: must be .n. integers"),
        (VALUES.astype(np.int64), "type int64: must be floats"),
    ],
)
def test_arrays_that_are_no_data_are_refused_in_one_line(found, said):
    with pytest.raises(UsageError, match=f"data.name: own: .*{said}") as caught:
        adapters.as_dataset("data.name: own", found)
    assert "\n" not in str(caught.value)


def test_a_data_set_may_have_its_channels_anywhere():
    made = data.split(np.zeros((18, 4, 8, 8), np.float32), None, None)
    assert adapters.as_dataset("data", made).event_shape == (4, 8, 8)
    found = adapters.as_dataset("data", (VALUES, np.arange(18) % 2))
    assert (found.num_classes, found.train.values.dtype) == (2, np.float32)


def own_set(**parts):
    made = data.split(np.zeros((18, 2), np.float32), np.arange(18) % 2, None)
    train = made.train._replace(
        **{key: parts.pop(key) for key in parts.keys() & {*made.train._fields}}
    )
    return made._replace(train=train, **parts)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (dict(labels=np.arange(16)), "train: labels from 0 to 15: must be in 0..1"),
        (dict(labels=np.arange(16) % 2 - 1), "train: labels from -1 to 0: must be"),
        (dict(labels=np.zeros(9, int)), "train: 9 labels for 16 examples"),
        (dict(num_classes=0), "labels from 0 to 1: must be in 0..0"),
        (
            dict(values=np.full((16, 2), np.nan)),
            "train.values: 32 of 32 values are not",
        ),
        (dict(class_names=("a",)), "1 class_names for 2 classes"),
        (
            dict(values=np.full((16, 2), 9, np.uint8), transform=data.DataTransform(9)),
            "train: values up to 9, from 9: must be below levels=9",
        ),
        (
            dict(values=np.full((16, 2), -9), transform=data.DataTransform(9)),
            "train: values up to -9, from -9: must be",
        ),
        (dict(values=np.zeros((16, 2), np.uint8)), "uint8 without levels: images of 8"),
        (dict(values=np.zeros((16, 2), complex)), "type complex128: must be"),
        (dict(values=np.zeros((16, 3), np.float32)), "values of shape .3. each in tr"),
        (
            dict(conditions=np.zeros((5, 2), np.float32)),
            r"shape \(5, 2\): must be .16, k",
        ),
        (
            dict(conditions=np.zeros((16, 2), int)),
            "conditions of type int64: must be fl",
        ),
        (dict(conditions=np.zeros((16, 2), np.float32)), "conditions, the other none"),
        (
            dict(mask=np.zeros((16, 2), bool)),
            "mask is False everywhere for 16 examples",
        ),
        (dict(mask=np.ones((16, 2))), "mask of shape .16, 2. and type float64"),
        (dict(noise=np.full((16, 2), np.nan, np.float32)), "train.noise: 32 of 32 val"),
        (dict(class_names=("a", "a")), "different strings, 'a' is there twice"),
        (dict(num_classes=2.0), "num_classes=2.0: must be a whole number"),
    ],
)
def test_a_data_set_of_ones_own_that_cannot_be_is_refused(parts, said):
    assert adapters.as_dataset("data", own_set()).num_classes == 2
    with pytest.raises(UsageError, match=said):
        adapters.as_dataset("data", own_set(**parts))
