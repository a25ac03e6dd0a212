"""The page of a comparison: `visualization/html_page.py` and what fills it."""

import configparser
import html.parser
import json
import pathlib
import re

import numpy as np
import plotly.graph_objects
import pytest

from experiments.comparison import (
    charts,
    compare_runs,
    grouping,
    ode_accuracy,
    quantities,
    report,
    sample_gallery,
    tables,
)
from experiments.comparison.run_record import Group
from experiments.evaluation import heldout
from experiments.runtime.errors import UsageError
from experiments.visualization import blocks, html_page
from tests.helpers import browser, made

NASTY = '<b>a</b> & "b"</script><!-- ${x} $y [red]'


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    arguments = [f"{NASTY}={made.run(root / 'a')}"]
    for seed in range(3):
        path = made.run(root / f"b{seed}", seed=seed, shift=0.3, batch_size=32)
        arguments.append(f"b={path}")
    return grouping.gather(arguments)


@pytest.fixture(scope="module")
def found(gathered):
    return quantities.collect(gathered, 0)


@pytest.fixture(scope="module")
def text(gathered, found):
    return html_page.render(NASTY, report.build_report(gathered, found))


@pytest.mark.ci
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
    assert NASTY in names  # complete, as JSON


class Parsed(html.parser.HTMLParser):
    """Elements of a page and all its texts and attributes, scripts left out."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = set(), []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        self.texts += [value for _, value in attrs if value]

    def handle_data(self, data):
        if self.cdata_elem is None:
            self.texts.append(data)


def test_every_text_of_every_block_is_escaped():
    chart = blocks.Chart(NASTY, NASTY, [{"name": NASTY, "meta": {"group": 0}}], {})
    sliders = [blocks.Slider(NASTY, ["a", NASTY], named=named) for named in (0, 1)]
    images = np.zeros((1, 2, 2, 1), np.uint8)
    every = [  # with the number of times that each shows a text, attributes included
        (blocks.Table([NASTY, NASTY], [[NASTY, NASTY]], NASTY), 5),
        (blocks.Lines([NASTY, NASTY], NASTY), 3),
        (blocks.Strip([(NASTY, images)], 2, NASTY), 3),
        (chart, 4),
        (blocks.Row([chart, chart]), 8),
        (blocks.Explorable(sliders, [chart], [blocks.Over((0,), 2 * [NASTY])]), 7),
    ]
    for block, count in every:
        section = blocks.Section(NASTY, NASTY, [block])
        shown = html_page.render(NASTY, [section])
        parsed = Parsed(shown.replace(html_page.plotly_js(), ""))
        assert parsed.elements.isdisjoint({"b", "!--"}), block
        found = "\0".join(parsed.texts).count(NASTY)
        assert found == count + 5, block  # title and heading of the page, the section's


def test_a_number_that_is_not_finite_is_refused():
    chart = blocks.Chart("a", "b", [{"x": [np.nan], "meta": {"group": 0}}], {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        html_page.render("t", [blocks.Section("s", "", [chart])])


def test_templates_are_found_from_any_directory_and_installed(tmp_path, monkeypatch):
    html_page._template.cache_clear()
    monkeypatch.chdir(tmp_path)
    assert html_page.render("t", []).startswith("<!doctype html>\n<html")
    folder = pathlib.Path(html_page.__file__).parent
    setup = configparser.ConfigParser()
    setup.read(folder.parents[1] / "setup.cfg")
    patterns = setup["options.package_data"]["experiments.visualization"].split(", ")
    installed = {path for pattern in patterns for path in folder.glob(pattern)}
    data = {path for path in folder.rglob("*.*") if path.suffix not in (".py", ".pyc")}
    assert data == installed and len(data) == 5


def test_nothing_is_fetched(text):
    own = text.replace(html_page.plotly_js(), "")
    assert not re.findall(r'(?:src|href)="(?!#|data:)', own)
    assert "http" not in own.replace("http-equiv", "")
    assert "url(" not in own and "@import" not in own
    assert len(own) < 100_000


def test_the_page_states_the_conclusions(gathered, found, text):
    table = tables.summary(gathered, found)
    assert [row[0] for row in table.rows][:3] == [
        "training seeds",
        "trained to step",
        "variational bound on -log p, nats per dimension",
    ]
    assert table.rows[0][1:] == ["0", "0, 1, 2"]
    assert table.rows[-1][1:] == ["500", "500"]
    configs = dict((row[0], row[1:]) for row in tables.configs(gathered).rows)
    assert configs == {"seeds": ["0", "0, 1, 2"], "batch_size": ["16", "32"]}
    assert "the same objective on log-SNR -10 to 10" in text
    assert "is better than b by 0." in text
    assert "where a recipe has one training seed" in text


def test_the_solver_error_is_next_to_its_likelihood(gathered, found):
    rows = [row[0] for row in tables.summary(gathered, found).rows]
    at = rows.index("-log p by the ODE, nats per dimension")
    assert rows[at + 1] == "error of the ODE solver, at most, nats per dimension"
    table = tables.summary(gathered, found)
    assert table.rows[at + 1][1:] == ["0.0014", "0.0014"]  # |-0.001| + 2 * 2e-4
    likelihood = gathered[1].runs[1].evaluation["likelihood"]
    missing = dict(likelihood) | {"solver_error": None}
    runs = list(gathered[1].runs)
    runs[1] = runs[1]._replace(evaluation=runs[1].evaluation | {"likelihood": missing})
    some = [gathered[0], gathered[1]._replace(runs=tuple(runs))]
    assert tables.summary(some, found).rows[at + 1][1:] == ["0.0014", "-"]
    (line,) = ode_accuracy.notes(some, found.likelihoods[-1])
    assert "the error of the solver is not known of b, with an evaluation of" in line
    assert line in report.notes(some, found).lines


def test_a_difference_that_the_solver_may_have_made_is_noted(gathered, found):
    """The shift is 0.3; errors of 0.2 each are more than that, of 0.1 each are not."""
    ode = found.likelihoods[-1]
    for error, count in ((0.2, 1), (0.1, 0)):
        some = [
            group._replace(runs=tuple(_with_error(run, error) for run in group.runs))
            for group in gathered
        ]
        lines = ode_accuracy.notes(some, ode)
        assert len(lines) == count
    (line,) = [
        line
        for line in report.notes(
            [
                group._replace(runs=tuple(_with_error(run, 0.2) for run in group.runs))
                for group in gathered
            ],
            found,
        ).lines
        if "--ode_steps" in line
    ]
    assert "is not above the errors of the solver, 0.2 and 0.2" in line


def _with_error(run, error):
    likelihood = run.evaluation["likelihood"] | {
        "solver_error": {"mean": -error, "stderr": 0.0, "count": 9, "steps": 8}
    }
    return run._replace(evaluation=run.evaluation | {"likelihood": likelihood})


@pytest.mark.ci
def test_examples_per_second_of_different_machines_are_left_out(tmp_path):
    """Of two runs, and of one whose second start was elsewhere."""
    paths = [made.run(tmp_path / "a"), made.run(tmp_path / "b", batch_size=32)]

    def compared():
        some = grouping.gather(map(str, paths))
        found = quantities.collect(some, 0)
        shown = html_page.render("t", report.build_report(some, found))
        first = [row[0] for row in tables.summary(some, found).rows]
        lines = [
            line for line in report.notes(some, found).lines if "examples/s" in line
        ]
        return some, first, lines, shown

    assert compared()[1][-1] == "training examples/s" and compared()[2] == []
    machine = {"platform": "Other", "devices": ["0: cpu", "1: cpu"]}
    (paths[1] / "environment.json").write_text(json.dumps(machine))
    words = (
        f"training examples/s are not compared, on different machines: {paths[0]}: "
        f"Test, 0: cpu; {paths[1]}: Other, 0: cpu, 1: cpu"
    )
    some, first, lines, shown = compared()
    assert "training examples/s" not in first and lines == [words]
    assert shown.count(words) == 2  # in the first section and the one of throughput
    times = paths[1] / "wall_clock.jsonl"
    rows = [
        {"step": step, "examples_per_second": rate, "machine": on}
        for step, rate, on in (
            (4, 50.0, "Other"),
            (8, 70.0, "Other"),
            (9, 9.0, "Third"),
        )
    ]
    times.write_text("".join(json.dumps(row) + "\n" for row in rows))
    some, first, lines, shown = compared()
    assert f"{paths[1]}: Other and then Third" in lines[0]
    assert [row[1::4] for row in tables.throughput(some).rows] == [
        ["500", "Test, 0: cpu"],
        ["60", "Other"],
        ["9", "Third"],
    ]
    older = {"step": 2, "examples_per_second": 1e3}  # a row that names no machine
    times.write_text("".join(json.dumps(row) + "\n" for row in (older, *rows[:2])))
    some, first, lines, shown = compared()
    assert f"{paths[1]}: unknown and then Other" in lines[0]
    assert [row[1::4] for row in tables.throughput(some).rows][1:] == [
        ["1,000", "unknown"],
        ["60", "Other"],
    ]


# --- samples side by side --------------------------------------------------------


def altered(run, **changed):
    """The samples of the most calls with other arrays, or other settings."""
    path = run.workdir / "samples" / "samples_1.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    settings = json.loads(str(arrays["settings"]))
    settings |= {name: changed.pop(name) for name in settings.keys() & changed.keys()}
    np.savez(path, **arrays | changed | {"settings": json.dumps(settings)})


UNPAIRED = {
    "another shape": (
        {"samples": np.zeros((60, 3))},
        "they have the shape (3,), and those of a (2,)",
    ),
    "other labels": ({"labels": np.ones(60)}, "their labels are not those of a"),
    "one label": ({"label": 3}, "they are of label 3, and those of a of None"),
    "another step": ({"step": 5}, "sampled from step 5, and 10 were evaluated"),
    "other weights": ({"weights": "raw"}, "sampled from weights 'raw', and 'ema' were"),
    "trained again": ({"parameters": "0"}, "sampled from parameters '0', and '"),
}


@pytest.mark.parametrize("name", UNPAIRED)
def test_samples_that_are_not_paired_are_not_shown_side_by_side(name, tmp_path):
    changed, words = UNPAIRED[name]
    paths = [made.run(tmp_path / "a"), made.run(tmp_path / "b", batch_size=32)]
    some = grouping.gather(map(str, paths))
    (row,) = sample_gallery.section(some).blocks
    assert [chart.title for chart in row.charts] == ["a", "b"]
    altered(some[1].first, **changed)
    row, lines = sample_gallery.section(some).blocks
    assert [chart.title for chart in row.charts] == ["a"]
    (line,) = lines.lines
    assert line.startswith("the samples of b are not shown: ") and words in line


def test_samples_of_other_weights_or_steps_are_reported(tmp_path):
    paths = [
        made.run(tmp_path / "a"),
        made.run(tmp_path / "b", batch_size=32, settings={"step": 20}),
        made.run(tmp_path / "c", batch_size=8, settings={"weights": "raw"}),
    ]
    some = grouping.gather(map(str, paths))
    found = sample_gallery.section(some)
    assert found.lead.endswith("Trained to different steps: a 10, b 20.")
    row, lines = found.blocks
    assert [chart.title for chart in row.charts] == ["a", "b"]
    assert lines.lines == [
        "the samples of c are not shown: they are of weights 'raw', and those of a of "
        "'ema'"
    ]
    (paths[1] / "samples" / "samples_1.npz").write_bytes(b"PK")
    _, lines = sample_gallery.section(some).blocks
    assert "the samples of b cannot be read: " in lines.lines[0]


def test_curves_are_in_common_units_and_by_examples_where_batches_differ(gathered):
    band, line = charts.curves(gathered).data[1:]
    assert line["x"] == [5 * 32, 10 * 32] and line["y"] == pytest.approx([0.23, 0.13])
    assert band["meta"]["band"] and len(band["x"]) == 4
    alone = [Group("b", gathered[1].runs)] * 2
    chart = charts.curves(alone)
    assert chart.data[1]["x"] == [5, 10]
    assert chart.layout["xaxis"]["title"]["text"] == "step"


def test_levels_are_drawn_as_shares(found):
    names = [NASTY, "b"]
    chart = charts.levels(found.eps[1:], heldout.LEVELS, names)
    band, line = chart.data
    assert line["name"] == "b" and line["x"] == heldout.LEVELS.tolist()
    np.testing.assert_allclose(line["y"], 15, atol=0.2)  # 0.03 of 0.2
    assert min(band["y"]) <= min(line["y"]) and max(band["y"]) >= max(line["y"])


def test_every_chart_is_one_that_plotly_knows(gathered, found):
    for section in report.build_report(gathered, found):
        for block in section.blocks:
            for chart in getattr(block, "charts", [block]):
                if isinstance(chart, blocks.Chart):
                    plotly.graph_objects.Figure(chart.data, chart.layout)


def test_quality_has_a_line_for_each_recipe_and_the_baseline(found):
    (energy, frechet) = charts.quality(found.samples, [NASTY, "b"])
    assert energy.title == "Energy distance in pixels"
    lines = [trace for trace in frechet.data if trace["meta"]["group"] >= 0]
    lines = [trace for trace in lines if not trace["meta"].get("band")]
    assert [trace["x"] for trace in lines] == [[2, 8], [2, 8]]
    assert energy.data[-1]["name"] == "50 held-out examples"
    assert frechet.data[-1]["name"] != "50 held-out examples"  # of 60 samples


def test_images_are_one_above_the_other():
    images = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4, 1) % 17
    strip = blocks.Strip([("a<", images), ("b", images)], 17, "of one noise")
    shown = html_page.render("t", [blocks.Section("s", "", [strip])])
    assert shown.count('alt="samples of ') == 2 and "a&lt;" in shown


def test_other_data_have_no_common_curve(tmp_path):
    a, b = made.run(tmp_path / "a"), made.run(tmp_path / "b", data__noise=0.3)
    some = grouping.gather([str(a), str(b)])
    shown = html_page.render(
        "t", report.build_report(some, quantities.collect(some, 0))
    )
    assert "b and a have different held-out examples: noise 0.3 and" in shown
    assert "not compared with a: the recipes differ in examples.noise" in shown


def test_without_plotly_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(compare_runs.sys.modules, "plotly.offline", None)
    with pytest.raises(UsageError, match="needs plotly: pip install.*--out= "):
        compare_runs.compare_runs([], out=str(tmp_path / "a.html"))


def overlaps():
    """JavaScript: whether anything is wider than the page."""
    return "document.documentElement.scrollWidth > innerWidth"


@pytest.mark.slow
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


@pytest.mark.ci
@pytest.mark.skipif(
    browser.program() is None, reason="no Chromium here: install one or set CHROMIUM"
)
def test_the_browser_reports_errors(tmp_path):
    """Or the test above would pass whatever the page did."""
    path = tmp_path / "broken.html"
    path.write_text(
        "<script>console.error('one'); missing()</script><img src='http://127.0.0.1:9/'>"
    )
    with browser.Page() as tab:
        tab.open(path.as_uri())
        errors = " ".join(tab.errors())
    assert "one" in errors and "missing is not defined" in errors and "ERR_" in errors
