"""A folder of latents: `data/latent_folder.py`."""

import json
import os

import numpy as np
import pytest

from experiments.config import build
from experiments.data import latent_folder
from experiments.data.base import DataSet, DataTransform, Examples
from tests.helpers.npz import refusal


def write(folder, shards=3, size=4):
    """Moments of latents [2, 2, 3] with their mirror images, and their index."""
    rng, listed, every = np.random.RandomState(0), {}, {}
    for part in ("train", "test"):
        listed[part], every[part] = [], []
        (folder / part).mkdir(parents=True)
        for number in range(shards):
            moments = rng.standard_normal((4, size, 2, 2, 3)).astype(np.float32)
            path = folder / part / f"{number}.npz"
            names = dict(zip(latent_folder.MOMENTS, moments, strict=True))
            np.savez(path, **names, labels=np.arange(size, dtype=np.int32) % 2)
            listed[part].append(latent_folder.entry(folder, path, size))
            every[part].append(moments.swapaxes(0, 1))
    index = dict(format=1, num_classes=2, class_names=["a", "b"], shards=listed)
    (folder / "index.json").write_text(json.dumps(index))
    return index, {part: np.concatenate(each) for part, each in every.items()}


def test_rows_are_read_of_any_number_of_files_and_none_stays_open(tmp_path):
    _, exact = write(tmp_path, shards=20)
    before = len(os.listdir("/proc/self/fd"))
    found = latent_folder.read(tmp_path)
    index = np.array([79, 0, 3, 4, 41, 0])
    np.testing.assert_array_equal(found.train.values[index], exact["train"][index])
    assert found.train.values.shape == (80, 4, 2, 2, 3)
    assert len(os.listdir("/proc/self/fd")) == before  # 160 arrays


def test_a_file_that_ends_early_is_no_row(tmp_path):
    index, _ = write(tmp_path, shards=1)
    found = latent_folder.read(tmp_path)
    path = tmp_path / index["shards"]["train"][0]["file"]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="ends inside row 3"):
        found.train.values.row(3)
    assert "another file than index.json lists" in refusal(
        name="latents", path=str(tmp_path)
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda index: {"format": 1},
        lambda index: index | {"shards": index["shards"] | {"train": []}},
        lambda index: index | {"shards": {"train": index["shards"]["train"]}},
        lambda index: index | {"shards": {"train": [1], "test": [{"file": "a"}]}},
        lambda index: index | {"num_classes": None},
        lambda index: index | {"class_names": 3},
    ],
    ids=["nothing", "no shard", "no part", "no entries", "classes", "names"],
)
def test_a_corrupted_index_is_one_line(change, tmp_path):
    index, _ = write(tmp_path, shards=1)
    path = tmp_path / "index.json"
    path.write_text(json.dumps(change(index)))
    said = refusal(name="latents", path=str(tmp_path))
    assert f"{path} is corrupted: must have" in said and "encode again" in said
    path.write_text(json.dumps(index)[:-9])
    assert f"{path} is corrupted" in refusal(name="latents", path=str(tmp_path))


def test_training_latents_are_compared_as_they_are_trained_on(tmp_path):
    """Each sampled once from its moments; values that are events stay as they are."""
    write(tmp_path)
    found = build.dataset(dict(name="latents", path=str(tmp_path)))
    index = np.array([5, 0, 5])
    values = found.training_values(index)
    assert values.shape == (3, *found.event_shape)
    np.testing.assert_array_equal(values[0], values[2])
    rng, row = np.random.RandomState([5]), found.train.values.row(5)
    mean, std = row[2:] if rng.randint(2) else row[:2]
    noise = rng.standard_normal(mean.shape).astype(np.float32)
    np.testing.assert_array_equal(values[0], mean + std * noise)
    images = Examples(np.arange(24).reshape(4, 2, 3, 1), np.zeros(4, np.int32))
    flips = lambda rng, values: values[:, ::-1]
    plain = DataSet(images, images, DataTransform(256), 0, flips)
    np.testing.assert_array_equal(
        plain.training_values(np.array([2])), images.values[[2]]
    )
