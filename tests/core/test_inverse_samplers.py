"""RePaint and twisted sequential Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    analytic,
    grids,
    inverse,
    predictions,
    samplers,
    schedules,
)
from diffusionflow.inverse import particles, repaint

FLOW = schedules.FlowMatching()
MASK = np.array([True, False])
PAIR = analytic.Mixture(
    np.array([0.4, 0.6]), np.array([[0.5, 0.8], [-0.5, -0.8]]), np.array([[0.5, 0.1]])
)


def test_moves_of_repaint_by_hand():
    """Five steps in jumps of two: those to times 3 and 5 are made three times."""
    at, back = repaint._moves(5, resamplings=3, jump=2)
    assert at.tolist() == [0, 1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4]
    assert back.tolist() == [1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4, 5]
    for resamplings, jump in ((1, 1), (4, 9)):
        at, back = repaint._moves(5, resamplings=resamplings, jump=jump)
        assert at.tolist() == [0, 1, 2, 3, 4] and back.tolist() == [1, 2, 3, 4, 5]


def paint(mask, x=(0.7, 0.0), count=8, steps=6, schedule=FLOW, **settings):
    sampler = inverse.RePaint(jnp.array(x), mask, **settings)
    draw = lambda sampler: samplers.sample(
        jax.random.key(1),
        PAIR.denoise_fn(schedule=schedule),
        samplers.prior(jax.random.key(0), (count, 2), schedule=schedule),
        grids.uniform(steps),
        sampler=sampler,
        schedule=schedule,
    )
    return jax.jit(draw)(sampler), draw


@pytest.mark.parametrize("schedule", [FLOW, schedules.VE(0.1, 20.0)], ids=["FM", "VE"])
def test_repaint_without_known_pixels_is_ddpm(schedule):
    result, draw = paint(np.zeros(2, bool), schedule=schedule, resamplings=1)
    plain = jax.jit(draw)(samplers.ddpm())
    np.testing.assert_allclose(result.x, plain.x, rtol=1e-5, atol=1e-5)
    assert result.nfe == plain.nfe


def test_repaint_keeps_known_pixels():
    result, _ = paint(MASK, resamplings=2, jump=2)
    np.testing.assert_array_equal(result.x[:, 0], jnp.full(8, 0.7))
    assert result.nfe == 6 + 2 * 2  # two jumps of two steps
    result, _ = paint(np.ones(2, bool), x=(0.7, -0.3), resamplings=1)
    np.testing.assert_array_equal(result.x, jnp.tile(jnp.array([0.7, -0.3]), (8, 1)))


def test_a_jump_back_has_the_law_of_its_level():
    """All known: after the raise z is `alpha x + sigma noise` of the raised time."""
    sampler = inverse.RePaint(jnp.array([0.7]), np.ones(1, bool), resamplings=2, jump=3)
    rows = samplers.plan(sampler, grids.uniform(8), schedule=FLOW)
    _, back = repaint._moves(8, 2, 3)
    times = grids.uniform(8)[back]
    np.testing.assert_allclose(rows["raise_z"] * rows["known"], 1 - times, atol=1e-12)
    spread = (rows["raise_z"] * rows["known_noise"]) ** 2 + rows["raise_noise"] ** 2
    np.testing.assert_allclose(np.sqrt(spread), times, atol=1e-12)


@pytest.mark.ci
def test_resampling_brings_the_conditional_law():
    """The share of the first component given the known pixel; 4,000 draws."""
    count = 4000
    known = inverse.Measurement(inverse.masking(MASK), np.array([0.7, 0.0]), 0.0)
    exact = inverse.posterior(PAIR, known).weights[0]
    share = lambda **settings: np.mean(
        paint(MASK, count=count, steps=30, **settings)[0].x[:, 1] > 0
    )
    once, often = share(resamplings=1), share(resamplings=8, jump=3)
    error = 4 * np.sqrt(exact * (1 - exact) / count)
    assert abs(often - exact) < error + 0.02 < abs(once - exact)


def tds(data, measurement, count=2000, steps=40, **settings):
    def draw(key):
        z_key, key = jax.random.split(key)
        return inverse.twisted_smc(
            key,
            data.denoise_fn(schedule=FLOW),
            samplers.prior(z_key, (count, 2), schedule=FLOW),
            grids.uniform(steps),
            measurement,
            schedule=FLOW,
            **settings,
        )

    return jax.jit(draw)(jax.random.key(0))


@pytest.mark.parametrize("data_variance", [0.5, 0.15])
def test_particles_have_the_posterior(data_variance):
    """Whatever the twist; 2,000 particles, the error of 40 steps included."""
    operator = inverse.multiplication(np.array([[1.0, 0.6]]), (2,))
    measurement = inverse.Measurement(operator, np.array([0.2]), 0.4)
    law = inverse.posterior(PAIR, measurement)
    found = tds(PAIR, measurement, data_variance=data_variance)
    weights = np.exp(np.asarray(found.log_weights, float))
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-4)
    mean = weights @ np.asarray(found.x, float)
    offsets = np.asarray(found.x, float) - mean
    covariance = (offsets.T * weights) @ offsets
    np.testing.assert_allclose(mean, law.mean(), atol=0.08)
    np.testing.assert_allclose(covariance, law.covariance(), atol=0.08)
    assert found.nfe == 80 and found.effective.shape == (40,)
    equal = inverse.resample(jax.random.key(2), found)
    np.testing.assert_allclose(equal.mean(0), mean, atol=0.02)


def test_without_information_particles_keep_their_weights():
    operator = inverse.multiplication(np.array([[1.0, 0.6]]), (2,))
    measurement = inverse.Measurement(operator, np.array([0.2]), 1e4)
    found = tds(PAIR, measurement, count=50, steps=5)
    np.testing.assert_allclose(found.log_weights, -np.log(50), atol=1e-3)
    np.testing.assert_allclose(found.effective, 50, rtol=1e-3)


def test_systematic_resampling_repeats_by_share():
    weights = np.array([0.05, 0.45, 0.0, 0.3, 0.2])
    picked = particles._pick(jax.random.key(0), jnp.log(jnp.asarray(weights)))
    counts = np.bincount(picked, minlength=5)
    assert (np.abs(counts - 5 * weights) < 1).all() and counts[2] == 0


def test_refusals():
    operator = inverse.masking(MASK)
    for build, words in (
        (lambda: inverse.RePaint(np.ones(2), np.ones(2)), "must be bool"),
        (
            lambda: inverse.RePaint(np.ones(2), MASK, resamplings=0),
            "resamplings=0: must be at least 1",
        ),
        (
            lambda: tds(PAIR, inverse.Measurement(operator, np.ones(2), 0.0)),
            "std=0.0: must be positive",
        ),
        (
            lambda: tds(
                PAIR, inverse.Measurement(operator, np.ones(2), 1.0), threshold=2.0
            ),
            r"threshold=2.0: must be in \[0, 1\]",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            build()


@pytest.mark.parametrize(
    "sampler",
    [
        samplers.Churn(1.0),
        samplers.AdamsBashforth(2, "eps", "time"),
        samplers.Restart(0.1, 1.0, 2, 1),
        inverse.RePaint(jnp.zeros(2), MASK, resamplings=1),
        inverse.RePaint(jnp.zeros(2), MASK, resamplings=2, jump=1),
    ],
    ids=str,
)
def test_a_plan_has_finite_gradients_in_its_times(sampler):
    """Also where a step has no length, and no row before it."""

    def total(times):
        rows = samplers.plan(sampler, times, schedule=FLOW)
        return sum(jnp.sum(jnp.asarray(row, float)) for row in jax.tree.leaves(rows))

    gradient = jax.grad(total)(jnp.array([1.0, 0.7, 0.4, 0.1]))
    assert jnp.isfinite(gradient).all()


def test_a_churn_of_1_has_a_finite_gradient():
    times = grids.uniform(4)
    plan = lambda churn: samplers.plan(samplers.Churn(churn), times, schedule=FLOW)
    assert jnp.isfinite(jax.grad(lambda c: plan(c)["eps"].sum())(1.0))


@pytest.mark.ci
def test_particles_take_what_a_sampler_takes():
    """Not a network singular at t = 1; a schedule that ends in noise, one call more."""
    operator = inverse.masking(MASK)
    measurement = inverse.Measurement(operator, jnp.zeros(2), 0.5)
    z, key = jnp.ones((3, 2)), jax.random.key(0)
    singular = predictions.denoiser(lambda z, t: z, kind="eps", schedule=FLOW)
    with pytest.raises(ValueError, match="at t=1"):
        inverse.twisted_smc(
            key, singular, z, grids.uniform(2), measurement, schedule=FLOW
        )
    ve = schedules.VE(0.1, 2.0)
    found = inverse.twisted_smc(
        key, PAIR.denoise_fn(schedule=ve), z, grids.uniform(2), measurement, schedule=ve
    )
    assert found.nfe == 5 and jnp.isfinite(found.x).all()
