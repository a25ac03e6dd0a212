"""The explorable page: its numbers are the library's, and its sliders move them."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from experiments.analysis import reflow as analysis_reflow
from experiments.analysis import sampler_error, weights
from experiments.visualization import html_page, sliders
from experiments.visualization.blocks import Section
from experiments.visualization.explorables import (
    SECTIONS,
    churn,
    reflow,
    sampler_steps,
    scaling,
    weighting,
)
from tests.helpers import browser, oracles
from tests.helpers.explorables import at, built, check_every_place


@pytest.fixture(scope="module")
def moving():
    """The figure on scaling."""
    (block,) = built(scaling.section).blocks
    return block


@pytest.fixture(scope="module")
def churning():
    (block,) = built(churn.section).blocks
    return block


@pytest.fixture(scope="module")
def weighing():
    (block,) = built(weighting.section).blocks
    return block


def particles(chart, name, place):
    """Paths of a trace, `[num_particles, num_steps + 1]`."""
    (trace,) = (trace for trace in chart.data if trace["name"] == name)
    x, y = np.array(at(trace["x"], place)), np.array(at(trace["y"], place))
    count = int(np.isnan(y).sum())
    return x.reshape(count, -1)[0, :-1], y.reshape(count, -1)[:, :-1]


@pytest.mark.slow
def test_scaling_is_complete(moving):
    check_every_place(moving)


@pytest.mark.slow
@pytest.mark.parametrize("frame", [3, 7])
def test_scaling_has_the_frames_of_the_published_figure(moving, frame):
    """v = 1/4, 5 steps; places of the slider are half frames."""
    figure = np.load(oracles.DATA / "scaling.npz")
    place = (2 * frame, 3, scaling.STEPS.index(5))
    for name, theirs in (("DDIM", "ddim"), ("Euler, in t", "euler")):
        t, z = particles(moving.charts[0], name, place)
        np.testing.assert_allclose(z, figure[f"k{frame}_{theirs}_z"], atol=1e-5)
        np.testing.assert_allclose(t, figure[f"k{frame}_{theirs}_t"][0], atol=1e-6)


@pytest.mark.slow
def test_its_words_are_the_closed_form(moving):
    """5 steps of DDIM on N(0, 1/4) end at 24/65 z_1, not at 1/2 z_1."""
    (sentence,) = moving.readout
    place = (7, 3, scaling.STEPS.index(5))
    assert f"by {0.5 - 24 / 65:.4f} |z_1| with DDIM" in at(sentence, place)
    flow = at(sentence, (0, *place[1:]))  # there Euler's method is DDIM
    assert flow.count(f"{0.5 - 24 / 65:.4f}") == 2


@pytest.mark.slow
def test_errors_cross_where_the_schedules_change_places(moving):
    """At v = 0.047 for Euler's method in 5 steps."""
    flow, preserving = (
        np.array(trace["y"].values[scaling.STEPS.index(5)])
        for trace in moving.charts[1].data[1:3]
    )
    better = scaling.WIDE[flow < preserving]
    low = better[better < 0.2].max()
    assert low <= 0.047 <= scaling.WIDE[low < scaling.WIDE].min()


@pytest.mark.ci
@pytest.mark.parametrize("value", [0.0, 0.2, 0.5])
def test_churn_has_the_curves_of_the_published_figure(churning, value):
    check_every_place(churning)
    figure = np.load(oracles.DATA / "churn.npz")
    place = (int(np.searchsorted(churn.CHURNS, value - 1e-9)), 2)
    trace = churning.charts[0].data[0]
    np.testing.assert_allclose(
        at(trace["y"], place), figure[f"churn_{value}"], atol=1e-5
    )
    np.testing.assert_allclose(at(trace["x"], place), figure["t"], atol=1e-6)


def test_half_of_a_weight_that_is_even_is_on_half_of_the_predictions():
    assert churn.late_half(np.ones(10)) == 0.5
    assert churn.late_half(np.array([0.0, 0.0, 0.1, 0.9])) == 0.25


@pytest.mark.slow
def test_weights_and_times_in_closed_form(weighing):
    check_every_place(weighing)
    logsnr, place = weighting.LOGSNR, (6, 2, 3, 4, 1)
    bias, mean, std, logit_mean, logit_std = (
        each[i] for (_, each), i in zip(weighting.SLIDERS, place, strict=True)
    )
    normal = lambda middle, spread: (
        np.exp(-(((logsnr - middle) / spread) ** 2) / 2) / spread / np.sqrt(2 * np.pi)
    )
    density = {
        "flow matching": 1 / (4 * np.cosh(logsnr / 4) ** 2) / 2,
        "sigmoid": 1 / (4 * np.cosh(logsnr / 4) ** 2) / 2,
        "EDM": normal(-2 * mean, 2 * std),
        "SD3": normal(-2 * logit_mean, 2 * logit_std),
    }
    weight = {
        "flow matching": np.exp(-logsnr / 2),
        "sigmoid": 1 / (1 + np.exp(logsnr - bias)),
        "EDM": density["EDM"] * (1 + 4 * np.exp(-logsnr)),
        "SD3": density["SD3"] * (1 + np.exp(-logsnr / 2)) ** 2,
    }
    weight = {name: each / each.max() for name, each in weight.items()}
    for chart, expected in zip(weighing.charts, (weight, density), strict=True):
        assert [trace["name"] for trace in chart.data] == list(expected)
        for trace in chart.data:
            found = at(trace["y"], place)
            np.testing.assert_allclose(found, expected[trace["name"]], rtol=1e-9)
    words = at(weighing.readout[1], place)
    assert words.endswith(f"half of the times above {-2 * mean:.1f}.")


def test_near_1_the_first_noise_and_the_early_predictions_are_forgotten():
    found = weights.churn_weights(churn.CHURNS, 20)
    assert np.all(np.diff(found.initial) < 0) and found.initial[-1] < 1e-3
    assert found.h[-1, 0] / found.h[-1].sum() < 1e-3
    late = [churn.late_half(-h) for h in found.h]
    assert late[0] == 0.5 and late[-1] < 0.35


@pytest.fixture
def reflowing(monkeypatch):
    """The figure on reflow, at some of its places."""
    monkeypatch.setattr(reflow, "PAIRS", (2, 8, None))
    monkeypatch.setattr(reflow, "STEPS", (1, 4))
    (block,) = reflow.section().blocks
    return block


@pytest.mark.slow
def test_reflow_straightens_and_keeps_the_steps_of_its_pairs(reflowing):
    """Paths, errors and words, from the flow of pairs of two, eight or all steps."""
    check_every_place(reflowing)
    moving, errors = reflowing.charts
    first = analysis_reflow.before(sampler_error.mixture())
    pairs = [analysis_reflow.euler(first, n)[-1] for n in (2, 8)] + [first.paths[-1]]
    starts = np.searchsorted(analysis_reflow.noise(), reflow.STARTS)
    for j, x in enumerate(pairs):
        error = np.sqrt(np.mean((x - first.paths[-1]) ** 2))
        assert (j == 2) == (error == 0)
        for i, k in itertools.product((1, 2), (0, 1)):
            t, z = particles(moving, "Euler's method", (i, j, k))
            np.testing.assert_allclose(z[:, -1], x[starts], atol=1e-9)
            line = z[:, :1] * t + z[:, -1:] * (1 - t)
            np.testing.assert_allclose(z, line, atol=1e-9)
            np.testing.assert_allclose(
                at(errors.data[i]["y"], (i, j, k))[k], max(error, 1e-4), rtol=1e-6
            )
            said = at(reflowing.readout[0], (i, j, k))
            assert "straightness of the paths is 0, and" in said
            assert f"distance of {error:.4f} from" in said
    one_step = particles(moving, "Euler's method", (0, 1, 0))[1]
    data = sampler_error.mixture()
    np.testing.assert_allclose(one_step[:, -1], data.weights @ data.means, atol=1e-9)
    bent = particles(moving, "flow of the model", (0, 1, 0))[1]
    assert bent.shape[1] > 30


def test_no_place_is_a_number_that_rounding_made():
    places = [place for slider, _ in weighting.SLIDERS for place in slider.places]
    assert "0" in places and not any("e" in place for place in places)


# --- the page -----------------------------------------------------------------

MOVE = """(() => {
  const input = document.getElementById("%s");
  input.value = %d;
  input.dispatchEvent(new Event("input", { bubbles: true }));
})()"""
DRAWN = (
    "JSON.stringify(document.getElementById('chart%d').data.map(({x, y}) => [x, y]))"
)


def drawn(tab, number):
    return json.loads(tab.evaluate(DRAWN % number))


def expected(chart, place):
    return [
        [sliders.to_json(at(trace[name], place)) for name in ("x", "y")]
        for trace in chart.data
    ]


def check_sliders(tab, blocks):
    """Every slider to its ends: what is drawn and said is what was computed."""
    first = 0
    for form, block in enumerate(blocks):
        place = [slider.start for slider in block.sliders]
        numbers = range(first, first + len(block.charts))
        first += len(block.charts)
        for index, slider in enumerate(block.sliders):
            for end in (len(slider.places) - 1, 0):
                before = [drawn(tab, number) for number in numbers]
                place[index] = end
                tab.evaluate(MOVE % (f"sliders{form}-{index}", end))
                for number, chart in zip(numbers, block.charts, strict=True):
                    assert drawn(tab, number) == expected(chart, place)
                readout = (
                    f"document.getElementById('sliders{form}-readout').textContent"
                )
                words = " ".join(at(sentence, place) for sentence in block.readout)
                assert tab.evaluate(readout) == words
                if end == 0:  # from the other end
                    assert [drawn(tab, number) for number in numbers] != before
            shown = f"document.getElementById('sliders{form}-{index}')"
            if not slider.named:
                text = tab.evaluate(f"{shown}.nextElementSibling.textContent")
                assert text == slider.places[0]
            place[index] = slider.start  # at an end another slider may change nothing
            tab.evaluate(MOVE % (f"sliders{form}-{index}", slider.start))


def check_page(sections, path, folder):
    path.write_text(html_page.render("title", sections))
    with browser.Page() as tab:
        for width in (1200, 390):
            tab.open(path.as_uri(), width=width)
            check_sliders(tab, [section.blocks[0] for section in sections])
            wide = "document.documentElement.scrollWidth > innerWidth"
            assert not tab.evaluate(wide)
            tab.screenshot(folder / f"light{width}.png")
            stroke = "document.querySelector('.js-line').style.stroke"
            light = tab.evaluate(stroke)
            tab.open(path.as_uri(), width=width, dark=True)
            assert tab.evaluate(stroke) != light
            tab.screenshot(folder / f"dark{width}.png")
        assert tab.errors() == []
        fetched = {url for url in tab.requested() if not url.startswith("data:")}
        assert fetched == {path.as_uri()}


needs_browser = pytest.mark.skipif(
    browser.program() is None, reason="no Chromium here: install one or set CHROMIUM"
)


@pytest.mark.slow
@needs_browser
def test_sliders_move_what_is_drawn(churning, tmp_path):
    section = Section("churn", "", [churning])
    check_page([section, section], tmp_path / "page.html", tmp_path)


@needs_browser
@pytest.mark.slow
def test_the_full_page_moves(tmp_path):
    sections = [built(section_fn) for section_fn in SECTIONS]
    of_order = dict.fromkeys(("DPM-Solver++(2M)", "DPM-Solver++(3M)"))
    (of_samplers,) = (s for s in sections if s.title == "Samplers and their steps")
    for trace in of_samplers.blocks[0].charts[1].data:
        if trace["name"] in of_order:
            of_order[trace["name"]] = np.array(trace["y"])
    third_is_better = of_order["DPM-Solver++(3M)"] < of_order["DPM-Solver++(2M)"]
    assert third_is_better[-1] and not third_is_better[sampler_steps.STEPS.index(8)]
    for section in sections:
        check_every_place(section.blocks[0])
    check_page(sections, tmp_path / "page.html", tmp_path)
    assert (tmp_path / "dark1200.png").stat().st_size > 50_000


@pytest.mark.ci
def test_a_directory_that_is_none_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "site").write_text("")
    found = subprocess.run(
        [sys.executable, "-m", "experiments.explore", f"--out={tmp_path / 'site'}"],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2
    (line,) = found.stderr.splitlines()
    assert line.startswith("error: --out=") and "exists" in line.lower()
