"""What a person sees: `runtime/environment.py` and `visualization/sample_images.py`."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from experiments.data import DataTransform
from experiments.runtime import environment, progress
from experiments.training import console, metrics_log
from experiments.visualization import plots, sample_images


def test_the_environment_is_json_and_names_versions_and_devices():
    found = json.loads(json.dumps(environment.environment()))
    assert found["backend"] == "cpu"
    assert len(found["devices"]) == 8
    assert {"python", "jax", "flax", "optax", "diffusionflow"} <= set(found["versions"])
    assert found["git_revision"] is None or len(found["git_revision"]) >= 40


def test_the_banner_says_where_a_run_starts():
    facts = dict(num_parameters=1234, objective={"kind": "u"}, workdir="runs/a")
    facts |= {"sigma_data": (0.5, 0.625), "examples": (1600, 197, 10)}
    fresh = console.banner(step=0, num_steps=50, **facts)
    resumed = console.banner(step=20, num_steps=50, **facts)
    assert "starting at step 0 of 50" in fresh
    assert "resuming at step 20 of 50" in resumed
    for text in ("cpu, 8 x", "1,234", "kind='u'", "runs/a", "measured 0.625"):
        assert text in fresh
    for text in ("1,600 examples, ", "197 held out, ", "classes: 10; "):
        assert text in fresh


@pytest.mark.parametrize(
    ("given", "warns"), [(0.79, True), (0.81, False), (1.19, False), (1.21, True)]
)
def test_a_sigma_data_that_is_a_fifth_off_is_a_warning(given, warns):
    warning = console.sigma_data_warning(given, 1.0)
    assert (warning is not None) == warns
    assert warning is None or f"sigma_data={given:g}, but" in warning


def test_without_a_terminal_there_are_plain_lines():
    stream = io.StringIO()
    shown = progress.TrainingProgress(0, 100, 8, console=Console(file=stream))
    shown.advance(1)
    assert stream.getvalue() == ""
    figures = shown.report(10, 0.5)
    shown.close()
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("step 10/100  loss 0.5000  ")
    assert line.endswith(" left")
    assert "examples/s" in line
    assert figures["examples_per_second"] > 0


def test_on_a_terminal_there_is_a_bar_with_the_same_figures():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    shown = progress.TrainingProgress(0, 100, 8, console=console)
    shown.report(10, 0.25)
    shown.advance(11)
    shown.close()
    text = stream.getvalue()
    assert "11/100" in text
    assert "loss 0.2500" in text
    assert "examples/s" in text


def test_pauses_do_not_count_in_examples_per_second(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(environment.time, "perf_counter", lambda: now[0])
    shown = progress.TrainingProgress(0, 20, 10, console=Console(file=io.StringIO()))
    now[0] = 2.0
    with shown.pause():
        now[0] = 50.0
    now[0] = 58.0
    assert shown.report(10, 0.0)["examples_per_second"] == pytest.approx(10.0)


def test_the_time_that_batches_are_waited_for_is_a_share_of_the_whole(monkeypatch):
    """Of the time since the last report, without pauses."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])

    def batches():
        for seconds in (1.0, 2.0, 0.0):
            now[0] += seconds
            yield seconds

    stream = io.StringIO()
    shown = progress.TrainingProgress(0, 20, 10, console=Console(file=stream))
    waited = shown.waiting(batches())
    next(waited), next(waited)
    now[0] = 6.0
    with shown.pause():
        now[0] = 50.0
    assert shown.report(2, 0.0)["waiting_for_data"] == pytest.approx(0.5)
    assert "  50% waiting for data  " in stream.getvalue()
    next(waited)
    now[0] = 51.0
    assert shown.report(3, 0.0)["waiting_for_data"] == 0
    assert not [*waited]


def test_a_draw_has_a_bar_on_a_terminal_and_a_line_a_shard_elsewhere(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(environment.time, "perf_counter", lambda: now[0])
    for terminal in (False, True):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=terminal, width=100)
        now[0] = 0.0
        shown = progress.SamplingProgress(100, console=console)
        shown.skip(20)
        now[0] = 4.0
        shown.advance(40)
        assert terminal or stream.getvalue() == ""
        shown.shard()
        shown.close()
        text = stream.getvalue()
        assert "60/100" in text
        assert "10 samples/s, compilation included  4 s left" in text
        assert terminal or len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.2, "59 s"), (61, "1 min 01 s"), (3661, "1 h 01 min")],
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text


@pytest.mark.ci
def test_memory_is_that_of_the_process_and_of_the_fullest_device(monkeypatch):
    # in a process of its own: in this one other tests may free memory meanwhile
    program = (
        "import numpy as np; from experiments.runtime.environment import memory; "
        "before = memory()['host_memory_gib']; block = np.ones(2**26); "
        "print(memory()['host_memory_gib'] - before)"
    )
    grown = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert 0.45 < float(grown) < 0.6  # of half a GiB

    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    peaks = [{"peak_bytes_in_use": 2**30}, {"peak_bytes_in_use": 3 * 2**30}, None]
    monkeypatch.setattr(environment.jax, "local_devices", lambda: map(Device, peaks))
    assert environment.memory()["device_memory_gib"] == 3


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_grid_shows_every_image_in_order(tmp_path, channels):
    samples = np.zeros((5, 8, 4, channels), np.uint8)
    samples[..., 0] = np.array([0, 4, 8, 12, 16])[:, None, None]
    path = tmp_path / "grid.png"
    sample_images.write_samples(
        path, samples, np.arange(5), transform=DataTransform(17), columns=3
    )
    image = np.asarray(Image.open(path))
    height, width = 8 * 8 + 2, 4 * 8 + 2  # enlarged eight times, with a frame
    assert image.shape[:2] == (2 * height, 3 * width)
    assert image.ndim == (3 if channels == 3 else 2)
    red = image[..., 0] if channels == 3 else image
    middles = red[height // 2 :: height, width // 2 :: width].ravel()
    assert middles.tolist() == [0, 64, 128, 191, 255, 0]


def test_points_become_a_scatter(tmp_path):
    points = np.random.RandomState(0).standard_normal((50, 2)).astype(np.float32)
    path = tmp_path / "points.png"
    labels = np.arange(50) % 3
    sample_images.write_samples(
        path, points, labels, transform=DataTransform(None), columns=1
    )
    assert Image.open(path).size == (720, 720)


def test_the_loss_curve_is_drawn_from_the_rows(tmp_path):
    rows = [
        {"step": 1, "loss": 2.0, "test_loss_ema": None},
        {"step": 2, "loss": 1.0, "test_loss_ema": 1.5},
    ]
    plots.write_loss_curve(tmp_path / "loss.png", rows, metrics_log.LOSSES)
    assert Image.open(tmp_path / "loss.png").size == (960, 600)
    plots.write_loss_curve(tmp_path / "none.png", [], metrics_log.LOSSES)
