"""Files of `sample --conditions`: `sampling/requested.py`."""

import os

import numpy as np
import pytest

from experiments.sampling import requested


def test_an_array_is_read(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(3))
    (found,) = requested.read_npy(str(tmp_path / "a.npy")).values()
    np.testing.assert_array_equal(found, np.eye(3))


def test_what_is_no_array_is_said_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "empty.npy").touch()
    (tmp_path / "text.npy").write_text("1 2 3")
    np.savez(tmp_path / "a.npz", a=np.eye(3))
    (tmp_path / "a.npz").rename(tmp_path / "many.npy")
    for name, said in [
        ("pipe", "a pipe or device, not a file"),
        ("empty", "an empty file"),
        ("text", "pickle"),
        ("many", "it holds several arrays: name it .npz"),
        ("gone", "No such file"),
    ]:
        with pytest.raises(ValueError, match=f"no readable .npy file: .*{said}"):
            requested.read_npy(str(tmp_path / f"{name}.npy"))
