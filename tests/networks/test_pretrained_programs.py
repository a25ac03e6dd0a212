"""The programs of docs/howto/pretrained.md, run on small files of random weights."""

import pathlib
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusionflow as df
from diffusionflow import interop
from diffusionflow.networks.pretrained import SongUNet
from tests.helpers import pretrained_weights

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "howto" / "pretrained.md"
PIPELINE = pretrained_weights.FOLDER / "pipeline"
EDM = SongUNet(
    img_resolution=4, label_dim=4, model_channels=8, channel_mult=(1,), num_blocks=1,
    attn_resolutions=(),
)  # fmt: skip


def weights_of(name):
    """Arrays in place of those of a published file."""
    if "edm" in name:
        return pretrained_weights.state_of(EDM)
    case = pretrained_weights.records("dit_authors")["dit"]
    state = pretrained_weights.random_state(case["shapes"])
    return {"pos_embed": case["places"], **state}


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Names of the page; what they open is opened from small files."""
    load, load_dit, load_edm = interop.load, interop.load_dit, interop.load_edm

    def small(name):
        path = tmp_path / "weights.npz"
        np.savez(path, **weights_of(name))
        return path

    opens = dict(
        load=lambda name: load(PIPELINE),
        load_dit=lambda name, **more: load_dit(small(name), num_heads=2, **more),
        load_edm=lambda name, **more: load_edm(small(name), **more),
        load_autoencoder=lambda name: types.SimpleNamespace(decode=lambda z: z),
    )
    for name, fn in opens.items():
        monkeypatch.setattr(interop, name, fn)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (block,) = (block for block in blocks if "def from_dit" in block)
    names = {"df": df, "jnp": jnp, "jax": jax}
    for published, little in (("label=207", "label=1"), ("_steps=50", "_steps=2")):
        assert published in block
        block = block.replace(published, little)
    exec(block, names)
    return names


@pytest.mark.ci
@pytest.mark.parametrize("name", ["diffusers", "dit", "sit", "edm"])
def test_a_program_of_the_page_samples(name, programs):
    if name == "diffusers":  # whose folder holds safetensors
        pytest.importorskip("safetensors")
    x = programs[f"from_{name}"]()
    assert x.shape[0] == 4 and np.isfinite(x).all()
