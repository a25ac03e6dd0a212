"""Known pixels of a sample: `guidance/constraints.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, grids, guidance, predictions, samplers, schedules
from tests.helpers.guided import BOTH, SCHEDULE, network


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [
        (samplers.ddpm(), SCHEDULE),
        (samplers.Heun("v"), SCHEDULE),
        (samplers.Euler(), schedules.LinearBeta()),
        (samplers.Heun(), schedules.Cosine(-15.0, 15.0)),
        (samplers.ddim(), schedules.VE(0.1, 50.0)),
    ],
    ids=str,
)
def test_known_pixels_are_exact_at_the_end(sampler, schedule):
    known = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    mask = np.random.default_rng(2).uniform(size=(5, 3)) < 0.5
    z = np.asarray(samplers.prior(jax.random.key(3), (5, 3), schedule=schedule))
    plain_fn = predictions.denoiser(
        lambda z, t: jnp.sin(2 * z), kind="u", schedule=schedule
    )

    @jax.jit
    def draw(denoise_fn):
        settings = dict(sampler=sampler, schedule=schedule, trajectory=True)
        times = grids.uniform(6)
        return samplers.sample(jax.random.key(4), denoise_fn, z, times, **settings)

    inpaint = lambda mask: draw(
        guidance.inpaint(plain_fn, known, mask, schedule=schedule)
    )
    found, plain = inpaint(mask), draw(plain_fn)
    np.testing.assert_array_equal(np.asarray(found.x)[mask], known[mask])
    np.testing.assert_array_equal(found.trajectory[-1], found.x)
    before = np.asarray(found.trajectory[-2])[mask]
    assert np.abs(before - known[mask]).max() > 1e-3
    nothing = inpaint(np.zeros_like(mask))
    np.testing.assert_allclose(nothing.x, plain.x, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(inpaint(np.ones_like(mask)).x, known)


@pytest.mark.parametrize(
    "schedule", [SCHEDULE, schedules.VE(0.1, 50.0)], ids=["cosine", "ve"]
)
def test_an_empty_mask_gives_the_plain_sample_bit_for_bit(schedule):
    plain_fn = predictions.denoiser(
        lambda z, t: jnp.sin(2 * z), kind="u", schedule=schedule
    )
    z = samplers.prior(jax.random.key(3), (5, 3), schedule=schedule)
    empty = guidance.inpaint(plain_fn, z, np.zeros(3, bool), schedule=schedule)
    ours, theirs = (
        samplers.sample(
            jax.random.key(4),
            fn,
            z,
            grids.uniform(6),
            sampler=samplers.ddpm(),
            schedule=schedule,
            trajectory=True,
        )
        for fn in (empty, plain_fn)
    )
    assert ours.nfe == theirs.nfe
    np.testing.assert_array_equal(ours.trajectory, theirs.trajectory)


@pytest.mark.parametrize("sampler", [samplers.ddim(), samplers.ddpm()], ids=str)
def test_known_pixels_have_noise_of_the_right_level_all_the_way(sampler):
    """Mean alpha x and standard deviation sigma, at every step; 20,000 draws."""
    count, value, schedule = 20_000, 0.7, schedules.FlowMatching()
    z = samplers.prior(jax.random.key(5), (count, 3), schedule=schedule)
    denoise_fn = guidance.inpaint(
        network(BOTH, "u", schedule),
        np.float32(value),
        np.array([True, False, False]),
        schedule=schedule,
    )
    times = grids.uniform(5)
    states = samplers.sample(
        jax.random.key(6),
        denoise_fn,
        z,
        times,
        sampler=sampler,
        schedule=schedule,
        trajectory=True,
    ).trajectory
    for state, t in zip(states[..., 0], times, strict=True):
        assert abs(state.mean() - (1 - t) * value) <= 5 * t / count**0.5 + 1e-6
        assert abs(state.std() - t) <= 5 * t / (2 * count) ** 0.5 + 1e-6


def test_known_pixels_draw_the_others_with_them():
    """Of two components, the one that the known coordinate says is sampled."""
    data = analytic.Mixture(np.ones(2) / 2, np.array([[2.0, 1.0], [-2.0, -1.0]]), 0.01)
    schedule = schedules.FlowMatching()
    z = samplers.prior(jax.random.key(7), (200, 2), schedule=schedule)
    x = np.where(np.arange(200) % 2, 2.0, -2.0).astype(np.float32)
    known = np.stack([x, 0 * x], axis=-1)
    denoise_fn = guidance.inpaint(
        data.denoise_fn(schedule=schedule),
        known,
        np.array([True, False]),
        schedule=schedule,
    )
    result = samplers.sample(
        jax.random.key(8),
        denoise_fn,
        z,
        grids.uniform(50),
        sampler=samplers.ddpm(),
        schedule=schedule,
    )
    assert np.mean(np.sign(result.x[:, 1]) == np.sign(x)) > 0.97
