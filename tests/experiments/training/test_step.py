"""The training step as a pure function: `training/step.py`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from configs import digits, digits_dit
from experiments.data import Examples
from experiments.evaluation import heldout
from experiments.runtime import rng, sharding
from experiments.training import step
from experiments.training.state import TrainState
from experiments.training.trainer import Trainer
from tests.helpers import arrays, tiny
from tests.helpers.exact_model import model_of

KEY = rng.stream(0, rng.TRAIN)


@pytest.fixture(scope="module")
def trainer():
    return Trainer(tiny.config())


@pytest.fixture(scope="module")
def state(trainer):
    """A state whose zero-initialised layers have left zero."""
    with jax.numpy_dtype_promotion("standard"):
        state = jax.device_get(trainer.init())
    noise = np.random.RandomState(0)
    noisy = lambda leaf: (
        leaf + 0.1 * noise.standard_normal(leaf.shape).astype("float32")
    )
    params = jax.tree.map(noisy, state.params)
    return state._replace(params=params, step=np.int32(7))


@pytest.fixture(scope="module")
def batch(trainer):
    return next(trainer.batches(0))


def one_device_mesh():
    return Mesh(np.array(jax.devices()[:1]), ("data",), axis_types=(AxisType.Auto,))


def loss_and_gradients(trainer, state, batch, mesh):
    same = sharding.replicated(mesh)
    compiled = jax.jit(
        functools.partial(step.loss_and_gradients, recipe=trainer.recipe),
        out_shardings=same,
    )
    key = jax.device_put(KEY, same)
    return compiled(jax.device_put(state, same), sharding.place(mesh, batch), key)


@pytest.mark.ci
def test_one_and_eight_devices_agree(trainer, state, batch):
    (loss_1, terms_1), grads_1 = loss_and_gradients(
        trainer, state, batch, one_device_mesh()
    )
    (loss_8, terms_8), grads_8 = loss_and_gradients(trainer, state, batch, trainer.mesh)
    assert trainer.mesh.size == 8
    np.testing.assert_allclose(loss_1, loss_8, rtol=1e-6)
    np.testing.assert_array_equal(terms_1.t, terms_8.t)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads_1))
    assert scale > 0
    for one, eight in zip(
        jax.tree.leaves(grads_1), jax.tree.leaves(grads_8), strict=True
    ):
        np.testing.assert_allclose(one, eight, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.ci
def test_what_an_example_sees_does_not_depend_on_the_batch(trainer, state, batch):
    mesh = one_device_mesh()
    part = Examples(batch.values[:5], batch.labels[:5])
    (_, whole), _ = loss_and_gradients(trainer, state, batch, mesh)
    (_, first), _ = loss_and_gradients(trainer, state, part, mesh)
    np.testing.assert_array_equal(first.t, whole.t[:5])
    np.testing.assert_allclose(first.loss, whole.loss[:5], rtol=1e-5)
    later = state._replace(step=np.int32(8))
    (_, other), _ = loss_and_gradients(trainer, later, batch, mesh)
    assert np.all(np.asarray(other.t) != np.asarray(whole.t))


class Recording:
    """A network that returns its input and keeps the labels it was given."""

    def apply(self, variables, z, time, label, *, train, rngs):
        self.label, self.train, self.time = label, train, time
        return variables["params"] * z


def recorded(trainer, rate, count):
    net = Recording()
    recipe = trainer.recipe._replace(
        model=trainer.model._replace(net=net), label_dropout=rate
    )
    state = TrainState(np.int32(3), jnp.ones(()), None, None, None, None)
    batch = Examples(np.zeros((count, 2), np.float32), np.arange(count) % 2)
    step.loss_and_gradients(state, batch, KEY, recipe=recipe)
    return net


@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
def test_labels_are_dropped_at_their_rate_to_the_null_label(trainer, rate):
    count = 20_000
    net = recorded(trainer, rate, count)
    assert net.train
    label = np.asarray(net.label)
    dropped = label == trainer.model.num_classes
    np.testing.assert_array_equal(label[~dropped], (np.arange(count) % 2)[~dropped])
    error = np.sqrt(rate * (1 - rate) / count)
    assert abs(dropped.mean() - rate) <= 3 * error


@pytest.mark.ci
def test_a_vector_is_dropped_to_zero_with_its_label(trainer):
    net, count = arrays.Copy(), 2_000
    model = trainer.model._replace(net=net, vector_features=2)
    recipe = trainer.recipe._replace(model=model, label_dropout=0.3)
    state = TrainState(np.int32(3), {}, None, None, None, None)
    vectors = np.random.RandomState(0).standard_normal((count, 2)).astype("f4")
    batch = Examples(0 * vectors, np.arange(count) % 2, vectors)
    step.loss_and_gradients(state, batch, KEY, recipe=recipe)
    dropped = np.asarray(net.label) == trainer.model.num_classes
    assert 0.2 < dropped.mean() < 0.4
    np.testing.assert_array_equal(net.vector, np.where(dropped[:, None], 0, vectors))


@pytest.mark.ci
@pytest.mark.parametrize("parts", [1, 2])
def test_the_loss_of_a_step_is_the_mean_of_what_a_mask_leaves(trainer, parts):
    """A network that copies its vector as x: the loss is their distance."""
    model = model_of("x")._replace(net=arrays.Copy(), vector_features=4)
    recipe = trainer.recipe._replace(model=model, label_dropout=0.0, accumulate=parts)
    state = TrainState(np.int32(3), {}, None, None, None, None)
    x, vectors = np.random.RandomState(0).standard_normal((2, 6, 4)).astype("f4")
    mask = np.arange(4) < np.array([1, 2, 3, 4, 2, 1])[:, None]
    batch = Examples(x, np.zeros(6, np.int32), vectors, mask)
    (loss, terms), _ = step.loss_and_gradients(state, batch, KEY, recipe=recipe)
    expected = ((vectors - x) ** 2).mean(1, where=mask)
    np.testing.assert_allclose(terms.loss, expected, rtol=1e-5)
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("parts", [1, 3])
def test_noise_of_an_example_is_its_eps(trainer, parts):
    """A network that copies its vector as eps: the loss is their distance."""
    model = model_of("eps")._replace(net=arrays.Copy(), vector_features=4)
    recipe = trainer.recipe._replace(model=model, label_dropout=0.0, accumulate=parts)
    state = TrainState(np.int32(3), {}, None, None, None, None)
    x, vectors, noise = np.random.RandomState(0).standard_normal((3, 6, 4))
    x, vectors, noise = np.float32([x, vectors, noise])
    batch = Examples(x, np.zeros(6, np.int32), vectors, noise=noise)
    (_, terms), _ = step.loss_and_gradients(state, batch, KEY, recipe=recipe)
    expected = ((vectors - noise) ** 2).mean(1)
    np.testing.assert_allclose(terms.loss, expected, rtol=1e-5)
    batch = batch._replace(noise=None)
    (_, drawn), _ = step.loss_and_gradients(state, batch, KEY, recipe=recipe)
    np.testing.assert_array_equal(drawn.t, terms.t)  # at the times as ever
    assert np.abs(drawn.loss - expected).min() > 1e-3


def test_label_dropout_and_time_are_independent(trainer):
    net = recorded(trainer, 0.5, 20_000)
    dropped = np.asarray(net.label) == trainer.model.num_classes
    time = np.asarray(net.time)
    difference = time[dropped].mean() - time[~dropped].mean()
    assert abs(difference) < 4 * np.sqrt(1 / 12 / 5_000)


def test_a_step_updates_everything_once(trainer, batch, standard_promotion):
    start = jax.device_get(trainer.init())
    placed = sharding.place(trainer.mesh, batch)
    after, losses_seen = trainer.init(), []
    for number in range(1, 6):
        before = jax.device_get(after)
        after, loss = trainer.step_fn(after, placed, trainer.train_key)
        losses_seen.append(float(loss))
        rate = 1 - min(0.999, number / (9 + number))  # the warm-up of the average
        for old, new, param in zip(
            *map(jax.tree.leaves, (before.ema, after.ema, after.params)), strict=True
        ):
            assert new.dtype == np.float32
            expected = old + rate * (param - old)
            np.testing.assert_allclose(new, expected, rtol=1e-5, atol=1e-7)
    assert int(after.step) == 5
    changed = jax.tree.map(lambda a, b: np.any(a != b), start.params, after.params)
    assert np.mean(jax.tree.leaves(changed)) > 0.4  # the rest waits for a zero layer
    adam = after.opt_state[1][0]
    assert int(adam.count) == 5
    assert any(np.any(leaf) for leaf in jax.tree.leaves(adam.nu))
    assert int(after.sums.steps) == 1  # reset after step 4, a multiple of log.every
    np.testing.assert_allclose(after.sums.loss, losses_seen[-1], rtol=1e-6)


def test_the_state_is_donated_and_stays_in_place(trainer, batch, standard_promotion):
    before = trainer.init()
    placed = sharding.place(trainer.mesh, batch)
    after, _ = trainer.step_fn(before, placed, trainer.train_key)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    for leaf in jax.tree.leaves(after):
        assert leaf.sharding == sharding.replicated(trainer.mesh)
    after, _ = trainer.step_fn(after, placed, trainer.train_key)
    assert trainer.step_fn._cache_size() == 1


@pytest.mark.ci
def test_evaluation_counts_every_example_once(trainer, state):
    test = trainer.dataset.test
    assert len(test.labels) % trainer.config.batch_size != 0
    mean = trainer.evaluate(state.params)["loss"]
    assert trainer.evaluate(state.params)["loss"] == mean
    each = [
        heldout.eval_step(
            state.params,
            Examples(test.values[part], test.labels[part]),
            jnp.asarray(part),
            rng.stream(0, rng.EVALUATE),
            model=trainer.model,
            draws=2,
        ).loss
        for part in np.array_split(np.arange(len(test.labels)), 3)
    ]
    np.testing.assert_allclose(np.concatenate(each).mean(), mean, rtol=1e-5)


@pytest.mark.ci
def test_evaluation_does_not_depend_on_the_batch(state, standard_promotion):
    """Stratified times would, if they were spread over a batch filled up."""
    losses_seen = [
        Trainer(
            tiny.config(objective__times="stratified(uniform)", batch_size=batch_size)
        ).evaluate(state.params)
        for batch_size in (16, 32)
    ]
    for name, value in losses_seen[0].items():
        np.testing.assert_allclose(losses_seen[1][name], value, rtol=1e-5)


ADAPTIVE = "stratified(adaptive(uniform, num_bins=6))"


@pytest.mark.slow
def test_an_adaptive_proposal_learns_the_same_on_one_and_eight_devices(
    standard_promotion,
):
    """Its moments come from the whole batch, once a step, and change the next times."""
    trainer = Trainer(tiny.config(objective__proposal=ADAPTIVE))
    seen = {}
    for mesh in (one_device_mesh(), trainer.mesh):
        same = sharding.replicated(mesh)
        step_fn = jax.jit(
            functools.partial(step.train_step, recipe=trainer.recipe),
            out_shardings=same,
        )
        state = jax.device_put(jax.device_get(trainer.init()), same)
        assert float(state.moments.count.sum()) == 0
        key = jax.device_put(KEY, same)
        for number in range(3):
            batch = sharding.place(mesh, next(trainer.batches(number)))
            state, _ = step_fn(state, batch, key)
        seen[mesh.size] = jax.device_get((state.moments, state))
    (one, _), (eight, after) = seen[1], seen[8]
    np.testing.assert_allclose(one.count, eight.count, rtol=1e-6)
    np.testing.assert_allclose(one.square, eight.square, rtol=1e-4)
    weights = 0.99 ** np.arange(3)
    assert 16 * weights.sum() <= one.count.sum() <= 3 * 16  # not each bin at each step
    batch = next(trainer.batches(3))
    (_, terms), _ = loss_and_gradients(trainer, after, batch, trainer.mesh)
    assert np.ptp(terms.importance) > 0.01  # the next batch is drawn otherwise


def test_other_proposals_have_no_moments(trainer):
    with jax.numpy_dtype_promotion("standard"):
        assert trainer.init().moments is None


def with_parts(trainer, parts):
    """The recipe of a batch in parts; without dropout, whose masks would differ."""
    net = trainer.model.net.clone(dropout=0.0)
    return trainer.recipe._replace(
        model=trainer.model._replace(net=net), accumulate=parts
    )


@pytest.mark.ci
def test_a_batch_in_parts_has_the_same_gradient(state, standard_promotion):
    """With stratified times, which belong to the whole batch, on eight devices."""
    config = tiny.config(batch_size=64, objective__times="stratified(uniform)")
    trainer = Trainer(config)
    batch = sharding.place(trainer.mesh, next(trainer.batches(0)))
    seen = []
    for parts in (1, 4):
        compiled = jax.jit(
            functools.partial(
                step.loss_and_gradients, recipe=with_parts(trainer, parts)
            ),
            out_shardings=sharding.replicated(trainer.mesh),
        )
        seen.append(jax.device_get(compiled(state, batch, trainer.train_key)))
    ((loss, terms), gradients), ((loss_4, terms_4), gradients_4) = seen
    np.testing.assert_allclose(loss_4, loss, rtol=1e-6)
    np.testing.assert_array_equal(terms_4.t, terms.t)
    np.testing.assert_allclose(terms_4.loss, terms.loss, rtol=1e-5)
    scale = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradients)))
    for one, four in zip(
        jax.tree.leaves(gradients), jax.tree.leaves(gradients_4), strict=True
    ):
        assert one.dtype == four.dtype == np.float32
        np.testing.assert_allclose(four, one, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.ci
def test_a_batch_in_parts_makes_one_update(trainer, batch, standard_promotion):
    """Of the optimizer and of the average, which has the decay of a first update."""
    recipe = with_parts(trainer, 2)
    before = jax.device_get(trainer.init())
    train = jax.jit(functools.partial(step.train_step, recipe=recipe))
    after, _ = train(before, batch, KEY)
    assert int(after.step) == int(after.sums.steps) == 1
    assert int(after.opt_state[1][0].count) == 1
    assert sum(map(int, after.sums.bin_examples)) == len(batch.labels)
    for old, new, param in zip(
        *map(jax.tree.leaves, (before.ema, after.ema, after.params)), strict=True
    ):
        np.testing.assert_allclose(new, old + 0.9 * (param - old), atol=1e-7)


@pytest.mark.ci
def test_nothing_in_a_clean_step_is_nan(batch, standard_promotion):
    """Not even what is not used: `jax_debug_nans` stops at it."""
    config = tiny.config(
        objective__schedule="cosine",
        objective__kind="v",
        objective__weighting="min_snr",
        objective__times="stratified(uniform)",
        objective__proposal="stratified(adaptive(uniform))",
        optimizer__accumulate=2,
    )
    trainer = Trainer(config)
    placed = sharding.place(trainer.mesh, batch)
    with jax.debug_nans(True):
        state, loss = trainer.step_fn(trainer.init(), placed, trainer.train_key)
        state, loss = trainer.step_fn(state, placed, trainer.train_key)
    assert float(loss) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "changes"),
    [
        (digits, {"network.channels": 8}),
        (digits_dit, {"network.features": 16, "network.num_blocks": 1}),
    ],
)
def test_nothing_in_a_clean_step_of_images_is_nan(source, changes, standard_promotion):
    config = source.get_config()
    config.update_from_flattened_dict(changes | {"batch_size": 16})
    trainer = Trainer(config)
    placed = sharding.place(trainer.mesh, next(iter(trainer.batches(0))))
    with jax.debug_nans(True):
        state, loss = trainer.step_fn(trainer.init(), placed, trainer.train_key)
        state, loss = trainer.step_fn(state, placed, trainer.train_key)
    assert float(loss) > 0


@pytest.mark.ci
def test_bfloat16_changes_the_gradient_little(trainer, state, batch):
    rough = trainer.model.net.clone(dtype="bfloat16")
    recipes = [
        trainer.recipe._replace(model=trainer.model._replace(net=net))
        for net in (trainer.model.net, rough)
    ]
    flat = []
    for recipe in recipes:
        compiled = jax.jit(functools.partial(step.loss_and_gradients, recipe=recipe))
        (_, terms), gradients = compiled(state, batch, KEY)
        assert terms.t.dtype == terms.loss.dtype == jnp.float32
        flat.append(
            np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradients)])
        )
    exact, half = flat
    assert half.dtype == np.float32
    error = np.linalg.norm(half - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.05
