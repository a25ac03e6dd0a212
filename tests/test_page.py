"""The page of a comparison: `experiments/page.py` and what fills it."""

import json
import re

import numpy as np
import plotly.graph_objects
import pytest

from experiments import (
    charts,
    comparing,
    evaluation,
    findings,
    groups,
    page,
    sections,
    tables,
)
from experiments.errors import UsageError
from tests import browser, made

NASTY = '<b>a</b> & "b"</script><!-- ${x} $y [red]'


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    arguments = [f"{NASTY}={made.run(root / 'a')}"]
    for seed in range(3):
        path = made.run(root / f"b{seed}", seed=seed, shift=0.3, batch_size=32)
        arguments.append(f"b={path}")
    return groups.gather(arguments)


@pytest.fixture(scope="module")
def found(gathered):
    return findings.of(gathered, 0)


@pytest.fixture(scope="module")
def text(gathered, found):
    return page.render(NASTY, sections.every(gathered, found))


def test_whatever_a_user_wrote_is_escaped(text):
    assert "<b>a</b>" not in text and "[red]" in text
    (figures,) = re.findall(
        r'<script type="application/json" id="figures">(.*?)</script>', text, re.S
    )
    names = {
        trace.get("name")
        for one in json.loads(figures)["figures"]
        for trace in one["data"]
    }
    assert NASTY in names  # whole, as JSON


def test_nothing_is_fetched(text):
    own = text.replace(page.library(), "")
    assert not re.findall(r'(?:src|href)="(?!#|data:)', own)
    assert "http" not in own.replace("http-equiv", "")
    assert "url(" not in own and "@import" not in own
    assert len(own) < 100_000


def test_the_page_says_what_is_found(gathered, found, text):
    table = tables.summary(gathered, found)
    assert [row[0] for row in table.rows][:3] == [
        "training seeds",
        "trained to step",
        "bound on -log p, nats per dimension",
    ]
    assert table.rows[0][1:] == ["0", "0, 1, 2"]
    assert table.rows[-1][1:] == ["500", "500"]
    configs = dict((row[0], row[1:]) for row in tables.configs(gathered).rows)
    assert configs == {"seeds": ["0", "0, 1, 2"], "batch_size": ["16", "32"]}
    assert "the same objective on log-SNR -10 to 10" in text
    assert "is better than b by 0." in text
    assert "where a recipe has one training seed" in text


def test_curves_are_in_common_units_and_by_examples_where_batches_differ(gathered):
    band, line = charts.curves(gathered).data[1:]
    assert line["x"] == [5 * 32, 10 * 32] and line["y"] == pytest.approx([0.23, 0.13])
    assert band["meta"]["band"] and len(band["x"]) == 4
    alone = [groups.Group("b", gathered[1].runs)] * 2
    chart = charts.curves(alone)
    assert chart.data[1]["x"] == [5, 10]
    assert chart.layout["xaxis"]["title"]["text"] == "step"


def test_levels_are_drawn_as_shares(found):
    names = [NASTY, "b"]
    chart = charts.levels(found.eps[1:], evaluation.LEVELS, names)
    band, line = chart.data
    assert line["name"] == "b" and line["x"] == evaluation.LEVELS.tolist()
    np.testing.assert_allclose(line["y"], 15, atol=0.2)  # 0.03 of 0.2
    assert min(band["y"]) <= min(line["y"]) and max(band["y"]) >= max(line["y"])


def test_every_chart_is_one_that_plotly_knows(gathered, found):
    for section in sections.every(gathered, found):
        for block in section.blocks:
            for chart in getattr(block, "charts", [block]):
                if isinstance(chart, charts.Chart):
                    plotly.graph_objects.Figure(chart.data, chart.layout)


def test_quality_has_a_line_for_each_recipe_and_the_floor(found):
    (energy, frechet) = charts.quality(found.samples, [NASTY, "b"])
    assert energy.title == "Energy distance in pixels"
    lines = [trace for trace in frechet.data if trace["meta"]["group"] >= 0]
    lines = [trace for trace in lines if not trace["meta"].get("band")]
    assert [trace["x"] for trace in lines] == [[2, 8], [2, 8]]
    assert frechet.data[-1]["name"] == "50 held-out examples"


def test_images_are_one_above_the_other():
    images = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4, 1) % 17
    strip = page.Strip([("a<", images), ("b", images)], 17, "of one noise")
    shown = page.render("t", [page.Section("s", "", [strip])])
    assert shown.count('alt="samples of ') == 2 and "a&lt;" in shown


def test_other_data_have_no_common_curve(tmp_path):
    a, b = made.run(tmp_path / "a"), made.run(tmp_path / "b", data__noise=0.3)
    some = groups.gather([str(a), str(b)])
    shown = page.render("t", sections.every(some, findings.of(some, 0)))
    assert "b and a have other held-out examples: noise 0.3 and" in shown
    assert "not compared with a: the recipes differ in examples.noise" in shown


def test_without_plotly_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(comparing.sys.modules, "plotly.offline", None)
    with pytest.raises(UsageError, match="needs plotly: pip install"):
        comparing.compare_runs([], out=str(tmp_path / "a.html"))


def overlaps():
    """JavaScript: whether anything is wider than the page."""
    return "document.documentElement.scrollWidth > innerWidth"


@pytest.mark.skipif(
    browser.program() is None, reason="no Chromium here: install one or set CHROMIUM"
)
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_it_without_errors_and_without_a_network(text, tmp_path, width):
    path = tmp_path / "compare.html"
    path.write_text(text)
    with browser.Page() as tab:
        tab.open(path.as_uri(), width=width)
        drawn = "document.querySelectorAll('.chart .main-svg').length"
        expected = tab.evaluate("document.querySelectorAll('.chart').length")
        assert expected >= 6 and tab.evaluate(drawn) >= expected
        assert not tab.evaluate(overlaps())
        colours = "getComputedStyle(document.body).backgroundColor"
        line = "document.querySelector('.js-line').style.stroke"
        light = tab.evaluate(colours), tab.evaluate(line)
        tab.screenshot(tmp_path / "light.png")
        tab.open(path.as_uri(), width=width, dark=True)
        dark = tab.evaluate(colours), tab.evaluate(line)
        assert all(a != b for a, b in zip(light, dark, strict=True))
        tab.screenshot(tmp_path / "dark.png")
        assert tab.errors() == []
        fetched = {url for url in tab.requested() if not url.startswith("data:")}
        assert fetched == {path.as_uri()}
    assert (tmp_path / "dark.png").stat().st_size > 20_000


@pytest.mark.skipif(
    browser.program() is None, reason="no Chromium here: install one or set CHROMIUM"
)
def test_the_browser_tells_errors(tmp_path):
    """Or the test above would pass whatever the page did."""
    path = tmp_path / "broken.html"
    path.write_text(
        "<script>console.error('one'); missing()</script><img src='http://127.0.0.1:9/'>"
    )
    with browser.Page() as tab:
        tab.open(path.as_uri())
        told = " ".join(tab.errors())
    assert "one" in told and "missing is not defined" in told and "ERR_" in told
