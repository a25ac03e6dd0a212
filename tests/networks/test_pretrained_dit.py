"""`DiTTransformer2D` against diffusers' outputs, and the files of DiT's authors.

`tests/data/pretrained/dit.npz` and `dit_authors.npz` are what torch gave
(`benchmarks/record_pretrained.py`).
"""

import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import interop
from tests.helpers import pretrained_weights
from tests.helpers.parametrize import check_all
from tests.helpers.pretrained_runs import close, last, opened, reproduces

numpy = pytest.importorskip("safetensors.numpy")

ROOT = pathlib.Path(__file__).parents[2]
CASES = pretrained_weights.records("dit")
AUTHORS = pretrained_weights.records("dit_authors")


@pytest.mark.ci
def test_outputs_and_gradients_are_those_of_diffusers(tmp_path):
    cases = {name: (each, tmp_path / name) for name, each in CASES.items()}
    assert len(cases) == 2
    check_all(
        lambda case, path: reproduces(opened(case, path), case, gradient=True), cases
    )


def saved(case, path, **changed):
    state = pretrained_weights.random_state(case["shapes"])
    state = {"pos_embed": case["places"]} | state | changed
    numpy.save_file(state, path)
    return path


@pytest.mark.ci
def test_checkpoints_of_the_authors_are_at_their_own_times(tmp_path):
    """DiT's timestep n is t = (n + 1) / 1000; SiT's time is 1 - t, of another sign."""
    for source, sign in (("dit", 1), ("sit", -1)):
        case = AUTHORS[source]
        path = saved(case, tmp_path / f"{source}.safetensors")
        model = interop.load_dit(path, source=source, num_heads=2)
        assert model.shape == (8, 8, 4) and model.null_label == 10
        assert str(model.kind) == {"dit": "eps", "sit": "dz_dt"}[source]
        t = (case["time"] + 1) / 1000 if source == "dit" else 1 - case["time"]
        found = jax.jit(lambda fn, *arguments: fn(*arguments))(
            model.predict_fn, last(case["z"]), np.float32(t), case["label"]
        )
        exact = sign * last(case["output"])[..., :4]  # the rest is the variance
        close(found, exact, 2e-5)


@pytest.mark.ci
def test_labels_of_a_denoiser(tmp_path):
    """Without one it is of the null label; one outside the table is refused."""
    path = saved(AUTHORS["sit"], tmp_path / "sit.safetensors")
    model = interop.load_dit(path, source="sit", num_heads=2)
    z = jnp.ones((2, 8, 8, 4))
    denoise = jax.jit(lambda denoise_fn, z: denoise_fn(z, 0.5).x)
    null, three, mixed = (
        denoise(model.denoiser(label), z) for label in (10, 3, jnp.array([10, 3]))
    )
    np.testing.assert_array_equal(denoise(model.denoise_fn, z), null)
    np.testing.assert_allclose(mixed, jnp.stack([null[0], three[1]]), atol=1e-6)
    assert np.abs(null - three).max() > 1e-3
    with pytest.raises(ValueError, match="label=11: must be in 0..10"):
        model.denoiser(11)


def test_other_files_are_refused(tmp_path):
    case, path = AUTHORS["dit"], tmp_path / "dit.safetensors"
    with pytest.raises(ValueError, match="12 features: .* only; pass num_heads"):
        interop.load_dit(saved(case, path))
    with pytest.raises(ValueError, match="must divide 12"):
        interop.load_dit(path, num_heads=5)
    with pytest.raises(ValueError, match="num_heads=0: must be at least 1"):
        interop.load_dit(path, num_heads=0)
    saved(case, path, pos_embed=np.zeros(12, np.float32))
    with pytest.raises(ValueError, match=r"pos_embed \(12,\): must have 3 axes"):
        interop.load_dit(path, num_heads=2)
    with pytest.raises(ValueError, match="unknown source 'uvit'"):
        interop.load_dit(path, source="uvit")
    saved(case, path, pos_embed=np.float32(1) + case["places"])
    with pytest.raises(ValueError, match="pos_embed: must be the sinusoids"):
        interop.load_dit(path, num_heads=2)
    saved(case, path, **{"blocks.0.attn.q_norm.weight": np.zeros(6)})
    with pytest.raises(ValueError, match="not of this network: .*attn.q_norm.weight"):
        interop.load_dit(path, num_heads=2)
    numpy.save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="must have pos_embed, x_embedder"):
        interop.load_dit(path)


@pytest.mark.nightly
def test_a_dit_xl_2_opens_fast_and_in_little_memory(tmp_path):
    """Of 675 M random parameters, a file of 2.7 GB that is written here."""
    script = ROOT / "benchmarks" / "open_pretrained.py"
    command = [sys.executable, script, f"--folder={tmp_path}"]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (tmp_path / "DiT-XL-2-256x256.safetensors").unlink()
    assert "675,129,632 parameters" in table
    (share,) = re.findall(r"resident most .* ([\d.]+) of the file", table)
    (seconds,) = re.findall(r"of the processor +([\d.]+) s", table)
    assert float(share) <= 1.3 and float(seconds) <= 30
