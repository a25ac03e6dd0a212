"""Latents of a folder of images: encoded, resumed, trained on, and decoded."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from diffusionflow import interop
from experiments.checkpointing.loaded import Request
from experiments.config import build, registry
from experiments.runtime.errors import UsageError
from experiments.sampling import encoding
from experiments.sampling.sample_run import sample_run
from experiments.training import loop
from tests.helpers import arrays, in_process, tiny
from tests.helpers.tiny_autoencoder import write_autoencoder, write_images


@pytest.fixture(scope="module")
def brought(tmp_path_factory):
    """Folders of an autoencoder and of images."""
    folder = tmp_path_factory.mktemp("brought")
    return write_autoencoder(folder / "vae"), write_images(folder / "images")


def settings(brought, out, **more):
    autoencoder, images = map(str, brought)
    return encoding.Settings(images, autoencoder, str(out), batch_size=4, **more)


@pytest.fixture(scope="module")
def latents(brought, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "latents"
    with jax.numpy_dtype_promotion("standard"):
        return encoding.encode(settings(brought, out, flip=True, shard_size=6))


@pytest.mark.ci
def test_moments_are_those_of_the_autoencoder(brought, latents):
    """And its scale and shift are applied and written down; flips are of mirrors."""
    autoencoder = interop.load_autoencoder(brought[0])
    images = build.dataset(dict(name="folder", path=str(brought[1])))
    found = build.dataset(dict(name="latents", path=str(latents)))
    assert found.class_names == ("cat", "dog") and found.num_classes == 2
    assert found.train.values.shape == (22, 4, 4, 4, 4)  # of 24, 2 are held out
    np.testing.assert_array_equal(found.train.labels, images.train.labels)
    index = np.array([0, 7, 21])
    x = images.transform.to_float(images.train.values[index])
    moments = found.train.values[index]
    for views, rows in ((x, moments[:, :2]), (x[:, :, ::-1], moments[:, 2:])):
        mean, std = autoencoder.encode(views)
        np.testing.assert_allclose(rows[:, 0], mean, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(rows[:, 1], std, rtol=2e-5)
    said = json.loads((latents / "index.json").read_text())
    assert (said["scale"], said["shift"]) == (0.5, 0.25)


def test_a_latent_is_sampled_by_seed_epoch_and_number(latents):
    """mean + std eps, of the image or of its mirror; or the mean."""
    found = build.dataset(dict(name="latents", path=str(latents)))
    still = build.dataset(dict(name="latents", path=str(latents), mean_only=True))
    row = found.train.values[np.array([3])][0]
    mirrored = []
    for epoch in range(8):
        rng = np.random.RandomState([0, epoch, 3])
        mean, std = row[2:] if rng.randint(2) else row[:2]
        mirrored.append(mean is not row[0] and (mean == row[2]).all())
        eps = rng.standard_normal(mean.shape).astype(np.float32)
        again = found.augment_fn(np.random.RandomState([0, epoch, 3]), row)
        np.testing.assert_array_equal(again, mean + std * eps)
        alone = still.augment_fn(np.random.RandomState([0, epoch, 3]), row)
        np.testing.assert_array_equal(alone, mean)
    assert any(mirrored) and not all(mirrored)
    held_out = found.test.values[np.array([1, 1])]
    np.testing.assert_array_equal(held_out[0], held_out[1])


@pytest.mark.ci
def test_it_goes_on_with_the_shards_that_are_missing_or_corrupted(
    brought, tmp_path, capsys
):
    asked = settings(brought, tmp_path / "latents", shard_size=8)
    out = encoding.encode(asked)
    shards = sorted((out / "train.shards").glob("*.npz"))
    before = [path.read_bytes() for path in shards]
    identity = build.dataset(dict(name="latents", path=str(out))).identity()
    shards[0].unlink()
    content = bytearray(before[1])
    content[1000] ^= 1
    shards[1].write_bytes(content)
    with pytest.raises(ValueError, match="is missing, or another file"):
        build.dataset(dict(name="latents", path=str(out)))
    capsys.readouterr()
    encoding.encode(asked)
    said = capsys.readouterr().out
    assert "made again, as it is corrupted" in said
    assert "train: encoded 16 of 22 images" in said
    assert build.dataset(dict(name="latents", path=str(out))).identity() == identity
    encoding.encode(asked._replace(data=f"{asked.data}/"))
    assert "train: encoded 0 of 22 images" in capsys.readouterr().out
    with pytest.raises(UsageError, match="flip False there, True now"):
        encoding.encode(asked._replace(flip=True))


@pytest.mark.slow
def test_samples_of_a_run_on_latents_are_decoded(
    brought, latents, tmp_path, monkeypatch
):
    """To what the autoencoder makes of the latents that the same command gives."""
    monkeypatch.setitem(registry.NETWORKS, "flat", arrays.Flat)
    config = tiny.config(num_steps=3, eval__every=0, samples__every=0)
    config.network = dict(name="flat")
    config.data = dict(name="latents", path=str(latents))
    workdir = tmp_path / "run"
    with jax.numpy_dtype_promotion("standard"):
        loop.train_and_evaluate(config, workdir)
    request = Request(num_samples=3, sampler=dict(num_steps=1))
    with np.load(sample_run(workdir, request)) as file:
        z = file["samples"]
    assert z.shape == (3, 4, 4, 4) and z.dtype == np.float32
    request = request._replace(autoencoder=str(brought[0]))
    path = sample_run(workdir, request)
    with np.load(path) as file:
        images, levels = file["samples"], int(file["levels"])
    assert path.with_suffix(".png").exists() and "_decoded" in path.name
    assert (images.dtype, images.shape, levels) == (np.uint8, (3, 8, 8, 3), 256)
    exact = interop.load_autoencoder(brought[0]).decode(jnp.asarray(z))
    exact = np.clip((np.asarray(exact) + 1) * 127.5, 0, 255)
    assert np.abs(images - exact).max() < 0.51
    other = write_autoencoder(tmp_path / "other", scaling_factor=2.0)
    with pytest.raises(UsageError, match=r"scale 2.0, and that of the latents"):
        sample_run(workdir, request._replace(autoencoder=str(other)))
    edits_in_latents(workdir, request, brought, tmp_path)


def edits_in_latents(workdir, request, brought, folder):
    """Nothing changed is the decoded mean of the encoding; the rest is as in latents.

    The mask knows a place of the latents where all of its pixels are known.
    """
    files = sorted((brought[1] / "cat").glob("*.png"))[:3]
    x = np.stack([np.asarray(PIL.Image.open(file)) for file in files])
    autoencoder = interop.load_autoencoder(brought[0])
    z = np.asarray(autoencoder.encode(jnp.asarray(x / 127.5 - 1, jnp.float32)).mean)
    decoded = np.asarray(autoencoder.decode(jnp.asarray(z)))
    decoded = np.clip((decoded + 1) * 127.5, 0, 255)
    known = np.ones((8, 8), np.uint8)
    np.save(folder / "full.npy", known)
    known[:4], known[5, 5] = 0, 0  # rows 0 and 1 of the latents, and a place of row 2
    np.save(folder / "part.npy", known)
    np.save(folder / "z.npy", z)
    coarse = np.ones((4, 4), np.uint8)
    coarse[:2], coarse[2, 2] = 0, 0
    np.save(folder / "coarse.npy", coarse)
    init, full = str(brought[1] / "cat"), str(folder / "full.npy")

    def drawn(edit, request=request):
        with np.load(sample_run(workdir, request._replace(edit=edit))) as file:
            return file["samples"]

    for edit in ({"strength": 0.0}, {"mask": full}):
        found = drawn(edit | {"init_image": init})
        assert np.abs(found - decoded).max() < 0.51
    plain = request._replace(autoencoder=None)
    start = {"init_image": str(folder / "z.npy")}
    euler = dict(name="euler(variable='x')", num_steps=2)
    for pixels, latents, sampler in (
        ({"mask": str(folder / "part.npy")}, {"mask": str(folder / "coarse.npy")}, {}),
        ({"strength": 0.5}, {"strength": 0.5}, euler),
        ({"invert": True}, {"invert": True}, euler),
    ):
        exact = drawn(start | latents, plain._replace(sampler=sampler or plain.sampler))
        exact = autoencoder.decode(jnp.asarray(exact))
        exact = np.clip((np.asarray(exact) + 1) * 127.5, 0, 255)
        asked = request._replace(sampler=sampler or request.sampler)
        found = drawn(pixels | {"init_image": init}, asked)
        assert np.abs(found - exact).max() < 0.51 + 0.05
    pair = {"interpolate": f"{files[0]},{files[1]}", "columns": 2}
    row = request._replace(num_samples=2, label=0, sampler=euler)
    ends = drawn({"invert": True, "init_image": init}, row)
    assert np.abs(drawn(pair, row).astype(int) - ends).max() <= 1
    seeds = drawn({"interpolate": "0,1", "columns": 2}, row)
    alone = drawn({}, row._replace(num_samples=1))
    assert np.abs(seeds[:1].astype(int) - alone).max() <= 1
    with pytest.raises(UsageError, match="are latents: give --autoencoder"):
        drawn({"init_image": init}, plain)


MISTAKES = {
    "no autoencoder": (["--autoencoder=nowhere"], "no file 'nowhere/config.json'"),
    "no data": (["--data=nowhere"], "--data=nowhere: no such folder or .npz"),
    "unknown source": (["--data=foldr(path='a')"], "did you mean 'folder'"),
    "tile": (["--tile=12"], "tile=12: must be a multiple of 8"),
    "shape": (["--data=digits"], r"shape \[8, 8, 1\]: must be \[height, width, 3\]"),
    "empty": (["--out="], "out"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name, brought, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong, message = MISTAKES[name]
    given = [f"--data={brought[1]}", f"--autoencoder={brought[0]}", "--out=a", *wrong]
    code, _, error = in_process.run("experiments.encode", *given)
    assert code == 2 and len(error.splitlines()) == 1, error
    assert re.search(message, error), error
    assert not list(tmp_path.iterdir())


def test_a_folder_has_its_own_scale(latents, tmp_path):
    with pytest.raises(UsageError, match="which has its own scale; leave that out"):
        build.dataset(dict(name="latents", path=str(latents), scale=2.0))
    with pytest.raises(UsageError, match="no index.json"):
        build.dataset(dict(name="latents", path=str(tmp_path)))
