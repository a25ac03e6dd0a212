import jax
import numpy as np
import pytest

from diffusionflow import grids, schedules


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 11, 14, 50, 1000])
def test_uniform(num_steps):
    grid = grids.uniform(num_steps)
    assert grid.dtype == np.float64 and grid.shape == (num_steps + 1,)
    assert grid[0] == 1 and grid[-1] == 0
    np.testing.assert_allclose(np.diff(grid), -1 / num_steps, rtol=1e-12)
    np.testing.assert_array_equal(grid, grids.uniform(num_steps))


def test_logsnr_uniform():
    schedule = schedules.Cosine()
    grid = grids.logsnr_uniform(20, schedule, logsnr_min=-8.0, logsnr_max=8.0)
    assert grid.dtype == np.float64
    with jax.enable_x64(True):
        logsnr = schedule.logsnr(grid)
    np.testing.assert_allclose(logsnr, np.linspace(-8, 8, 21), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: grids.uniform(0), "num_steps=0.*at least 1"),
        (lambda: grids.uniform(3, t_max=1.5), r"from 1.5 to 0.0.*in \[0, 1\]"),
        (lambda: grids.uniform(3, t_max=0.5, t_min=0.5), "steps 0 and 1"),
        (lambda: grids.check_grid(np.array([1.0, 0.4, 0.4, 0.0])), "steps 1 and 2"),
        (lambda: grids.check_grid(np.array([1.0])), "shape"),
        (
            lambda: grids.logsnr_uniform(
                4, schedules.Cosine(-5.0, 5.0), logsnr_min=-9.0, logsnr_max=4.0
            ),
            r"in \[0, 1\]",
        ),
    ],
)
def test_what_is_no_grid_is_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()
