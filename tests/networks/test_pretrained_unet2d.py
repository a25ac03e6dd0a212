"""`UNet2D` against diffusers' own outputs and gradients on the same random weights.

`tests/data/pretrained/unet2d.npz` is what torch gave
(`benchmarks/record_pretrained.py`).
"""

import jax
import jax.numpy as jnp
import pytest

from diffusionflow.networks.pretrained import UNet2D
from tests.helpers import pretrained_weights
from tests.helpers.parametrize import check_all
from tests.helpers.pretrained_runs import opened, reproduces

pytest.importorskip("safetensors")

CASES = pretrained_weights.records("unet2d")
FAST = dict(ddpm=True, ncsnpp=False, classes=False)  # and whether by gradients too


def is_reproduced(name, gradient, path):
    case = CASES[name]
    reproduces(opened(case, path / name), case, gradient=gradient)


@pytest.mark.slow
def test_outputs_and_a_gradient_are_those_of_diffusers(tmp_path):
    cases = {name: (name, gradient, tmp_path) for name, gradient in FAST.items()}
    check_all(is_reproduced, cases)


@pytest.mark.nightly
def test_outputs_and_gradients_of_every_option_are_those_of_diffusers(tmp_path):
    assert len(CASES) == 6
    check_all(is_reproduced, {name: (name, True, tmp_path) for name in CASES})


SMALL = dict(
    down_block_types=("DownBlock2D",) * 2,
    up_block_types=("UpBlock2D",) * 2,
    block_out_channels=(4, 4),
    layers_per_block=1,
    norm_num_groups=2,
)


@pytest.mark.parametrize(
    ("settings", "shape", "label", "match"),
    [
        ({}, (1, 8, 8, 4), None, "channels last"),
        ({}, (1, 7, 8, 3), None, "multiples of 2"),
        ({}, (1, 8, 8, 3), 0, "a label for a network without"),
        (dict(num_class_embeds=3), (1, 8, 8, 3), None, "give the label"),
        (dict(norm_num_groups=None), (1, 8, 8, 3), None, "norm_num_groups=None"),
    ],
)
def test_what_it_does_not_take_is_refused(settings, shape, label, match):
    net = UNet2D(**SMALL | settings)
    label = None if label is None else jnp.zeros(1, int)
    arguments = jnp.zeros(shape), jnp.zeros(1), label
    with pytest.raises(ValueError, match=match):
        jax.eval_shape(net.init, jax.random.key(0), *arguments)
