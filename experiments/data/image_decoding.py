"""Image files as arrays: what a viewer shows, or a refusal that names the way out.

| in the file | what is read |
|---|---|
| EXIF orientation 2 to 8 | turned and mirrored as a viewer does |
| 1, 2, 4 or 8 bits of grey (modes 1, L), palettes (P), RGB | the levels 0..255 |
| YCbCr, HSV, and CMYK without its colour profile | converted to RGB |
| an alpha channel or a transparent colour (LA, PA, RGBA, P) | where all is opaque |
| 16 bits of grey (I;16) or colour in a PNG | with `bits=16` |
| LAB, integers of 32 bits (I), floats (F), several frames | refused |

Pillow reads colours of 16 bits as 8 without a word, so that the depth is that of the
file, from what Pillow is about to decode. With `bits=16` images are float32 in [-1, 1],
those of 8 bits too.
"""

import contextlib
import io
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from experiments.data.regular_file import check_regular

MODES = {1: "L", 3: "RGB"}  # of Pillow, by number of channels
FORMATS = ("BMP", "GIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP")  # of known depth
PLAIN = ("1", "L", "P", "RGB", "RGBX", "YCbCr", "CMYK", "HSV")
ALPHA = ("LA", "PA", "RGBA", "La", "RGBa")
DEEP = re.compile(";16[BLN]")  # how pixels are stored; BGR;16 has 5, 6 and 5 bits
GREY = (0.299, 0.587, 0.114)  # of red, green and blue, as in Pillow's mode L
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Source = pathlib.Path | bytes | Image.Image | np.ndarray
warnings.filterwarnings("ignore", module="PIL")  # what matters is refused


class UnfitError(ValueError):
    """An image in order, of which something would be lost."""


def in_words(error: Exception) -> str:
    """Describes the reason for a fault in one line."""
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    plain = isinstance(error, (ValueError, SyntaxError, OSError))
    return reason if plain and reason else f"{type(error).__name__}: {reason}"


@contextlib.contextmanager
def opened(source: Source) -> Iterator[Image.Image]:
    """Opens an image, and closes it in the end unless it was given opened."""
    image = open_image(source)
    try:
        yield image
    finally:
        if image is not source:
            image.close()


def open_image(source: Source) -> Image.Image:
    """Opens an image without decoding its pixels.

    Raises:
      ValueError: it is no image, or one of too many pixels.
    """
    if isinstance(source, np.ndarray):
        return _of_array(source)
    image = source if isinstance(source, Image.Image) else _of_file(source)
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and image.width * image.height > most:
        raise _too_large(f"{image.width} x {image.height} pixels")
    if image.format not in (None, *FORMATS):
        image.close()
        raise UnfitError(
            f"a file of format {image.format}: convert it to PNG; what is read is "
            f"{', '.join(FORMATS)}"
        )
    return image


def _of_file(source: pathlib.Path | bytes) -> Image.Image:
    """Opens a file with Pillow, with reasons in words."""
    if isinstance(source, pathlib.Path):
        check_regular(source)
    elif not source:
        raise ValueError("empty")
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except Image.DecompressionBombError as error:
        raise _too_large("too many pixels") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError("no image, or its beginning is corrupted") from error


def _too_large(count: str) -> UnfitError:
    return UnfitError(
        f"{count}: at most {Image.MAX_IMAGE_PIXELS:,} are read; scale it down"
    )


def _of_array(array: np.ndarray) -> Image.Image:
    """Converts an array [height, width] or [height, width, 1 or 3] to an image."""
    if array.dtype not in (np.uint8, np.uint16):
        raise UnfitError(
            f"type {array.dtype}: must be uint8; save the images as files of 8 bits, "
            "or as an .npz, whose floats have a declared range"
        )
    shape = array.shape
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        raise UnfitError(f"axes {list(shape)}: the channels must be the last one")
    if len(shape) == 3 and shape[2] == 4:
        raise UnfitError(
            "4 channels, RGBA or CMYK, which an array does not say: convert it to RGB"
        )
    if not array.size or len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,)):
        raise UnfitError(f"axes {list(shape)}: must be [height, width, 1 or 3]")
    if array.dtype == np.uint16 and shape[2:] == (3,):
        raise UnfitError("colours of 16 bits in an array: save them as PNG files")
    return Image.fromarray(array.reshape(shape[:2]) if shape[2:] == (1,) else array)


def planes(
    source: Source, image: Image.Image, channels: int, bits: int
) -> list[Image.Image]:
    """Decodes an image, turned as a viewer turns it.

    Args:
      source: of which `image` was opened.
      image: not decoded yet.
      channels: 1 or 3.
      bits: 8 for one image of grey or colours, 16 for a plane of floats in 0..65535 for
        each channel.

    Raises:
      UnfitError: something would be lost.
      ValueError: it is broken.
    """
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise UnfitError(f"{frames} frames: save each as a file, or the first alone")
    deep = image.mode.startswith("I;16") or DEEP.search(_raw_mode(image))
    if deep and bits == 8:
        raise UnfitError(
            f"mode {image.mode}, 16 bits in the file: bits=16 reads them as floats; or "
            "convert it to 8 bits"
        )
    if deep:
        found = _sixteen(source, image, channels)
    else:
        plain = _eight(image).convert(MODES[channels])
        found = [plain] if bits == 8 else [_deeper(band) for band in plain.split()]
    turn = _turn(image)
    return found if turn is None else [plane.transpose(turn) for plane in found]


def _raw_mode(image: Image.Image) -> str:
    """Returns how pixels lie in the file, which is known until they are decoded."""
    tile: Any = (getattr(image, "tile", None) or [(None, None, 0, "")])[0]
    args = tile[3]
    if isinstance(args, (tuple, list)):
        args = next((item for item in args if isinstance(item, str)), "")
    return args if isinstance(args, str) else ""


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Reads from the EXIF orientation how to turn an image whose pixels are decoded.

    EXIF data that cannot be read mean nothing, as in a viewer.
    """
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # whatever corrupted EXIF data raise
        return None


def _eight(image: Image.Image) -> Image.Image:
    """Returns an image of 8 bits without its alpha channel, which must be opaque."""
    if image.mode not in PLAIN + ALPHA:
        raise UnfitError(
            f"mode {image.mode}: convert it to 8 bits, grey or colour; or save the "
            "images as an .npz, whose floats have a declared range"
        )
    image.load()
    if not image.has_transparency_data:
        return image
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    if alpha.min() < 255:
        raise UnfitError(
            f"mode {image.mode}, transparent: put it on a background and convert it to "
            "8 bits, grey or colour"
        )
    return image.convert("RGBA").convert("RGB")


def _deeper(band: Image.Image) -> Image.Image:
    """Converts levels 0..255 to floats in 0..65535."""
    return Image.fromarray(np.asarray(band, np.float32) * 257)


def _sixteen(source: Source, image: Image.Image, channels: int) -> list[Image.Image]:
    """Makes the planes of an image of 16 bits, floats in 0..65535."""
    found = _stored(source, image)
    if channels == 1 and found.shape[-1] == 3:
        found = found @ np.array(GREY, np.float32)[:, None]
    found = np.broadcast_to(found, (*found.shape[:2], channels))
    return [Image.fromarray(found[..., channel]) for channel in range(channels)]


def _stored(source: Source, image: Image.Image) -> np.ndarray:
    """Reads grey or colours of 16 bits, float32 [height, width, 1 or 3] in 0..65535.

    Pillow reads the first byte of each colour; asked for the other order of bytes, it
    reads the second.
    """
    if "transparency" in image.info:
        raise UnfitError(f"mode {image.mode}, transparent: remove the transparency")
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.float32)[..., None]
    raw, given = _raw_mode(image), image is source
    if given or image.format != "PNG" or raw not in ("RGB;16B", "RGBA;16B"):
        raise UnfitError(
            f"mode {image.mode}, stored as {raw}: convert it to a PNG of 16 bits, grey "
            "or colour, without alpha"
        )
    with opened(source) as again:
        other: Any = again
        other.tile = [(*each[:3], raw.replace("16B", "16L")) for each in other.tile]
        found = np.asarray(image, np.float32) * 256 + np.asarray(other, np.float32)
    if found.shape[-1] == 4 and found[..., 3].min() < 65535:
        raise UnfitError(f"mode {image.mode}, transparent: put it on a background")
    return found[..., :3]
