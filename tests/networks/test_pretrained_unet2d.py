"""`UNet2D` against diffusers' own outputs and gradients on the same random weights.

`tests/data/pretrained/unet2d.npz` is what torch gave
(`benchmarks/record_pretrained.py`).
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import interop
from tests.helpers import pretrained_weights
from tests.helpers.parametrize import check_all

CASES = pretrained_weights.records("unet2d")
GRADIENTS = ("ddpm", "ncsnpp")
CHAIN = {"_class_name": "DDPMScheduler"}


def folder_of(case, path):
    """Writes config and weights as diffusers does."""
    numpy = pytest.importorskip("safetensors.numpy")
    (path / "config.json").write_text(json.dumps(case["config"]))
    state = pretrained_weights.random_state(case["shapes"])
    numpy.save_file(state, path / "diffusion_pytorch_model.safetensors")
    return path


def last(image):
    """Channels last."""
    return np.moveaxis(image, -3, -1)


def is_reproduced(case, path):
    path.mkdir()
    network = interop.load(folder_of(case, path), scheduler=CHAIN).network
    label = jnp.asarray(case["label"]) if "label" in case else None
    z, time = jnp.asarray(last(case["z"])), jnp.asarray(case["time"])
    numbers = last(pretrained_weights.arrays(1, *case["output"].shape))

    def whole(z):
        output = network.module.apply({"params": network.params}, z, time, label)
        return (output * numbers).sum(), output

    if path.name in GRADIENTS:
        (_, output), gradient = jax.jit(jax.value_and_grad(whole, has_aux=True))(z)
        close(gradient, last(case["gradient"]), 1e-4)
    else:
        output = jax.jit(whole)(z)[1]
    close(output, last(case["output"]), 1e-5)


def close(found, exact, tolerance):
    scale = np.abs(exact).max()
    np.testing.assert_allclose(found / scale, exact / scale, atol=tolerance, rtol=0)


def test_outputs_and_gradients_are_those_of_diffusers(tmp_path):
    assert len(CASES) == 6
    check_all(
        is_reproduced, {name: (each, tmp_path / name) for name, each in CASES.items()}
    )
