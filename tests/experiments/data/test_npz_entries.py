"""What is read of an `.npz`: `data/npz_entries.py`."""

import os
import pathlib

import numpy as np
import pytest

from experiments.config import build
from experiments.data import npz_files
from tests.helpers.npz import RNG, floats, refusal, written

IMAGES = RNG.randint(0, 256, (18, 4, 6, 3), np.uint8)


def test_arrays_that_are_not_read_are_named(tmp_path, capsys):
    more = dict(yaw=np.zeros((18, 2)), meta=np.array([{}]), labels=np.arange(18) % 2)
    path = written(tmp_path / "a.npz", images=IMAGES, **more)
    npz_files.npz(path=path)
    assert f"note: {path}: not read: yaw, meta" in capsys.readouterr().out
    npz_files.npz(path=path, conditions="yaw", labels="")
    assert "not read: meta, labels" in capsys.readouterr().out
    path = written(tmp_path / "b.npz", images=IMAGES, labels=np.arange(18) % 2)
    npz_files.npz(path=path)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("shape", "refused"),
    [
        ((4, 8, 8), True),
        ((3, 8, 8), True),
        ((1, 8, 8), True),
        ((3, 100), True),
        ((3, 2, 8, 8), True),
        ((8, 8, 4), False),
        ((8, 8, 8), False),
        ((4, 8, 4), False),
        ((3, 3, 3), False),
        ((4,), False),
        ((2, 8, 8), False),
    ],
)
def test_channels_that_come_first_are_refused(tmp_path, shape, refused):
    values = floats(36, *shape)
    mean = written(tmp_path / "l.npz", mean=values, std=np.abs(values))
    path = written(tmp_path / "a.npz", values=values)
    for name, found in (("latents", mean), ("npz", path)):
        more = {"unscaled": True} if name == "npz" else {}
        section = dict(name=name, path=found) | more
        if not refused:
            assert build.dataset(section).event_shape == shape
            continue
        line = refusal(**section)
        assert f"events of shape {[*shape]}: are the {shape[0]} along" in line
        assert "channels_first=True moves" in line and "channels_last=True" in line
        kept = build.dataset(section | {"channels_last": True})
        assert kept.event_shape == shape
        moved = build.dataset(section | {"channels_first": True})
        assert moved.event_shape == (*shape[1:], shape[0])
        if name == "npz":
            expected = np.moveaxis(values, 1, -1)[[8, 17, 26, 35]]
            np.testing.assert_array_equal(moved.test.values, expected)
        else:
            expected = np.moveaxis(values, 1, -1)[:8]
            np.testing.assert_array_equal(moved.train.values[:8, 0], expected)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (dict(conditions=("pose", "pose")), "the array 'pose' is named twice"),
        (dict(conditions="labels"), "the array 'labels' is named twice"),
        (dict(mask="labels"), "the array 'labels' is named twice"),
        (dict(conditions="images"), "the array 'images' is named twice"),
        (dict(conditions=3), "conditions=3: must be a name, or several"),
        (dict(levels="16"), "data.levels='16': must be a whole number"),
        (dict(levels=16.5), "data.levels=16.5: must be a whole number"),
        (dict(low="0", high="1"), "must be a number"),
    ],
)
def test_an_array_is_one_thing_and_a_number_no_word(tmp_path, section, said):
    more = dict(labels=np.arange(18) % 2, pose=floats(18, 2))
    path = written(tmp_path / "a.npz", images=IMAGES, **more)
    assert said in refusal(path=path, **section)


@pytest.mark.parametrize("name", ["npz", "latents", "folder"])
def test_held_out_examples_are_no_training_examples(tmp_path, name):
    """As the number of a run that is judged on them."""
    path = written(tmp_path / "a.npz", images=IMAGES)
    path = str(tmp_path) if name == "folder" else path
    (tmp_path / "again").symlink_to(path)
    for other in (path, str(tmp_path / "again")):
        line = refusal(name=name, path=path, test_path=other)
        assert "is path itself, and the held-out examples would be those" in line


def test_values_that_vanish_in_float32_are_refused(tmp_path):
    path = written(tmp_path / "a.npz", values=floats(18, 2).astype(float) * 1e-60)
    assert "all values underflow to 0 in float32, the largest is" in refusal(path=path)


def test_axes_that_cannot_be_moved_are_refused(tmp_path):
    path = written(tmp_path / "a.npz", values=floats(9, 3))
    assert "channels_first=True: values has events of shape [3]" in refusal(
        path=path, channels_first=True
    )
    both = dict(channels_first=True, channels_last=True)
    assert "must be one of them" in refusal(path=path, **both)


def test_a_mask_moves_with_the_channels(tmp_path):
    mask = np.ones((18, 3, 4, 6), bool)
    mask[:, 1, 2, 3] = False
    images = np.moveaxis(IMAGES, -1, 1)
    path = written(tmp_path / "a.npz", images=images, mask=mask)
    found = npz_files.npz(path=path, channels_first=True)
    np.testing.assert_array_equal(found.test.values, IMAGES[[8, 17]])
    np.testing.assert_array_equal(found.test.mask, np.moveaxis(mask, 1, -1)[[8, 17]])
    path = written(tmp_path / "b.npz", images=images, mask=mask[:, :, 0, 0])
    assert npz_files.npz(path=path, channels_first=True).test.mask.shape == (2, 1, 1, 3)


def test_values_that_are_not_finite_are_counted_with_their_place(tmp_path):
    values = floats(18, 5, 2).astype(np.float64)
    values[7, 3, 1], values[9, 0, 0] = np.nan, -np.inf
    said = "2 of 180 values are not finite in float32, the first nan at [7, 3, 1]"
    path = written(tmp_path / "a.npz", values=values)
    assert f"values: {said}" in refusal(path=path)
    assert "2 of 180 values are not finite in float64" in refusal(
        path=path, low=-9.0, high=9.0
    )
    values[9, 0, 0], values[7, 3, 1] = 1e300, 0  # finite, but not in float32
    path = written(tmp_path / "b.npz", values=values)
    assert "1 of 180 values are not finite in float32, the first 1e+300" in refusal(
        path=path
    )
    path = written(tmp_path / "c.npz", values=floats(18, 2), conditions=values)
    assert "shape (18, 5, 2)" in refusal(path=path)
    path = written(tmp_path / "d.npz", values=floats(18, 2), pose=values[:, 0])
    assert "conditions 'pose'" not in refusal(path=path, values="pose")
    path = written(tmp_path / "e.npz", values=floats(18, 2), conditions=values[:, 0])
    assert (
        "conditions 'conditions': 1 of 36 values are not finite in float32, the first "
        "1e+300 at [9, 0]" in refusal(path=path)
    )


@pytest.mark.parametrize("source", ["npz", "latents"])
def test_what_is_no_archive_is_said_and_not_waited_for(tmp_path, source):
    np.save(tmp_path / "a.npy", floats(9, 2))
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04.")
    (tmp_path / "empty.npz").touch()
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "link.npz").symlink_to("gone")
    folder = "a folder, not a file" if source == "npz" else "no index.json"
    for name, said in [
        ("a.npy", "one array alone, not an archive of arrays"),
        ("a.pkl", "an archive of arrays, as numpy.savez writes it"),
        ("empty.npz", "an empty file"),
        ("folder.npz", folder),
        ("pipe.npz", "a pipe or device, not a file"),
        ("link.npz", "a link to nothing"),
        ("gone.npz", "No such file"),
    ]:
        line = refusal(name=source, path=str(tmp_path / name))
        assert said in line and line.count(name) == 1


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_an_archive_cut_short_is_one_line(tmp_path, keep):
    path = pathlib.Path(written(tmp_path / "a.npz", images=IMAGES))
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    assert "no readable .npz file" in refusal(path=str(path))


def test_one_flipped_bit_of_an_array_is_noticed(tmp_path):
    path = pathlib.Path(written(tmp_path / "a.npz", images=IMAGES))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    assert "no readable .npz file" in refusal(path=str(path))
