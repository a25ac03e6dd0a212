"""The DiT: patches, positions, published sizes, zero output, and that it learns."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow.networks import DiT, dit, positions
from experiments.runtime import rng
from experiments.training import step
from experiments.training.trainer import Trainer
from tests.helpers import tiny
from tests.helpers.networks import arguments, count, fast, perturbed

TINY = dict(features=16, num_blocks=2, num_heads=2, num_classes=3)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("features", "num_blocks", "num_heads", "millions"),
    [(384, 12, 6, 33), (768, 12, 12, 130), (1024, 24, 16, 458), (1152, 28, 16, 675)],
    ids=["S", "B", "L", "XL"],
)
def test_published_numbers_of_parameters(features, num_blocks, num_heads, millions):
    """Of arXiv:2212.09748; ours have no variances in the output, at most 0.02 M."""
    net = DiT(features, num_blocks, num_heads, patch_size=2, num_classes=1000)
    assert round(count(net, (1, 32, 32, 4)) / 1e6) == millions


def test_number_of_parameters_by_hand():
    dense = lambda i, o: i * o + o
    block = dense(16, 96) + dense(16, 48) + dense(16, 16) + dense(16, 64)
    expected = (
        dense(256, 16)
        + dense(16, 16)  # of the time
        + 4 * 16  # labels and the null label
        + dense(4 * 3, 16)
        + 2 * (block + dense(64, 16))
        + dense(16, 32)
        + dense(16, 4 * 3)
    )
    assert count(DiT(**TINY), (1, 4, 6, 3)) == expected
    learned = DiT(**TINY, positions="learned")
    assert count(learned, (1, 4, 6, 3)) == expected + 6 * 16


@pytest.mark.parametrize("size", [1, 2, 3])
def test_patches_are_squares_row_by_row_and_come_back(size):
    x = jnp.arange(2 * 6 * 12 * 3, dtype=jnp.float32).reshape(2, 6, 12, 3)
    tokens = dit.patchify(x, size)
    second_row = 12 // size
    expected = x[1, size : 2 * size, :size].ravel()
    np.testing.assert_array_equal(tokens[1, second_row], expected)
    np.testing.assert_array_equal(dit.unpatchify(tokens, size, 6, 12), x)
    np.testing.assert_array_equal(dit.unpatchify(dit.patchify(x, 1), 1, 6, 12), x)


@pytest.mark.parametrize("shape", [(1, 4, 6, 3), (2, 6, 4, 1)])
@pytest.mark.parametrize("where", dit.POSITIONS)
def test_output_is_like_z(shape, where):
    net = DiT(**TINY, positions=where)
    out, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), *arguments(shape))
    assert out.shape == shape and out.dtype == jnp.float32


@pytest.mark.parametrize(
    ("shape", "patch_size"),
    [((2, 6, 1), 3), ((1, 4, 6, 3), (4, 2)), ((1, 2, 4, 6, 3), (1, 2, 3))],
)
@pytest.mark.parametrize("where", dit.POSITIONS)
def test_sequences_and_videos_come_back_in_their_shape(shape, patch_size, where):
    net = DiT(**TINY | dict(features=24, patch_size=patch_size), positions=where)
    out, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), *arguments(shape))
    assert out.shape == shape and out.dtype == jnp.float32


@pytest.mark.ci
@pytest.mark.parametrize(
    ("shape", "axis", "patch_sizes"),
    [((2, 6, 1), 2, (2, (2, 1))), ((2, 4, 6, 1), 1, (2, (1, 2, 2)))],
    ids=["sequence in one column", "image in one frame"],
)
@pytest.mark.parametrize("where", ["learned", "none"])
def test_an_axis_of_one_patch_changes_nothing(shape, axis, patch_sizes, where):
    """Where the share of the features that an axis has does not matter."""
    less, more = (DiT(**TINY, positions=where, patch_size=size) for size in patch_sizes)
    z, time, label = arguments(shape)
    params = perturbed(less, z, time, label)
    out = fast(less.apply)({"params": params}, z, time, label)
    assert np.abs(out).max() > 0.1
    longer = jnp.expand_dims(z, axis)
    found = fast(more.apply)({"params": params}, longer, time, label)
    np.testing.assert_allclose(found, jnp.expand_dims(out, axis), atol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("where", ["sinusoidal", "rotary", "none"])
def test_frames_are_in_order_where_there_are_positions(where):
    net = DiT(**TINY | dict(features=24, patch_size=(1, 2, 2)), positions=where)
    z, time, label = arguments((2, 3, 2, 4, 1))
    params = perturbed(net, z, time, label)
    apply = fast(lambda z: net.apply({"params": params}, z, time, label))
    swapped = lambda video: video[:, jnp.array([1, 0, 2])]
    error = np.abs(apply(swapped(z)) - swapped(apply(z))).max()
    assert error < 1e-5 if where == "none" else error > 1e-2


@pytest.mark.ci
def test_output_is_zero_and_blocks_are_the_identity_at_first():
    net = DiT(**TINY)
    inputs = arguments((2, 4, 4, 1))
    blocks = lambda module, _: isinstance(module, dit.TransformerBlock)

    @fast
    def run(*inputs):
        variables = net.init(jax.random.key(0), *inputs)
        return variables, net.apply(variables, *inputs, capture_intermediates=blocks)

    variables, (out, seen) = run(*inputs)
    np.testing.assert_array_equal(out, 0)
    first, second = (seen["intermediates"][f"block_{i}"]["__call__"] for i in range(2))
    assert np.abs(first[0]).max() > 0.1
    np.testing.assert_array_equal(first, second)
    inner = variables["params"]["block_0"]
    assert np.abs(inner["mlp_out"]["kernel"]).max() > 0.1  # only gates are zero


@pytest.mark.ci
@pytest.mark.parametrize("where", dit.POSITIONS)
def test_tokens_are_a_set_without_positions_and_with_them_are_not(where):
    net = DiT(**TINY, positions=where)
    z, time, label = arguments((2, 4, 6, 1))
    params = perturbed(net, z, time, label)
    if where == "learned":  # of the deviation they start with they could not be seen
        params["positions"] = 10 * params["positions"]
    apply = fast(lambda z: net.apply({"params": params}, z, time, label))
    order = np.array([3, 1, 5, 0, 4, 2])

    def reordered(image):
        return dit.unpatchify(dit.patchify(image, 2)[:, order], 2, 4, 6)

    error = np.abs(apply(reordered(z)) - reordered(apply(z))).max()
    assert error < 1e-5 if where == "none" else error > 1e-2


def test_sinusoids_tell_every_place():
    table = positions.sinusoids(positions.places(16, 8), 32)
    distance = np.linalg.norm(table[:, None] - table[None], axis=-1)
    assert table.shape == (128, 32) and table.dtype == np.float32
    assert distance[~np.eye(128, dtype=bool)].min() > 0.5
    np.testing.assert_allclose((table**2).sum(1), 16, rtol=1e-5)


def products(query, key, places):
    """Logits [tokens, tokens] of one head."""
    turn = functools.partial(positions.rotate, places=places)
    return jnp.einsum("qf,kf->qk", turn(query)[0, :, 0], turn(key)[0, :, 0])


def test_rotary_products_depend_on_the_difference_of_places_alone():
    """Moving all tokens changes nothing; the closed form of one pair an axis."""
    places = positions.places(3, 4)
    query, key = (jax.random.normal(jax.random.key(i), (1, 12, 1, 8)) for i in range(2))
    logits = products(query, key, places)
    moved = products(query, key, places + np.array([5, -3]))
    np.testing.assert_allclose(moved, logits, rtol=1e-4, atol=1e-4)
    stretched = products(query, key, places * np.array([1, 2]))
    assert np.abs(stretched - logits).max() > 0.1

    ones = jnp.ones((1, 12, 1, 4)).at[..., 2:].set(0)  # of the pairs (0, 2), (1, 3)
    row, column = np.moveaxis(places[:, None] - places[None], -1, 0)
    expected = np.cos(row) + np.cos(column)
    np.testing.assert_allclose(products(ones, ones, places), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(positions="rotatory"), "positions='rotatory': must be one of sinusoid"),
        (dict(num_heads=3), "num_heads=3 does not divide features=16"),
    ],
)
def test_what_cannot_be_built_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        DiT(**TINY | settings)


@pytest.mark.parametrize(
    ("settings", "sizes", "words"),
    [
        (dict(features=18), (4, 4), "features=18: must be a multiple of 4"),
        (
            dict(num_heads=8, positions="rotary"),
            (4, 4),
            "features=16: .* multiple of 32 .*of 2 dimensions; or .*='learned'",
        ),
        (dict(features=15, num_heads=1), (4,), "features=15: must be a multiple of 2"),
        (dict(), (4, 4, 4), "features=16: must be a multiple of 6 .*of 3 dimensions"),
        (dict(positions="rotary"), (4, 4, 4), "must be a multiple of 12"),
    ],
)
def test_features_that_the_axes_cannot_share_are_refused(settings, sizes, words):
    """When the data show how many axes there are."""
    net = DiT(**TINY | settings)
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(net.init, jax.random.key(0), *arguments((1, *sizes, 1)))


def test_sides_must_be_multiples_of_the_patch():
    z, time, label = arguments((1, 4, 5, 1))
    with pytest.raises(ValueError, match="4 x 5 pixels.* multiples of patch_size=2"):
        jax.eval_shape(DiT(**TINY).init, jax.random.key(0), z, time, label)


@pytest.mark.slow
def test_it_learns_more_of_digits_than_pixels_tell_alone(standard_promotion):
    """Below the best predictor of u from z that is linear and sees a pixel alone.

    With a pixel's deviation s its error at t is s^2 / ((1 - t)^2 s^2 + t^2), as for a
    Gaussian; the integral over t in [0, 1] is s pi / 2.
    """
    config = tiny.config(num_steps=120)
    config.data = dict(name="digits")
    config.sigma_data = 0.85
    config.network = dict(name="dit", features=32, num_blocks=2, num_heads=2)
    config.batch_size, config.optimizer.learning_rate = 64, 4e-3
    trainer = Trainer(config)
    reader, key = trainer.batches(0), rng.stream(0, rng.TRAIN)
    batches = [next(reader) for _ in range(config.num_steps)]
    stacked = jax.tree.map(lambda *parts: np.stack(parts), *batches)
    update = functools.partial(step.train_step, key=key, recipe=trainer.recipe)

    @jax.jit
    def train(batches):
        state = step.init(rng.stream(0, rng.INIT), trainer.recipe)
        return jax.lax.scan(update, state, batches)[1]

    losses = train(stacked)
    x = np.asarray(trainer.model.transform.to_float(trainer.dataset.train.values))
    zero, pixels = 1 + (x**2).mean(), x.std(0).mean() * np.pi / 2
    assert abs(losses[0] / zero - 1) < 0.1  # the output is zero at first
    assert losses[-20:].mean() < 0.98 * pixels


def stacked(params):
    """Parameters of single blocks as those of a scanned one."""
    blocks = [params[f"block_{i}"] for i in range(TINY["num_blocks"])]
    rest = {k: v for k, v in params.items() if not k.startswith("block_")}
    return rest | {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


@pytest.mark.ci
@pytest.mark.parametrize(
    ("remat", "scan", "shape"),
    [
        ("nothing_saveable", False, (2, 4, 4, 1)),
        ("", True, (2, 4, 4, 1)),
        ("dots_saveable", True, (2, 4, 4, 1)),
        ("dots_saveable", True, (2, 2, 4, 2, 1)),
    ],
)
def test_remat_and_scan_leave_value_and_gradient(remat, scan, shape):
    inputs = arguments(shape)
    plain = DiT(**TINY | dict(features=24), positions="rotary")
    params = perturbed(plain, *inputs)

    def run(net, params):
        loss = lambda params: (net.apply({"params": params}, *inputs) ** 2).mean()
        return fast(jax.value_and_grad(loss))(params)

    value, gradient = run(plain, params)
    other = plain.clone(remat=remat, scan=scan)
    adapt = stacked if scan else lambda params: params
    found, found_gradient = run(other, adapt(params))
    np.testing.assert_allclose(found, value, rtol=1e-6)
    chex.assert_trees_all_close(found_gradient, adapt(gradient), rtol=0, atol=1e-6)


@pytest.mark.ci
def test_scanned_blocks_differ_from_each_other_and_drop_by_key():
    net = DiT(**TINY, scan=True, dropout=0.5)
    inputs = arguments((2, 4, 4, 1))
    params = perturbed(net, *inputs)
    kernel = params["blocks"]["mlp_in"]["kernel"]
    assert kernel.shape == (2, 16, 64) and np.abs(kernel[0] - kernel[1]).max() > 0.1

    @fast
    def run(key):
        rngs = {"dropout": key}
        return net.apply({"params": params}, *inputs, train=True, rngs=rngs)

    first, again, other = (run(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="remat='dots': must be one of nothing_save"):
        DiT(**TINY, remat="dots")
