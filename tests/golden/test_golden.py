"""The records and their reader: counted, and the mixture checked on the reference."""

import collections

import jax
import numpy as np
import pytest

from diffusionflow import analytic
from tests.helpers import golden

REFERENCES = golden.cases("denoiser", "reference")


def test_every_record_can_be_read():
    entries = golden.index()["cases"]
    names = {(entry["family"], entry["id"]) for entry in entries}
    assert len(entries) == len(names) == 1073
    kinds = collections.Counter(case.kind for case in golden.cases())
    assert kinds["sampler"] == 842 and kinds["loss"] == 105
    for case in golden.cases():
        for name, described in case.meta["arrays"].items():
            array = case.a[name]
            shape = ",".join(map(str, array.shape))
            assert described == f"{array.dtype}[{shape}]"


@pytest.mark.parametrize("case", REFERENCES, ids=str)
def test_the_mixture_is_the_recorded_one(case):
    """The reader's denoiser, and the library's own, against the closed form."""
    arrays, mixture = case.a, golden.Mixture(case.meta["mixture"])
    z, levels = arrays["z"], (arrays["alpha"], arrays["sigma"])
    for found, name in zip(
        mixture.denoised(z, *levels), ("x_hat", "eps_hat"), strict=True
    ):
        np.testing.assert_allclose(found, arrays[name], rtol=1e-12, atol=1e-12)
    with jax.enable_x64(True):
        ours = analytic.Mixture(mixture.weights, mixture.means, mixture.stds**2)
        found = (
            *ours.denoised(z, *levels),
            ours.score(z, *levels),
            ours.log_density(z, *levels),
        )
    for value, name in zip(found, ("x_hat", "eps_hat", "score", "logp"), strict=True):
        np.testing.assert_allclose(value, arrays[name], rtol=1e-11, atol=1e-11)


def test_filters():
    assert len(golden.cases("loss", "sit")) == 21
    assert golden.cases("loss", "no such library") == []
