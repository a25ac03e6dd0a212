"""What `docs/metrics.md` and `docs/likelihood.md` name is there."""

import pathlib
import re

import pytest

from diffusionflow import metrics

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "metrics.md").read_text()


@pytest.mark.parametrize(
    ("name", "files"), [("metrics", "test_metrics_*.py"), ("likelihood", "test_*.py")]
)
def test_the_tests_that_hold_the_table_exist(name, files):
    text = (ROOT / "docs" / f"{name}.md").read_text()
    named = set(re.findall(r"`(test_\w+)(?:`|\.\.\.`)", text))
    defined = set()
    for path in (ROOT / "tests").rglob(files):
        defined |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.M))
    begin = {one for one in named if f"`{one}...`" in text}  # cut off in the table
    assert len(named) >= 10 and named - begin <= defined
    assert all(any(one.startswith(name) for one in defined) for name in begin)


def test_every_metric_is_in_the_table():
    classes = [
        name
        for name in metrics.__all__
        if isinstance(getattr(metrics, name), type)
        and issubclass(getattr(metrics, name), metrics.Metric)
        and name != "Metric"
    ]
    assert len(classes) >= 9
    for name in classes:
        assert f"`{name}" in TEXT, name
