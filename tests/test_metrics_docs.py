"""What `docs/metrics.md` names is there."""

import pathlib
import re

from diffusionflow import metrics

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "metrics.md").read_text()


def test_the_tests_that_hold_the_table_exist():
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    defined = set()
    for path in (ROOT / "tests").glob("test_metrics_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.M))
    assert len(named) >= 10 and named <= defined


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
