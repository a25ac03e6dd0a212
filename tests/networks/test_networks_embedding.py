"""Embeddings of one time and of two, and networks of two times in what they promise."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow.networks import DiT, ResidualMLP, UNet, embedding
from diffusionflow.networks.pretrained import edm_levels
from tests.helpers.networks import arguments, directions, fast, perturbed

TIMES = np.linspace(0, 1, 101)


@pytest.mark.parametrize("features", [64, 128, 256])
def test_time_embedding_resolves_the_unit_interval(features):
    times = jnp.asarray(TIMES, jnp.float32)
    assert directions(embedding.embed_time(times, features)) >= 32
    unscaled = embedding.embed_time(times / 1000, features)
    assert directions(unscaled) < 8


@pytest.mark.ci
@pytest.mark.parametrize("features", [128, 256])
def test_vector_that_blocks_read_resolves_time(features):
    times = jnp.asarray(TIMES, jnp.float32)
    module = embedding.Conditioning(features, 0)
    params = module.init(jax.random.key(0), times, None, None, 101)
    assert directions(module.apply(params, times, None, None, 101)) >= 32


@pytest.mark.parametrize(
    ("max_frequency", "count"), [(1.0, 2), (8, 6), (16.0, 9), (32.0, 14), (1000.0, 97)]
)
def test_what_a_top_frequency_resolves(max_frequency, count):
    """Directions above 1 % over 101 times with 256 features, by the definition."""
    angles = TIMES[:, None] * max_frequency ** (np.arange(128) / 127)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    assert directions(expected) == count
    found = embedding.embed_time(jnp.asarray(TIMES, "float32"), 256, max_frequency)
    np.testing.assert_allclose(found, expected, atol=3e-7 * max(8, max_frequency))


@pytest.mark.parametrize("max_frequency", [2.0, 16.0, 1000.0])
def test_an_interval_is_embedded_by_its_definition_and_is_zero_without_length(
    max_frequency,
):
    """Frequencies up to 8 whatever those of the time; small intervals do not cancel."""
    times = jnp.asarray(TIMES, jnp.float32)
    np.testing.assert_array_equal(embedding.embed_interval(times, times), 0)
    second = jnp.where(jnp.arange(101) % 2 == 0, times - 1e-3, 0.3)
    angles = (np.asarray(times, float) - np.asarray(second, float))[:, None]
    angles = angles * min(8.0, max_frequency) ** (np.arange(4) / 3)
    expected = np.concatenate([np.sin(angles), 1 - np.cos(angles)], axis=1)
    found = embedding.embed_interval(times, second, max_frequency)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


NETWORKS = {
    "unet": (UNet(4, (1,), num_blocks=1, num_heads=1), (3, 4, 4, 1)),
    "dit": (DiT(8, num_blocks=1, num_heads=1, patch_size=1), (3, 4, 4, 1)),
    "residual_mlp": (ResidualMLP(8, num_blocks=1), (3, 2)),
}
CONDITIONS = dict(num_classes=3, vector_features=5, max_frequency=8.0)


class Case(NamedTuple):
    """A perturbed network of two times, labels and vectors, its calls and a batch."""

    net: Any
    params: Any
    raw: Any
    fn: Any
    inputs: tuple
    second_time: jax.Array


@pytest.fixture(scope="module", params=list(NETWORKS))
def case(request):
    net, shape = NETWORKS[request.param]
    net = net.clone(two_times=True, **CONDITIONS)
    inputs = *arguments(shape), jax.random.normal(jax.random.key(4), (3, 5))

    def raw(params, z, time, second_time, *, inputs=inputs):
        variables, (_, _, *conditions) = {"params": params}, inputs
        return net.apply(variables, z, time, *conditions, second_time=second_time)

    second_time = jnp.array([0.2, 0.9, 0.0])
    return Case(net, perturbed(net, *inputs), raw, fast(raw), inputs, second_time)


def one_time(params):
    """Parameters without the map of the interval, which is taken out."""
    conditioning = dict(params["Conditioning_0"])
    (kernel,) = conditioning.pop("interval").values()
    assert np.abs(kernel).max() > 0.1
    return params | {"Conditioning_0": conditioning}, kernel


@pytest.mark.ci
def test_at_equal_times_it_is_the_network_of_one_time(case):
    """Whatever the numbers of the map, and without a second time too."""
    z, time, *conditions = case.inputs
    net = case.net.clone(two_times=False)
    variables = {"params": one_time(case.params)[0]}
    expected = fast(net.apply)(variables, z, time, *conditions)
    for second_time in time, None:
        found = case.fn(case.params, z, time, second_time)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.ci
def test_a_second_time_is_a_vector_that_vanishes_with_the_interval(case):
    """The network of one time whose vector has the features of the interval."""
    z, time, label, vector = case.inputs
    params, kernel = one_time(case.params)
    conditioning = dict(params["Conditioning_0"])
    joined = jnp.concatenate([conditioning["vector"]["kernel"], kernel])
    conditioning["vector"] = {"kernel": joined}
    params["Conditioning_0"] = conditioning
    angles = np.asarray(time - case.second_time, float)[:, None] * 2.0 ** np.arange(4)
    features = np.concatenate([np.sin(angles), 1 - np.cos(angles)], axis=1)
    vectors = vector, jnp.asarray(features, jnp.float32)
    net = case.net.clone(two_times=False, vector_features=5 + 8)
    expected = fast(net.apply)({"params": params}, z, time, label, vectors)
    found = case.fn(case.params, z, time, case.second_time)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    diagonal = case.fn(case.params, z, time, time)
    assert np.abs(found - diagonal).reshape(3, -1).max(1).min() > 1e-2


def test_parameters_of_one_time_are_a_part_of_those_of_two(case):
    """By their names and shapes; the map alone is more."""
    shapes = lambda net: jax.eval_shape(net.init, jax.random.key(0), *case.inputs)
    two, one = (shapes(case.net.clone(two_times=many))["params"] for many in (1, 0))
    interval = two["Conditioning_0"].pop("interval")
    assert interval.keys() == {"kernel"}
    assert interval["kernel"].shape == (8, case.net.conditioning_features)
    assert two == one


@pytest.mark.ci
def test_a_network_of_two_times_starts_as_that_of_one():
    """With the same numbers, drawn with the same key, and zeros for the map."""
    net, shape = NETWORKS["residual_mlp"]
    init = lambda net: fast(net.init)(jax.random.key(0), *arguments(shape))["params"]
    two, one = (init(net.clone(two_times=many)) for many in (True, False))
    interval = two["Conditioning_0"].pop("interval")
    np.testing.assert_array_equal(interval["kernel"], np.zeros((8, 64)))
    jax.tree.map(np.testing.assert_array_equal, two, one)


def test_times_may_be_scalars():
    net, shape = NETWORKS["residual_mlp"]
    net = net.clone(two_times=True)
    z, *_ = inputs = arguments(shape)
    variables = {"params": perturbed(net, *inputs)}
    fn = fast(lambda z, t, s: net.apply(variables, z, t, second_time=s))
    scalars = fn(z, jnp.float32(0.7), jnp.float32(0.2))
    each = fn(z, jnp.full(3, 0.7), jnp.full(3, 0.2))
    np.testing.assert_allclose(scalars, each, rtol=1e-6, atol=1e-6)


def directions_of(case, key=5):
    """`(z, time, second time)` and a direction in them."""
    keys = jax.random.split(jax.random.key(key), 3)
    primals = *case.inputs[:2], case.second_time
    draw = lambda key, like: jax.random.normal(key, like.shape)
    return primals, tuple(map(draw, keys, primals))


@pytest.mark.ci
def test_the_derivative_in_z_and_both_times(case):
    """Forward mode against reverse mode, and against differences of fourth order."""
    primals, tangents = directions_of(case)
    probe = jax.random.normal(jax.random.key(6), primals[0].shape)

    @fast
    def derivatives(params):
        fn = lambda *primals: case.raw(params, *primals)
        _, pushed = jax.jvp(fn, primals, tangents)
        pulled = jax.vjp(fn, *primals)[1](probe)
        return pushed, sum((a * b).sum() for a, b in zip(pulled, tangents, strict=True))

    pushed, reverse = derivatives(case.params)
    np.testing.assert_allclose((probe * pushed).sum(), reverse, rtol=1e-4, atol=1e-5)
    step, difference = 0.01, 0.0
    for factor, weight in (-2, 1), (-1, -8), (1, 8), (2, -1):
        moved = jax.tree.map(lambda a, b, f=factor: a + f * step * b, primals, tangents)
        value = np.asarray(case.fn(case.params, *moved), float)
        difference = difference + weight * value / (12 * step)
    scale = np.abs(pushed).max()
    np.testing.assert_allclose(difference, pushed, rtol=0, atol=2e-3 * scale)


@pytest.mark.ci
def test_the_gradient_of_a_loss_with_a_derivative(case):
    """Reverse over forward mode equals forward over reverse mode."""
    primals, tangents = directions_of(case)
    probe = jax.random.normal(jax.random.key(6), primals[0].shape)

    def fn(params, *primals):
        return (probe * case.raw(params, *primals)).sum()

    @fast
    def gradients(params):
        pushed = lambda params: jax.jvp(
            lambda *primals: fn(params, *primals), primals, tangents
        )[1]
        gradient = lambda *primals: jax.grad(fn)(params, *primals)
        return jax.grad(pushed)(params), jax.jvp(gradient, primals, tangents)[1]

    one, other = gradients(case.params)
    for name, value in one["Conditioning_0"]["interval"].items():
        assert np.abs(value).max() > 1e-3, name

    def close(one, other):
        scale = max(0.1, np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * scale)

    jax.tree.map(close, one, other)


@pytest.mark.ci
@pytest.mark.parametrize(
    "net",
    [
        UNet(4, (1,), num_blocks=1, num_heads=1, remat="dots_saveable"),
        DiT(8, num_blocks=2, num_heads=1, scan=True, remat="nothing_saveable"),
    ],
    ids=["unet", "dit"],
)
def test_such_a_loss_is_traced_through_blocks_that_are_computed_again(net):
    z, time, _ = arguments((2, 4, 4, 1))
    net = net.clone(two_times=True)

    def loss(params):
        fn = lambda z, time, second_time: net.apply(
            {"params": params}, z, time, second_time=second_time
        )
        return jax.jvp(fn, (z, time, time / 2), (z, time, time))[1].sum()

    params = perturbed(net, z, time)
    assert jax.eval_shape(jax.grad(loss), params).keys() == params.keys()


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_second_time_for_a_network_of_one_is_refused(name):
    net, shape = NETWORKS[name]
    z, time, _ = arguments(shape)
    with pytest.raises(ValueError, match="network of one time: set two_times=True"):
        jax.eval_shape(
            lambda: net.init(jax.random.key(0), z, time, second_time=time / 2)
        )


@pytest.mark.parametrize("second_time", [jnp.zeros((3, 1)), jnp.zeros(2)])
def test_a_second_time_of_another_shape_is_refused(second_time):
    net, shape = NETWORKS["residual_mlp"]
    z, time, _ = arguments(shape)
    net = net.clone(two_times=True)
    with pytest.raises((AssertionError, ValueError), match="rank|broadcast"):
        net.init(jax.random.key(0), z, time, second_time=second_time)


@pytest.mark.parametrize("value", [0, -8.0, float("inf"), float("nan")])
@pytest.mark.parametrize("kind", [UNet, DiT, ResidualMLP])
def test_a_top_frequency_out_of_bounds_is_refused(kind, value):
    with pytest.raises(ValueError, match=r"max_frequency=.*positive and finite"):
        kind(max_frequency=value)


@pytest.mark.parametrize(
    ("base", "name"),
    [
        (embedding.ConditionalNetwork, "conditioning_features"),
        (edm_levels.EDMUNet, "_first_channels"),
    ],
)
def test_what_a_class_must_define_is_named(base, name):
    class Mine(base):
        pass

    fields = {"img_resolution": 8, "in_channels": 1, "out_channels": 1}
    mine = Mine(**{key: fields[key] for key in fields if hasattr(base, "_output")})
    with pytest.raises(NotImplementedError, match=f"^Mine must define {name}, the "):
        getattr(mine, name)
