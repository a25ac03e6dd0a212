"""From a folder to samples: `Pretrained.sample` against the schedulers of diffusers.

`tests/data/pretrained/pipelines.npz` is what they drew with a small network, by
published configs (`benchmarks/record_pipelines.py`).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    distillation,
    guidance,
    interop,
    likelihood,
    random,
    samplers,
)
from diffusionflow.networks.pretrained import UNet2D
from tests.helpers import pretrained_weights
from tests.helpers.parametrize import check_all
from tests.helpers.pretrained_runs import close, last, write

pytest.importorskip("safetensors")

RECORDS = dict(pretrained_weights.records("pipelines"))
NETWORK = RECORDS.pop("network")
NUM_STEPS = 6
AGAIN = {"DDPM small", "DDIM clipped"}  # classes with other options
SCALED = {"Euler", "Heun"}  # these keep z / alpha
Z = last(NETWORK["z"])
# a row for every step; the last adds none
DRAWS = last(pretrained_weights.arrays(7, NUM_STEPS, *NETWORK["z"].shape))[:, None]


def opened(path, scheduler=None):
    state = pretrained_weights.random_state(NETWORK["shapes"])
    return interop.load(write(path, NETWORK["config"], state, scheduler))


def is_sampled(case, path):
    record = RECORDS[case]
    model = opened(path, record["config"])
    scheduler = interop.DiffusersScheduler(record["config"])
    steps = scheduler.steps(NUM_STEPS)
    listed = list(dict.fromkeys(record["timesteps"].tolist()))  # Heun's stand twice
    made = len(steps.timesteps)
    np.testing.assert_allclose(steps.timesteps, listed[:made], rtol=1e-6)
    draws = random.Recorded(jnp.asarray(DRAWS)) if "DDPM" in case else None
    key = None if draws else jax.random.key(0)  # of no effect
    sampled = model.sample(key, jnp.asarray(Z), NUM_STEPS, draws=draws, trajectory=True)
    states, found = last(record["states"]), np.array(sampled.trajectory)[1:]
    np.testing.assert_array_equal(found[-1], sampled.x)
    if "Heun" in case:  # two calls a step, but for the last
        states = states[[*range(1, len(states) - 1, 2), -1]]
    if case in SCALED:
        found /= model.schedule.alpha(steps.s)[:, None, None, None, None]
    for here, there in zip(found, states, strict=True):
        close(here, there, 2e-5)


def are_sampled(cases, path):
    places = {case: (case, path / str(i)) for i, case in enumerate(cases)}
    check_all(is_sampled, places)


@pytest.mark.slow
def test_samples_are_those_of_the_schedulers_step_for_step(tmp_path):
    are_sampled(RECORDS.keys() - AGAIN, tmp_path)


@pytest.mark.nightly
def test_samples_of_other_options_are_theirs_too(tmp_path):
    assert len(RECORDS) == 10
    are_sampled(AGAIN, tmp_path)


def test_the_grid_is_that_of_the_config(tmp_path):
    """Of leading timesteps it starts below 1; of others the call says so."""
    config = {"_class_name": "DDIMScheduler", "clip_sample": False}
    model = opened(tmp_path / "leading", config)
    assert model.grid(4).tolist() == [0.751, 0.501, 0.251, 0.001, 0.0]
    model = opened(tmp_path / "trailing", config | {"timestep_spacing": "trailing"})
    assert model.grid(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    with pytest.raises(ValueError, match=r"timestep_spacing='trailing', 7 steps.*grid"):
        model.grid(7)


@pytest.mark.ci
def test_it_goes_into_guidance_likelihood_and_distillation(tmp_path):
    """Guided by itself it is itself; the ODE leads back; one jump is two of DDIM."""
    model = opened(tmp_path / "net", {"_class_name": "DDIMScheduler"})
    schedule = model.schedule
    ode = dict(solver=likelihood.Fixed(8), t_min=0.3, t_max=0.4, schedule=schedule)
    hop = dict(kind="v", schedule=schedule)
    key, z = jax.random.key(0), jnp.asarray(Z)
    t, m, s = (jnp.full(len(Z), time) for time in (0.5, 0.4, 0.3))

    @jax.jit
    def run(denoise_fn):
        guided = guidance.classifier_free(denoise_fn, denoise_fn, scale=3.0)
        latent = likelihood.encode(key, denoise_fn, z, **ode)
        data = likelihood.decode(key, denoise_fn, latent.z, **ode)
        target = distillation.progressive_targets(denoise_fn, z, t, m, s, **hop)
        jump = distillation.jump(target, z=z, t=t, s=s, **hop)
        return denoise_fn(z, t).x, guided(z, t).x, latent.log_p, data.x, jump

    alone, guided, log_p, data, jump = run(model.denoise_fn)
    close(guided, alone, 1e-5)
    assert np.isfinite(log_p).all()
    close(data, Z, 1e-3)
    times = np.array([0.5, 0.4, 0.3])
    settings = dict(sampler=samplers.ddim(), schedule=schedule, to_data=False)
    steps = samplers.sample(key, model.denoise_fn, z, times, **settings)
    close(jump, steps.x, 1e-4)


def test_channels_are_those_of_the_network():
    """Also where the config leaves them to the class."""
    network = interop.Network({}, UNet2D())
    prediction = interop.Prediction(network, None)
    assert interop.Pretrained(prediction, None, dict(sample_size=4)).shape == (4, 4, 3)


def test_what_a_scheduler_of_scores_does_not_know_is_refused(tmp_path):
    config = {"_class_name": "ScoreSdeVeScheduler", "sigma_mx": 30.0}
    with pytest.raises(ValueError, match=r"'sigma_mx': did you mean 'sigma_max'"):
        opened(tmp_path / "wrong", config)
    del config["sigma_mx"]
    model = opened(tmp_path / "plain", config | {"snr": 0.15, "_diffusers_version": ""})
    assert model.schedule.sigma_max == 1348.0
    with pytest.raises(ValueError, match="use samplers.sample"):
        model.sample(None, jnp.asarray(Z), 5)
    assert model.grid(2).tolist() == [1.0, 0.5, 0.0]
