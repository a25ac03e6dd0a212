"""Straightness and curvature of trajectories."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, grids, metrics, samplers, schedules

V = 0.3  # variance of the data


def exact_path(num_steps):
    """z_t of flow matching on N(0, V) from z_1 = 1: `sqrt(V_t / V_1)`, `[n + 1, 1]`."""
    t = np.linspace(1, 0, num_steps + 1)
    return np.sqrt((1 - t) ** 2 * V + t**2)[:, None], t


def test_of_gaussian_data_it_is_the_closed_form():
    """`(2 - pi / 2) sqrt(V)` for z_1 of square 1, at second order in the step."""
    exact = (2 - np.pi / 2) * np.sqrt(V)
    errors = []
    for num_steps in (50, 100, 200):
        (found,) = metrics.straightness(*exact_path(num_steps))
        errors.append(exact - found)
    assert errors[-1] < 1e-3 * exact
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(orders, 2, atol=0.1)


def test_of_a_sampler():
    schedule = schedules.FlowMatching()
    denoise_fn = analytic.gaussian(np.zeros((2, 3)), V).denoise_fn(schedule=schedule)
    times = grids.uniform(100)
    z = jnp.array([[[1.0, 2, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 0.5]]])
    result = samplers.sample(
        None,
        denoise_fn,
        z,
        times,
        sampler=samplers.Heun(),
        schedule=schedule,
        trajectory=True,
    )
    found = metrics.straightness(result.trajectory, times)
    exact = (2 - np.pi / 2) * np.sqrt(V) * np.array([6, 0.25])
    np.testing.assert_allclose(found, exact, rtol=3e-3)
    rising = metrics.straightness(result.trajectory[::-1], times[::-1])
    np.testing.assert_allclose(rising, found, rtol=1e-6)
    pixels = metrics.straightness(result.trajectory, times, batch_ndim=3)
    np.testing.assert_allclose(pixels.sum((1, 2)), found, rtol=1e-5)


def test_a_straight_path_at_an_even_pace_is_0_and_at_another_is_not():
    t = np.array([1.0, 0.6, 0.5, 0.0])
    path = np.stack([2 * t + 1, -t], axis=1)[:, None]
    np.testing.assert_allclose(metrics.straightness(path, t), 0, atol=1e-12)
    np.testing.assert_allclose(metrics.curvature(path), 1)
    uneven = (t**2)[:, None, None]
    # slopes 1.6, 1.1, 0.5 over 0.4, 0.1, 0.5 of the time, where the whole has 1
    exact = 0.4 * 0.6**2 + 0.1 * 0.1**2 + 0.5 * 0.5**2
    np.testing.assert_allclose(metrics.straightness(uneven, t), exact)
    np.testing.assert_allclose(metrics.curvature(uneven), 1)


def test_curvature_of_a_half_circle():
    angle = np.linspace(0, np.pi, 2001)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)[:, None]
    np.testing.assert_allclose(metrics.curvature(3 * circle), np.pi / 2, rtol=1e-6)
    closed = np.concatenate([circle, circle[:1]])
    assert metrics.curvature(closed) == np.inf
    assert np.isnan(metrics.curvature(np.zeros((3, 1, 2))))


@pytest.mark.parametrize("schedule", [schedules.Cosine(), schedules.LinearBeta()])
def test_in_flow_coordinates_a_point_is_reached_straight(schedule):
    """All schedules have the same paths there; for one point of data they are lines."""
    times = np.linspace(1, 0, 40)
    data, eps = np.array([2.0, -1.0]), np.array([[0.5, 1.0], [-1.0, 0.0]])
    level = lambda value: np.asarray(value, np.float64)[:, None, None]
    alpha, sigma = level(schedule.alpha(times)), level(schedule.sigma(times))
    path = alpha * data + sigma * eps
    assert (metrics.curvature(path) > 1.005).all()
    straight, t = metrics.in_flow_coordinates(path, times, schedule=schedule)
    np.testing.assert_allclose(t[[0, -1]], [1, 0], atol=0.01)
    np.testing.assert_allclose(metrics.curvature(straight), 1, atol=1e-6)
    np.testing.assert_allclose(metrics.straightness(straight, t), 0, atol=1e-9)


def test_traced():
    path, t = exact_path(20)
    path = path.astype(np.float32)
    run = jax.jit(lambda path: (metrics.straightness(path, t), metrics.curvature(path)))
    np.testing.assert_allclose(run(path)[0], metrics.straightness(path, t), rtol=1e-4)
    least = np.sqrt(V / (1 + V))  # the path turns there
    exact = (1 + np.sqrt(V) - 2 * least) / (1 - np.sqrt(V))
    np.testing.assert_allclose(run(path)[1], exact, rtol=5e-3)


def test_wrong_shapes_are_refused():
    path, t = exact_path(4)
    with pytest.raises(ValueError, match="must be .num_states"):
        metrics.straightness(path, t[1:])
    with pytest.raises(ValueError, match="must fall or rise"):
        metrics.straightness(path, np.array([1, 0.5, 0.5, 0.2, 0]))
    with pytest.raises(ValueError, match="two states"):
        metrics.curvature(path[:1])
