"""`AutoencoderKL` against diffusers' moments and images on the same random weights.

`tests/data/pretrained/autoencoder.npz` is what torch gave
(`benchmarks/record_pretrained.py`).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import interop
from diffusionflow.interop import autoencoders
from tests.helpers import pretrained_weights
from tests.helpers.parametrize import check_all
from tests.helpers.pretrained_runs import close, last, write

pytest.importorskip("safetensors")

CASES = pretrained_weights.records("autoencoder")
FACTORS = dict(sd=(0.18215, 0.0), sd3=(1.5305, 0.0609))  # scale and shift


def opened(case, path, **entries):
    state = pretrained_weights.random_state(case["shapes"])
    return interop.load_autoencoder(write(path, case["config"] | entries, state))


def is_reproduced(name, case, path):
    autoencoder = opened(case, path)
    scale, shift = FACTORS[name]
    unit = scale * (last(case["z"]) - shift)

    def both(autoencoder, x, z, tile):
        moments = autoencoder.encode(x, tile=tile)
        return moments, autoencoder.decode(z, tile=tile)

    run = jax.jit(both, static_argnums=3)
    tiles = {"": None, "_tiled": autoencoder.sample_size}
    for suffix in ("", "_tiled")[: 1 + ("mean_tiled" in case)]:
        tile = tiles[suffix]
        moments, image = run(autoencoder, last(case["x"]), np.float32(unit), tile)
        exact = {part: last(case[part + suffix]) for part in ("mean", "std", "image")}
        close(moments.mean, scale * (exact["mean"] - shift), 2e-5)
        close(moments.std, scale * exact["std"], 2e-5)
        close(image, exact["image"], 2e-5)

    @jax.jit
    def gradients(autoencoder, x, z):
        product = lambda array: (array * numbers(array.shape)).sum()
        encoded = jax.grad(lambda x: product(autoencoder.encode(x).mean))
        decoded = jax.grad(lambda z: product(autoencoder.decode(z)))
        return encoded(x), decoded(z)

    of_x, of_z = gradients(autoencoder, last(case["x"]), np.float32(unit))
    close(of_x, scale * last(case["mean_gradient"]), 1e-4)
    close(of_z, last(case["image_gradient"]) / scale, 1e-4)


def numbers(shape):
    """The random numbers of the record, channels last."""
    batch, *sizes, channels = shape
    return last(pretrained_weights.arrays(1, batch, channels, *sizes))


@pytest.mark.slow
def test_moments_and_images_are_those_of_diffusers(tmp_path):
    """And the gradients of both."""
    cases = {name: (name, case, tmp_path / name) for name, case in CASES.items()}
    assert len(cases) == 2
    check_all(is_reproduced, cases)


@pytest.mark.ci
def test_means_and_stds_of_each_channel(tmp_path):
    """z = (latent - mean) scaling_factor / std, as pipelines of diffusers have it."""
    case = CASES["sd"]
    plain = opened(case, tmp_path / "plain")
    entries = dict(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 4.0, 8.0])
    other = opened(case, tmp_path / "other", **entries)
    mean, std = (np.float32(value) for value in entries.values())
    x = last(case["x"])
    encode = jax.jit(lambda autoencoder, x: autoencoder.encode(x))
    first, second = encode(plain, x), encode(other, x)
    latent = np.asarray(first.mean) / 0.18215
    np.testing.assert_allclose(
        second.mean, 0.18215 * (latent - mean) / std, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(second.std, np.asarray(first.std) / std, rtol=1e-5)
    decode = jax.jit(lambda autoencoder, z: autoencoder.decode(z))
    np.testing.assert_allclose(
        decode(plain, first.mean), decode(other, second.mean), atol=1e-4
    )


def test_samples_have_the_moments():
    moments = interop.Moments(jnp.full((20000, 1), 3.0), jnp.full((20000, 1), 0.5))
    found = moments.sample(jax.random.key(0))
    assert abs(found.mean() - 3) < 0.02 and abs(found.std() - 0.5) < 0.02


ENTRIES = {
    "zero": (dict(scaling_factor=0), "scaling_factor=0: must be a positive"),
    "negative": (dict(scaling_factor=-0.2), "scaling_factor=-0.2: must be"),
    "text": (dict(scaling_factor="0.2"), "scaling_factor='0.2': must be"),
    "shift": (dict(shift_factor=[1]), r"shift_factor=\[1\]: must be a finite"),
    "std": (dict(latents_std=[1, 0, 1, 1]), "latents_std=.*: must be positive"),
    "length": (dict(latents_std=[1, 1]), r"latents_std=\[1, 1\]: must be 4 finite"),
    "side": (dict(sample_size="32"), "sample_size='32': must be a positive integer"),
}


def test_entries_of_the_latents_are_checked_and_null_is_none():
    def is_refused(config, message):
        with pytest.raises(ValueError, match=message):
            autoencoders.scale_and_shift(config), autoencoders._side(config)

    check_all(is_refused, ENTRIES)
    names = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    null = dict.fromkeys((*names, "sample_size"))
    assert autoencoders.scale_and_shift(null) == autoencoders.scale_and_shift({})
    assert autoencoders._side(null) == autoencoders._side({}) == 32


def test_what_it_does_not_take_is_refused(tmp_path):
    case = CASES["sd"]
    autoencoder = opened(case, tmp_path / "sd")
    with pytest.raises(ValueError, match="must be multiples of 2"):
        autoencoder.encode(jnp.zeros((1, 7, 8, 3)))
    with pytest.raises(ValueError, match="tile=5: must be a positive multiple of 8"):
        autoencoder.encode(jnp.zeros((1, 8, 8, 3)), tile=5)
    with pytest.raises(ValueError, match="4\\], channels last"):
        autoencoder.decode(jnp.zeros((1, 4, 8, 8)))
    with pytest.raises(ValueError, match="shift_factor=1.0 and latents_mean"):
        opened(case, tmp_path / "both", shift_factor=1.0, latents_mean=[0.0] * 4)
    types = ["AttnDownEncoderBlock2D"] * 2
    with pytest.raises(ValueError, match="AttnDownEncoderBlock2D.*must be"):
        opened(case, tmp_path / "types", down_block_types=types)
