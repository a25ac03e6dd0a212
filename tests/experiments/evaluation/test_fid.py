"""FID by a published protocol: inputs, labels, moments, and what is said."""

import hashlib
import json
import pathlib
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import metrics
from experiments.config import build, registry
from experiments.evaluation import (
    fid_flags,
    fid_inputs,
    fid_protocol,
    fid_reference,
    fid_result,
)
from experiments.runtime.errors import UsageError
from experiments.training import loop
from tests.helpers import arrays, in_process, tiny

pytestmark = pytest.mark.usefixtures("standard_promotion")
SIDE, FEATURES = 299, 12


def ramp(side):
    """Images whose value is 2 column + row, uint8 [1, side, side, 3]."""
    rows, columns = np.mgrid[:side, :side]
    return np.stack([2 * columns + rows] * 3, -1)[None].astype(np.uint8)


def test_from_corners_a_ramp_is_the_ramp_at_the_corner():
    found = np.asarray(fid_inputs.corner_bilinear(ramp(32)))
    place = np.minimum(np.arange(SIDE) * 32 / SIDE, 31)  # the last pixel is repeated
    exact = 2 * place[None, :] + place[:, None]
    np.testing.assert_allclose(found[0, :, :, 1], (exact - 128) / 128, atol=1e-5)


def test_from_centres_a_ramp_is_the_ramp_at_the_centre():
    found = np.asarray(fid_inputs.centre_bilinear(ramp(32)))
    place = np.clip((np.arange(SIDE) + 0.5) * 32 / SIDE - 0.5, 0, 31)
    exact = 2 * place[None, :] + place[:, None]
    np.testing.assert_allclose(found[0, :, :, 2], exact / 127.5 - 1, atol=1e-5)


def test_clean_is_bicubic_with_antialiasing_and_a_cut():
    """As jax.image has it, of larger and of smaller images."""
    for side in (32, 400):
        x = np.random.RandomState(0).randint(0, 256, (1, side, side, 3))
        found = np.asarray(fid_inputs.clean_bicubic(x.astype(np.uint8)))
        shape = (1, SIDE, SIDE, 3)
        exact = jax.image.resize(x.astype(np.float32), shape, "cubic", antialias=True)
        exact = (np.clip(exact, 0, 255) - 128) / 128
        np.testing.assert_allclose(found, exact, atol=2e-4)
        assert found.min() == -1 and found.max() == 127 / 128


def test_labels_are_in_the_proportion_of_the_data():
    equal = fid_protocol.labels_in_proportion(np.full(5, 7), 23)
    np.testing.assert_array_equal(np.bincount(equal), [5, 5, 5, 4, 4])
    turns = fid_protocol.labels_in_proportion(np.full(5, 7), 20)
    np.testing.assert_array_equal(turns, np.arange(20) % 5)
    found = fid_protocol.labels_in_proportion(np.array([60, 0, 30, 10]), 1000)
    np.testing.assert_array_equal(np.bincount(found), [600, 0, 300, 100])
    first = np.bincount(found[:100], minlength=4)  # spread evenly
    np.testing.assert_allclose(first, [60, 0, 30, 10], atol=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three steps of a small network on the digits."""
    workdir = tmp_path_factory.mktemp("run")
    config = tiny.config(num_steps=3, eval__every=0, samples__every=0)
    config.network = dict(name="flat")
    config.data = dict(name="digits")
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setitem(registry.NETWORKS, "flat", arrays.Flat)
        loop.train_and_evaluate(config, workdir)
        yield workdir


@pytest.fixture
def network(monkeypatch):
    """A linear map of the pictures in place of Inception."""
    monkeypatch.setattr(fid_reference, "FEATURES", FEATURES)
    matrix = np.random.RandomState(0).standard_normal((64, FEATURES)) / 100

    def features_fn(x):
        return x[..., 0].reshape(len(x), 64) @ matrix

    made = lambda inception, protocol: (features_fn, inception)
    monkeypatch.setattr(fid_reference, "features_fn", made)
    return features_fn


@pytest.mark.ci
def test_the_number_is_the_distance_of_the_moments(run, network, tmp_path, capsys):
    """Of the samples and of all training images; and why it does not compare."""
    weights = tmp_path / "weights.npz"
    weights.write_bytes(b"of another file")
    settings = fid_protocol.Settings(
        "fid50k", str(weights), num_samples=120, sampler="ddim@1"
    )
    path = fid_protocol.evaluate_fid(run, settings)
    said = json.loads(path.read_text())
    (samples,) = (run / "samples").glob("*_seed0_120_in-proportion.npz")
    with np.load(samples) as file:
        stored = file["samples"]
    train = build.dataset(dict(name="digits")).train.values
    a, b = (network(np.rint(x * (255 / 16)).astype(np.uint8)) for x in (stored, train))
    exact = metrics.frechet_distance(metrics.moments(a), metrics.moments(b))
    np.testing.assert_allclose(said["value"], exact, rtol=1e-6)
    assert said["comparable"] is False and len(said["reasons"]) == 4
    assert said["reference"] == f"{len(train):,} images of the training data"
    line = capsys.readouterr().out.splitlines()[-2]
    assert line == (
        "not comparable: 120 samples, not 50,000; pictures of 1 channel, not 3; "
        "pictures of 17 levels, not 256; weights of Inception in another file than the "
        "published pt_inception-2015-12-05-6726825d.pth"
    )
    moments = metrics.moments(b)
    published = tmp_path / "published.npz"
    np.savez(published, mu=moments.mean, sigma=moments.covariance)
    again = settings._replace(reference=str(published), out=str(tmp_path / "a.json"))
    said = json.loads(fid_protocol.evaluate_fid(run, again).read_text())
    np.testing.assert_allclose(said["value"], exact, rtol=1e-6)


@pytest.mark.ci
def test_a_number_is_kept_and_its_features_too(run, network, tmp_path, monkeypatch):
    weights = tmp_path / "weights.npz"
    weights.write_bytes(b"of these tests")
    out = tmp_path / "fid.json"
    settings = fid_protocol.Settings(
        "fid50k", str(weights), num_samples=120, sampler="ddim@1", seed=3
    )._replace(out=str(out))
    fid_protocol.evaluate_fid(run, settings)
    first = out.read_bytes()

    def fail_fn(*_):
        raise AssertionError("computed again")

    made = lambda inception, protocol: (fail_fn, inception)
    monkeypatch.setattr(fid_reference, "features_fn", made)
    other = settings._replace(out=str(tmp_path / "other.json"))  # features are kept
    again = json.loads(fid_protocol.evaluate_fid(run, other).read_text())
    assert again == json.loads(first)
    monkeypatch.setattr(fid_protocol, "_sampled", fail_fn)
    fid_protocol.evaluate_fid(run, settings)
    differing = "sampler.num_steps 1 there, 2 now; seed 3 there, 4 now"
    with pytest.raises(UsageError, match=differing):
        fid_protocol.evaluate_fid(run, settings._replace(sampler="ddim@2", seed=4))
    assert out.read_bytes() == first
    out.write_text("[]")
    with pytest.raises(UsageError, match="was not written by evaluate --protocol"):
        fid_result.finished(out, {})


@pytest.mark.slow
def test_samples_of_former_weights_are_quarantined(run, network, tmp_path, capsys):
    weights = tmp_path / "weights.npz"
    weights.write_bytes(b"of these tests")
    settings = fid_protocol.Settings(
        "fid50k", str(weights), num_samples=120, sampler="ddim@1", seed=5
    )._replace(out=str(tmp_path / "a.json"))
    first = json.loads(fid_protocol.evaluate_fid(run, settings).read_text())
    (path,) = (run / "samples").glob("*_seed5_120_in-proportion.npz")
    with np.load(path) as file:
        arrays = dict(file)
    former = json.loads(str(arrays["settings"])) | {"parameters": "former"}
    former = {"settings": json.dumps(former), "samples": 0 * arrays["samples"]}
    np.savez(path, **arrays | former)
    settings = settings._replace(out=str(tmp_path / "b.json"))
    again = json.loads(fid_protocol.evaluate_fid(run, settings).read_text())
    assert again == first
    assert "quarantined as" in capsys.readouterr().out
    assert list(
        (run / "samples").glob("*_seed5_120_in-proportion_parameters_former_1.npz")
    )


def test_nothing_stands_in_the_way_of_a_number_that_compares(monkeypatch):
    monkeypatch.setattr(fid_protocol, "PUBLISHED_WEIGHTS", "e3b0c442")
    stored = fid_protocol.generate.Stored(build.DataTransform(256), (32, 32, 3))
    loaded = SimpleNamespace(request=SimpleNamespace(num_samples=50_000))
    reference = fid_reference.Reference("statistics", "digest")
    whole = fid_protocol.Asked(
        None, loaded, None, None, stored, reference, None, "e3b0c44298fc"
    )
    assert fid_protocol._reasons(whole) == []
    same = SimpleNamespace(doubt="")
    assert fid_protocol._reasons(whole._replace(codec=same)) == []
    other = SimpleNamespace(doubt="other weights")
    assert fid_protocol._reasons(whole._replace(codec=other)) == ["other weights"]


def test_floats_without_levels_are_no_pictures():
    stored = fid_protocol.generate.Stored(build.DataTransform(None), (8, 8, 3))
    with pytest.raises(UsageError, match="are floats: must be pictures with levels"):
        fid_protocol._check_pictures(stored)


MISTAKES = {
    "no weights": ([], r"--protocol=fid50k: needs --inception=FILE"),
    "two samplers": (
        ["--inception={file}", "--sampler=ddim@1", "--sampler=ddim@2"],
        "2 given with --protocol, which takes one",
    ),
    "reference": (
        ["--inception={file}", "--reference=nowhere.npz"],
        "nowhere.npz: must be an .npz with mu and sigma, or a folder",
    ),
    "of latents": (
        ["--inception={file}", "--autoencoder=vae"],
        "--reference: must be given with --autoencoder",
    ),
    "unknown": (["--protocol=fid"], "protocol=fid"),
    "no folder": (
        ["--inception={file}", "--out=nowhere/at/all/a.json"],
        "out='nowhere/at/all/a.json': must be in a folder that exists",
    ),
    "no json": (["--inception={file}", "--out=a.txt"], "ends in .json"),
    "no effect": (
        ["--inception={file}", "--num_times=32", "--leave_out=ode"],
        "--num_times, --leave_out without effect",
    ),
    "alone": (["--protocol=", "--reference=a.npz"], "protocol|no effect"),
}


@pytest.mark.ci
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name, run, tmp_path):
    wrong, message = MISTAKES[name]
    file = tmp_path / "weights.npz"
    file.write_bytes(b"")
    given = [f"--workdir={run}", "--protocol=fid50k"]
    given += [each.format(file=file) for each in wrong]
    code, _, error = in_process.run("experiments.evaluate", *given)
    assert code == 2 and len(error.splitlines()) == 1, error
    assert re.search(message, error), error


@pytest.mark.ci
def test_a_reference_needs_a_protocol(run):
    found = in_process.run(
        "experiments.evaluate", f"--workdir={run}", "--reference=a.npz"
    )
    assert found[0] == 2 and "has no effect without --protocol" in found[2]
    assert (*fid_inputs.PROTOCOLS,) == fid_flags.PROTOCOLS


def test_statistics_of_other_features_are_refused(tmp_path):
    path = tmp_path / "small.npz"
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(UsageError, match="must be of 2048 features"):
        fid_reference.published(str(path))


@pytest.mark.parametrize(
    ("mean", "sigma", "message"),
    [
        ([0.0, np.nan], np.eye(2), "mu and sigma must be finite"),
        ([0.0, 0.0], np.diag([1.0, np.inf]), "mu and sigma must be finite"),
        ([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]], "must be symmetric and positive"),
        ([0.0, 0.0], np.diag([1.0, -1.0]), "must be symmetric and positive"),
        (["a", "b"], np.eye(2), "could not convert"),
    ],
    ids=["mean", "covariance", "asymmetric", "negative", "text"],
)
def test_a_reference_without_a_distance_is_refused(
    mean, sigma, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(fid_reference, "FEATURES", 2)
    path = tmp_path / "wrong.npz"
    np.savez(path, mu=mean, sigma=sigma)
    with pytest.raises(UsageError, match=f"^--reference: .*{message}"):
        fid_reference.published(str(path))


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_the_weights_are_read_once_with_the_digest_of_their_file(
    suffix, tmp_path, monkeypatch
):
    path, found = tmp_path / f"weights.{suffix}", []
    weights = {"weight": np.arange(3.0)}
    if suffix == "npz":
        np.savez(path, **weights)
    else:
        pytest.importorskip("safetensors.numpy").save_file(weights, path)
    content, read_bytes = path.read_bytes(), pathlib.Path.read_bytes

    def read_and_spoiled(self):
        read = read_bytes(self)
        self.write_bytes(b"another file by now")
        return read

    monkeypatch.setattr(fid_reference, "inception_params", found.append)
    monkeypatch.setattr(pathlib.Path, "read_bytes", read_and_spoiled)
    _, digest = fid_reference.features_fn(str(path), "fid50k")
    np.testing.assert_array_equal(found[0]["weight"], [0, 1, 2])
    assert digest == hashlib.sha256(content).hexdigest()


def test_weights_without_a_digest_are_refused(tmp_path):
    """A folder and an index hold other files, which one digest would not cover."""
    index = tmp_path / "weights.safetensors.index.json"
    index.write_text('{"weight_map": {"weight": "weights.safetensors"}}')
    for path, message in (
        (tmp_path, "must be a local file, as its digest counts"),
        (tmp_path / "nowhere.npz", "must be a local file"),
        (index, "content must be of one file of weights"),
    ):
        with pytest.raises(UsageError, match=f"^--inception: .*{message}"):
            fid_reference.features_fn(str(path), "fid50k")


def test_moments_of_batches_are_those_of_all(monkeypatch):
    monkeypatch.setattr(fid_reference, "FEATURES", 3)
    x = 100 + np.random.RandomState(0).standard_normal((130, 3))
    found = fid_reference._moments(iter(np.split(x, [50, 100])), lambda x: x, 130, "x")
    exact = metrics.moments(x)
    np.testing.assert_allclose(found.mean, exact.mean, rtol=1e-12)
    np.testing.assert_allclose(
        found.covariance, exact.covariance, rtol=1e-9, atol=1e-12
    )
    assert jnp.isfinite(found.covariance).all()
