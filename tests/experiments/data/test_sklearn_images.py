"""Patches of photographs, and flips: `data/sklearn_images.py`."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from experiments import data
from experiments.data import sklearn_images
from experiments.data.loader import Batches


def test_patches_are_pieces_of_the_photographs_and_none_is_shared():
    found = sklearn_images.patches(size=20, stride=9)
    photographs = load_sample_images().images
    assert (found.event_shape, found.num_classes) == ((20, 20, 3), 2)
    for label, image in enumerate(photographs):
        train = found.train.values[found.train.labels == label]
        test = found.test.values[found.test.labels == label]
        corners = [
            (top, left)
            for top in range(0, image.shape[0] - 19, 9)
            for left in range(0, 560 - 19, 9)
        ]
        expected = [image[t : t + 20, s : s + 20] for t, s in corners]
        np.testing.assert_array_equal(train, expected)
        held_out = [
            image[t : t + 20, s : s + 20]
            for t in range(0, image.shape[0] - 19, 20)
            for s in range(560, 640 - 19, 20)
        ]
        np.testing.assert_array_equal(test, held_out)
        assert max(left for _, left in corners) + 20 <= 560  # where held-out begins


@pytest.mark.parametrize(("size", "stride"), [(0, 1), (81, 1), (8, 0)])
def test_impossible_patches_are_refused(size, stride):
    with pytest.raises(ValueError, match="size=|stride="):
        sklearn_images.patches(size=size, stride=stride)


def test_half_are_flipped_by_epoch_and_index_and_no_test_example():
    found, plain = sklearn_images.patches(flips=True), sklearn_images.patches()
    np.testing.assert_array_equal(found.test.values, plain.test.values)
    images = data.Examples(plain.train.values[:400], np.arange(400))
    flipped = []
    for seed, batch_size, number in [(0, 400, 0), (0, 400, 1), (1, 400, 0)]:
        batch = Batches(
            images, seed=seed, batch_size=batch_size, augment_fn=found.augment_fn
        )[number]
        original = images.values[batch.labels]
        mirrored = original[:, :, ::-1]
        changed = (batch.values != original).any((1, 2, 3))
        np.testing.assert_array_equal(
            batch.values, np.where(changed[:, None, None, None], mirrored, original)
        )
        assert abs(changed.mean() - 0.5) < 0.125  # 5 standard errors
        flipped.append(changed[np.argsort(batch.labels)])
    assert (flipped[0] != flipped[1]).any()
    assert (flipped[0] != flipped[2]).any()


def test_flips_do_not_depend_on_how_batches_are_cut_or_shared():
    flip = sklearn_images.patches(flips=True).augment_fn
    images = data.Examples(np.arange(2 * 24).reshape(24, 1, 2, 1), np.arange(24))
    whole = Batches(images, seed=3, batch_size=24, augment_fn=flip)[0].values
    parts = Batches(images, seed=3, batch_size=6, augment_fn=flip)
    np.testing.assert_array_equal(
        np.concatenate([parts[k].values for k in range(4)]), whole
    )
    shared = [
        Batches(
            images,
            seed=3,
            batch_size=24,
            process_index=index,
            process_count=2,
            augment_fn=flip,
        )[0].values
        for index in range(2)
    ]
    np.testing.assert_array_equal(np.concatenate(shared), whole)
