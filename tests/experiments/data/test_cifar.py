"""CIFAR-10 and CIFAR-100 in their binary layouts: `data/cifar.py`."""

import os
import pickle
import tarfile

import numpy as np
import pytest

from experiments.config import build
from experiments.data import cifar
from experiments.runtime.errors import UsageError

RNG = np.random.RandomState(0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files of both, of 2 records each, and 10 of CIFAR-100's training part."""
    monkeypatch.setattr(cifar, "CIFAR_RECORDS", 2)
    for name in (*cifar.CIFAR_TRAIN, "test_batch.bin"):
        record(2, [10]).tofile(tmp_path / name)
    record(10, [20, 100]).tofile(tmp_path / "train.bin")
    record(2, [20, 100]).tofile(tmp_path / "test.bin")
    return tmp_path


def record(count, kinds):
    labels = [RNG.randint(0, kind, (count, 1)) for kind in kinds]
    pixels = RNG.randint(0, 256, (count, 3072))
    return np.concatenate([*labels, pixels], axis=1).astype(np.uint8)


def refusal(path, name="cifar100", **more):
    with pytest.raises(UsageError) as caught:
        build.dataset({"name": name, "path": str(path)} | more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("coarse", [False, True])
def test_cifar100_is_read_from_its_binary_files(folder, coarse):
    found = build.dataset(dict(name="cifar100", path=str(folder), coarse=coarse))
    for part, name in ((found.train, "train.bin"), (found.test, "test.bin")):
        rows = np.fromfile(folder / name, np.uint8).reshape(-1, 3074)
        np.testing.assert_array_equal(part.labels, rows[:, 0 if coarse else 1])
        pixels = rows[:, 2:].reshape(-1, 3, 32, 32)
        for channel in range(3):
            np.testing.assert_array_equal(part.values[..., channel], pixels[:, channel])
    assert found.num_classes == len(found.class_names) == (20 if coarse else 100)
    assert found.identity()["class_names"] == [*found.class_names]


def test_classes_have_their_names(folder):
    found = cifar.cifar10(path=str(folder))
    assert found.class_names[0] == "airplane" and found.class_names[9] == "truck"
    fine = cifar.cifar100(path=str(folder)).class_names
    assert (fine[0], fine[8], fine[99]) == ("apple", "bicycle", "worm")
    assert sorted(fine) == [*fine] and len({*fine}) == 100
    coarse = cifar.cifar100(path=str(folder), coarse=True).class_names
    assert (coarse[0], coarse[19]) == ("aquatic_mammals", "vehicles_2")
    assert sorted(coarse) == [*coarse] and len({*coarse}) == 20


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_pickles_are_not_read_and_the_way_out_is_named(tmp_path, name):
    """One that would write a file where it was read."""

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    for file in ("data_batch_1", "test_batch", "train", "test", "meta"):
        (tmp_path / file).write_bytes(pickle.dumps(Trap()))
    archive = {"cifar10": "cifar-10-binary.tar.gz", "cifar100": "cifar-100-binary"}
    line = refusal(tmp_path, name)
    assert "version for Python, pickles that could run code" in line
    assert archive[name] in line
    assert not (tmp_path / "trapped").exists()


def test_an_archive_and_a_folder_above_are_said(folder, tmp_path):
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder / "train.bin", "cifar-100-binary/train.bin")
    assert "a file: unpack it, and name the folder of train.bin" in refusal(archive)
    deeper = folder.parent / "above" / "cifar-100-binary"
    deeper.parent.mkdir()
    folder.rename(deeper)
    assert f"one folder deeper: path={deeper}" in refusal(deeper.parent)
    assert "data_batch_1.bin: No such file" in refusal(tmp_path / "x", "cifar10")


def test_a_corrupted_file_is_named(folder):
    rows = np.fromfile(folder / "test.bin", np.uint8).reshape(-1, 3074)
    for place, label, said in ((0, 20, "must be in 0..19"), (1, 100, "in 0..99")):
        wrong = rows.copy()
        wrong[1, place] = label
        wrong.tofile(folder / "test.bin")
        line = refusal(folder)
        assert "test.bin: labels from" in line and said in line
    (folder / "test.bin").unlink()
    os.mkfifo(folder / "test.bin")
    assert "test.bin: a pipe or device, not a file" in refusal(folder)
    (folder / "test.bin").unlink()
    (folder / "test.bin").touch()
    assert "test.bin: an empty file" in refusal(folder)
