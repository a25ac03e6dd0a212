"""Guidance and conditions of a model: `config/model.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import grids, objectives, samplers
from diffusionflow.networks import ResidualMLP
from experiments.config import experiment
from experiments.data import DataSet, DataTransform, Examples
from experiments.runtime.errors import UsageError
from tests.helpers import arrays, tiny
from tests.helpers.exact_model import model_of
from tests.helpers.networks import arguments, perturbed

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
    built = experiment.from_config(tiny.config()).model(dataset)
    assert built.vector_features == built.net.vector_features == 4


class Times:
    """A network of two times whose prediction is their difference.

    Its parameter is what its `init` is given as the second time.
    """

    two_times = True

    def init(self, key, z, time, label, *, train, second_time=None):
        return {"params": {"second_time": second_time}}

    def apply(self, variables, z, time, label, *, train, rngs, second_time=None):
        second = time if second_time is None else second_time
        return z * 0 + (time - second)[:, None]


def test_both_times_are_seen_as_noise_levels_and_none_is_the_same():
    """sigma / (alpha + sigma) on the cosine schedule, by hand."""
    model = model_of("x")._replace(net=Times(), objective=objectives.v_cosine())
    assert model.init(jax.random.key(0))["second_time"].shape == (1,)
    predict_fn = model.predict_fn({}, np.zeros(3, np.int32))
    z, t, s = jnp.ones((3, 4)), np.array([0.9, 0.5, 0.3]), np.array([0.2, 0.5, 0.0])

    def level(t):
        return np.sin(np.pi / 2 * t) / (np.cos(np.pi / 2 * t) + np.sin(np.pi / 2 * t))

    single = lambda times: jnp.asarray(times, jnp.float32)
    expected = np.repeat((level(t) - level(s))[:, None], 4, 1)
    found = predict_fn(z, single(t), single(s))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    scalars = predict_fn(z, 0.9, 0.2)
    np.testing.assert_allclose(scalars, np.full((3, 4), expected[0, 0]), atol=1e-6)
    np.testing.assert_array_equal(predict_fn(z, single(t)), 0)


class Counted(Times):
    """A network that notes when it is traced."""

    two_times = False

    def __init__(self):
        self.traced = []

    def apply(self, variables, z, time, *arguments, **settings):
        self.traced.append(z.shape)
        return jnp.full_like(z, variables["params"]["u"])


def test_a_step_of_several_calls_traces_the_network_once():
    """A constant u, which RK4 follows exactly: x = z - u."""
    net = Counted()
    model = model_of("x")._replace(net=net, objective=objectives.flow_matching())

    @jax.jit
    def sample(u, z):
        denoise_fn = model.denoise_fn({"u": u}, np.zeros(3, np.int32), 1)
        arguments = jax.random.key(0), denoise_fn, z, grids.uniform(2)
        schedule = model.objective.schedule
        return samplers.sample(*arguments, sampler=samplers.RK4(), schedule=schedule).x

    moved = sample(jnp.float32(0.5), jnp.ones((3, 4)))
    assert net.traced == [(3, 4)]
    np.testing.assert_allclose(moved, 0.5, atol=1e-6)


def test_a_second_time_for_a_network_of_one_is_refused():
    """Of the application's own and of a user's, which know no `two_times`."""
    label, z, t = np.zeros(3, np.int32), jnp.ones((3, 4)), jnp.full(3, 0.5)
    for net in ResidualMLP(8, num_blocks=1), model_of("x").net:
        predict_fn = model_of("x")._replace(net=net).predict_fn({}, label)
        with pytest.raises(
            UsageError, match="takes one time, .*: set network.two_times"
        ) as e:
            predict_fn(z, t, t / 2)
        assert type(net).__name__ in str(e.value)
    assert predict_fn(z, t).shape == (3, 4)


@pytest.mark.ci
def test_a_config_makes_a_network_of_two_times():
    examples = Examples(np.zeros((3, 2), "f4"), np.zeros(3, np.int32))
    dataset = DataSet(examples, examples, DataTransform(), 2)
    settings = tiny.config()
    settings.network.update(two_times=True, max_frequency=16)
    model = experiment.from_config(settings).model(dataset)
    assert model.two_times and model.net.max_frequency == 16
    assert "interval" in model.init(jax.random.key(0))["Conditioning_0"]
    z, time, label = arguments((3, 2))
    predict_fn = model.predict_fn(perturbed(model.net, z, time, label), label)
    assert np.abs(predict_fn(z, 0.9, 0.1) - predict_fn(z, 0.9)).max() > 1e-3
    np.testing.assert_allclose(predict_fn(z, 0.9, 0.9), predict_fn(z, 0.9), rtol=1e-6)
