"""The numbers of the figures: against the published ones, and closed forms.

`tests/data/{churn,scaling,straightness}.npz` hold the curves of the interactive figures
of "Diffusion Meets Flow Matching" (Gao et al. 2024) as numbers.
"""

import subprocess
import sys

import jax
import numpy as np
import pytest

from diffusionflow import analytic, samplers, schedules
from experiments.analysis import gaussian_trajectories, sampler_error, weights
from tests.helpers import oracles

FRAMES = (0, 3, 7)  # of 0..7, from flow matching to variance preserving
VARIANCES = (0.01, 0.5)
METHODS = {"ddim": "ddim", "euler": "euler", "truth": "fine"}  # theirs to ours
GUARD = 1 / (1 + np.exp(7))  # their x_hat at t = 1 is this times v z_1, for 0


def published(name):
    return np.load(oracles.DATA / f"{name}.npz")


def guarded(paths, variance):
    """Paths whose first call gave `GUARD v z_1`; all that follows is linear in z."""
    t, (first, after) = paths.t, (paths.z[:1], paths.z[1:])
    share = 1 + GUARD * variance * (1 - t[1]) / t[1]
    return np.concatenate([first, after * share])


# --- churn --------------------------------------------------------------------


@pytest.mark.ci
def test_the_published_figure_on_churn():
    figure, values = published("churn"), (0.0, 0.2, 0.5)
    found = weights.churn_weights(np.array(values))
    for row, churn in zip(found.h, values, strict=True):
        np.testing.assert_allclose(-row, figure[f"churn_{churn}"], atol=1e-5)
    np.testing.assert_allclose(found.t, figure["t"], atol=1e-6)


def test_weights_of_ddim_in_closed_form():
    """-h_i = sin(d) cos(d)^(99 - i): d is the angle of a step."""
    found = weights.churn_weights(0.0)
    step = (np.arctan(np.exp(7.5)) - np.arctan(np.exp(-7.5))) / 100
    expected = np.sin(step) * np.cos(step) ** (99 - np.arange(100))
    np.testing.assert_allclose(-found.h, expected, rtol=1e-11)
    np.testing.assert_allclose(found.initial, np.cos(step) ** 100, rtol=1e-11)


def test_a_churn_that_is_none_is_refused():
    with pytest.raises(ValueError, match="churn=1.1"):
        weights.churn_weights(np.array([0.0, 1.1]))
    with pytest.raises(ValueError, match="churn=-0.1"):
        gaussian_trajectories.trajectories(
            -0.1, sampler_error.mixture(), schedule=schedules.Cosine()
        )


# --- particles ----------------------------------------------------------------


@pytest.mark.ci
def test_the_published_figure_on_scaling():
    """To 1e-5; frame 0 to 1e-4, and to 1e-5 with the guard of the published code."""
    figure = published("scaling")
    found = gaussian_trajectories.particles_under_scaling(np.array(FRAMES) / 7)
    for i, frame in enumerate(FRAMES):
        for theirs, ours in METHODS.items():
            each = getattr(found, ours)
            recorded = figure[f"k{frame}_{theirs}_z"].T
            tolerance = 1e-4 if frame == 0 else 1e-5
            np.testing.assert_allclose(each.z[i], recorded, atol=tolerance)
            if frame == 0:
                paths = guarded(gaussian_trajectories.Paths(each.t, each.z[i]), 0.25)
                np.testing.assert_allclose(paths, recorded, atol=1e-5)
            np.testing.assert_allclose(
                each.t, figure[f"k{frame}_{theirs}_t"][0], atol=1e-6
            )


@pytest.mark.ci
def test_the_published_figure_on_straightness():
    """To 1e-5, on flow matching with the guard; without it to 2e-4, for v = 1/2."""
    figure = published("straightness")
    found = {
        name: gaussian_trajectories.particles_under_scaling(
            fraction, variance=np.array(VARIANCES)
        )
        for name, fraction in (("fm", 0.0), ("vp", 1.0))
    }
    for i, variance in enumerate(VARIANCES):
        for name in found:
            for theirs, ours in METHODS.items():
                each = getattr(found[name], ours)
                recorded = figure[f"v{variance}_{name}_{theirs}_z"].T
                paths = each.z[i]
                if name == "fm":
                    np.testing.assert_allclose(paths, recorded, atol=2e-4)
                    paths = guarded(
                        gaussian_trajectories.Paths(each.t, paths), variance
                    )
                np.testing.assert_allclose(paths, recorded, atol=1e-5)


@pytest.mark.ci
def test_ddim_ends_at_one_point_whatever_the_scale_and_euler_does_not():
    found = gaussian_trajectories.particles_under_scaling(np.linspace(0, 1, 5))
    expected = 24 / 65 * gaussian_trajectories.STARTS
    for end in found.ddim.z[:, -1]:
        np.testing.assert_allclose(end, expected, rtol=1e-12, atol=1e-15)
    ends = found.euler.z[:, -1, 0]
    assert np.ptp(ends) > 0.1
    np.testing.assert_allclose(ends[0], expected[0], rtol=1e-12)


@pytest.mark.ci
def test_many_steps_are_near_the_exact_path():
    for fraction in (gaussian_trajectories.FLOW, gaussian_trajectories.PRESERVING):
        schedule = gaussian_trajectories.scaled_flow(fraction)
        fine = gaussian_trajectories.particles_under_scaling(fraction).fine
        exact = gaussian_trajectories.exact_path(0.25, schedule, fine.t)
        gap = np.abs(fine.z - exact[:, None] * gaussian_trajectories.STARTS).max()
        assert 1e-3 < gap < 1e-2


def straight(variance, fraction):
    return gaussian_trajectories.straightness(
        variance, gaussian_trajectories.scaled_flow(fraction)
    )


def test_a_point_is_straight_on_flow_matching_and_unit_variance_on_its_scaling():
    assert straight(0.0, gaussian_trajectories.FLOW) < 1e-15
    assert straight(1.0, gaussian_trajectories.PRESERVING) < 1e-15
    # z_t / z_1 = sqrt((1 - t)^2 + t^2): the chord is 1, the middle is sqrt(1/2)
    np.testing.assert_allclose(
        straight(1.0, gaussian_trajectories.FLOW), 1 - np.sqrt(0.5)
    )


@pytest.mark.ci
@pytest.mark.parametrize(
    ("measure", "low", "high", "expected", "digits"),
    [
        (straight, 0.02, 0.5, 0.0833, 5e-5),
        (straight, 2.0, 50.0, 12.01, 5e-3),
        (gaussian_trajectories.end_error, 0.01, 0.2, 0.047, 5e-4),
    ],
)
def test_where_the_two_schedules_change_places(measure, low, high, expected, digits):
    found = gaussian_trajectories.crossover(measure, low, high)
    assert found == pytest.approx(expected, abs=digits)


def test_the_crossovers_are_each_the_inverse_of_the_other():
    """z -> z / sqrt(v) and t -> 1 - t turn N(0, v) into N(0, 1 / v)."""
    low = gaussian_trajectories.crossover(straight, 0.02, 0.5)
    high = gaussian_trajectories.crossover(straight, 2.0, 50.0)
    assert low * high == pytest.approx(1, abs=1e-5)


@pytest.mark.ci
def test_particles_of_no_churn_follow_the_flow_and_of_half_the_law():
    data = analytic.gaussian(np.zeros(()), 0.25)
    starts = np.linspace(-2, 2, 2001)
    found = gaussian_trajectories.trajectories(
        np.array([0.0, 0.5]), data, schedule=schedules.Cosine(), starts=starts
    )
    exact = gaussian_trajectories.exact_path(0.25, schedules.Cosine(), found.t)
    np.testing.assert_allclose(found.z[0], exact[:, None] * starts, atol=0.02)
    last = found.z[1, -1]  # of DDPM: N(0, 1/4) to 4 standard errors, no start in it
    assert abs(last.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * 2001) + 0.01
    assert abs(np.corrcoef(last, starts)[0, 1]) < 4 / np.sqrt(2001)


# --- objectives ---------------------------------------------------------------


def test_the_published_figure_on_weightings():
    logsnr = np.linspace(-10, 10, 1000)
    normal = lambda mean, variance: np.exp(-((logsnr - mean) ** 2) / (2 * variance))
    expected = {
        "flow matching": np.exp(-logsnr / 2),
        "v, cosine schedule": np.exp(-logsnr / 2),
        "EDM": normal(2.4, 2.4**2) * (np.exp(-logsnr) + 0.25),
        "SD3": normal(0.0, 4.0) * (1 + np.exp(-logsnr / 2)) ** 2,
        "sigmoid(-logsnr)": 1 / (1 + np.exp(logsnr)),
    }
    found = weights.weightings_on_one_axis(logsnr)
    assert list(found) == list(expected)
    for name, weight in expected.items():
        np.testing.assert_allclose(found[name], weight / weight.max(), rtol=1e-10)


def test_ratios_of_errors_in_closed_form():
    logsnr = np.linspace(-10, 10, 21)
    noise = np.exp(-logsnr)
    expected = {
        "x": noise,
        "eps": np.ones(21),
        "v": 1 + noise,
        "u": (1 + np.sqrt(noise)) ** 2,
        "EDM's F": 1 + 4 * noise,
    }
    found = weights.mse_ratios(logsnr)
    assert list(found) == list(expected)
    for name, ratio in expected.items():
        np.testing.assert_allclose(found[name], ratio, rtol=1e-10)


# --- errors against network calls ---------------------------------------------


def test_quantiles_of_a_mixture():
    found = sampler_error.quantiles(sampler_error.mixture(), 4001)
    share = [0.3, 0.8]  # of what is left of the gaps between the modes
    for gap, expected in zip((-1.0, 2.3), share, strict=True):
        assert np.mean(found < gap) == pytest.approx(expected, abs=2e-3)
    assert found.mean() == pytest.approx(0.3 * -2 + 0.5 * 0.5 + 0.2 * 3, abs=1e-4)


def test_errors_of_ddim_on_a_gaussian_in_closed_form():
    """Every step multiplies z by a number, so quantiles stay in order."""
    data = analytic.Mixture(np.ones(1), np.zeros(1), np.full(1, 0.25))
    (point,) = sampler_error.errors_against_nfe(
        samplers.ddim(), data, num_steps=(5,), num_starts=2001
    )
    spread = sampler_error.quantiles(data, 2001).std() / 0.5
    assert point.nfe == 5
    assert point.error == pytest.approx((0.5 - 24 / 65) * spread, rel=1e-10)


def test_errors_on_the_mixture_fall_as_documented():
    points = sampler_error.errors_against_nfe(
        samplers.Heun("dz_dt"), sampler_error.mixture(), num_steps=(5, 10)
    )
    assert [point.nfe for point in points] == [9, 19]  # as in docs/samplers.md
    np.testing.assert_allclose([p.error for p in points], [0.19, 0.063], rtol=0.03)


@pytest.mark.ci
def test_numbers_are_float64_and_do_not_change_the_precision_outside():
    assert not jax.config.jax_enable_x64
    assert weights.churn_weights(0.2, 4).h.dtype == np.float64
    assert gaussian_trajectories.particles_under_scaling(0.5).ddim.z.dtype == np.float64
    assert jax.numpy.ones(1).dtype == np.float32


@pytest.mark.ci
def test_the_numbers_need_no_matplotlib():
    command = (
        "import sys; from experiments.analysis import gaussian_trajectories, weights; "
        "from experiments.analysis import sampler_error; "
        "sys.exit('matplotlib' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", command], check=True)
