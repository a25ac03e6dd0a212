"""The one call that networks share, for sequences, images and videos."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow.networks import DiT, ResidualMLP, UNet
from tests.helpers.networks import arguments, fast, perturbed

NETWORKS = {
    "unet": UNet(channels=8, num_blocks=1, num_heads=2, num_classes=3),
    "dit": DiT(
        features=16, num_blocks=2, num_heads=2, positions="rotary", num_classes=3
    ),
}


class Case(NamedTuple):
    """A perturbed network, compiled, and a batch of 4 maps of 4 x 4 with 4 channels.

    All equal, so that an axis taken for another one shows.
    """

    net: Any
    params: Any
    raw: Any
    fn: Any
    inputs: tuple


@pytest.fixture(scope="module", params=list(NETWORKS))
def case(request):
    net = NETWORKS[request.param]
    inputs = arguments((4, 4, 4, 4))
    params = perturbed(net, *inputs)
    raw = lambda z, time, label: net.apply({"params": params}, z, time, label)
    return Case(net, params, raw, fast(raw), inputs)


@pytest.mark.ci
def test_examples_do_not_mix(case):
    z, time, label = case.inputs
    whole = case.fn(z, time, label)
    order = jnp.array([2, 0, 3, 1])
    permuted = case.fn(z[order], time[order], label[order])
    np.testing.assert_allclose(permuted, whole[order], rtol=1e-5, atol=1e-5)
    changed = np.abs(case.fn(z.at[1].add(1.0), time, label) - whole).max((1, 2, 3))
    assert changed[1] > 0.1 and changed[[0, 2, 3]].max() < 1e-5


@pytest.mark.ci
def test_time_may_be_scalar_and_matters(case):
    z, time, label = case.inputs
    scalar = case.fn(z, jnp.float32(0.3), label)
    vector = case.fn(z, jnp.full(4, 0.3), label)
    np.testing.assert_allclose(scalar, vector, rtol=1e-5, atol=1e-5)
    assert np.abs(vector - case.fn(z, time, label)).max() > 1e-2


@pytest.mark.ci
def test_no_label_is_the_null_label_and_labels_matter(case):
    z, time, label = case.inputs
    assert case.net.null_label == 3
    out, none = case.fn(z, time, label), case.fn(z, time, None)
    null = case.fn(z, time, jnp.full(4, case.net.null_label))
    np.testing.assert_allclose(none, null, rtol=1e-5, atol=1e-5)
    other = case.fn(z, time, (label + 1) % 3)
    for difference in out - none, out - other:
        assert np.abs(difference).max((1, 2, 3)).min() > 1e-2


@pytest.mark.parametrize("label", [jnp.zeros((4, 1), jnp.int32), jnp.zeros(4)])
def test_label_shape_and_type_are_checked(case, label):
    z, time, _ = case.inputs
    with pytest.raises(AssertionError):
        case.fn(z, time, label)


def test_a_vector_for_a_network_without_is_refused(case):
    with pytest.raises(ValueError, match=r"shape \(4, 5\).*set vector_features"):
        case.net.apply({"params": case.params}, *case.inputs, jnp.ones((4, 5)))


@pytest.mark.ci
@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (UNet(4, (1,), num_blocks=1, num_heads=1, vector_features=5), (3, 4, 4, 1)),
        (DiT(8, num_blocks=1, num_heads=1, vector_features=5), (3, 4, 4, 1)),
        (ResidualMLP(8, num_blocks=1, vector_features=5), (3, 2)),
    ],
    ids=["unet", "dit", "residual_mlp"],
)
def test_a_vector_conditions_and_zero_is_none(net, shape):
    """Each example by its own vector, without a label."""
    z, time, _ = arguments(shape)
    params = perturbed(net, z, time)
    fn = fast(lambda vector: net.apply({"params": params}, z, time, None, vector))
    vector = jnp.zeros((3, 5)).at[1].set(1.0)
    changed = np.abs(fn(vector) - fn(None)).reshape(3, -1).max(1)
    assert changed[1] > 1e-2 and changed[[0, 2]].max() < 1e-6
    with pytest.raises(AssertionError):
        fn(jnp.zeros((3, 4)))


@pytest.mark.ci
def test_several_vectors_are_one_concatenated():
    """A tuple in its order, a dict in that of its names; types may differ."""
    z, time, _ = arguments((3, 2))
    net = ResidualMLP(8, num_blocks=1, vector_features=5)
    params = perturbed(net, z, time)
    fn = fast(lambda vector: net.apply({"params": params}, z, time, None, vector))
    text, camera = jax.random.normal(jax.random.key(3), (3, 3)), jnp.array([[1, 2]] * 3)
    expected = fn(jnp.concatenate([text, camera.astype(text.dtype)], axis=1))
    for vector in (text, camera), {"2": camera, "1": text}:
        np.testing.assert_allclose(fn(vector), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(fn((camera, text)) - expected).max() > 1e-2


@pytest.mark.parametrize(
    "vector",
    [(jnp.ones((3, 3)), jnp.ones((3, 3))), (jnp.ones((3, 3)), jnp.ones((1, 2)))],
)
def test_vectors_that_do_not_add_up_are_refused(vector):
    net = ResidualMLP(8, num_blocks=1, vector_features=5)
    z, time, _ = arguments((3, 2))
    with pytest.raises(AssertionError):
        jax.eval_shape(net.init, jax.random.key(0), z, time, None, vector)
    plain = net.clone(vector_features=0)
    with pytest.raises(ValueError, match=r"shape \(3, 3\), .*set vector_features"):
        jax.eval_shape(plain.init, jax.random.key(0), z, time, None, vector)


SIZES = [(4,), (4, 4), (4, 4, 4)]


@pytest.mark.ci
@pytest.mark.parametrize(
    "net",
    [
        UNet(channels=8, num_blocks=1, num_heads=2, num_classes=3),
        DiT(features=12, num_blocks=1, num_heads=1, positions="rotary", num_classes=3),
    ],
    ids=["unet", "dit"],
)
def test_parameters_have_the_same_names_in_every_dimension(net):
    """Only kernels of convolutions, and the maps of patches, have other shapes."""

    def expected(name, shape, axes):
        if len(shape) == 4:
            return (*(3 for _ in range(axes)), *shape[2:])
        if name == "['in']['kernel']":
            return (2**axes, *shape[1:])
        return (*shape[:-1], 2**axes) if name.startswith("['out']") else shape

    trees = []
    for sizes in SIZES:
        inputs = arguments((2, *sizes, 1))
        out, tree = jax.eval_shape(net.init_with_output, jax.random.key(0), *inputs)
        assert out.shape == (2, *sizes, 1) and out.dtype == jnp.float32
        leaves = jax.tree_util.tree_leaves_with_path(tree["params"])
        trees.append({jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves})
    for axes, tree in enumerate(trees, start=1):
        assert tree == {
            name: expected(name, shape, axes) for name, shape in trees[1].items()
        }


def names(net, shape):
    inputs = arguments(shape)
    params = jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"]
    return {name: sorted(params[name]) for name in params}


@pytest.mark.ci
def test_checkpoints_of_images_find_their_names():
    """Of all parameters of a U-Net and of a DiT: to rename one orphans checkpoints."""
    block = ["conv_in", "conv_out", "film", "norm_in", "norm_out"]
    wider, plain = sorted([*block, "skip"]), ["bias", "kernel"]
    conditioning = ["label", "time_in", "time_out"]
    assert names(NETWORKS["unet"], (1, 4, 4, 1)) == {
        "Conditioning_0": conditioning,
        "conv_in": plain,
        "encoder_0_0": block,
        "down_1": plain,
        "encoder_1_0": wider,
        "middle_in": block,
        "middle_attention": ["key", "norm", "out", "query", "value"],
        "middle_out": block,
        "decoder_1_0": wider,
        "decoder_1_1": wider,
        "up_1": plain,
        "decoder_0_0": wider,
        "decoder_0_1": wider,
        "norm_out": ["bias", "scale"],
        "conv_out": plain,
    }
    layer = ["attention_out", "mlp_in", "mlp_out", "modulation", "query_key_value"]
    assert names(NETWORKS["dit"], (1, 4, 4, 1)) == {
        "Conditioning_0": conditioning,
        "in": plain,
        "block_0": layer,
        "block_1": layer,
        "modulation_out": ["dense"],
        "out": plain,
    }


@pytest.mark.parametrize("shape", [(3, 2), (1, 2, 2, 2, 2, 1)])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_other_numbers_of_dimensions_are_refused(name, shape):
    words = r"z of shape \(.*must be \[batch, length, channels\].*`ResidualMLP`"
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(NETWORKS[name].init, jax.random.key(0), *arguments(shape))


@pytest.mark.ci
def test_jvp_and_grad_agree(case):
    """u . (J v) by forward mode is (u J) . v by reverse mode, in z and in time."""
    z, time, label = case.inputs
    keys = jax.random.split(jax.random.key(5), 3)
    dz = jax.random.normal(keys[0], z.shape)
    dt = 0.01 * jax.random.normal(keys[1], time.shape)
    u = jax.random.normal(keys[2], z.shape)

    @fast
    def products(z, time):
        fn = lambda z, time: case.raw(z, time, label)
        _, pushed = jax.jvp(fn, (z, time), (dz, dt))
        pulled_z, pulled_time = jax.vjp(fn, z, time)[1](u)
        return (u * pushed).sum(), (pulled_z * dz).sum() + (pulled_time * dt).sum()

    forward, reverse = products(z, time)
    np.testing.assert_allclose(forward, reverse, rtol=1e-4)


@pytest.mark.ci
def test_vmap_equals_batch(case):
    one = lambda z, time, label: case.raw(z[None], time, label[None])[0]
    out = fast(jax.vmap(one))(*case.inputs)
    np.testing.assert_allclose(out, case.fn(*case.inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.ci
def test_bfloat16_computes_close_and_keeps_float32_ends(case):
    half = case.net.clone(dtype="bfloat16")
    inits = jax.eval_shape(half.init, jax.random.key(0), *case.inputs)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(inits)} == {jnp.dtype("float32")}
    out = case.fn(*case.inputs)
    rough = fast(half.apply)({"params": case.params}, *case.inputs)
    assert rough.dtype == jnp.float32
    error = np.abs(out - rough).max() / np.abs(out).max()
    assert 1e-4 < error < 0.05


@pytest.mark.ci
def test_dropout_only_in_training_and_by_key(case):
    net = case.net.clone(dropout=0.5)

    @fast
    def train(key):
        rngs = {"dropout": key}
        variables = {"params": case.params}
        return net.apply(variables, *case.inputs, train=True, rngs=rngs)

    one, other = train(jax.random.key(0)), train(jax.random.key(1))
    assert np.abs(one - other).max() > 1e-2
    plain = jax.make_jaxpr(case.net.apply)({"params": case.params}, *case.inputs)
    still = jax.make_jaxpr(net.apply)({"params": case.params}, *case.inputs)
    assert str(still) == str(plain)


@pytest.mark.parametrize(
    ("network", "fields", "said"),
    [
        (ResidualMLP, dict(features=0), "features=0: must be at least 1"),
        (ResidualMLP, dict(num_blocks=-1), "num_blocks=-1: must be at least 0"),
        (ResidualMLP, dict(dropout=2.0), r"dropout=2.0: must be in \[0, 1\)"),
        (UNet, dict(channels=2.5), "channels=2.5: must be at least 1, a whole number"),
        (UNet, dict(multipliers=(1, 0)), "multipliers=0: must be at least 1"),
        (UNet, dict(num_classes=-1), "num_classes=-1: must be at least 0"),
        (DiT, dict(num_heads=0), "num_heads=0: must be at least 1"),
        (DiT, dict(dropout=float("nan")), "dropout=nan: must be in"),
    ],
)
def test_fields_out_of_bounds_are_refused(network, fields, said):
    with pytest.raises(ValueError, match=said):
        network(**fields)
