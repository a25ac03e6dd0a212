"""Noise paired with the examples of a batch: `data/coupled.py`, in step and trainer."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from diffusionflow import couplings, losses, random
from experiments import data
from experiments.config import experiment
from experiments.data import Examples, coupled
from experiments.runtime import rng, sharding
from experiments.runtime.errors import UsageError
from experiments.training import step
from experiments.training.state import TrainState
from experiments.training.trainer import Trainer
from tests.helpers import arrays, tiny
from tests.helpers.exact_model import model_of

KEYS = random.example_keys(3, jnp.arange(64))
X = np.random.RandomState(0).standard_normal((64, 3)).astype(np.float32)
LABELS = np.arange(64) % 5
GROUPS = [couplings.Assignment(group=8), couplings.Sinkhorn(group=8)]


def mesh(count, fsdp=1):
    """The first devices as [count / fsdp, fsdp]."""
    grid = np.array(jax.devices()[:count]).reshape(-1, fsdp)
    return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def paired(coupling, where, labels=LABELS, x=X, keys=KEYS):
    """The pairs of a batch that is cut over the devices of a mesh."""
    placed = sharding.place(where, (x, labels))
    keys = jax.device_put(keys, sharding.along_batch(where))
    fn = jax.jit(functools.partial(coupled.Coupled(coupling, where)))
    return jax.device_get(fn(keys, *placed))


def drawn(keys=KEYS, shape=X.shape):
    """The noise of an uncoupled run."""
    return np.asarray(random.normal(random.split(keys)[1], shape))


@pytest.mark.ci
@pytest.mark.parametrize("coupling", GROUPS, ids=lambda each: type(each).__name__)
def test_pairs_are_the_same_on_one_and_on_several_devices(coupling):
    one = paired(coupling, mesh(1))
    for where in (mesh(4), mesh(8, fsdp=2)):
        several = paired(coupling, where)
        np.testing.assert_array_equal(several.eps, one.eps)
    np.testing.assert_array_equal(one.x, X)
    assert np.abs(one.eps - drawn()).max() > 0.1


@pytest.mark.parametrize("labels", [None, LABELS], ids=["", "labels"])
def test_noise_is_permuted_inside_groups_and_labels(labels):
    found = paired(couplings.Assignment(group=16), mesh(4), labels).eps
    noise, place = drawn(), np.arange(64)
    equal = (found[:, None] == noise[None]).all(-1)
    index = equal.argmax(1)
    assert sorted(index) == place.tolist()  # what an uncoupled run draws, each once
    assert (index // 16 == place // 16).all() and (index != place).any()
    if labels is not None:
        np.testing.assert_array_equal(labels[index], labels)
    cost = lambda eps: ((X - eps) ** 2).sum()
    assert cost(found) < cost(noise)
    kept = paired(couplings.Independent(), mesh(4), labels).eps
    np.testing.assert_array_equal(kept, noise)


@pytest.mark.ci
def test_copies_that_fill_a_batch_up_are_matched_among_themselves():
    """Or the noise of real examples would be the one noise of the copies."""
    counts = np.arange(8) < 5
    keys = random.example_keys(3, jnp.where(counts, jnp.arange(8), 0))
    x = np.where(counts[:, None], X[:8], X[0])
    for labels in (None, jnp.zeros(8, jnp.int32)):
        fn = coupled.Coupled(couplings.Assignment(group=8), mesh(1))
        found = np.asarray(fn(keys, x, labels, jnp.asarray(counts)).eps)
        alone = couplings.Assignment(5)(None, x[:5], drawn(keys, x.shape)[:5])
        np.testing.assert_array_equal(found[:5], alone.eps)


COPY = model_of("eps")._replace(net=arrays.Copy(), vector_features=3, event_shape=(3,))


def losses_of(trainer, coupling, where, **settings):
    """Per-example losses of a step whose network predicts eps = 0."""
    recipe = trainer.recipe._replace(
        model=COPY._replace(num_classes=5),
        coupled=coupling and coupled.Coupled(coupling, where),
        batch_size=64,
        **settings,
    )
    state = TrainState(np.int32(3), {}, None, None, None, None)
    batch = Examples(X, LABELS.astype(np.int32), 0 * X)
    same = sharding.replicated(where)
    fn = jax.jit(functools.partial(step.loss_and_gradients, recipe=recipe))
    key = jax.device_put(rng.stream(0, rng.TRAIN), same)
    place = sharding.place(where, batch)
    (_, terms), _ = fn(jax.device_put(state, same), place, key)
    return np.asarray(terms.loss), np.asarray(terms.t)


@pytest.fixture(scope="module")
def trainer():
    return Trainer(tiny.config(batch_size=64))


@pytest.mark.ci
def test_a_step_has_the_same_losses_on_any_devices_and_in_parts(trainer):
    """Of dropped labels too: noise is matched inside labels before they are dropped."""
    coupling = couplings.Assignment(group=8)
    expected, t = losses_of(trainer, coupling, mesh(1), label_dropout=0.0)
    for where, settings in (
        (mesh(4), {}),
        (mesh(4), {"accumulate": 2}),
        (mesh(1), {"label_dropout": 1.0}),
    ):
        found, times = losses_of(trainer, coupling, where, **settings)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        np.testing.assert_array_equal(times, t)
    free, times = losses_of(trainer, None, mesh(1))
    np.testing.assert_array_equal(times, t)  # at the times of an uncoupled run
    assert np.abs(free - expected).max() > 0.1
    for group in np.arange(64).reshape(8, 8):
        for label in range(5):
            inside = group[LABELS[group] == label]
            np.testing.assert_allclose(
                np.sort(expected[inside]), np.sort(free[inside]), rtol=1e-6
            )


def test_the_noise_of_a_pair_is_that_of_the_loss():
    """`Coupled` reproduces what `losses.objective_terms` draws from its key."""
    zero_fn = lambda z, t: jnp.zeros_like(z)
    objective = COPY.objective
    terms = losses.objective_terms(KEYS, zero_fn, jnp.asarray(X), objective=objective)
    np.testing.assert_allclose(terms.loss, (drawn() ** 2).mean(1), rtol=1e-6)
    found = paired(couplings.Independent(), mesh(2)).eps
    np.testing.assert_array_equal(found, drawn())


@pytest.mark.ci
def test_held_out_examples_are_coupled_too(standard_promotion):
    """In a batch that is filled up."""
    text = "assignment(group=8)"
    runs = {
        name: Trainer(tiny.config(objective__coupling=name, batch_size=64))
        for name in ("", "independent", text)
    }
    params = runs[""].init().params
    found = {name: run.evaluate(params)["loss"] for name, run in runs.items()}
    assert found["independent"] == pytest.approx(found[""], rel=1e-6)
    # an untrained network predicts 0: the loss is that of eps - x
    assert found[text] < 0.8 * found[""]


@pytest.mark.ci
def test_a_semidiscrete_coupling_takes_rows_of_the_data_inside_labels(
    standard_promotion,
):
    config = tiny.config(
        objective__coupling="semidiscrete(num_steps=20)", data__size=90, eval__draws=1
    )
    run = Trainer(config)
    train = run.dataset.train
    x = jnp.asarray(train.values[:16])
    labels = jnp.asarray(train.labels[:16])
    found = jax.jit(functools.partial(run.recipe.coupled))(KEYS[:16], x, labels)
    np.testing.assert_array_equal(found.eps, drawn(KEYS[:16], (16, 2)))
    row = (np.asarray(found.x)[:, None] == train.values[None]).all(-1)
    assert row.any(1).all()
    np.testing.assert_array_equal(train.labels[row.argmax(1)], labels)
    assert np.isfinite(run.evaluate(run.init().params)["loss"])
    assert np.isfinite(list(run.condition_effects(run.init().params).values())).all()
    state = run.init()
    placed = sharding.place(run.mesh, next(run.batches(0)))
    _, loss = run.step_fn(state, placed, run.train_key)
    assert np.isfinite(loss)


def check(**overrides):
    experiment.from_config(tiny.config(batch_size=64, **overrides))


MISTAKES = {
    "assignmnt": "objective.coupling: unknown name 'assignmnt'; did you mean 'assign",
    "assignment(gruop=8)": "did you mean 'group'?",
    "assignment(group=0)": "group=0: must be at least 1",
    "assignment(group=16)": "group=16: must be a divisor of 8, the examples of "
    "batch_size=64 over 8 devices; or choose batch_size",
    "assignment": "group=256: must be a divisor of 8",
    "tests.experiments.data.test_coupled:Ungrouped": "Ungrouped has no `group`",
    "tests.experiments.data.test_coupled:Wrong": "gives an array of shape (4, 3, 1)",
}


class Ungrouped:
    """A coupling of one's own that does not say what it matches."""

    def __call__(self, key, x, eps, labels=None):
        return couplings.Pairs(x, eps[::-1], labels, jnp.arange(len(x)))


class Grouped(Ungrouped):
    group = 4


class Wrong(Ungrouped):
    """One that returns arrays of other shapes."""

    group = 4

    def __call__(self, key, x, eps, labels=None):
        return couplings.Pairs(x, eps[..., None], labels, jnp.arange(len(x)))


@pytest.mark.parametrize("text", MISTAKES)
def test_what_does_not_fit_is_refused(text):
    with pytest.raises(UsageError, match=re.escape(MISTAKES[text])) as caught:
        check(objective__coupling=text)
    assert "\n" not in str(caught.value)


def test_what_fits_is_not_refused():
    own = "tests.experiments.data.test_coupled:Grouped"
    for text in ("", "independent", "assignment(group=4)", "sinkhorn(group=8)", own):
        check(objective__coupling=text)


def test_data_whose_noise_a_coupling_would_make_wrong_are_refused():
    split = functools.partial(data.split, X, None, None)
    refused = {
        "the data are pairs already": (split(noise=X), GROUPS[0]),
        "the data have conditions": (split(conditions=X), GROUPS[0]),
        "take assignment, or": (split(mask=X > -9), coupled.Semidiscrete()),
    }
    for message, (dataset, coupling) in refused.items():
        with pytest.raises(UsageError, match=message):
            coupled.check_data(coupling, dataset)
    coupled.check_data(GROUPS[0], split(mask=X > -9))
    lazy = data.Lazy(X.shape, X.dtype, lambda number: X[number])
    for values in (lazy, np.zeros((1, coupled.MOST + 1), np.uint8)):
        examples = Examples(values, np.zeros(len(values), np.int32))
        with pytest.raises(UsageError, match="holds all examples"):
            coupled.Semidiscrete().fit(KEYS[0], examples, data.DataTransform(), 0)
