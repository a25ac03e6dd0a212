"""Pictures of samples by their shape: `visualization/sample_images.py`."""

import numpy as np
import pytest
from PIL import Image

from experiments.data import DataTransform
from experiments.visualization import sample_images

FLOATS = DataTransform()


def picture(path, samples, *, transform=FLOATS, columns=2):
    labels = np.zeros(len(samples), np.int32)
    sample_images.write_samples(
        path, samples, labels, transform=transform, columns=columns
    )
    return np.asarray(Image.open(path))


def test_a_video_is_a_row_of_its_frames(tmp_path):
    """What is drawn is the grid of images that the frames are, in order."""
    videos = np.random.RandomState(0).randint(0, 17, (3, 4, 8, 8, 1), np.uint8)
    transform = DataTransform(17)
    rows = picture(tmp_path / "a.png", videos, transform=transform, columns=1)
    frames = picture(
        tmp_path / "b.png", videos.reshape(12, 8, 8, 1), transform=transform, columns=4
    )
    np.testing.assert_array_equal(rows, frames)
    floats = transform.to_float(videos)
    bright = picture(tmp_path / "c.png", np.asarray(floats), columns=1)
    assert np.abs(bright.astype(int) - rows).max() <= 1  # 256 levels and 17


@pytest.mark.ci
def test_series_are_drawn_in_a_grid_of_lines(tmp_path):
    """Flat series, each at its own height, on common axes."""
    series = np.broadcast_to(np.arange(4.0)[:, None, None], (4, 6, 1))
    image = picture(tmp_path / "a.png", series, columns=2)
    again = picture(tmp_path / "b.png", series + 0, columns=2)
    np.testing.assert_array_equal(image, again)
    assert image.shape[:2] == (2 * 192, 2 * 288)
    many = np.zeros((100, 6, 2))
    assert picture(tmp_path / "c.png", many, columns=10).shape[0] == 3 * 192


@pytest.mark.parametrize("shape", [(1,), (2, 2, 2, 2, 2), ()])
def test_other_shapes_have_none_and_one_line_says_so(tmp_path, shape):
    assert sample_images.num_shown(shape) == 0
    with pytest.raises(ValueError, match="no picture of samples of shape") as caught:
        picture(tmp_path / "a.png", np.zeros((5, *shape), np.float32))
    assert str(list(shape)) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    "shape", [(2,), (7, 1), (4, 4, 3), (50, 4, 4, 1), (300, 2, 2, 1)]
)
def test_at_least_one_sample_of_a_shape_is_shown(shape):
    assert sample_images.num_shown(shape) >= 1
