"""What is read of an image is what a viewer shows: `data/image_decoding.py`."""

import contextlib
import io
import os
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from experiments.data import image_decoding, image_folder
from experiments.data.image_decoding import UnfitError
from experiments.data.image_format import ImageFormat
from tests.helpers.pictures import chunk, png16

RNG = np.random.RandomState(0)
GREY = RNG.randint(0, 256, (6, 4), np.uint8)
COLOUR = RNG.randint(0, 256, (6, 4, 3), np.uint8)
DEEP = RNG.randint(0, 65536, (6, 4, 3)).astype(np.uint16)
# what a viewer does with stored pixels [height, width], by the EXIF standard: where the
# stored first row and first column are seen
SHOWN = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],  # top right
    3: lambda x: x[::-1, ::-1],  # bottom right
    4: lambda x: x[::-1],  # bottom left
    5: lambda x: x.swapaxes(0, 1),  # left top
    6: lambda x: np.rot90(x, -1),  # right top
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),  # right bottom
    8: lambda x: np.rot90(x, 1),  # left bottom
}


def read(source, size=None, channels=3, bits=8):
    return ImageFormat(size, channels, bits).read(source)


def saved(image, kind="png", **settings):
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def oriented(orientation, kind, pixels=COLOUR):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"webp": dict(lossless=True)}.get(kind, {})
    return saved(Image.fromarray(pixels), kind, exif=exif, **lossless)


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_images_are_turned_as_a_viewer_does(orientation, kind):
    found = read(oriented(orientation, kind))
    np.testing.assert_array_equal(found, SHOWN[orientation](COLOUR))


@pytest.mark.parametrize("orientation", SHOWN)
def test_photographs_of_a_folder_are_turned(tmp_path, orientation):
    """JPEG: the upper half of what is stored is white. A row of blocks is 8 pixels."""
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8] = 255
    for number in range(9):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(oriented(orientation, "jpeg", stored))
    expected = SHOWN[orientation](stored)
    found = image_folder.folder(path=str(tmp_path))
    assert found.event_shape == expected.shape
    np.testing.assert_array_equal(found.test.values[np.array([0])][0], expected)
    sized = image_folder.folder(path=str(tmp_path), size=expected.shape[:2])
    np.testing.assert_array_equal(sized.test.values[np.array([0])][0], expected)


@pytest.mark.parametrize("orientation", SHOWN)
def test_images_of_16_bits_are_turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    more = chunk(b"eXIf", exif.tobytes()[6:])
    found = read(png16(DEEP, more), bits=16)
    expected = SHOWN[orientation](DEEP / 65535 * 2 - 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_orientation_that_there_is_not_means_nothing(value):
    np.testing.assert_array_equal(read(oriented(value, "png")), COLOUR)


def test_corrupted_exif_data_are_ignored():
    broken = saved(
        Image.fromarray(COLOUR), "png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"
    )
    np.testing.assert_array_equal(read(broken), COLOUR)


def palette(transparent=None):
    image = Image.fromarray(GREY % 4, "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 9, 9])
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


PALETTE = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 9, 9]], np.uint8)
THREE = np.stack([GREY] * 3, -1)
OPAQUE = np.dstack([COLOUR, np.full_like(GREY, 255)])


@pytest.mark.parametrize(
    ("image", "expected"),
    {
        "1": (Image.fromarray(GREY > 127), np.where(THREE > 127, 255, 0)),
        "L": (Image.fromarray(GREY), THREE),
        "LA": (Image.fromarray(np.dstack([GREY, 0 * GREY + 255]), "LA"), THREE),
        "P": (palette(), PALETTE[GREY % 4]),
        "P, opaque": (palette(bytes([255] * 4)), PALETTE[GREY % 4]),
        "RGB": (Image.fromarray(COLOUR), COLOUR),
        "RGBA": (Image.fromarray(OPAQUE), COLOUR),
        "CMYK": (Image.fromarray(COLOUR).convert("CMYK"), COLOUR),
        "YCbCr": (Image.fromarray(THREE).convert("YCbCr"), THREE),
        "HSV": (Image.fromarray(THREE).convert("HSV"), THREE),
    }.values(),
    ids=["1", "L", "LA", "P", "P255", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"],
)
def test_modes_of_8_bits_are_read(image, expected):
    found = read(image)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    deep = read(image, bits=16)
    assert deep.dtype == np.float32
    np.testing.assert_allclose(deep, expected / 127.5 - 1.0, atol=1e-6)
    if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        np.testing.assert_array_equal(read(saved(image)), expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_files_of_fewer_bits_have_the_levels_of_a_viewer(bits):
    count = 2**bits
    grey = (np.arange(24) % count).astype(np.uint8).reshape(6, 4)
    packed = np.packbits(
        np.unpackbits(grey[..., None], axis=2)[..., -bits:].reshape(6, -1), axis=1
    )
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    file = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 6, bits, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    expected = np.rint(grey * (255 / (count - 1)))
    np.testing.assert_array_equal(read(file, channels=1)[..., 0], expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_bmp_of_16_bits_a_pixel_has_fewer_than_8_for_each_colour(bits):
    stored = RNG.randint(0, 2**16, (6, 4)).astype("<u2")
    head = struct.pack("<IiiHHIIiiII", 40, 4, -6, 1, 16, 3, 48, 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    size = 14 + len(head) + len(masks)
    file = struct.pack("<2sIHHI", b"BM", size + 48, 0, 0, size) + head + masks
    found = read(file + stored.tobytes(), bits=bits)
    parts = stored >> 11, stored >> 5 & 63, stored & 31
    levels = [part * (255 / top) for part, top in zip(parts, (31, 63, 31), strict=True)]
    expected = np.stack(levels, -1)
    seen = found if bits == 8 else (found + 1.0) * 127.5
    np.testing.assert_allclose(seen, expected, atol=1)


HALF = np.dstack([COLOUR, 0 * GREY + 128])


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image.fromarray(np.dstack([GREY, GREY]), "LA"), "mode LA, transparent"),
        (palette(0), "mode P, transparent"),
        (palette(bytes([255, 128, 255, 255])), "mode P, transparent"),
        (Image.fromarray(HALF), "mode RGBA, transparent"),
        (Image.fromarray(HALF).convert("RGBa"), "mode RGBa, transparent"),
        (Image.fromarray(GREY.astype(np.int32)), "mode I: convert it to 8 bits"),
        (Image.fromarray(GREY.astype(np.float32)), "mode F: .* as an .npz"),
        (Image.new("LAB", (4, 6)), "mode LAB: convert it"),
    ],
)
@pytest.mark.parametrize("bits", [8, 16])
def test_modes_that_would_lose_something_are_refused(image, said, bits):
    with pytest.raises(UnfitError, match=said):
        read(image, bits=bits)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_colour_is_refused(mode):
    image = Image.fromarray(COLOUR).convert(mode)
    pixel = image.getpixel((0, 0))
    file = saved(image, transparency=pixel)
    with pytest.raises(UnfitError, match=f"mode {mode}, transparent"):
        read(file)


@pytest.mark.parametrize("channels", [1, 2, 3, 4], ids=["L", "LA", "RGB", "RGBA"])
def test_16_bits_are_refused_unless_they_are_asked_for(channels):
    """Of colours Pillow says mode RGB, and gives the upper 8 bits."""
    values = RNG.randint(0, 65536, (6, 4, channels)).astype(np.uint16)
    with pytest.raises(UnfitError, match="mode .*, 16 bits in the file: bits=16 reads"):
        read(png16(values))
    if channels in (1, 3):
        found = read(png16(values), channels=channels, bits=16)
        np.testing.assert_allclose(found, values / 65535 * 2 - 1, atol=1e-6)
        back = np.rint((found + 1.0) * 32767.5)
        np.testing.assert_array_equal(back, values)  # not one of 65,536 levels is lost
    else:
        said = "stored as LA;16B|mode RGBA, transparent"
        with pytest.raises(UnfitError, match=said):
            read(png16(values), bits=16)


def test_64_dim_levels_of_16_bits_are_64_levels():
    dim = np.arange(64, dtype=np.uint16).reshape(8, 8, 1).repeat(3, 2)
    assert len(np.unique(read(png16(dim), bits=16))) == 64
    with pytest.raises(UnfitError, match="16 bits"):
        read(png16(dim))


def test_16_bits_with_an_opaque_alpha_channel_and_as_grey():
    opaque = np.dstack([DEEP, np.full((6, 4), 65535, np.uint16)])
    expected = DEEP / 65535 * 2 - 1
    np.testing.assert_allclose(read(png16(opaque), bits=16), expected, atol=1e-6)
    grey = read(png16(DEEP), channels=1, bits=16)[..., 0]
    np.testing.assert_allclose(grey, expected @ (0.299, 0.587, 0.114), atol=1e-5)
    one = DEEP[..., :1]
    colour = read(png16(one), bits=16)
    np.testing.assert_allclose(colour, (one / 65535 * 2 - 1).repeat(3, 2), atol=1e-6)
    transparent = chunk(b"tRNS", struct.pack(">HHH", *DEEP[0, 0].tolist()))
    with pytest.raises(UnfitError, match="mode RGB, transparent"):
        read(png16(DEEP, transparent), bits=16)


def test_16_bits_in_another_file_than_png_are_refused():
    deep = Image.fromarray(DEEP[..., 0])
    np.testing.assert_allclose(
        read(saved(deep, "tiff"), channels=1, bits=16)[..., 0],
        DEEP[..., 0] / 65535 * 2 - 1,
        atol=1e-6,
    )
    ppm = b"P6 4 6 65535\n" + DEEP.astype(">u2").tobytes()
    assert Image.open(io.BytesIO(ppm)).mode == "RGB"  # Pillow reads 8 bits
    with pytest.raises(UnfitError, match="format PPM: convert it to PNG"):
        read(ppm)


def test_16_bits_are_scaled_without_rounding():
    smooth = np.linspace(0, 65535, 64).astype(np.uint16).reshape(1, 64, 1)
    found = read(png16(smooth.repeat(8, 0)), (4, 32), channels=1, bits=16)
    steps = np.diff(found[2, 4:-4, 0])
    np.testing.assert_allclose(steps, 2 * 2 / 63, rtol=1e-3)
    edge = np.repeat([0, 65535], 8).astype(np.uint16).reshape(1, 16, 1).repeat(16, 0)
    found = read(png16(edge), (64, 64), channels=1, bits=16)  # it would overshoot
    assert (found.min(), found.max()) == (-1, 1)


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff"])
def test_animations_are_refused(kind):
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    file = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(UnfitError, match="2 frames: save each as a file"):
        read(file)


def test_the_first_picture_of_a_phones_jpeg_is_read():
    """MPO: a photograph with its depth map or preview behind it; viewers show one."""
    frames = [Image.fromarray(np.zeros((8, 8, 3), np.uint8) + n) for n in (200, 50)]
    file = saved(frames[0], "mpo", save_all=True, append_images=frames[1:])
    assert read(file).min() > 150


def test_a_small_file_of_many_pixels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    for side, said in ((101, "101 x 101 pixels"), (200, "too many pixels")):
        file = saved(Image.new("L", (side, side)))
        with pytest.raises(UnfitError, match=f"{said}: at most 10,000 are read"):
            read(file)
    assert read(saved(Image.new("L", (100, 100)))).shape == (100, 100, 3)
    with pytest.raises(UnfitError, match="so long that 16 x 16000 would cover"):
        read(saved(Image.new("L", (1, 1000))), (16, 16))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (((4,), 3, 8), r"size=\(4,\): must be \(height, width\)"),
        (((4, 0), 3, 8), r"size=\(4, 0\): .* both in 1..16384"),
        (((4, 10**9), 3, 8), r"size=\(4, 1000000000\): .* both in 1..16384"),
        (((4, 4), 2, 8), "channels=2: must be 1 or 3"),
        (((4, 4), 3, 12), "bits=12: must be 8 or 16"),
    ],
)
def test_impossible_formats_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        ImageFormat(*arguments)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 4, 3)), "type float64: must be uint8"),
        (np.zeros((3, 8, 8), np.uint8), r"axes \[3, 8, 8\]: the channels must be"),
        (np.zeros((4, 8, 4), np.uint8), "4 channels, RGBA or CMYK"),
        (np.zeros((5, 8, 2), np.uint8), r"axes \[5, 8, 2\]: must be \[height, width"),
        (np.zeros((0, 8), np.uint8), r"axes \[0, 8\]: must be"),
        (np.zeros((4, 4, 3), np.uint16), "colours of 16 bits in an array"),
    ],
)
def test_arrays_that_are_no_images_are_refused(array, said):
    with pytest.raises(UnfitError, match=said):
        read(array, bits=16)


def test_arrays_of_16_bits_are_grey():
    found = read(DEEP[..., :1], channels=1, bits=16)
    np.testing.assert_allclose(found, DEEP[..., :1] / 65535 * 2 - 1, atol=1e-6)
    with pytest.raises(UnfitError, match="mode I;16, 16 bits"):
        read(DEEP[..., 0])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), "a folder, not a file"),
        (os.mkfifo, "a pipe or device, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "a pipe or device"),
        (lambda path: path.symlink_to("gone"), "a link to nothing"),
        (lambda path: path.symlink_to(path.name), "[Ss]ymbolic links"),
        (lambda path: path.touch(), "an empty file"),
        (lambda path: path.write_bytes(b"GIF"), "no image, or its beginning"),
        (lambda path: None, "No such file"),
    ],
)
def test_what_is_no_file_of_an_image_is_said(tmp_path, make, said):
    path = tmp_path / "0.png"
    make(path)
    with pytest.raises(ValueError, match=said):
        read(path)


def test_no_file_is_left_open(tmp_path, monkeypatch):
    path = tmp_path / "0.png"
    path.write_bytes(png16(DEEP))
    found, opened = [], Image.open
    monkeypatch.setattr(
        Image, "open", lambda source: found.append(opened(source)) or found[-1]
    )
    for bits, count in ((8, 1), (16, 3)):
        with contextlib.suppress(UnfitError):
            read(path, bits=bits)
        assert len(found) == count
    for image in found:
        assert image.fp is None or image.fp.closed


def test_every_other_mode_of_pillow_is_refused_by_name():
    modes = {
        *("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"),
        *("LA", "PA", "RGBX", "RGBa", "La", "I;16", "I;16L", "I;16B", "I;16N"),
    }
    known = {*image_decoding.PLAIN, *image_decoding.ALPHA}
    for mode in sorted(modes - known):
        image = Image.new(mode, (4, 6))
        with pytest.raises(UnfitError, match=re.escape(f"mode {mode}")):
            read(image)
