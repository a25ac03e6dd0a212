"""Decoded latents: `sampling/autoencoder.py`."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.runtime.errors import Diverged, UsageError
from experiments.sampling import autoencoder
from experiments.sampling.autoencoder import PICTURES, Codec


def test_pictures_are_made_a_batch_at_a_time():
    widths = []

    def decode_fn(z):
        widths.append(len(z))
        return np.repeat(1.2 * z, 3, axis=-1)

    encode_fn = lambda x: x[..., :1] / 1.2
    codec = Codec(decode_fn, encode_fn, 4, (2, 2, 3), "digest")
    z = np.random.RandomState(0).uniform(-1, 1, (10, 2, 2, 1)).astype(np.float32)
    values, outside = codec.pictures(z)
    exact = np.repeat(1.2 * z, 3, axis=-1)
    np.testing.assert_array_equal(values, PICTURES.to_stored(exact))
    assert values.dtype == np.uint8 and widths == [4, 4, 4]
    assert outside == (np.abs(exact) > 1 + 1 / 255).sum() > 0
    np.testing.assert_allclose(codec.latents(exact), z, rtol=1e-6)
    z[9, 0, 0] = np.nan
    with pytest.raises(Diverged, match="decoded pictures are not finite"):
        codec.pictures(z)
    with pytest.raises(Diverged, match="latents of the pictures are not finite"):
        codec.latents(np.repeat(z, 3, axis=-1))


def doubt(folder, scale=0.5, digest="same", **more):
    data = {"name": "latents", "path": str(folder)}
    identity = {"examples": {}, "config": {"data": data}} | more
    opened = SimpleNamespace(scale=scale, shift=np.float32(0.25))
    return autoencoder._doubt("vae", opened, digest, identity)


def test_an_autoencoder_is_compared_with_the_one_that_encoded(tmp_path):
    """Scale and shift must be equal; of other weights it is said."""
    part = [{"file": "a.npz", "digest": "a"}]
    index = dict(format=1, num_classes=0, class_names=[])
    index |= dict(shards=dict(train=part, test=part))
    index |= dict(scale=[0.5, 0.5], shift=0.25, autoencoder="same")
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert doubt(tmp_path) == ""
    assert "has other weights than the one that encoded" in doubt(tmp_path, digest="a")
    with pytest.raises(UsageError, match=r"scale 2.0, .* is \[0.5, 0.5\]: take the"):
        doubt(tmp_path, scale=2.0)
    assert "is not known" in doubt(tmp_path / "nowhere")
    original = {"data": {"name": "latents", "path": str(tmp_path)}}
    pairs = {"config": {"data": {"name": "pairs"}}}  # of a run on these latents
    assert doubt("", examples={"original": original}, **pairs) == ""
