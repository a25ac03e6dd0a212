"""The U-Net: sizes, dimensions, zero output, numbers of parameters, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow.networks import UNet
from tests.helpers.networks import arguments, count, fast, perturbed

TINY = dict(channels=8, num_blocks=1, num_heads=2)


@pytest.mark.ci
@pytest.mark.parametrize("shape", [(1, 4, 6, 3), (2, 6, 4, 1), (3, 4, 4, 1)])
def test_output_is_like_z(shape):
    net = UNet(**TINY, attention_resolutions=(2,))
    out, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), *arguments(shape))
    assert out.shape == shape and out.dtype == jnp.float32


@pytest.mark.ci
def test_output_is_zero_at_first():
    net = UNet(**TINY)
    init = fast(net.init_with_output)
    out, variables = init(jax.random.key(0), *arguments((1, 4, 2, 1)))
    np.testing.assert_array_equal(out, np.zeros((1, 4, 2, 1)))
    params = variables["params"]
    for layer in params["middle_in"]["conv_out"], params["middle_attention"]["out"]:
        np.testing.assert_array_equal(layer["kernel"], 0)
    assert np.abs(params["middle_in"]["conv_in"]["kernel"]).max() > 0.01


def test_label_table_has_a_row_for_null():
    net, inputs = UNet(**TINY, num_classes=3), arguments((1, 4, 4, 1))
    params = jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"]
    assert params["Conditioning_0"]["label"]["embedding"].shape == (4, 4 * 8)


@pytest.mark.parametrize("shape", [(1, 6, 8, 1), (1, 8, 10, 1)])
def test_wrong_size_names_the_multiple(shape):
    net = UNet(**TINY | dict(multipliers=(1, 1, 1)))
    with pytest.raises(ValueError, match="multiples of 4"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(shape), jnp.zeros(1))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((7,), "data of 7 pixels: 2 levels need sizes that are multiples of 2: crop"),
        ((4, 4, 3), "data of 4 x 4 x 3 pixels"),
        ((3, 4, 4), "of 3 x 4 x 4 pixels: .*multiples of 2: .*fewer `multipliers`"),
    ],
)
def test_sizes_that_halving_does_not_divide_are_refused(sizes, words):
    net, inputs = UNet(**TINY), arguments((1, *sizes, 1))
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(net.init, jax.random.key(0), *inputs)


@pytest.mark.parametrize(
    ("value", "bound"),
    [
        (0, "at least 2"),
        (-2, "at least 2"),
        (4.0, "at least 2, a whole number"),
        (7, "even, a cosine and a sine"),
    ],
)
def test_sinusoids_come_in_pairs(value, bound):
    with pytest.raises(ValueError, match=f"time_features={value}: must be {bound}"):
        UNet(**TINY, time_features=value)


def convolutions(params, change):
    """Parameters with every kernel of a convolution changed."""

    def each(path, leaf):
        square = path[-1].key == "kernel" and leaf.ndim > 2
        return change(leaf) if square else leaf

    return jax.tree_util.tree_map_with_path(each, params)


def centred(kernel, axis):
    """A kernel of one axis more, zero but in the middle of it."""
    padding = [(1, 1) if i == axis else (0, 0) for i in range(kernel.ndim + 1)]
    return jnp.pad(jnp.expand_dims(kernel, axis), padding)


def applied(net, params, inputs):
    return fast(net.apply)({"params": params}, *inputs)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("sizes", "axis"),
    [((4,), 1), pytest.param((4, 2), 0, marks=pytest.mark.slow)],
)
def test_data_constant_along_an_axis_are_those_of_one_dimension_less(sizes, axis):
    """With kernels that do not look along it; attention and norms included."""
    net = UNet(**TINY, num_classes=3, attention_resolutions=(4, 2))
    z, time, label = arguments((2, *sizes, 3))
    params = perturbed(net, z, time, label)
    out = applied(net, params, (z, time, label))
    assert np.abs(out).max() > 0.1
    repeated = lambda x: jnp.repeat(jnp.expand_dims(x, axis + 1), 4, axis=axis + 1)
    longer = convolutions(params, lambda kernel: centred(kernel, axis))
    found = applied(net, longer, (repeated(z), time, label))
    np.testing.assert_allclose(found, repeated(out), rtol=1e-4, atol=1e-4)


@pytest.mark.ci
def test_an_image_of_one_column_is_a_sequence():
    """Of the image's kernels only the middle column meets anything but padding."""
    net = UNet(**TINY | dict(multipliers=(1,)))
    z, time, label = arguments((2, 6, 1, 3))
    params = perturbed(net, z, time, label)
    out = applied(net, params, (z, time, label))
    middle = convolutions(params, lambda kernel: kernel[:, 1])
    found = applied(net, middle, (z[:, :, 0], time, label))
    np.testing.assert_allclose(found, out[:, :, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.ci
def test_axes_and_kernels_transposed_transpose_the_output():
    net = UNet(**TINY)
    z, time, label = arguments((2, 4, 2, 6, 3))
    params = perturbed(net, z, time, label)
    data = lambda x: x.transpose(0, 3, 1, 2, 4)
    expected = data(applied(net, params, (z, time, label)))
    turned = convolutions(params, lambda kernel: kernel.transpose(2, 0, 1, 3, 4))
    apply = fast(lambda params: net.apply({"params": params}, data(z), time, label))
    np.testing.assert_allclose(apply(turned), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(apply(params) - expected).max() > 1e-2


def test_heads_must_divide():
    net, inputs = UNet(channels=8, num_heads=3), arguments((1, 4, 4, 1))
    with pytest.raises(ValueError, match="num_heads=3 does not divide 16"):
        jax.eval_shape(net.init, jax.random.key(0), *inputs)


def conv(i, o, size=9):
    return size * i * o + o


def block(i, o, vector):
    inner = 2 * i + conv(i, o) + conv(vector, 2 * o, 1) + 2 * o + conv(o, o)
    return inner + (conv(i, o, 1) if i != o else 0)


@pytest.mark.ci
def test_number_of_parameters_by_hand():
    """Two levels of 8 and 16 channels, one block each, attention in the middle."""
    vector = 32
    attention = 2 * 16 + 4 * conv(16, 16, 1)
    expected = (
        2 * conv(vector, vector, 1)
        + 4 * vector  # labels and the null label
        + conv(1, 8)
        + block(8, 8, vector)
        + conv(8, 8)  # down
        + block(8, 16, vector)
        + 2 * block(16, 16, vector)
        + attention
        + block(32, 16, vector)
        + block(24, 16, vector)
        + conv(16, 16)  # up
        + block(24, 8, vector)
        + block(16, 8, vector)
        + 2 * 8
        + conv(8, 1)
    )
    net = UNet(**TINY, num_classes=3)
    assert count(net, (1, 4, 4, 1)) == expected
    attending = net.clone(attention_resolutions=(2,))
    assert count(attending, (1, 4, 4, 1)) == expected + 3 * attention


@pytest.mark.slow
def test_eight_devices_equal_one():
    """Value, dropout and gradient do not depend on how the batch is laid out."""
    net = UNet(4, (1,), num_blocks=1, num_heads=1, num_classes=3, dropout=0.3)
    inputs = arguments((8, 2, 2, 1))
    params = perturbed(net, *inputs)

    @fast
    @jax.value_and_grad
    def step(params, *inputs):
        rngs = {"dropout": jax.random.key(3)}
        out = net.apply({"params": params}, *inputs, train=True, rngs=rngs)
        return (out**2).mean()

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.device_put(inputs, jax.NamedSharding(mesh, jax.P("data")))
    (value, gradient), (value8, gradient8) = step(params, *inputs), step(params, *split)
    np.testing.assert_allclose(value, value8, rtol=1e-6)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    for one, eight in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(gradient8), strict=True
    ):
        np.testing.assert_allclose(one, eight, rtol=1e-5, atol=1e-6 * largest)


def stored_bytes(net, *inputs):
    """What is kept between forward and backward pass, parameters included."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"]

    def backward(params, *inputs):
        loss = lambda params: (net.apply({"params": params}, *inputs) ** 2).mean()
        return jax.vjp(loss, params)[1]  # a pytree of what it needs

    kept = jax.eval_shape(backward, shapes, *inputs)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


@pytest.mark.slow
def test_remat_stores_less():
    """The fewer values are saveable, the less; and it is the same network."""
    net = UNet(channels=32, num_blocks=1, attention_resolutions=(8,), num_classes=3)
    inputs = arguments((16, 16, 16, 3))
    policies = ("nothing", "dots_with_no_batch_dims", "dots")
    kept = [
        stored_bytes(net.clone(remat=f"{policy}_saveable"), *inputs)
        for policy in policies
    ]
    every = stored_bytes(net, *inputs)
    assert kept[0] < kept[1] < kept[2] < every
    assert kept[0] < 0.25 * every
    shapes = [
        jax.eval_shape(net.clone(remat=remat).init, jax.random.key(0), *inputs)
        for remat in ("", "nothing_saveable")
    ]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 4, 4, 4), (4, 4, 4), (2, 2, 4, 4, 1)])
def test_remat_leaves_value_and_gradient(shape):
    """Dropout included, whose masks are drawn twice."""
    seen, inputs = [], arguments(shape)
    plain = UNet(**TINY, num_classes=3, dropout=0.5)
    params = perturbed(plain, *inputs)
    for remat in ("", "nothing_saveable"):
        net = plain.clone(remat=remat)

        def loss(params, net=net):
            rngs = {"dropout": jax.random.key(5)}
            out = net.apply({"params": params}, *inputs, train=True, rngs=rngs)
            return (out**2).mean()

        value, gradient = fast(jax.value_and_grad(loss))(params)
        seen.append((value, *jax.tree.leaves(gradient)))
    scale = max(np.abs(leaf).max() for leaf in seen[0])
    for first, again in zip(*seen, strict=True):
        np.testing.assert_allclose(again, first, rtol=0, atol=1e-6 * scale)


def test_an_unknown_policy_is_refused():
    net = UNet(**TINY, remat="dots")
    with pytest.raises(ValueError, match="remat='dots': must be one of nothing_save"):
        jax.eval_shape(net.init, jax.random.key(0), *arguments((1, 4, 4, 1)))
