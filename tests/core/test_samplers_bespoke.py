"""`samplers.optimize_coefficients`: exact where it can be, never worse, honest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, grids, predictions, samplers, schedules
from diffusionflow.samplers import bespoke
from diffusionflow.samplers.fixed_plan import free_columns, with_changes
from diffusionflow.samplers.linear import _stages
from tests.helpers.all_samplers import DETERMINISTIC

FLOW = schedules.FlowMatching()
EDM = schedules.EDM(0.002, 80.0, 7.0)
UNEQUAL = analytic.Mixture(  # three modes of different width
    np.array([0.3, 0.5, 0.2]), np.array([-2.0, 0.5, 3.0]), np.array([0.04, 0.25, 0.01])
)
STD = 0.2
NARROW = analytic.gaussian(np.zeros(2), STD**2).denoise_fn(schedule=FLOW)


def starts(seed=0, shape=(32, 2), schedule=FLOW):
    return samplers.prior(jax.random.key(seed), shape, schedule=schedule)


def optimized(**changed):
    given = dict(
        denoise_fn=NARROW,
        z=starts(),
        times=grids.uniform(1),
        sampler=samplers.ddim(),
        schedule=FLOW,
        reference_steps=64,
    )
    return samplers.optimize_coefficients(**given | changed)


@pytest.mark.ci
def test_one_step_is_exact_on_a_gaussian_and_says_that_it_is_not_consistent():
    """DDIM from t = 1 has x_hat = 0 and eps_hat = z; the ODE multiplies z by the std.

    Where u = 0 it then goes from 1 to 1 + std in place of 1.
    """
    found, again = optimized(), optimized()
    assert found.chosen == "optimized" and found.num_parameters == 1
    assert found.before[0] > 100 * found.after[0]
    z = starts(seed=1, shape=(8, 2))
    result = samplers.sample(
        None, NARROW, z, grids.uniform(1), sampler=found.sampler, schedule=FLOW
    )
    np.testing.assert_allclose(result.x, STD * z, atol=2e-3)
    assert result.nfe == 1
    assert found.consistency_before == pytest.approx((0.0, 0.5), abs=1e-12)
    assert found.consistency.constant == pytest.approx(STD, abs=2e-3)
    assert "num_steps=1 only, without an order" in found.validity
    assert "constant u_hat missed by 0.2" in found.validity
    jax.tree.map(np.testing.assert_array_equal, found.sampler.rows, again.sampler.rows)


@pytest.mark.ci
def test_it_is_better_on_other_noise_by_another_reference():
    denoise_fn, z = UNEQUAL.denoise_fn(schedule=FLOW), starts(7, (256,))
    times, sampler = grids.uniform(4), samplers.AdamsBashforth(2, "u")
    found = optimized(
        denoise_fn=denoise_fn, z=starts(shape=(256,)), times=times, sampler=sampler
    )
    draw = lambda times, sampler: (
        samplers.sample(None, denoise_fn, z, times, sampler=sampler, schedule=FLOW).x
    )
    exact = draw(grids.uniform(400), samplers.RK4("dz_dt"))
    error = lambda sampler: float(jnp.mean(jnp.abs(draw(times, sampler) - exact)))
    assert found.chosen == "optimized" and found.num_parameters > 4
    assert error(found.sampler) < 0.6 * error(sampler)
    assert found.difference[0] < -found.difference[1]
    assert found.consistency.constant > 1e-4


def test_a_sampler_that_is_not_beaten_on_other_noise_comes_back():
    """Rows to minimise over end at std z, all others at 0, as one step of DDIM does."""
    own, *_ = bespoke._split(32, 0)
    variances = np.zeros((32, 1))
    variances[own] = STD**2

    def x_hat(z, t):
        return (1 - t) * variances * z / ((1 - t) ** 2 * variances + t**2)

    sampler = samplers.ddim()
    found = optimized(
        denoise_fn=predictions.denoiser(x_hat, kind="x", schedule=FLOW), sampler=sampler
    )
    assert found.chosen == "start" and found.sampler is sampler
    assert found.difference == (0.0, 0.0) and found.before == found.after
    assert found.consistency == found.consistency_before
    assert found.validity.startswith("the given sampler, which no optimised")
    assert "constant u_hat exact, linear u_hat missed by 0.5" in found.validity


def test_consistency_is_that_of_quadratures():
    """Of u = c = t DDIM makes Euler's sum, 1 / (2 n) above the integral."""
    of = lambda sampler, times, schedule=FLOW: samplers.consistency(
        sampler, times, schedule=schedule
    )
    times = grids.uniform(5)
    assert of(samplers.ddim(), times) == pytest.approx((0.0, 0.1), abs=1e-12)
    assert of(samplers.Midpoint("u"), times) == pytest.approx((0.0, 0.0), abs=1e-12)
    levels = grids.karras(3, schedule=EDM)  # a step to the data follows
    sigma = EDM.sigma(levels)
    clock = np.append(sigma / (1 + sigma), 0.0)
    linear = abs(clock[:-1] @ np.diff(clock) + clock[0] ** 2 / 2)
    found = of(samplers.ddim(), levels, EDM)
    assert found == pytest.approx((0.0, linear), abs=1e-9)
    rows = samplers.plan(samplers.ddim(), times, schedule=FLOW)
    rows["x"][-1] *= 1.5  # of the last x_hat, 1 where u = 0 and -1 where u = 1
    scaled = samplers.FixedPlan(samplers.ddim(), times, rows, FLOW)
    assert of(scaled, times).constant == pytest.approx(0.5, abs=1e-12)


def test_coefficients_are_all_floating_columns_but_the_times():
    times = grids.uniform(3, t_max=0.9)
    for name, entry in DETERMINISTIC.items():
        rows = samplers.plan(entry.sampler, times, schedule=FLOW)
        free = free_columns(entry.sampler, rows)
        leaves = jax.tree.leaves(rows)
        floating = [np.issubdtype(leaf.dtype, np.floating) for leaf in leaves]
        times_handed = sum(floating) - sum(free)
        ends = isinstance(entry.sampler, samplers.FlowMap)  # handed over as well
        stages = _stages(entry.sampler, rows, jnp.zeros(()))
        assert times_handed == stages + ends, name
        pairs = list(zip(leaves, free, strict=True))
        size = sum(leaf.size for leaf, is_free in pairs if is_free)
        changed = jax.tree.leaves(with_changes(rows, free, np.ones(size)))
        for (leaf, is_free), new in zip(pairs, changed, strict=True):
            np.testing.assert_array_equal(new, leaf + 1.0 if is_free else leaf)


ROOT = predictions.denoiser(lambda z, t: jnp.sqrt(0 * z), kind="x", schedule=FLOW)
# its derivative is finite in forward mode, nan in reverse mode
REVERSE = predictions.denoiser(
    lambda z, t: jnp.where(z > 9, jnp.sqrt(jnp.maximum(z - 9, 0)), z / 2),
    kind="x",
    schedule=FLOW,
)
REFUSED = {
    "derivatives": (dict(denoise_fn=ROOT), "denoise_fn: must have finite derivatives"),
    "noise": (
        dict(sampler=samplers.ddpm(), times=grids.uniform(2)),
        "must be deterministic, because errors",
    ),
    "adaptive": (
        dict(sampler=samplers.solve),
        "sampler=solve: must be one whose steps",
    ),
    "starts": (dict(z=jnp.zeros((8, 2))), r"len\(z\)=8: must be at least 32; pass"),
    "grid": (dict(times=[0.0, 1.0]), "each time must be below"),
    "schedule": (dict(schedule=schedules.Cosine()), "reschedule"),
    "gradients": (
        dict(denoise_fn=REVERSE, times=grids.uniform(2)),
        "denoise_fn: must have finite derivatives",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    changed, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        optimized(**changed)


@pytest.mark.parametrize(
    ("times", "schedule", "message"),
    [
        (grids.uniform(3), FLOW, "a grid of 3 steps: these coefficients are for 2"),
        (grids.quadratic(2), FLOW, r"times\[1\]=0.25 on FlowMatching.* time 0.5"),
        (grids.uniform(2), schedules.Cosine(), r"times\[\d\]=.* on Cosine.*; compute"),
    ],
    ids=["steps", "times", "schedule"],
)
def test_a_fixed_plan_refuses_another_grid(times, schedule, message):
    own = grids.uniform(2)
    rows = samplers.plan(samplers.ddim(), own, schedule=FLOW)
    fixed = samplers.FixedPlan(samplers.ddim(), own, rows, FLOW)
    assert (
        samplers.plan(fixed, own.astype(np.float32), schedule=FLOW).keys()
        == rows.keys()
    )
    with pytest.raises(ValueError, match=message):
        samplers.plan(fixed, times, schedule=schedule)
    with pytest.raises(ValueError, match=r"rows of \[2\] steps: must be of 3, those"):
        samplers.FixedPlan(samplers.ddim(), grids.uniform(3), rows, FLOW)
    with pytest.raises(ValueError, match="a grid of 4 steps: these coefficients"):
        jax.eval_shape(  # whatever the times are
            lambda t: samplers.plan(fixed, t, schedule=FLOW), np.ones(5)
        )
