"""Strict settings for every test: no silent promotion, eight forced CPU devices."""

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def standard_promotion():
    """For tests that run an optimizer: optax itself does not keep to strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield
