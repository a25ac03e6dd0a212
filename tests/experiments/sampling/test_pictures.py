"""Pictures and masks of files: `sampling/pictures.py`."""

import numpy as np
import pytest
from PIL import Image

from experiments.config.model import Model
from experiments.data import DataTransform
from experiments.runtime.errors import UsageError
from experiments.sampling import pictures
from tests.helpers.parametrize import check_all
from tests.helpers.pictures import png16

GREY = np.arange(16, dtype=np.uint8).reshape(4, 4) * 17  # 16 of 256 levels


def model(levels, event_shape=(4, 4, 1)):
    return Model(None, None, DataTransform(levels), event_shape, 0, 1.0)


def read(path, levels=None, event_shape=(4, 4, 1), most=9, **data):
    built = model(levels, event_shape)
    section = dict(name="folder") | data
    return pictures.read("init_image", str(path), built, section, most)


def test_images_are_those_of_the_data(tmp_path, capsys):
    """Levels, as 8 bits and as 16; orientation and colours as a viewer shows them."""
    path = tmp_path / "a.png"
    Image.fromarray(GREY).save(path)
    values = read(path, 256).values
    np.testing.assert_allclose(values[0, ..., 0], GREY / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(read(path).values, values, atol=1e-6)
    assert "rounded" not in capsys.readouterr().out
    levels = DataTransform(17).to_stored(read(path, 17).values)
    assert levels.ravel().tolist() == np.rint(GREY.ravel() * (16 / 255)).tolist()
    assert "rounded to the 17 levels of the data, by at most" in capsys.readouterr().out
    turned = Image.Exif()
    turned[274] = 3
    Image.fromarray(GREY).save(path, exif=turned)
    np.testing.assert_array_equal(read(path, 256).values, values[:, ::-1, ::-1])
    (tmp_path / "deep.png").write_bytes(png16(np.full((4, 4, 1), 12345, np.uint16)))
    deep = read(tmp_path / "deep.png").values
    np.testing.assert_allclose(deep, 12345 / 32767.5 - 1, atol=1e-6)
    with pytest.raises(UsageError, match=r"init_image='.*deep.png': .* 16 bits in the"):
        read(tmp_path / "deep.png", 256)


def test_a_folder_is_read_in_order_and_what_is_not_used_is_said(tmp_path, capsys):
    for name, value in (("b", 255), ("a", 0), ("c", 51)):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / f"{name}.png")
    found = read(tmp_path, 256)
    np.testing.assert_allclose(found.values[:, 0, 0, 0], [-1, 1, -0.6], atol=1e-6)
    assert len(read(tmp_path, 256, most=2).values) == 2
    assert "the first 2 of 3 pictures are used" in capsys.readouterr().out
    Image.fromarray(np.full((8, 12), 51, np.uint8)).save(tmp_path / "c.png")
    np.testing.assert_allclose(read(tmp_path, 256).values[2], -0.6, atol=1e-6)
    output = capsys.readouterr().out
    assert (
        "scaled and cropped to 4x4 pixels: 1 images, the first c.png of 8x12" in output
    )


def test_arrays_are_of_any_shape_and_of_the_levels_of_their_file(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, samples=np.array([[[0], [16]]], np.uint8), levels=17)
    values = read(path, 17, (2, 1)).values
    assert values.tolist() == [[[-1.0], [1.0]]]
    np.testing.assert_array_equal(read(path, 256, (2, 1)).values, values)
    digests = [read(path, 17, (2, 1)).digest]
    floats = np.array([[0.25, 7.0], [1.0, -3.0]], np.float32)
    np.save(tmp_path / "a.npy", floats)
    found = read(tmp_path / "a.npy", None, (2,))
    np.testing.assert_array_equal(found.values, floats)
    np.testing.assert_array_equal(
        read(tmp_path / "a.npy", None, (2, 2)).values, floats[None]
    )
    digests += [found.digest, pictures.digest(floats[::-1])]
    assert len({*digests}) == 3


def test_what_is_no_data_of_the_model_is_refused_with_the_way_out(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    (tmp_path / "text.txt").write_text("no picture")
    (tmp_path / "inner" / "folder").mkdir(parents=True)
    Image.fromarray(GREY).save(tmp_path / "inner" / "folder" / "a.png")
    saved = {
        "long": np.zeros((2, 3)),
        "whole": np.zeros((1, 2), int),
        "nan": np.full((1, 2), np.nan),
        "loud": np.full((1, 2), 2.0),
        "high": np.full((1, 2), 17, np.uint8),
    }
    for name, values in saved.items():
        np.save(tmp_path / f"{name}.npy", values)
    np.savez(tmp_path / "two.npz", samples=np.zeros(2), values=np.zeros(2))
    points, latents = dict(event_shape=(2,)), dict(name="latents")
    cases = {
        "a.png": (points, r"an image, and samples .* have shape \[2\]: give an array"),
        "broken.png": ({}, "broken.png"),
        "text.txt": ({}, "text.txt: no image"),
        "inner": ({}, "a folder of folders: name one of them, such as 'folder'"),
        "long.npy": (points, r"shape \[2, 3\]: must be \[n, \*event\] .* \[2\]"),
        "whole.npy": (points, "type int64: must be floats"),
        "nan.npy": (points, "2 of 2 values are not finite"),
        "loud.npy": (dict(levels=256, **points), r"from 2 to 2: must be in \[-1, 1\]"),
        "high.npy": (dict(levels=17, **points), r"up to 17: must be levels 0\.\.16"),
        "two.npz": (points, "more than one array 'samples' or 'values' or 'images'"),
    }

    def is_refused(name, settings, message):
        with pytest.raises(UsageError, match=f"init_image='.*{message}"):
            read(tmp_path / name, **settings)

    check_all(is_refused, {name: (name, *case) for name, case in cases.items()})
    is_refused(
        "a.png", latents, "are latents: give --autoencoder, or latents in an .npy"
    )


def test_masks_are_known_where_white(tmp_path, capsys):
    white = np.zeros((4, 4), np.uint8)
    white[0] = 255
    Image.fromarray(white).save(tmp_path / "a.png")
    Image.fromarray(white).convert("1").save(tmp_path / "b.png")
    np.save(tmp_path / "a.npy", white > 0)
    np.savez(tmp_path / "a.npz", mask=(white > 0)[..., None].astype(float))
    expected = np.broadcast_to((white > 0)[..., None], (4, 4, 3))
    for name in ("a.png", "b.png", "a.npy", "a.npz"):
        found = pictures.mask(str(tmp_path / name), (4, 4, 3))
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert "mask: 12 of 48 values are known" in capsys.readouterr().out
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    Image.fromarray(white[:2]).save(tmp_path / "small.png")
    np.save(tmp_path / "bytes.npy", white)
    for name, shape, said in [
        ("grey.png", (4, 4, 3), "values other than 0 and 255: must be 255 where the"),
        ("bytes.npy", (4, 4, 3), "values other than 0 and 1: must be 1 where the"),
        ("small.png", (4, 4, 3), r"shape \[2, 4, 1\]: must be that of the samples"),
        ("a.png", (2,), r"an image, and samples of this run have shape \[2\]"),
    ]:
        with pytest.raises(UsageError, match=f"mask='.*{name}': {said}"):
            pictures.mask(str(tmp_path / name), shape)


def test_a_place_of_the_latents_is_known_where_all_of_its_pixels_are():
    known = np.ones((4, 6, 3), bool)
    known[0, 1, 2] = known[3, 4, 0] = False
    found = pictures.coarser(known, (2, 3, 4))
    assert found.shape == (2, 3, 4)
    assert found[..., 3].tolist() == [[False, True, True], [True, True, False]]
    one = np.zeros((4, 6, 3), bool)
    assert not pictures.coarser(one, (2, 3, 4)).any()
    one[0, 1] = True
    with pytest.raises(ValueError, match="no place of the latents has all of its 2"):
        pictures.coarser(one, (2, 3, 4))
