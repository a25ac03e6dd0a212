"""Guidance and conditions of a model: `config/model.py`."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config import model as models
from experiments.data import DataSet, DataTransform, Examples
from tests.helpers import arrays, tiny
from tests.helpers.exact_model import model_of

VECTORS = np.random.RandomState(0).standard_normal((3, 4)).astype(np.float32)


@pytest.mark.parametrize("scale", [0, 1, 0.0, 2.5, jnp.float32(0.5)])
def test_guidance_multiplies_what_a_vector_adds(scale):
    """A network that copies its vector predicts x = scale vector; at 0 it ignores it.

    The null vector is zero, and guidance is linear in the prediction.
    """
    model = model_of("x")._replace(net=arrays.Copy(), vector_features=4)
    label, z = np.zeros(3, np.int32), jnp.ones((3, 4))
    found = model.denoise_fn({}, label, scale, jnp.asarray(VECTORS))(z, 0.5)
    np.testing.assert_allclose(found.x, float(scale) * VECTORS, rtol=1e-6, atol=1e-6)


def test_the_network_has_the_vectors_of_the_data_set():
    examples = Examples(np.zeros((3, 2), "f4"), np.zeros(3, np.int32), VECTORS)
    dataset = DataSet(examples, examples, DataTransform(), 0)
    built = models.from_config(tiny.config(), dataset)
    assert built.vector_features == built.net.vector_features == 4
