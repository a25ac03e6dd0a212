"""Latents: `data/latents.py`."""

import numpy as np
import pytest

from experiments.config import build
from experiments.data import latents
from tests.helpers.npz import floats, refusal, written


def test_latents_of_a_validation_file_are_drawn_once(tmp_path):
    mean, std, text = floats(4, 6, 2), np.abs(floats(4, 6, 2)), floats(4, 3)
    path = written(tmp_path / "a.npz", mean=mean, std=std, conditions=text)
    held_out = dict(mean=mean[:2] + 1, std=0 * std[:2], conditions=text[:2])
    test_path = written(tmp_path / "b.npz", **held_out)
    found = latents.latents(path=path, test_path=test_path)
    np.testing.assert_array_equal(found.test.values, mean[:2] + 1)
    np.testing.assert_array_equal(found.train.values, np.stack([mean, std], axis=1))
    np.testing.assert_array_equal(found.test.conditions, text[:2])
    assert (found.event_shape, found.vector_features) == ((6, 2), 3)


@pytest.mark.parametrize(
    ("scale", "shift"),
    [(0.5, 2.0), ((0.5, 2.0, 1.0), (1.0, 0.0, -1.0)), (2, (1, 2, 3))],
)
def test_latents_have_a_shift_and_a_scale_for_each_channel(tmp_path, scale, shift):
    mean, std = floats(9, 4, 5, 3), np.abs(floats(9, 4, 5, 3))
    path = written(tmp_path / "a.npz", mean=mean, std=std)
    found = build.dataset(dict(name="latents", path=path, scale=scale, shift=shift))
    for channel in range(3):
        s, m = (np.broadcast_to(each, 3)[channel] for each in (scale, shift))
        moments = found.train.values[..., channel]
        np.testing.assert_allclose(
            moments[:, 0], s * (mean[:8, ..., channel] - m), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(moments[:, 1], s * std[:8, ..., channel], rtol=1e-6)
    still = written(tmp_path / "b.npz", mean=mean, std=0 * std)
    found = latents.latents(path=still, scale=scale, shift=shift)
    expected = np.array(scale) * (mean[8:] - np.array(shift))
    np.testing.assert_allclose(found.test.values, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"scale": np.inf}, "scale: 1 of 1 values are not finite"),
        ({"scale": np.nan}, "scale: 1 of 1 values are not finite"),
        ({"scale": 0.0}, "scale=0.0: must be positive"),
        ({"scale": (1.0, -1.0, 1.0)}, "must be positive"),
        ({"scale": (1.0, 1.0)}, "scale of 2 numbers: must be one, or 3, one for each"),
        ({"scale": "one"}, "scale='one': must be a number, or one for each channel"),
        ({"scale": ()}, "scale=(): must be a number"),
        ({"shift": np.nan}, "shift: 1 of 1 values are not finite"),
        ({"shift": (0.0, np.inf, 0.0)}, "shift: 1 of 3 values are not finite"),
        ({"shift": (0.0,) * 4}, "shift of 4 numbers"),
        ({"scale": 3e38}, "scaled moments: "),
    ],
)
def test_wrong_scales_of_latents_are_refused(tmp_path, section, said):
    mean = 9 + floats(9, 4, 5, 3)
    path = written(tmp_path / "a.npz", mean=mean, std=np.ones_like(mean))
    assert said in refusal(name="latents", path=path, **section)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (dict(std=np.full((9, 5, 2), -0.1)), "std: 90 values are negative"),
        (dict(std=np.full((9, 5, 2), 1e300)), "std: 90 of 90 values are not finite"),
        (dict(logvar=np.full((9, 5, 2), 1e3)), "exp(logvar / 2): 90 of 90"),
        (dict(std=np.ones((9, 5, 2), complex)), "std of type complex128"),
        (dict(std=np.ones((9, 5, 2), str)), "std of type <U1"),
        (dict(std=np.array([None])), "'std' holds Python objects"),
    ],
)
def test_wrong_deviations_of_latents_are_refused(tmp_path, arrays, said):
    path = written(tmp_path / "a.npz", mean=floats(9, 5, 2), **arrays)
    assert said in refusal(name="latents", path=path)
