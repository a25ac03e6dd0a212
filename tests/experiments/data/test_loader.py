"""Batches as a function of (seed, k), and a set once through: `loader.py`."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import Examples
from experiments.data.base import flip
from experiments.data.loader import Batches, padded
from experiments.data.read_ahead import iterate


@pytest.fixture
def examples():
    return Examples(np.arange(100, dtype=np.float32)[:, None], np.arange(100))


def test_batch_k_depends_on_seed_and_k_alone(examples):
    batches = Batches(examples, seed=3, batch_size=16)
    straight = [
        batch.labels for _, batch in zip(range(20), iterate(batches, 0), strict=False)
    ]
    for start in (0, 1, 7, 13):  # 7 begins in the second epoch, in mid-batch
        resumed = iterate(Batches(examples, seed=3, batch_size=16), start)
        for k in range(start, 20):
            np.testing.assert_array_equal(next(resumed).labels, straight[k])
            np.testing.assert_array_equal(batches[k].labels, straight[k])
    other = Batches(examples, seed=4, batch_size=16)
    assert not np.array_equal(other[0].labels, straight[0])


def test_an_epoch_is_a_permutation_and_epochs_differ(examples):
    batches = Batches(examples, seed=0, batch_size=20)
    epochs = [
        np.concatenate([batches[5 * e + i].labels for i in range(5)]) for e in (0, 1)
    ]
    assert [sorted(epoch) for epoch in epochs] == [list(range(100))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()
    np.testing.assert_array_equal(batches[0].values[:, 0], batches[0].labels)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_one_global_batch(examples, count):
    whole = Batches(examples, seed=5, batch_size=8)
    for k in (0, 9, 30):
        parts = [
            Batches(
                examples,
                seed=5,
                batch_size=8,
                process_index=index,
                process_count=count,
            )[k].labels
            for index in range(count)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), whole[k].labels)


def test_what_is_drawn_of_a_mask_is_what_is_drawn_of_its_values():
    """Of images whose mask marks the bright half, mirrored or not."""
    values = np.zeros((40, 3, 4, 1), np.uint8)
    values[:, :, 2:] = 200
    masked = Examples(values, np.arange(40), None, values[:, :1] > 100)
    batches = Batches(masked, seed=0, batch_size=40, augment_fn=flip)
    for batch in (batches[0], batches[1]):
        np.testing.assert_array_equal(batch.values > 100, batch.mask.repeat(3, axis=1))
        assert 0 < batch.mask[:, 0, 0].mean() < 1


class Slices:
    """Array whose rows are views, where they are consecutive."""

    def __init__(self, rows):
        self.rows = rows

    def __getitem__(self, index):
        return self.rows[index[0] : index[-1] + 1]


@pytest.mark.parametrize("kind", ["views", "read-only", "jax"])
def test_augmenting_leaves_what_a_data_set_stores(kind):
    """Its own arrays, of which it may give views, or which cannot be written to."""
    stored = np.arange(6, dtype=np.float32).reshape(1, 6)
    stored.setflags(write=kind == "views")
    values = jnp.asarray(stored) if kind == "jax" else Slices(stored)
    negate = lambda rng, row: np.negative(row, out=row)
    batches = Batches(
        Examples(values, np.zeros(1, int)), seed=0, batch_size=1, augment_fn=negate
    )
    for number in range(3):
        found = batches[number].values
        np.testing.assert_array_equal(found, -np.arange(6.0)[None])
    np.testing.assert_array_equal(stored, np.arange(6.0)[None])


@pytest.mark.parametrize(("batch_size", "count"), [(0, 1), (-8, 2), (9, 2)])
def test_a_batch_that_cannot_be_shared_is_refused(examples, batch_size, count):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}: must be"):
        Batches(examples, seed=0, batch_size=batch_size, process_count=count)


@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (8, 4), (11, 4), (3, 8)])
def test_padding_counts_every_example_once(count, batch_size):
    seen = []
    for index, mask in padded(count, batch_size):
        assert index.shape == mask.shape == (batch_size,)
        assert ((index >= 0) & (index < count)).all()
        seen.extend(index[mask])
    assert seen == list(range(count))
