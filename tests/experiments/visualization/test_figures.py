"""`experiments.figures`, what it draws, and the styles of all pictures."""

import subprocess
import sys

import matplotlib.style
import numpy as np
import pytest
from matplotlib import colors
from PIL import Image

from experiments.visualization import figures, style

FAST = ("churn", "outputs", "weightings")


def run(*arguments):
    command = [sys.executable, "-m", "experiments.figures", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    directory = tmp_path_factory.mktemp("figures")
    return {path.name: path for path in figures.write(directory, FAST)}


@pytest.mark.ci
def test_every_figure_is_vectors_and_pixels(drawn):
    assert sorted(drawn) == sorted(
        f"{n}.{kind}" for n in FAST for kind in style.FORMATS
    )
    for name in FAST:
        assert "<svg" in drawn[f"{name}.svg"].read_text()
        pixels = np.asarray(Image.open(drawn[f"{name}.png"]).convert("RGB"))
        assert pixels.shape[0] > 300 and len(np.unique(pixels.reshape(-1, 3))) > 50


def test_the_same_numbers_give_the_same_file(drawn, tmp_path):
    again = figures.write(tmp_path, ("churn",))
    for path in again:
        assert path.read_bytes() == drawn[path.name].read_bytes()


def test_the_lines_drawn_are_the_numbers():
    figure = figures.churn((0.0, 0.5))
    ddim, ddpm = figure.axes[0].get_lines()
    step = (np.arctan(np.exp(7.5)) - np.arctan(np.exp(-7.5))) / 100
    np.testing.assert_allclose(ddim.get_ydata()[-1], np.sin(step), rtol=1e-9)
    assert ddpm.get_ydata()[0] < 1e-3 < ddpm.get_ydata()[-20]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(figures.FIGURES) - set(FAST)))
def test_the_other_figures_are_drawn(name, tmp_path):
    for path in figures.write(tmp_path, (name,)):
        assert path.stat().st_size > 10_000


@pytest.mark.ci
def test_the_command_draws_one_figure(tmp_path):
    done = run(f"--out={tmp_path}/deep/er", "--figure=outputs")
    assert done.returncode == 0, done.stderr
    written = sorted(path.name for path in (tmp_path / "deep/er").iterdir())
    assert written == ["outputs.png", "outputs.svg"]
    assert done.stdout.split() == [
        f"{tmp_path}/deep/er/outputs.{k}" for k in ("svg", "png")
    ]


@pytest.mark.ci
@pytest.mark.parametrize(
    ("argument", "message"),
    [("--figure=chrun", "did you mean 'churn'"), ("--out={file}", "File exists")],
)
def test_a_mistake_is_one_line(argument, message, tmp_path):
    (tmp_path / "file").write_text("")
    done = run(argument.format(file=tmp_path / "file"))
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


# --- style --------------------------------------------------------------------


def to_lab(rgb):
    """CIELAB of sRGB in [0, 1], `[..., 3]`."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array(
        [[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]
    )
    ratio = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(
        ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29
    )
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


BLIND = {  # Machado, Oliveira and Fernandes 2009, full severity, on linear RGB
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def seen(rgb, matrix):
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(matrix).T, 0, 1)
    return np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    )


def least_distance(rgb):
    lab = to_lab(rgb)
    gap = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return gap[~np.eye(len(lab), dtype=bool)].min()


@pytest.mark.parametrize("blindness", BLIND)
def test_the_first_colors_differ_for_the_colour_blind(blindness):
    rgb = np.array([colors.to_rgb(value) for value in style.COLORS.values()])
    assert least_distance(seen(rgb, BLIND[blindness])) > 15  # 2 is just noticeable
    usual = np.array([colors.to_rgb(f"C{i}") for i in range(7)])  # matplotlib's are not
    assert least_distance(seen(usual, BLIND[blindness])) < 15


def test_lines_differ_in_more_than_color():
    settings = [style.lines(i, marked=True) for i in range(len(style.COLORS))]
    for name in ("color", "ls", "marker"):
        assert len({str(each[name]) for each in settings}) == len(settings)


def test_the_style_sheet_is_found_by_the_name_of_its_package():
    with matplotlib.style.context("experiments.visualization.diffusionflow"):
        assert style.SETTINGS.items() <= matplotlib.rcParams.items()


def test_the_settings_end_with_the_figure():
    before = matplotlib.rcParams["axes.spines.top"]
    figures.churn((0.0,))
    assert matplotlib.rcParams["axes.spines.top"] == before
