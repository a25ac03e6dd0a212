"""The numbers of `experiments.plots.noise`: closed forms and exact laws."""

import numpy as np
import pytest

from diffusionflow import analytic, metrics, schedules
from diffusionflow.samplers import diffusions
from experiments.analysis import sampler_error, sde_noise
from experiments.visualization import notebook_figures

COSINE, FLOW = schedules.Cosine(), schedules.FlowMatching()
NARROW = analytic.gaussian(np.zeros(2), 0.25)


def levels(logsnr):
    return np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))


@pytest.mark.parametrize("step", [0.2, 0.05])
def test_a_reversed_step_of_a_gaussian_in_closed_form(step):
    """At log-SNR 0, V = 5/8: x_hat = sqrt(2) z / 5, eps_hat = 4 sqrt(2) z / 5."""
    found = sde_noise.small_step(NARROW, schedule=COSINE, step=step)
    alpha, sigma = levels(step)
    factor = 2 - np.sqrt(2) / 5 * (alpha + 4 * sigma)
    np.testing.assert_allclose(found.reversed, factor * found.before, rtol=1e-10)


def test_the_diffused_have_the_law_of_their_level():
    step, many = 0.3, 20_000
    found = sde_noise.small_step(NARROW, schedule=COSINE, step=step, num_particles=many)
    alpha, sigma = levels(-step)
    error = 4 * np.sqrt(2 / (2 * many))  # 4 standard errors of a relative variance
    for value, exact in (
        (found.before.var(), 5 / 8),
        (found.diffused.var(), alpha**2 / 4 + sigma**2),
    ):
        assert abs(value / exact - 1) < error
    ratio = alpha / np.sqrt(0.5)
    added = (found.diffused - ratio * found.before).var()
    assert abs(added / (sigma**2 - ratio**2 / 2) - 1) < error


def test_choices_of_noise_in_both_frameworks():
    """On flow matching g^2 = 2 t / (1 - t)."""
    t = np.array([0.1, 0.5, 0.8])
    g = np.sqrt(2 * t / (1 - t))
    found = sde_noise.diffusions_on_one_axis(t, schedule=FLOW)
    expected = [0 * t, g / 2, g, np.sqrt(2 * t), np.sqrt(2) + 0 * t]
    assert len(found) == len(expected)
    for each, epsilon in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(each.epsilon, epsilon, rtol=1e-10)
        np.testing.assert_allclose(each.eta, epsilon / g, rtol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_generated_samples_have_the_law_of_the_data(eta):
    """Kolmogorov-Smirnov: 1.95 / sqrt(n) is the level of 0.1 %, 0.01 for the steps."""
    data = sampler_error.mixture()
    found = sde_noise.generated(data, diffusions.Eta(eta), num_samples=2000)
    distance = metrics.Kolmogorov(metrics.LawCDF(data))(found)
    assert distance < 1.95 / np.sqrt(2000) + 0.01


@pytest.mark.parametrize(
    "draw_fn", [notebook_figures.small_step, notebook_figures.diffusions]
)
def test_the_notebook_figures_are_drawn(draw_fn):
    assert len(draw_fn().axes) == 2


def test_the_sketch_of_samples_shows_the_density():
    figure = notebook_figures.histograms({"a": np.zeros(5)}, sampler_error.mixture())
    x, density = figure.axes[0].get_lines()[0].get_data()
    assert abs(np.trapezoid(density, x) - 1) < 1e-3


def test_a_panel_shows_the_points_of_its_set():
    points = {"a": np.zeros((3, 2)), "b": np.array([[1.0, 2.0]])}
    figure = notebook_figures.clouds(points)
    assert [panel.get_title() for panel in figure.axes] == ["a", "b"]
    np.testing.assert_array_equal(figure.axes[1].get_lines()[0].get_xydata(), [[1, 2]])


def test_lines_are_the_numbers_given():
    figure = notebook_figures.curves(np.arange(3), {"a": np.ones(3)}, title="b")
    assert figure.axes[0].get_title() == "b"
    np.testing.assert_array_equal(figure.axes[0].get_lines()[0].get_ydata(), np.ones(3))


def test_errors_are_drawn_as_given():
    figure = notebook_figures.errors(
        {"a": [sampler_error.Point(5, 0.5), sampler_error.Point(9, 0.1)]}
    )
    line = figure.axes[0].get_lines()[0].get_xydata()
    np.testing.assert_array_equal(line, [[5, 0.5], [9, 0.1]])
