"""Published configs: the networks they build and how their schedulers sample.

`tests/data/pretrained/configs` has them as published, and the number of parameters
that diffusers gives each (`benchmarks/record_pipelines.py`).
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import interop, samplers
from diffusionflow.interop import autoencoders, folders
from diffusionflow.networks.pretrained import DiTTransformer2D
from tests.helpers import pretrained_weights
from tests.helpers.parametrize import check_all

CONFIGS = pretrained_weights.FOLDER / "configs"
PARAMETERS = json.loads((CONFIGS / "parameters.json").read_text())
PUBLISHED = {  # of the papers and the sizes of the files
    "ddpm-cifar10-32": 35.7e6,
    "ddpm-celebahq-256": 114e6,
    "sd-vae-ft-ema": 83.65e6,
}


def config_of(path):
    return json.loads((CONFIGS / path).read_text())


def count(module):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *module.example_inputs())
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def is_built(place):
    config = config_of(f"{place}/config.json")
    if config["_class_name"] == "AutoencoderKL":
        found = count(autoencoders.network_of(config))
    else:
        found = count(folders.ARCHITECTURES[config["_class_name"]](config))
    assert found == PARAMETERS[place]
    about = PUBLISHED.get(place)
    assert about is None or abs(found / about - 1) < 3e-3


@pytest.mark.ci
def test_ddpm_has_the_parameters_of_the_published_network():
    is_built("ddpm-cifar10-32")


@pytest.mark.nightly
def test_every_published_network_is_built():
    assert len(PARAMETERS) == 5
    check_all(is_built, {place: (place,) for place in PARAMETERS})


@pytest.mark.nightly
def test_the_authors_xl_2_has_675_million_parameters():
    """675,129,632 with the sinusoids of the places, of DiT-XL/2 and SiT-XL/2 alike."""
    sizes = dict(num_attention_heads=16, attention_head_dim=72, num_layers=28)
    net = DiTTransformer2D(**sizes, out_channels=8, shared_embedding=True)
    assert count(net) + 16 * 16 * 1152 == 675_129_632


def scheduler(path):
    return interop.DiffusersScheduler(config_of(f"{path}/scheduler_config.json"))


def test_ddpm_is_called_at_every_level_and_clips():
    variances = {"ddpm-cifar10-32": "forward", "ddpm-celebahq-256": "posterior"}
    for name, variance in variances.items():
        found = scheduler(name)
        assert str(found.convention.kind) == "eps"
        np.testing.assert_allclose(found.grid(1000), np.arange(1000, -1, -1) / 1000)
        betas = np.linspace(1e-4, 0.02, 1000)
        alpha = found.convention.schedule.alpha(np.array([1.0, 0.5]))
        exact = np.cumprod(1 - betas)[[999, 499]]
        np.testing.assert_allclose(alpha**2, exact, rtol=1e-12)
        assert found.sampler(1000) == samplers.ddpm(variance)
        assert (
            found.settings["clip_sample"] and found.settings["clip_sample_range"] == 1
        )
    assert largest(found) == 1


def largest(scheduler):
    """Of x_hat of a network that predicts no noise, where z is 3."""
    denoise_fn = scheduler.denoise_fn(lambda z, time: 0 * z, scheduler.steps(10))
    return denoise_fn(3 * jnp.ones((1, 2)), jnp.float32(0.5)).x.max()


def test_dit_takes_250_leading_steps_and_does_not_clip():
    found = scheduler("DiT-XL-2-256/scheduler")
    grid = np.append((np.arange(249, -1, -1) * 4 + 1) / 1000, 0.0)
    np.testing.assert_allclose(found.grid(250), grid, rtol=1e-12)
    assert largest(found) > 3


def test_stable_diffusion_3_shifts_by_3():
    """sigma = 3 s / (1 + 2 s) of equal steps of s, which is our t."""
    found = scheduler("stable-diffusion-3-medium/scheduler")
    schedule, t = found.convention.schedule, np.linspace(0, 1, 5)
    assert str(found.convention.kind) == "u"
    np.testing.assert_allclose(schedule.sigma(t), 3 * t / (1 + 2 * t), rtol=1e-12)
    steps = found.steps(28)
    np.testing.assert_allclose(steps.timesteps, 1000 * schedule.sigma(steps.t))
    assert steps.timesteps[0] == 1000 and steps.s[-1] == 0


def test_latents_of_published_autoencoders_have_their_own_scale():
    scales = {"sd-vae-ft-ema": (0.18215, 0.0, 4)}
    scales["stable-diffusion-3-medium/vae"] = (1.5305, 0.0609, 16)
    for place, (scale, shift, channels) in scales.items():
        config = config_of(f"{place}/config.json")
        assert autoencoders.scale_and_shift(config) == (scale, shift)
        module = autoencoders.network_of(config)
        assert module.latent_channels == channels and module.factor == 8
