"""Features for sample metrics, and the baseline of the real digits."""

import jax
import numpy as np
import pytest

from diffusionflow import metrics
from experiments.data import sklearn_images, toy2d
from experiments.evaluation import features

DIGITS = sklearn_images.digits()
IMAGES = np.asarray(DIGITS.transform.to_float(DIGITS.train.values))


@pytest.fixture(scope="module")
def trained():
    return features.classifier(DIGITS, epochs=8)


def test_pixels_are_pixels():
    found = features.pixels().features_fn(IMAGES[:3])
    np.testing.assert_array_equal(found, IMAGES[:3].reshape(3, 64))


@pytest.mark.ci
def test_the_classifier_knows_the_digits_that_were_held_out(trained):
    assert trained.accuracy > 0.95
    found = trained.features_fn(IMAGES[:250])
    assert found.shape == (250, 64)
    # whatever the batch
    np.testing.assert_allclose(trained.features_fn(IMAGES[:7]), found[:7], atol=1e-5)


@pytest.mark.ci
def test_its_name_identifies_its_weights(trained):
    again = [features.classifier(DIGITS, epochs=1).name for _ in range(2)]
    assert again[0] == again[1]
    weights = {name.partition("weights=")[2] for name in (*again, trained.name)}
    assert len(weights) == 2 and "" not in weights


@pytest.mark.ci
def test_real_halves_are_the_baseline_and_noise_is_far_above(trained):
    """In both features; of pixels the baseline is bias, which extrapolation removes."""
    halves = metrics.halves(jax.random.key(0), IMAGES)
    level = IMAGES.std()
    noisy = halves[0] + level * np.random.RandomState(0).standard_normal(
        halves[0].shape
    )
    line = metrics.ExtrapolatedFrechet(jax.random.key(1))
    for kind in (features.pixels(), trained):
        a, b, c = map(kind.features_fn, (*halves, noisy))
        baseline, worse = metrics.Frechet()(a, b), metrics.Frechet()(c, b)
        assert worse > 2 * baseline
    a, b = map(features.pixels().features_fn, halves)
    assert abs(line(a, b)) < 0.3 * metrics.Frechet()(a, b)


def test_too_little_to_learn_from_is_refused():
    with pytest.raises(ValueError, match="epochs=0"):
        features.classifier(DIGITS, epochs=0)
    with pytest.raises(ValueError, match="must be images"):
        features.classifier(toy2d.moons(size=200))


@pytest.mark.ci
def test_weights_are_read_from_files_that_are_there(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*give a local file of weights"):
        features.inception(tmp_path / "inception.pth")
    (tmp_path / "inception.h5").touch()
    with pytest.raises(ValueError, match=r"must end in .safetensors, .npz, "):
        features.inception(tmp_path / "inception.h5")
    np.savez(tmp_path / "state.npz", a=np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="not the weights of Inception"):
        features.inception(tmp_path / "state.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "state.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match="cut.npz: corrupted or no such file"):
        features.inception(tmp_path / "cut.npz")
