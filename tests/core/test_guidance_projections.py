"""APG, CFG-Zero* and frequency-decoupled guidance: limits, and laws on Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, grids, guidance, predictions, samplers, schedules
from diffusionflow.guidance import frequencies
from tests.helpers.guided import BOTH, MEANS, SCHEDULE, network

FLOW = schedules.FlowMatching()
RNG = np.random.default_rng(0)
Z = RNG.normal(size=(5, 3)).astype(np.float32) * 1.5
SHAPE = (2, 8, 6, 2)
IMAGES = RNG.normal(size=SHAPE).astype(np.float32)
VARIANCE = 0.3

AT = jax.jit(lambda denoise_fn, z, t: denoise_fn(z, t))


def gaussian(mean, variance=VARIANCE, schedule=SCHEDULE):
    return analytic.gaussian(mean, variance).denoise_fn(schedule=schedule)


def of_mixture():
    one = analytic.Mixture(np.array([1.0]), MEANS[:1], 0.2)
    return network(one, "u"), network(BOTH, "u")


FAMILIES = {
    "projected": lambda *pair, scale, **settings: guidance.projected(
        *pair, schedule=SCHEDULE, scale=scale, norm_limit=0.5, **settings
    ),
    "zero star": lambda *pair, scale, **settings: guidance.zero_star(
        *pair, schedule=SCHEDULE, scale=scale, **settings
    ),
    "bands": lambda *pair, scale, **settings: guidance.frequency_decoupled(
        *pair, scales=(scale, scale), **settings
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_scale_one_is_the_conditional_denoiser_bit_for_bit(name):
    pair = of_mixture()
    guided = FAMILIES[name](*pair, scale=1.0, batch_ndim=0)
    for ours, theirs in zip(guided(Z, 0.3), pair[0](Z, 0.3), strict=True):
        np.testing.assert_array_equal(ours, theirs)  # not jitted, which may fuse


@pytest.mark.parametrize("name", FAMILIES)
def test_each_example_may_have_a_scale(name):
    """Also one example alone, whose event is all that is summed over."""
    pair, scale = (gaussian(IMAGES[0]), gaussian(IMAGES[1])), jnp.array([1.5, 4.0])
    guided = AT(FAMILIES[name](*pair, scale=scale), IMAGES, 0.4)
    for i in range(2):
        alone = FAMILIES[name](*pair, scale=scale[i], batch_ndim=0)
        x = AT(alone, IMAGES[i], 0.4).x
        np.testing.assert_allclose(guided.x[i], x, rtol=1e-4, atol=1e-5)


def test_nothing_projected_is_classifier_free_guidance():
    pair = of_mixture()
    plain = guidance.classifier_free(*pair, scale=3.5)
    settings = dict(schedule=SCHEDULE, scale=3.5)
    all_of_it = guidance.projected(*pair, parallel=1.0, **settings)
    bands = guidance.frequency_decoupled(*pair, scales=[3.5] * 3, batch_ndim=0)
    for t in (0.2, 0.8):
        for guided in (all_of_it, bands):
            for ours, theirs in zip(AT(guided, Z, t), AT(plain, Z, t), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("parallel", [0.0, 0.4])
def test_projected_guidance_of_gaussians_by_hand(parallel):
    """Means m and n, variance v: the update is `(m - n) sigma^2 / V`."""
    positive, negative = np.array([1.0, -0.5, 2.0]), np.array([0.2, 0.4, 0.0])
    pair, limit, t = (gaussian(positive), gaussian(negative)), 0.3, 0.6
    alpha, sigma = (float(level(t)) for level in (SCHEDULE.alpha, SCHEDULE.sigma))
    total = alpha**2 * VARIANCE + sigma**2
    x = (positive * sigma**2 + alpha * VARIANCE * Z.astype(float)) / total
    update = (positive - negative) * sigma**2 / total
    update = update * min(1, limit / np.linalg.norm(update))
    along = (update * x).sum(1, keepdims=True) / (x**2).sum(1, keepdims=True) * x
    update = update - (1 - parallel) * along
    settings = dict(schedule=SCHEDULE, parallel=parallel, norm_limit=limit)
    guided = AT(guidance.projected(*pair, scale=5.0, **settings), Z, t)
    np.testing.assert_allclose(guided.x, x + 4 * update, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(alpha * guided.x + sigma * guided.eps, Z, atol=1e-5)
    if not parallel:  # orthogonal: x_hat grows by Pythagoras, not in proportion
        grown = (guided.x**2).sum(1) - (x**2).sum(1)
        np.testing.assert_allclose(grown, 16 * (update**2).sum(1), rtol=1e-3, atol=1e-5)


def test_of_multiples_of_one_prediction_zero_star_is_the_conditional_denoiser():
    """Centred Gaussians: every prediction is a multiple of z, whatever the scale."""
    pair = gaussian(np.zeros(3), 0.1), gaussian(np.zeros(3), 0.7)
    guided = AT(guidance.zero_star(*pair, schedule=SCHEDULE, scale=6.0), Z, 0.5)
    plain = AT(guidance.classifier_free(*pair, scale=6.0), Z, 0.5)
    np.testing.assert_allclose(guided.x, AT(pair[0], Z, 0.5).x, rtol=1e-4, atol=1e-5)
    assert np.abs(plain.x - guided.x).max() > 0.3


def test_zero_star_subtracts_the_nearest_multiple():
    """In the kind that is asked for; the rest is orthogonal to the unconditional."""
    pair, t = of_mixture(), 0.6
    for kind in ("u", "eps"):
        settings = dict(kind=kind, t=t, schedule=SCHEDULE)
        guided = guidance.zero_star(*pair, schedule=SCHEDULE, scale=3.0, kind=kind)
        p, c, n = (
            np.asarray(predictions.from_denoised(AT(fn, Z, t), **settings), np.float64)
            for fn in (guided, *pair)
        )
        rest = (p - c) / 2  # c - s n
        assert np.abs((rest * n).sum(1)).max() < 1e-4 * (n**2).sum(1).max()
        s = ((c - rest) * n).sum(1) / (n**2).sum(1)
        np.testing.assert_allclose(c - rest, s[:, None] * n, rtol=1e-3, atol=1e-4)


@pytest.mark.ci
def test_zero_init_leaves_the_first_step_out():
    pair = of_mixture()
    zeroed = guidance.zero_star(
        *pair, schedule=SCHEDULE, scale=2.0, kind="dz_dt", zero_from=1.0
    )
    draw = jax.jit(
        lambda fn, times: samplers.sample(
            None, fn, Z, times, sampler=samplers.Euler(), schedule=SCHEDULE
        )
    )
    times, plain = (
        grids.uniform(4),
        guidance.zero_star(*pair, schedule=SCHEDULE, scale=2.0, kind="dz_dt"),
    )
    np.testing.assert_allclose(
        draw(zeroed, times).x, draw(plain, times[1:]).x, rtol=1e-4, atol=1e-5
    )


def test_bands_add_up_and_constants_are_low():
    bands = jax.jit(frequencies.bands, static_argnums=(1, 2))
    parts = bands(jnp.asarray(IMAGES), 3, (1, 2))
    assert len(parts) == 3
    np.testing.assert_allclose(sum(parts), IMAGES, atol=1e-6)
    low, *high = bands(jnp.full((1, 8, 6, 2), 3.0), 3, (1, 2))
    np.testing.assert_allclose(low, 3.0, rtol=1e-6)
    np.testing.assert_allclose(high, 0.0, atol=1e-6)
    checkered = jnp.asarray((-1.0) ** np.add.outer(np.arange(16), np.arange(16)))
    low, high = bands(checkered, 2, (0, 1))
    inside = slice(4, -4)
    np.testing.assert_allclose(
        high[inside, inside], checkered[inside, inside], atol=0.1
    )


def test_bands_of_gaussians_guide_the_mean():
    """x_hat is linear in the mean: guided, it is exact for the mean of the bands."""
    positive, negative = (jnp.asarray(image) for image in RNG.normal(size=(2, 8, 6, 2)))
    guided = guidance.frequency_decoupled(
        gaussian(positive), gaussian(negative), scales=(0.5, 2.0, 6.0)
    )
    parts = frequencies.bands(positive - negative, 3, (0, 1))
    mean = positive - 0.5 * parts[0] + parts[1] + 5 * parts[2]
    exact = gaussian(mean)
    for t in (0.3, 0.9):
        for ours, theirs in zip(
            AT(guided, IMAGES, t), AT(exact, IMAGES, t), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_refusals():
    pair = of_mixture()
    settings = dict(schedule=SCHEDULE, scale=2.0)
    for build, words in (
        (
            lambda: guidance.projected(*pair, norm_limit=0.0, **settings),
            "norm_limit=0.0: must be positive",
        ),
        (
            lambda: guidance.zero_star(*pair, kind="velocity", **settings),
            "velocity",
        ),
        (
            lambda: guidance.zero_star(*pair, zero_from=-1.0, **settings),
            r"zero_from=-1.0: must be in \(0, 1\], or infinite",
        ),
        (
            lambda: guidance.frequency_decoupled(*pair, scales=[2.0]),
            "the number of scales=1: must be at least 2",
        ),
        (
            lambda: guidance.frequency_decoupled(*pair, scales=[2.0, 1.0])(Z, 0.5),
            r"has no axes of pixels: events must be \[\*sizes, channels\]",
        ),
        (
            lambda: guidance.projected(*pair, schedule=FLOW, scale=2.0),
            "schedule",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            build()
