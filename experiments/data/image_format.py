"""Images as arrays of one size, number of channels and depth."""

import dataclasses

import numpy as np
from PIL import Image

from experiments.data import image_decoding
from experiments.data.image_decoding import MODES, Source, UnfitError, opened

LARGEST_SIDE = 16_384  # pixels that images may be scaled to


@dataclasses.dataclass(frozen=True)
class ImageFormat:
    """How images become arrays [height, width, channels].

    Args:
      size: (height, width): images are scaled to cover it and cropped at the centre;
        None leaves them as they are.
      channels: 1 (grey) or 3 (red, green, blue).
      bits: 8 gives uint8; 16 gives float32 in [-1, 1].

    Raises:
      ValueError: images cannot be of this format.
    """

    size: tuple[int, ...] | None
    channels: int
    bits: int

    def __post_init__(self) -> None:
        if self.channels not in MODES:
            raise ValueError(f"channels={self.channels}: must be 1 or 3")
        if self.bits not in (8, 16):
            raise ValueError(f"bits={self.bits}: must be 8 or 16")
        size = self.size
        if size is not None and (
            len(size) != 2 or min(size) < 1 or max(size) > LARGEST_SIDE
        ):
            raise ValueError(
                f"size={size}: must be (height, width), both in 1..{LARGEST_SIDE}"
            )

    @property
    def dtype(self) -> type:
        """Of the arrays."""
        return np.uint8 if self.bits == 8 else np.float32

    @property
    def levels(self) -> int | None:
        """Of the arrays; None for floats."""
        return 256 if self.bits == 8 else None

    def read(self, source: Source) -> np.ndarray:
        """Reads an image as an array: a file, its bytes, an opened image or an array.

        Raises:
          UnfitError: it has transparency, more bits than `bits` or several frames,
            which would be lost.
          ValueError: it is broken.
        """
        with opened(source) as image:
            planes = image_decoding.planes(source, image, self.channels, self.bits)
        planes = [_fitted(plane, self.size) for plane in planes]
        if self.bits == 8:
            found: np.ndarray = np.asarray(planes[0], np.uint8)
        else:
            found = np.stack([np.asarray(plane, np.float32) for plane in planes], -1)
            found = np.clip(found, 0, 65535) * np.float32(2 / 65535) - np.float32(1)
        height, width = found.shape[:2]
        return found.reshape(height, width, self.channels)

    def check(self, source: Source) -> tuple[int, int]:
        """Reads an image to its end, with its checksums; returns height and width.

        Raises:
          ValueError: as `read`.
        """
        if not isinstance(source, (Image.Image, np.ndarray)):
            with opened(source) as image:
                if image.format == "PNG":  # of which Pillow reads no checksums else
                    image.verify()
        height, width, _ = self.read(source).shape
        return height, width


def _fitted(image: Image.Image, size: tuple[int, ...] | None) -> Image.Image:
    """Scales an image to cover `size` and crops it at the centre."""
    if size is None or image.size == (size[1], size[0]):
        return image
    height, width = size
    scale = max(height / image.height, width / image.width)
    grown = (
        max(width, round(image.width * scale)),
        max(height, round(image.height * scale)),
    )
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and grown[0] * grown[1] > most:
        raise UnfitError(
            f"{image.width} x {image.height} pixels, so long that {grown[0]} x "
            f"{grown[1]} would cover the size: crop it"
        )
    image = image.resize(grown, Image.Resampling.LANCZOS)
    left, top = (grown[0] - width) // 2, (grown[1] - height) // 2
    return image.crop((left, top, left + width, top + height))
