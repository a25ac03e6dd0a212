"""CIFAR-10 and CIFAR-100 from their published binary files.

A missing or broken file is a `ValueError` that names it. The versions for Python are
pickles, which can run code of whoever wrote them, and are refused; so is what was not
unpacked.
"""

import pathlib

import numpy as np

from experiments.data.base import DataSet, DataTransform, Examples, check_labels, flip
from experiments.data.fingerprint import file_digest
from experiments.data.regular_file import check_regular

CIFAR_SHAPE = (3, 32, 32)
CIFAR_RECORDS = 10_000  # in each file of CIFAR-10, and in the test part of CIFAR-100
CIFAR_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR100_PARTS = 5  # of as many records, in `train.bin`
PICKLES = ("data_batch_1", "train", "meta", "batches.meta")  # of the other versions
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
FINE = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy
    bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee clock
    cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest
    fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter
    palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit
    raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman
    worm"""
COARSE = """aquatic_mammals fish flowers food_containers fruit_and_vegetables
    household_electrical_devices household_furniture insects large_carnivores
    large_man-made_outdoor_things large_natural_outdoor_scenes
    large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people
    reptiles small_mammals trees vehicles_1 vehicles_2"""


def cifar10(*, path: str, flips: bool = False) -> DataSet:
    """Reads CIFAR-10 from its binary version: uint8 [n, 32, 32, 3], its own test part.

    Args:
      path: of the directory with `data_batch_1.bin` to `data_batch_5.bin` and
        `test_batch.bin`: records of a label and 3 x 32 x 32 bytes.
      flips: mirrors training images half of the time.

    Raises:
      ValueError: if a file is missing or not of its size.

    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    names = (*CIFAR_TRAIN, "test_batch.bin")
    files = _files(path, names, "cifar-10-binary.tar.gz")
    classes = (tuple(CLASSES.split()),)
    *parts, test = (_read(file, CIFAR_RECORDS, classes, 0) for file in files)
    train = Examples(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )
    return _data_set(train, test, classes[0], files, flips)


def cifar100(*, path: str, coarse: bool = False, flips: bool = False) -> DataSet:
    """Reads CIFAR-100 from its binary version: uint8 [n, 32, 32, 3], its own test part.

    Args:
      path: of the directory with `train.bin` and `test.bin`: records of the coarse
        label, the fine one, and 3 x 32 x 32 bytes.
      coarse: takes the 20 superclasses in the place of the 100 classes.
      flips: mirrors training images half of the time.

    Raises:
      ValueError: if a file is missing or not of its size.

    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    files = _files(path, ("train.bin", "test.bin"), "cifar-100-binary.tar.gz")
    counts = CIFAR100_PARTS * CIFAR_RECORDS, CIFAR_RECORDS
    classes = tuple(COARSE.split()), tuple(FINE.split())
    chosen = 0 if coarse else 1
    train, test = (
        _read(file, count, classes, chosen)
        for file, count in zip(files, counts, strict=True)
    )
    return _data_set(train, test, classes[chosen], files, flips)


def _data_set(
    train: Examples,
    test: Examples,
    names: tuple[str, ...],
    files: list[pathlib.Path],
    flips: bool,
) -> DataSet:
    augment_fn, digest = flip if flips else None, file_digest(*files)
    made = DataSet(train, test, DataTransform(256), len(names), augment_fn, digest)
    return made._replace(class_names=names)


def _files(path: str, names: tuple[str, ...], archive: str) -> list[pathlib.Path]:
    """Finds the files of a directory.

    Raises:
      ValueError: one is missing, which says so where something else is there.
    """
    folder = pathlib.Path(path)
    files = [folder / name for name in names]
    missing = [file for file in files if not file.exists()]
    if missing and folder.is_file():
        raise ValueError(
            f"{path}: a file: unpack it, and name the folder of {names[0]}"
        )
    pickles = [name for name in PICKLES if (folder / name).is_file()]
    if missing and pickles:
        raise ValueError(
            f"{path}: {missing[0].name} is missing, and {pickles[0]} is of the version "
            "for Python, pickles that could run code and are not read: take the binary "
            f"version, {archive}"
        )
    inside = [file.parent for file in folder.glob(f"*/{names[0]}")] if missing else []
    if inside:
        raise ValueError(f"{path}: the files are one folder deeper: path={inside[0]}")
    return files


def _read(
    file: pathlib.Path, count: int, names: tuple[tuple[str, ...], ...], chosen: int
) -> Examples:
    """Reads the records of a file: labels for all `names`, of which one is `chosen`."""
    try:
        if file.exists():
            check_regular(file)
        stored = np.fromfile(file, np.uint8)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    record = len(names) + int(np.prod(CIFAR_SHAPE))
    if stored.size != count * record:
        raise ValueError(
            f"{file}: {stored.size} bytes: must be {count} records of {record} bytes; "
            "copy it again"
        )
    rows = stored.reshape(-1, record)
    try:
        for place, known in enumerate(names):
            check_labels(rows[:, place], num_classes=len(known))
    except ValueError as error:
        raise ValueError(f"{file}: {error}; copy it again") from error
    images = rows[:, len(names) :].reshape(-1, *CIFAR_SHAPE).transpose(0, 2, 3, 1)
    return Examples(images, rows[:, chosen].astype(np.int32))
