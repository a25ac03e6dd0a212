"""What the explorable page shows where its sliders stand."""

import functools
import itertools

import numpy as np

from experiments.visualization.blocks import Over


@functools.cache
def built(section_fn):
    """A section of the page, computed once for all tests that look at it."""
    return section_fn()


def at(value, place):
    """What the page takes of a value where its sliders stand."""
    if isinstance(value, Over):
        found = value.values
        for slider in value.sliders:
            found = found[place[slider]]
        return found
    return value


def check_every_place(block):
    """Each value has all places of its sliders and no more; x and y are as long."""
    sizes = [len(slider.places) for slider in block.sliders]
    for slider in block.sliders:
        assert 0 <= slider.start < len(slider.places)
    for sentence in block.readout:
        check_sizes(sentence, sizes)
    for trace in (trace for chart in block.charts for trace in chart.data):
        for name in ("x", "y"):
            if isinstance(trace[name], Over):
                check_sizes(trace[name], sizes)
        for place in itertools.product(*({0, size // 2, size - 1} for size in sizes)):
            x, y = at(trace["x"], place), at(trace["y"], place)
            assert len(x) == len(y) > 0
            assert np.array_equal(np.isnan(x), np.isnan(y))
            assert np.isfinite(np.asarray(y)).any()


def check_sizes(value, sizes):
    found = [value.values]
    for slider in value.sliders:
        assert {len(each) for each in found} == {sizes[slider]}
        found = [one for each in found for one in each]
