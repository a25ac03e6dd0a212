"""Parametrizations that stay small: products in turn, and many cases in one test."""

import itertools

import pytest


def in_turn(**axes):
    """Runs a test over the product of some axes: a part is fast, the rest nightly.

    The fast part has as many cases as the first, longest axis; the others take turns,
    so that every value of every axis is met.

    Args:
      axes: argument of the test -> values: a sequence, or values by their names.
    """
    values = {
        name: list(axis.values() if isinstance(axis, dict) else axis)
        for name, axis in axes.items()
    }
    counts = [len(axis) for axis in values.values()]
    assert counts[0] == max(counts)
    fast = {
        tuple((i + k * (i // count)) % count for k, count in enumerate(counts))
        for i in range(counts[0])
    }
    cases = []
    for place in itertools.product(*map(range, counts)):
        found = [axis[i] for axis, i in zip(values.values(), place, strict=True)]
        labels = [
            str([*axis][i] if isinstance(axis, dict) else axis[i])
            for axis, i in zip(axes.values(), place, strict=True)
        ]
        marks = [] if place in fast else [pytest.mark.nightly]
        cases.append(pytest.param(*found, id="-".join(labels), marks=marks))
    return pytest.mark.parametrize(list(axes), cases)


def check_all(check, cases):
    """Calls `check(*arguments)` for every named case; fails once, with all failures.

    Args:
      check: fails, or asserts.
      cases: name -> arguments, as a tuple.
    """
    assert cases
    failures = {}
    for name, arguments in cases.items():
        try:
            check(*arguments)
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {str(error).strip()}"
    lines = [f"{name}: {text}" for name, text in failures.items()]
    assert not lines, "\n".join([f"{len(lines)} of {len(cases)} fail:", *lines])
