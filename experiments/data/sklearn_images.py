"""The images that scikit-learn brings along: digits, and patches of photographs."""

import numpy as np

from experiments.data.base import DataSet, DataTransform, Examples, flip, split

TRAIN_SHARE = 7 / 8  # of the width of a photograph; the rest is held out


def digits() -> DataSet:
    """Loads scikit-learn's 1,797 handwritten digits: uint8 [n, 8, 8, 1], levels 0..16.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI
    machine learning repository, 1998 (its test part), as bundled with scikit-learn.
    """
    from sklearn.datasets import load_digits  # slow to import, and needed only here

    bunch = load_digits()
    return split(bunch.images.astype(np.uint8)[..., None], bunch.target, levels=17)


def patches(*, size: int = 16, stride: int = 4, flips: bool = False) -> DataSet:
    """Cuts squares of scikit-learn's two photographs, uint8 [n, size, size, 3].

    The label is the photograph. Training squares lie `stride` pixels apart in the left
    seven eighths; test squares tile the rest, so no held-out pixel is trained on.

    Args:
      size: side of a square in pixels, 1 to 80.
      stride: pixels between the corners of training squares, at least 1 and at most the
        width.
      flips: mirrors training squares half of the time.

    Raises:
      ValueError: if `size` or `stride` is out of range.
    """
    from sklearn.datasets import load_sample_images  # slow to import; needs Pillow

    photographs = load_sample_images().images
    border = int(min(image.shape[1] for image in photographs) * TRAIN_SHARE)
    largest = min(min(i.shape[0], i.shape[1] - border) for i in photographs)
    if not 1 <= size <= largest:
        raise ValueError(f"size={size}: must be in 1..{largest}, the held-out width")
    if not 1 <= stride <= border:
        raise ValueError(f"stride={stride}: must be in 1..{border}")
    return DataSet(
        _squares([image[:, :border] for image in photographs], size, stride),
        _squares([image[:, border:] for image in photographs], size, size),
        transform=DataTransform(256),
        num_classes=len(photographs),
        augment_fn=flip if flips else None,
    )


def _squares(images: list[np.ndarray], size: int, stride: int) -> Examples:
    """Cuts all squares [n, size, size, channels] on a lattice, labelled by image."""
    values, labels = [], []
    for label, image in enumerate(images):
        windows = np.lib.stride_tricks.sliding_window_view(image, (size, size), (0, 1))
        chosen = windows[::stride, ::stride].transpose(0, 1, 3, 4, 2)
        values.append(chosen.reshape(-1, size, size, image.shape[2]))
        labels.append(np.full(len(values[-1]), label, np.int32))
    return Examples(np.concatenate(values), np.concatenate(labels))
