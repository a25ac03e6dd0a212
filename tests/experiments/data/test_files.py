"""One's own files: `arrays.py`, `folders.py` and `cifar.py` of `data`."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from experiments.config import build
from experiments.data import cifar, image_folder, latents, npz_files
from experiments.data.loader import Batches
from experiments.data.read_ahead import iterate
from experiments.runtime.errors import UsageError

RNG = np.random.RandomState(0)


def stored(count, *shape):
    return RNG.randint(0, 256, (count, *shape), np.uint8)


def write_images(path, images, suffix="png"):
    path.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(path / f"{number:03d}.{suffix}")


def write_cifar(path, images, labels):
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    np.concatenate([labels[:, None], rows], 1).astype(np.uint8).tofile(path)


def test_an_npz_of_bytes_is_what_was_written_and_split_by_class(tmp_path):
    images, labels = stored(18, 4, 6, 3), np.arange(18) % 2
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    found = npz_files.npz(path=str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(found.test.values, images[[16, 17]])
    np.testing.assert_array_equal(found.train.values, images[:16])
    np.testing.assert_array_equal(found.train.labels, labels[:16])
    assert (found.event_shape, found.num_classes) == ((4, 6, 3), 2)
    assert found.transform.levels == 256


def test_floats_of_a_declared_range_become_minus_one_to_one(tmp_path):
    path = str(tmp_path / "a.npz")
    images = np.linspace(10, 30, 9 * 4).reshape(9, 2, 2, 1)
    np.savez(path, pictures=images)
    found = npz_files.npz(path=path, values="pictures", low=10, high=30)
    together = np.concatenate([found.train.values, found.test.values])
    np.testing.assert_allclose(together.ravel(), np.linspace(-1, 1, 36), atol=1e-6)
    assert (found.transform.levels, found.num_classes) == (None, 0)
    for bounds in ({}, {"low": 0, "high": 29}, {"low": 30, "high": 10}):
        with pytest.raises(ValueError, match="declared|must be in"):
            npz_files.npz(path=path, values="pictures", **bounds)


def test_a_wrong_npz_is_one_line_that_names_it(tmp_path):
    path = tmp_path / "a.npz"
    for content, said in [
        (None, "No such file"),
        (b"no archive", "no readable .npz"),
        ({"x": stored(9, 2, 2, 1)}, "no array 'values' or 'images'; it has x"),
        ({"images": stored(9)}, "must be [n, *event], such as [n, height, width"),
        ({"images": stored(9, 2, 2, 1), "labels": np.arange(3)}, "3 labels for 9"),
        ({"images": stored(9, 2, 2, 1), "labels": -np.ones(9, int)}, "from -1 to -1"),
        ({"images": stored(4, 2, 2, 1)}, "at least one class needs 9"),
    ]:
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            np.savez(path, **content)
        with pytest.raises(UsageError, match=re.escape(said)) as caught:
            build.dataset({"name": "npz", "path": str(path)})
        assert str(caught.value).startswith("data: npz: ")
        assert "\n" not in str(caught.value)


def test_a_folder_is_read_in_sorted_order_by_class(tmp_path):
    cats, dogs = stored(9, 4, 6, 3), stored(10, 4, 6, 3)
    write_images(tmp_path / "cats", cats)
    write_images(tmp_path / "dogs", dogs)
    (tmp_path / "dogs" / "notes.txt").write_text("no image")
    found = image_folder.folder(path=str(tmp_path))
    assert (found.event_shape, found.num_classes) == ((4, 6, 3), 2)
    batch = found.test.gather(np.array([1, 0]))
    np.testing.assert_array_equal(batch.values, [dogs[8], cats[8]])
    assert batch.labels.tolist() == [1, 0]
    train = found.train.gather(np.arange(17))
    np.testing.assert_array_equal(train.values, [*cats[:8], *dogs[:8], dogs[9]])
    (tmp_path / "a").mkdir()
    for name in ("cats", "dogs"):
        (tmp_path / name).rename(tmp_path / "a" / name)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    parts = dict(path=str(tmp_path / "a"), test_path=str(tmp_path / "b"))
    apart = image_folder.folder(**parts)
    assert len(apart.train.labels) == len(apart.test.labels) == 19
    assert image_folder.folder(path=str(tmp_path / "a" / "cats")).num_classes == 0


def test_images_are_cropped_at_the_centre(tmp_path):
    wide = np.zeros((4, 10, 3), np.uint8)
    wide[:, 3:7] = stored(4, 4, 3)
    write_images(tmp_path, [wide] * 9)
    crop = image_folder.folder(path=str(tmp_path), size=(4, 4)).test.gather(
        np.array([0])
    )
    np.testing.assert_array_equal(crop.values[0], wide[:, 3:7])
    grey = image_folder.folder(path=str(tmp_path), size=(3, 5), channels=1)
    assert grey.test.gather(np.array([0])).values.shape == (1, 3, 5, 1)


def test_a_wrong_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        image_folder.folder(path=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="no image in it"):
        image_folder.folder(path=str(tmp_path))
    write_images(tmp_path, [*stored(9, 4, 4, 3), np.zeros((5, 4, 3), np.uint8)])
    with pytest.raises(ValueError, match=r"\(4, 4\).*009.png \(5, 4\): set size="):
        image_folder.folder(path=str(tmp_path))
    (tmp_path / "009.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="no readable image: 1 of 10: 009.png"):
        image_folder.folder(path=str(tmp_path))


def test_a_file_that_breaks_later_is_named_through_the_reader(tmp_path):
    write_images(tmp_path, stored(9, 32, 32, 3))
    found = image_folder.folder(path=str(tmp_path))
    file = tmp_path / "003.png"
    file.write_bytes(file.read_bytes()[:200])
    batches = Batches(found.train, seed=0, batch_size=8)
    with pytest.raises(UsageError, match="003.png: no readable image"):
        next(iterate(batches, 0))


def test_cifar10_is_read_from_its_binary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "CIFAR_RECORDS", 2)
    images, labels = stored(12, 32, 32, 3), RNG.randint(0, 10, 12)
    for number in range(5):
        part = slice(2 * number, 2 * number + 2)
        file = tmp_path / f"data_batch_{number + 1}.bin"
        write_cifar(file, images[part], labels[part])
    with pytest.raises(ValueError, match="test_batch.bin: No such file"):
        cifar.cifar10(path=str(tmp_path))
    write_cifar(tmp_path / "test_batch.bin", images[10:], labels[10:])
    found = cifar.cifar10(path=str(tmp_path))
    np.testing.assert_array_equal(found.train.values, images[:10])
    np.testing.assert_array_equal(found.test.values, images[10:])
    np.testing.assert_array_equal(found.train.labels, labels[:10])
    assert (found.event_shape, found.num_classes) == ((32, 32, 3), 10)
    write_cifar(tmp_path / "data_batch_3.bin", images[:1], labels[:1])  # cut short
    with pytest.raises(ValueError, match="_3.bin: 3073 bytes: must be 2 records of 3"):
        cifar.cifar10(path=str(tmp_path))


@pytest.mark.slow
def test_latents_are_drawn_from_their_moments(tmp_path):
    path = str(tmp_path / "a.npz")
    mean = np.full((9000, 1, 1, 2), 3.0)
    np.savez(path, mean=mean, logvar=np.full_like(mean, 2 * np.log(0.5)))
    found = latents.latents(path=path, scale=0.2, channels_last=True)
    assert found.event_shape == (1, 1, 2)
    batches = Batches(found.train, seed=1, batch_size=8000, augment_fn=found.augment_fn)
    first, second = batches[0].values, batches[1].values
    for drawn in (first, second, found.test.values):
        error = 0.1 / np.sqrt(drawn.size)
        np.testing.assert_allclose(drawn.mean(), 0.6, atol=5 * error)
        np.testing.assert_allclose(drawn.std(), 0.1, atol=5 * error)
    rows = [set(map(tuple, part.reshape(-1, 2))) for part in (first, second)]
    assert not rows[0] & rows[1]  # each epoch draws again
    np.testing.assert_array_equal(batches[1].values, second)
    again = latents.latents(path=path, scale=0.2, channels_last=True).test.values
    np.testing.assert_array_equal(found.test.values, again)


def test_latents_without_spread_are_their_means(tmp_path):
    path = str(tmp_path / "a.npz")
    mean = RNG.standard_normal((9, 2, 2, 3)).astype(np.float32)
    np.savez(path, mean=mean, std=np.zeros_like(mean))
    found = latents.latents(path=path, scale=2.0)
    batch = Batches(found.train, seed=0, batch_size=8, augment_fn=found.augment_fn)[0]
    order = np.argsort(batch.values[:, 0, 0, 0])
    expected = 2 * mean[:8][np.argsort(mean[:8, 0, 0, 0])]
    np.testing.assert_array_equal(batch.values[order], expected)
    np.testing.assert_array_equal(found.test.values, 2 * mean[8:])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mean": np.ones((9, 1, 1, 1))}, "either 'std' or 'logvar'"),
        ({"mean": np.ones((9, 1, 1, 1)), "std": np.ones((9, 1, 1, 2))}, "has shape"),
        ({"mean": np.full((9, 1, 1, 1), np.nan), "std": np.ones((9, 1, 1, 1))}, "fin"),
    ],
)
def test_wrong_latents_are_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=said):
        latents.latents(path=str(tmp_path / "a.npz"))


def test_other_pixels_have_another_digest(tmp_path, monkeypatch):
    """Names, sizes, shapes and labels are the same."""
    monkeypatch.setattr(cifar, "CIFAR_RECORDS", 2)

    def digests():
        found = [
            image_folder.folder(path=str(tmp_path / "images"), size=(4, 4)),
            npz_files.npz(path=str(tmp_path / "a.npz")),
            cifar.cifar10(path=str(tmp_path)),
            latents.latents(path=str(tmp_path / "l.npz")),
        ]
        identities = [dataset.identity() for dataset in found]
        return [each.get("contents", each["digest"]) for each in identities]

    images = stored(18, 4, 4, 3)
    write_images(tmp_path / "images", images, suffix="bmp")
    np.savez(tmp_path / "a.npz", images=images)
    moments = RNG.standard_normal((9, 2, 2, 1))
    np.savez(tmp_path / "l.npz", mean=moments, logvar=moments)
    names = [f"data_batch_{n}.bin" for n in range(1, 6)] + ["test_batch.bin"]
    for name in names:
        write_cifar(tmp_path / name, stored(2, 32, 32, 3), np.array([0, 1]))
    first = digests()
    assert len(set(first)) == 4 and digests() == first
    write_images(tmp_path / "images", 255 - images[:1], suffix="bmp")
    np.savez(tmp_path / "a.npz", images=255 - images)
    np.savez(tmp_path / "l.npz", mean=moments, logvar=moments + 1)
    write_cifar(tmp_path / names[-1], stored(2, 32, 32, 3), np.array([0, 1]))
    assert not set(digests()) & set(first)


def test_of_a_large_folder_some_files_are_in_the_digest_and_all_sizes(
    tmp_path, monkeypatch
):
    images = stored(40, 4, 4, 3)
    write_images(tmp_path, images, suffix="bmp")
    monkeypatch.setattr(image_folder, "SMALL", 0)
    monkeypatch.setattr(image_folder, "SAMPLED", 10)
    identity = lambda: image_folder.folder(path=str(tmp_path)).identity()
    first, seen = identity(), []
    for number in range(40):
        file = tmp_path / f"{number:03d}.bmp"
        before = file.read_bytes()
        Image.fromarray(255 - images[number]).save(file)
        now = identity()
        assert now["digest"] == first["digest"]
        seen += [number] if now["contents"] != first["contents"] else []
        file.write_bytes(before)
    assert seen == [*range(0, 40, 4)]
    assert identity() == first
    with (tmp_path / "001.bmp").open("ab") as file:
        file.write(b" ")
    assert identity()["contents"] != first["contents"]


def test_a_moved_folder_is_the_same(tmp_path):
    write_images(tmp_path / "here", stored(9, 4, 4, 3))
    first = image_folder.folder(path=str(tmp_path / "here")).identity()
    (tmp_path / "here").rename(tmp_path / "there")
    assert image_folder.folder(path=str(tmp_path / "there")).identity() == first


def test_images_that_would_lose_something_are_refused(tmp_path):
    for name, image in (
        ("deep", Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4))),
        ("alpha", Image.fromarray(stored(1, 4, 4, 4)[0], "RGBA")),
    ):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "0.png")
        for _ in range(8):
            shutil.copy(tmp_path / name / "0.png", tmp_path / name / f"{_ + 1}.png")
        said = r"9 of 9: 0.png \(mode .* convert it to 8 bits"
        with pytest.raises(UsageError, match=said):
            image_folder.folder(path=str(tmp_path / name), skip_broken=True)


def test_what_is_no_class_is_told_from_one(tmp_path):
    for name in ("cats", "dogs"):
        write_images(tmp_path / name, stored(9, 4, 4, 3))
    (tmp_path / ".hidden").mkdir()
    assert image_folder.folder(path=str(tmp_path)).num_classes == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no image in it"):
        image_folder.folder(path=str(tmp_path))
    (tmp_path / "empty").rmdir()
    for suffix in ("png", "tif"):
        write_images(tmp_path, stored(1, 4, 4, 3), suffix)
        name = f"000.{suffix}"
        with pytest.raises(ValueError, match=f"{name}: an image next to the folders"):
            image_folder.folder(path=str(tmp_path))
        (tmp_path / name).unlink()


def test_no_image_is_left_out_in_silence(tmp_path):
    cats = tmp_path / "cats"
    write_images(cats, stored(9, 4, 4, 3))
    (cats / "notes").mkdir()
    for name in (".000.png", ".hidden.gif", "a.txt", "labels.h5", "notes/b.json"):
        (cats / name).write_bytes(b"no image")
    found = image_folder.folder(path=str(tmp_path))
    assert len(found.train.labels) + len(found.test.labels) == 9
    for name in ("9.tif", "9.GIF", "9.avif", "9.heic", "notes/9.png", "a/b/9.gif"):
        for number in (1, 2):
            file = cats / name.replace("9", f"9{number}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"an image")
        said = re.escape(f"2 images would be left out, such as cats/{name}")
        with pytest.raises(UsageError, match=said.replace("9", "91")) as caught:
            build.dataset({"name": "folder", "path": str(tmp_path)})
        assert "convert or move" in str(caught.value)
        assert "\n" not in str(caught.value)
        for number in (1, 2):
            (cats / name.replace("9", f"9{number}")).unlink()


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPEG"])
def test_all_names_of_jpeg_are_read(tmp_path, suffix):
    write_images(tmp_path, stored(9, 4, 4, 3), suffix)
    assert len(image_folder.folder(path=str(tmp_path)).test.labels) == 1


def test_a_link_to_nowhere_is_one_line(tmp_path):
    write_images(tmp_path, stored(9, 4, 4, 3))
    (tmp_path / "009.png").symlink_to(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"no readable.*009.png \(a link to nothing"):
        image_folder.folder(path=str(tmp_path), size=(4, 4))
