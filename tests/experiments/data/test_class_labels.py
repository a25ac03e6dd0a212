"""Labels are 0..K-1, or are mapped on request: `data/class_labels.py`."""

import numpy as np
import pytest

from experiments import data
from experiments.data.class_labels import class_number, classes, natural
from experiments.runtime.errors import UsageError

WAY_OUT = "map_labels=True numbers those there are and keeps them as names"


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1, 2, 3, 4], r"labels 1, 2, 3, 4: of 5 classes 1 have no example, .* 0;"),
        ([0, 100, 200, 300], "of 301 classes 297 have no example, the first 1, 2, 3"),
        (np.array([0, 2**31]), "2147483648: of 2,147,483,649 classes"),
        (np.array([0, 2**32 + 1]), "of 4,294,967,298 classes"),  # 1 in int32
        (np.array([0, 2**64 - 1], np.uint64), "of 18,446,744,073,709,551,616 classes"),
        ([0] * 8 + [10**9], "of 1,000,000,001 classes 999,999,999 have no example"),
        ([-1, 0, 1], "labels from -1 to 1, 1 of them negative, as examples without"),
        ([0.0, 1.0], "type float64, floats such as 0.0: must be integers from 0"),
        (["cat", "dog"], "type <U3, words such as 'cat': must be integers from 0"),
        (np.array([b"cat"]), "type <U3, words such as 'cat'"),
        ([True, False], "type bool, truth values such as True"),
    ],
)
def test_labels_that_are_no_classes_are_refused_with_the_way_out(labels, said):
    with pytest.raises(ValueError, match=said) as caught:
        classes(labels, map_labels=False)
    assert WAY_OUT in str(caught.value)
    assert "labels='' leaves" in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        ([1, 2, 4, 1], [0, 1, 2, 0], ("1", "2", "4")),
        ([0, 300, 100], [0, 2, 1], ("0", "100", "300")),
        (np.array([2**31, 0]), [1, 0], ("0", "2147483648")),
        (np.array([2**64 - 1, 5], np.uint64), [1, 0], ("5", "18446744073709551615")),
        ([-1, 0, 1], [0, 1, 2], ("-1", "0", "1")),
        ([0.5, 0.0], [1, 0], ("0.0", "0.5")),
        (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog")),
        (["n10", "n9", "n1"], [2, 1, 0], ("n1", "n9", "n10")),
        (np.array([b"\xc3\xa9", b"a"]), [1, 0], ("a", "\xe9")),
        (np.array([b"\xff", b"\xfe"]), [1, 0], (r"\xfe", r"\xff")),  # no UTF-8
        ([True, False], [1, 0], ("False", "True")),
        ([0, 1], [0, 1], ("0", "1")),
    ],
)
def test_they_are_numbered_in_order_and_keep_their_names(labels, numbers, names):
    found = classes(labels, labels, map_labels=True)
    assert found.train.tolist() == found.test.tolist() == numbers
    assert found.train.dtype == found.test.dtype == np.int32
    assert (found.names, found.num_classes) == (names, len(names))


@pytest.mark.parametrize("map_labels", [False, True])
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, None, 1, None], r"2 labels are missing, the first in row 1 \(None\)"),
        ([0.0, np.nan, 1.0], r"1 labels are missing, the first in row 1 \(nan\)"),
        ([0.0, np.inf], r"the first in row 1 \(inf\)"),
        (["cat", 1], "labels of words and of numbers"),
        ([[0, 1], [1]], "several labels a row: one is read"),
        (np.eye(3), r"shape \(3, 3\): must be \[n\].*of one-hot rows save argmax"),
        (np.ones((3, 1), int), r"shape \(3, 1\): must be \[n\].*save labels\[:, 0\]"),
        (np.zeros(0, int), r"n at least 1"),
        (np.ones(3, complex), "type complex128: must be"),
        (np.array([object()] * 3), "type object: must be"),
    ],
)
def test_what_no_mapping_can_mend_is_refused(labels, said, map_labels):
    with pytest.raises(ValueError, match=said):
        classes(labels, map_labels=map_labels)


@pytest.mark.parametrize("map_labels", [False, True])
@pytest.mark.parametrize(
    ("test", "said"),
    [
        ([0, 2, 1, 2], "part b: label 2, and 2 labels in all, are none of training"),
        ([0, None], "part b: 1 labels are missing"),
        ([0, 2**32], "part b: label 4294967296"),
    ],
)
def test_a_held_out_part_has_the_classes_of_training(test, said, map_labels):
    with pytest.raises(ValueError, match=said):
        classes([0, 1], test, map_labels=map_labels, test_name="part b")
    assert classes([0, 1], [1], map_labels=map_labels).test.tolist() == [1]


def test_held_out_examples_without_a_class_say_which_part():
    with pytest.raises(ValueError, match="part b: labels from -1 to -1, 2 of them neg"):
        classes([0, 1], [-1, -1], map_labels=False, test_name="part b")


def test_a_class_with_a_name_and_no_example_is_refused_by_name():
    names = ("cat", "dog", "emu")
    with pytest.raises(ValueError, match="no example, the first 'dog'") as caught:
        classes([0, 2], map_labels=False, names=names)
    assert WAY_OUT in str(caught.value)
    assert classes([0, 1, 2], map_labels=False, names=names).names == names
    found = classes([2, 0], [0], map_labels=True, names=names)
    assert (found.train.tolist(), found.names) == ([1, 0], ("cat", "emu"))
    with pytest.raises(ValueError, match="label 3: must be below 3, the number"):
        classes([0, 1, 2, 3], map_labels=False, names=names)


def test_too_many_classes_are_refused():
    with pytest.raises(ValueError, match="100,001 different labels: at most 100,000"):
        classes(np.arange(100_001) / 7, map_labels=True)


def test_natural_order():
    names = ["10", "9", "1", "01", "a10b2", "a9", "a10b10", "a"]
    expected = ["01", "1", "9", "10", "a", "a9", "a10b2", "a10b10"]
    assert sorted(names, key=natural) == expected


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.arange(1, 10), "9 different labels from 1 to 9, none of class 0"),
        (np.array([0] * 8 + [10**9]), "none of class 1: must be 0..1"),
        (np.array([0] * 8 + [2**32]), "none of class 1"),
        (-np.ones(9, int), "labels from -1 to -1: must be in 0"),
    ],
)
def test_arrays_of_a_function_are_refused_at_once(labels, said):
    """`split`, which makes data sets of users' arrays."""
    with pytest.raises(ValueError, match=said):
        data.split(np.zeros((9, 2)), labels, None)


def test_the_split_costs_no_more_with_many_classes():
    labels = np.arange(200_000).repeat(9)
    found = data.split(np.zeros((len(labels), 1)), labels, None)
    assert len(found.test.labels) == 200_000


def test_a_class_is_given_by_its_number_or_its_name():
    names = ["cat", "zebra", "7", "0"]
    for label, number in [(1, 1), ("1", 1), ("zebra", 1), ("cat", 0), ("0", 0)]:
        assert class_number(label, 4, names) == number
    for label, known, said in [
        ("zeebra", names, "label='zeebra': no class .*mean 'zebra'.*known: cat, zebra"),
        ("dog", [f"kind {n}" for n in range(999)], "'dog'.*kind 4, ... kind 998, or"),
        ("cat", [], r"label='cat': must be in 0\.\.3, .* which have no names"),
        ("7", names, r"label=7: must be in 0\.\.3, the classes of the data"),
        ("-1", names, "label=-1: must be in"),
        ("9" * 5000, names, "no class has this name"),
    ]:
        with pytest.raises(UsageError, match=said):
            class_number(label, 4, known)
    with pytest.raises(UsageError, match="label='cat': must be left out: the data h"):
        class_number("cat", 0, [])
