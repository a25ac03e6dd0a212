"""The records and their reader: counted, and the mixture checked on the reference."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from diffusionflow import analytic
from tests.helpers import golden

RUNS = ("sampler", "sampler_adaptive")  # of any family: by library and method
# kind of record: the families that a test of it knows
COMPARED = {
    "denoiser": {"reference"},
    "density": {"reference"},
    "forward": {"diffusers_training"},
    "grid": {"kdiffusion_sampler"},
    "likelihood": {"flow_matching", "kdiffusion_likelihood", "score_sde", "sit"},
    "likelihood_reference": {"reference"},
    "loss": {
        "diffusers_training",
        "edm_training",
        "hackable_diffusion",
        "kdiffusion_training",
        "rectified_flow",
        "score_sde",
        "sit",
        "vdm",
    },
    "loss_weight": {"diffusers_training"},
    "path": {"flow_matching", "sit"},
    "preconditioning": {"edm_training"},
    "schedule": {
        "diffusers_training",
        "dpm_solver",
        "edm_training",
        "hackable_diffusion",
        "score_sde",
    },
    "schedule_change": {"flow_matching", "rectified_flow"},
    "time_sampler": {
        "diffusers_training",
        "hackable_diffusion",
        "kdiffusion_training",
        "rectified_flow",
    },
}
NOT_COMPARED = {
    ("ode_reference", "reference"): (
        "states of the flow whose other end, and density, are `likelihood_reference`"
    ),
}


def test_every_record_can_be_read():
    entries = golden.index()["cases"]
    names = {(entry["family"], entry["id"]) for entry in entries}
    assert len(entries) == len(names)
    kinds = collections.Counter(case.kind for case in golden.cases())
    golden.expect((len(entries), kinds["sampler"], kinds["loss"]), (1073, 842, 105))
    for case in golden.cases():
        for name, described in case.meta["arrays"].items():
            array = case.a[name]
            shape = ",".join(map(str, array.shape))
            assert described == f"{array.dtype}[{shape}]"


def test_every_record_is_compared_or_listed():
    """Of a run and of times, the tests of these say what they do not know."""
    recorded = {(case.kind, case.family) for case in golden.cases()}
    compared = {(kind, family) for kind in COMPARED for family in COMPARED[kind]}
    left = {each for each in recorded - compared if each[0] not in RUNS}
    assert left <= NOT_COMPARED.keys()
    if not golden.NAMED:
        assert compared <= recorded and left == NOT_COMPARED.keys()


@pytest.mark.ci
@golden.each("density", "reference", 2)
def test_the_density_is_the_recorded_one(case):
    stored = golden.Mixture(case.meta["mixture"])
    with jax.enable_x64(True):
        ours = analytic.Mixture(stored.weights, stored.means, stored.stds**2)
        found = ours.log_density(case.a["x"], 1.0, 0.0)
    np.testing.assert_allclose(found, case.a["logp"], rtol=1e-11, atol=1e-11)


@pytest.mark.ci
@golden.each("denoiser", "reference", 2)
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
    golden.expect(len(golden.cases("loss", "sit")), 21)
    assert golden.cases("loss", "no such library") == []


def test_what_a_comparison_does_not_know_is_an_error_that_says_so():
    case = dataclasses.replace(golden.cases()[0], config={})
    with pytest.raises(golden.Unknown, match=r"solver=None is not known.*known are"):
        case.choose("solver", {"euler": 1})
    assert case.choose("solver", {"euler": 1}, "euler") == 1
