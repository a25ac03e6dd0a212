"""Charts with sliders: what the page is given of them."""

import json

import numpy as np
import pytest

from experiments.visualization import blocks, html_page, sliders
from experiments.visualization.blocks import Explorable, Over, Slider


def test_numbers_are_rounded_and_gaps_are_null():
    value = {"a": [np.float32(1 / 3), np.nan], "b": np.arange(2), "c": ("x", None)}
    assert sliders.to_json(value) == {
        "a": [0.3333, None],
        "b": [0, 1],
        "c": ["x", None],
    }
    assert sliders.to_json(np.array([[-123456.0]])) == [[-123500.0]]


def test_values_over_sliders_keep_their_order_and_may_differ_in_length():
    value = Over((2, 0), [[np.ones(1)], [np.ones(2)]])
    assert sliders.to_json(value) == {"over": [2, 0], "values": [[[1.0]], [[1.0, 1.0]]]}


def test_what_is_infinite_is_refused():
    with pytest.raises(ValueError, match="value=-inf: must be finite, or NaN"):
        sliders.to_json(np.array([0.0, -np.inf]))


def explorable(name="<b>", place="a<b"):
    chart = blocks.Chart(
        "title",
        "caption",
        [{"y": Over((0,), [[1.0], [2.0]]), "meta": {"group": 0}}],
        {},
    )
    chosen = (Slider(name, [place, "c"], start=1), Slider("n", ["d"], named=True))
    return Explorable(chosen, [chart], [Over((0,), ["one", "two"])])


def test_the_page_has_every_slider_and_escapes_names():
    section = blocks.Section("s", "", [explorable(), explorable("other")])
    text = html_page.render("t", [section])
    assert "<b>" not in text and "&lt;b&gt;</label>" in text
    assert text.count('<input type="range"') == text.count("<select") == 2
    assert 'id="sliders0-0" min="0" max="1" step="1" value="1"' in text
    assert '<option value="0" selected>d</option>' in text
    (found,) = (
        json.loads(part.partition("</script>")[0])
        for part in text.split('id="figures">')[1:]
    )
    assert [one["form"] for one in found["figures"]] == ["sliders0", "sliders1"]
    assert found["forms"]["sliders0"]["places"] == [["a<b", "c"], ["d"]]
    assert found["figures"][0]["data"][0]["y"]["over"] == [0]
