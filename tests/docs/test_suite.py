"""What keeps the tests fast: products in turn, many cases in one, the cache."""

import os
import zlib

import pytest

from tests.helpers import compilation_cache
from tests.helpers.parametrize import check_all, in_turn


@pytest.mark.parametrize(
    ("first", "second", "third"), [(7, 4, 1), (4, 2, 2), (3, 3, 3)]
)
def test_products_are_complete_and_every_value_is_fast_once(first, second, third):
    axes = dict(a=range(first), b=range(second), c=range(third))
    cases = in_turn(**axes).args[1]
    assert len({case.values for case in cases}) == first * second * third
    fast = [case.values for case in cases if not case.marks]
    assert len(fast) == first
    for place, axis in enumerate(axes.values()):
        assert {values[place] for values in fast} == set(axis)


def test_a_check_of_many_cases_names_all_that_fail():
    def is_even(number):
        assert number % 2 == 0

    check_all(is_even, {"two": (2,), "four": (4,)})
    with pytest.raises(AssertionError, match="2 of 3 fail:(.|\n)*one(.|\n)*three"):
        check_all(is_even, {"one": (1,), "two": (2,), "three": (3,)})


def test_the_cache_loses_what_is_cut_off_and_what_was_read_long_ago(tmp_path):
    compress = compilation_cache.compilation_cache.compress_executable
    for number in range(4):
        path = tmp_path / f"{number}{compilation_cache.SUFFIX}"
        path.write_bytes(compress(os.urandom(1000)))
        os.utime(path, (1000 + number, 1000 + number))
    cut = tmp_path / f"cut{compilation_cache.SUFFIX}"
    cut.write_bytes(zlib.compress(os.urandom(1000))[:500])
    compilation_cache.tidy(tmp_path, limit=2500)
    left = sorted(path.name for path in tmp_path.glob(f"*{compilation_cache.SUFFIX}"))
    assert left == [f"{number}{compilation_cache.SUFFIX}" for number in (2, 3)]
