"""Guidance weighted by the log-SNR, and CFG++, the guidance of a step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, grids, guidance, samplers, schedules
from tests.helpers.all_schedules import SCHEDULES
from tests.helpers.guided import BOTH, MEANS, SCHEDULE, network

ONE = analytic.Mixture(np.array([1.0]), MEANS[:1], 0.2)
Z = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32) * 1.5

AT = jax.jit(lambda denoise_fn, z, t: denoise_fn(z, t))


def pair(schedule=SCHEDULE):
    return network(ONE, "u", schedule), network(BOTH, "u", schedule)


@pytest.mark.parametrize("name", ["FM", "ve_geo"])
def test_a_weight_is_a_scale_at_its_log_snr(name):
    schedule = SCHEDULES[name]
    plain = guidance.classifier_free(*pair(schedule), scale=4.0)
    growing = guidance.weighted(plain, schedule=schedule, weight_fn=jax.nn.sigmoid)
    for logsnr in (-1.0, 2.0):
        t = schedule.inverse_logsnr(np.float32(logsnr))
        scale = 1 + 3 / (1 + np.exp(-logsnr))
        expected = guidance.classifier_free(*pair(schedule), scale=scale)
        expected = AT(expected, Z, t)
        np.testing.assert_allclose(
            AT(growing, Z, t).x, expected.x, rtol=1e-4, atol=1e-4
        )


@pytest.mark.ci
def test_weights_of_one_and_zero_are_the_parts():
    for plain in (
        guidance.classifier_free(*pair(), scale=4.0),
        guidance.projected(*pair(), schedule=SCHEDULE, scale=4.0),
        guidance.frequency_decoupled(*pair(), scales=(4.0, 2.0), batch_ndim=0),
    ):
        settings = dict(schedule=SCHEDULE)
        full = guidance.weighted(plain, weight_fn=jnp.ones_like, **settings)
        none = guidance.weighted(plain, weight_fn=jnp.zeros_like, **settings)
        np.testing.assert_allclose(AT(full, Z, 0.4).x, AT(plain, Z, 0.4).x, atol=2e-5)
        np.testing.assert_array_equal(AT(none, Z, 0.4).x, AT(pair()[0], Z, 0.4).x)
        assert full.num_network_calls(0.4) == 2 and none.num_network_calls(0.4) == 1


def test_a_weight_for_each_time_of_a_batch():
    plain = guidance.classifier_free(*pair(), scale=4.0)
    growing = guidance.weighted(plain, schedule=SCHEDULE, weight_fn=jax.nn.relu)
    t = np.array([0.05, 0.2, 0.4, 0.6, 0.9], np.float32)
    together = AT(growing, Z, t).x
    for i in range(5):
        np.testing.assert_allclose(
            together[i], AT(growing, Z[i : i + 1], t[i]).x[0], rtol=1e-4, atol=1e-4
        )
    np.testing.assert_array_equal(together[4], AT(pair()[0], Z, t).x[4])


@pytest.mark.ci
@pytest.mark.parametrize("gamma", [0.0, 0.6])
def test_the_steps_of_cfg_plus_plus_are_those_of_a_larger_scale(gamma):
    """Scale `lambda / (1 - q)` of classifier-free guidance, in each step its own."""
    times, scale = np.array([0.9, 0.6, 0.5, 0.2]), 0.4
    sampler = samplers.FlowMap(gamma)
    draw = jax.jit(
        lambda fn, z, rows, key: samplers.run(key, fn, z, rows, sampler=sampler)
    )
    z = jnp.asarray(Z)
    for t, s in itertools.pairwise(times):
        key, step = jax.random.key(3), np.array([t, s])
        alpha, sigma = SCHEDULE.alpha(step), SCHEDULE.sigma(step)
        q = np.sqrt(1 - gamma**2) * sigma[1] * alpha[0] / (alpha[1] * sigma[0])
        plain = guidance.classifier_free(*pair(), scale=scale / (1 - q))
        rows = samplers.plan(sampler, step, schedule=SCHEDULE)
        ours = draw(guidance.plus_plus(*pair(), scale=scale), z, rows, key)
        theirs = draw(plain, z, rows, key)
        assert ours.nfe == theirs.nfe == 2
        np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-4, atol=1e-4)
        z = ours.x


def test_cfg_plus_plus_of_gaussians_by_hand():
    """Means m and n, variance v: the recursion of the mean and of the deviation."""
    variance, scale, schedule = 0.3, 0.7, schedules.FlowMatching()
    positive, negative = np.array([1.0, -2.0]), np.array([0.5, 0.0])
    both = (
        analytic.gaussian(mean, variance).denoise_fn(schedule=schedule)
        for mean in (positive, negative)
    )
    times, z = grids.uniform(6), np.array([[0.3, -1.2], [2.0, 0.1]])
    result = samplers.sample(
        jax.random.key(0),
        guidance.plus_plus(*both, scale=scale),
        z.astype(np.float32),
        times,
        sampler=samplers.FlowMap(),
        schedule=schedule,
    )
    for t, s in itertools.pairwise(times):
        total = (1 - t) ** 2 * variance + t**2
        mean = negative + scale * (positive - negative)
        x = (mean * t**2 + (1 - t) * variance * z) / total
        z = (1 - s) * x + s * t * (z - (1 - t) * negative) / total
    np.testing.assert_allclose(result.x, z, rtol=1e-4, atol=1e-5)
    assert result.nfe == 12


def test_cfg_plus_plus_at_scale_zero_is_the_unconditional_sampler():
    settings = dict(sampler=samplers.FlowMap(), schedule=SCHEDULE)
    draw = lambda fn: (
        samplers.sample(jax.random.key(0), fn, Z, grids.uniform(3), **settings).x
    )
    guided = guidance.plus_plus(*pair(), scale=0.0)
    np.testing.assert_allclose(draw(guided), draw(pair()[1]), rtol=1e-5, atol=1e-6)


def test_other_samplers_refuse_cfg_plus_plus():
    guided = guidance.plus_plus(*pair(), scale=0.5)
    for sampler in (samplers.Heun("u"), samplers.ddpm()):
        with pytest.raises(
            ValueError, match=r"sample with samplers.FlowMap\(gamma=0\)"
        ):
            samplers.sample(
                jax.random.key(0),
                guided,
                Z,
                grids.uniform(3),
                sampler=sampler,
                schedule=SCHEDULE,
            )


def test_refusals():
    plain = guidance.classifier_free(*pair(), scale=2.0)
    for build, words in (
        (
            lambda: guidance.weighted(
                pair()[0], schedule=SCHEDULE, weight_fn=jnp.ones_like
            ),
            "weighted takes guidance by two denoisers",
        ),
        (
            lambda: guidance.weighted(
                plain, schedule=schedules.FlowMatching(), weight_fn=jnp.ones_like
            ),
            "schedule",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            build()
