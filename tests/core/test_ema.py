import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import ema


def test_decay_against_its_table():
    n = np.array([0, 1, 9, 90, 1000, 10**7])
    expected = np.minimum(0.99, (1 + n) / (10 + n))
    np.testing.assert_allclose(ema.decay(n, limit=0.99), expected, rtol=1e-6)
    np.testing.assert_allclose(ema.decay(n, limit=0.99, warmup=1.0), 0.99, rtol=1e-6)
    assert ema.decay(jnp.int32(3), limit=0.5).dtype == jnp.float32


def test_a_thousand_updates_in_float32_even_for_half_precision():
    params = {"w": jnp.full((3,), 0.5, jnp.bfloat16)}
    average = ema.init(params)
    target = {"w": jnp.ones((3,), jnp.bfloat16)}
    update = jax.jit(ema.update)
    for _ in range(1000):
        average = update(average, target, 0.999)
    assert average["w"].dtype == jnp.float32
    np.testing.assert_allclose(average["w"], 1 - 0.5 * 0.999**1000, rtol=1e-4)


@pytest.mark.parametrize("nines", [4, 5, 6])
def test_a_long_memory_keeps_its_digits(nines):
    """`1 - decay` in float32 would be off by as much as a percent."""
    average = ema.update({"w": jnp.zeros(())}, {"w": jnp.ones(())}, 1 - 10.0**-nines)
    np.testing.assert_allclose(average["w"], 10.0**-nines, rtol=1e-6)


def test_init_is_a_copy():
    params = {"w": jnp.ones(3)}
    average = ema.init(params)
    params["w"].delete()  # what donation does
    np.testing.assert_array_equal(average["w"], 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(limit=1.0), r"limit=1.0.*\[0, 1\)"),
        (dict(limit=0.9, warmup=0.5), "warmup=0.5.*at least 1"),
    ],
)
def test_bad_values_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ema.decay(0, **settings)
