"""`interop.DiffusersScheduler` where no run is recorded: loops written out in NumPy.

Levels and samples of recorded classes are in `tests/golden`; LCM, TCD, clipping,
thresholds and the beta schedules are compared with diffusers itself by
`benchmarks/diffusers_schedulers.py`.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import interop, random

NOISE = np.random.default_rng(0).normal(size=(2, 3, 4)) * 1.5
DRAWS = np.random.default_rng(1).normal(size=(4, 1, *NOISE.shape))
NET = lambda z, time: 0.4 * jnp.sin(3 * z) + time / 4000


def net(z, time):
    return 0.4 * np.sin(3 * z) + time / 4000


def sample(config, num_steps, **kwargs):
    scheduler = interop.DiffusersScheduler(config, **kwargs)
    with jax.enable_x64(True):
        source = random.Recorded(jnp.asarray(DRAWS[:num_steps]))
        draw = lambda z: scheduler.sample(None, NET, z, num_steps, draws=source).x
        return np.asarray(jax.jit(draw)(jnp.asarray(NOISE)))


def table(low, high, count=1000):
    """alphas_cumprod of a scaled linear chain."""
    betas = np.linspace(low**0.5, high**0.5, count) ** 2
    return np.cumprod(1 - betas)


def static(x):
    return np.clip(x, -1, 1)


def dynamic(x):
    bound = np.quantile(np.abs(x), 0.8, axis=(1, 2), keepdims=True)
    bound = np.clip(bound, 1, 1.3)
    return np.clip(x, -bound, bound) / bound


SCALED = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
DYNAMIC = dict(thresholding=True, sample_max_value=1.3, dynamic_thresholding_ratio=0.8)


@pytest.mark.parametrize(
    ("settings", "clip"),
    [({}, static), (dict(clip_sample=False), lambda x: x), (DYNAMIC, dynamic)],
)
def test_ddim_takes_clipped_data_and_the_noise_as_predicted(settings, clip):
    abar, z = table(0.00085, 0.012), NOISE
    for time in (750, 500, 250, 0):
        a = abar[time]
        to = abar[time - 250] if time else 1.0
        eps = net(z, time)
        x = clip((z - np.sqrt(1 - a) * eps) / np.sqrt(a))
        z = np.sqrt(to) * x + np.sqrt(1 - to) * eps
    found = sample({"_class_name": "DDIMScheduler", **SCALED, **settings}, 4)
    np.testing.assert_allclose(found, z, atol=1e-9)


def test_the_noise_follows_from_clipped_data_in_other_classes():
    """DPM-Solver++ of order 1: the step has z and x_hat alone."""
    abar, z = table(0.00085, 0.012), NOISE
    config = {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 1}
    config |= {**SCALED, **DYNAMIC, "timestep_spacing": "trailing"}
    for time, to in ((999, abar[499]), (499, 1.0)):
        a = abar[time]
        x = dynamic((z - np.sqrt(1 - a) * net(z, time)) / np.sqrt(a))
        rest = (z - np.sqrt(a) * x) / np.sqrt(1 - a)
        z = np.sqrt(to) * x + np.sqrt(1 - to) * rest
    np.testing.assert_allclose(sample(config, 2), z, atol=1e-9)


def test_lcm_renoises_what_its_boundary_condition_gives():
    abar, z = table(0.00085, 0.012), NOISE
    times = (999, 759, 499, 259)  # every 12.5th of 50, its place rounded down
    for i, time in enumerate(times):
        a = abar[time]
        x = (z - np.sqrt(1 - a) * net(z, time)) / np.sqrt(a)
        scaled = 10.0 * time
        x = scaled / np.hypot(scaled, 0.5) * x + 0.25 / (scaled**2 + 0.25) * z
        if i == 3:
            z = x
        else:
            to = abar[times[i + 1]]
            z = np.sqrt(to) * x + np.sqrt(1 - to) * DRAWS[i, 0]
    np.testing.assert_allclose(sample({"_class_name": "LCMScheduler"}, 4), z, atol=1e-9)


@pytest.mark.parametrize("eta", [None, 0.0, 0.8])
def test_tcd_jumps_to_a_part_of_the_timestep(eta):
    abar, z, times = table(0.00085, 0.012), NOISE, (999, 759, 499, 259, 0)
    for i, (time, to) in enumerate(itertools.pairwise(times)):
        a, eps = abar[time], net(z, time)
        x = (z - np.sqrt(1 - a) * eps) / np.sqrt(a)
        middle = abar[int(np.floor((1 - (0.3 if eta is None else eta)) * to))]
        z = np.sqrt(middle) * x + np.sqrt(1 - middle) * eps
        if i < 3:
            ratio = abar[to] / middle
            z = np.sqrt(ratio) * z + np.sqrt(1 - ratio) * DRAWS[i, 0]
    found = sample({"_class_name": "TCDScheduler"}, 4, eta=eta)
    np.testing.assert_allclose(found, z, atol=1e-9)


def test_betas_of_a_product_give_the_product():
    """`prod (1 - beta) = abar(t) / abar(0)`, where no beta is capped."""
    t = np.arange(1, 1001) / 1000
    laplace = lambda t: (
        1
        / np.sqrt(
            1
            + (np.where(t > 0.5, 2 * (1 - t), 2 * t) + 1e-6)
            ** np.where(t > 0.5, -0.5, 0.5)
        )
    )
    closed = {"laplace": laplace, "exp": lambda t: np.exp(-12 * t)}
    for name, product in closed.items():
        config = {"_class_name": "DDPMScheduler", "beta_schedule": name}
        ours = interop.from_diffusers(config).schedule.alphas_cumprod
        np.testing.assert_allclose(ours, product(t) / product(0.0), rtol=1e-9)


def test_dynamic_shifting_is_a_shift():
    name = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    dynamic = name | {"use_dynamic_shifting": True}
    convention = lambda config, **kwargs: interop.from_diffusers(config, **kwargs)
    level = lambda found: np.asarray(found.schedule.sigma(np.array([0.2, 0.7])))
    shifted = level(convention(name | {"shift": float(np.exp(0.8))}))
    np.testing.assert_allclose(level(convention(dynamic, mu=0.8)), shifted)
    linear = dynamic | {"time_shift_type": "linear"}
    shifted = level(convention(name | {"shift": 0.8}))
    np.testing.assert_allclose(level(convention(linear, mu=0.8)), shifted)
    tokens = convention(dynamic, image_seq_len=(256 + 4096) // 2)
    np.testing.assert_allclose(
        level(tokens), level(convention(dynamic, mu=(0.5 + 1.15) / 2))
    )


STABLE = {  # entries as published with Stable Diffusion
    "_diffusers_version": "0.8.0",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    **SCALED,
}


def test_a_config_written_for_one_class_is_read_by_another():
    ddim = interop.DiffusersScheduler({**STABLE, "_class_name": "DDIMScheduler"})
    assert ddim.ignored == ("skip_prk_steps",)
    steps = ddim.steps(4)
    np.testing.assert_array_equal(steps.timesteps, [751, 501, 251, 1])
    assert steps.s[-1] == 1 / 1000  # the first level: alpha is not set to one
    euler = {**STABLE, "_class_name": "EulerDiscreteScheduler"}
    assert interop.DiffusersScheduler(euler).ignored == (
        "clip_sample",
        "set_alpha_to_one",
        "skip_prk_steps",
    )
    linspace = interop.DiffusersScheduler(
        {"_class_name": "DDIMScheduler", "timestep_spacing": "linspace"}
    )
    with pytest.raises(ValueError, match="linspace.*are no grid, .*; use steps"):
        linspace.grid(7)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"_class_name": "DDIMInverseScheduler"}, "not read; samplers.invert"),
        (
            {"_class_name": "PNDMScheduler", "timestep_spacing": "linspace"},
            "'linspace', 6 steps: PNDMScheduler aims elsewhere",
        ),
        (
            {"_class_name": "PNDMScheduler", "num_train_timesteps": 42},
            "num_steps=6.*here 7",
        ),
        (
            {"_class_name": "PNDMScheduler", "prediction_type": "v_prediction"},
            "it extrapolates that",
        ),
        (
            {"_class_name": "SASolverScheduler", "use_karras_sigmas": True},
            "SASolverScheduler with the levels",
        ),
        (
            {
                "_class_name": "DPMSolverSinglestepScheduler",
                "algorithm_type": "sde-dpmsolver",
            },
            "'sde-dpmsolver'.*sde-dpmsolver\\+\\+",
        ),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned"}, "'learned'"),
        ({"_class_name": "DDPMScheduler", "timestep_spacing": "lead"}, "'leading'"),
        ({"_class_name": "DDIMScheduler", "steps_offset": 800}, "steps_offset=800"),
        ({"_class_name": "DDIMScheduler", "clip_sampel": True}, "'clip_sample'"),
        ({"_class_name": "UniPCMultistepScheduler", "solver_p": 1}, "solver_p=1"),
        (
            {"_class_name": "UniPCMultistepScheduler", "disable_corrector": [0]},
            r"disable_corrector=\[0\]",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_lu_lambdas": True}
            | {"use_karras_sigmas": True, "use_beta_sigmas": True},
            "use_karras_sigmas and use_beta_sigmas",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}
            | {"algorithm_type": "sde-dpmsolver++"},
            "solver_order=3",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": True},
            "2\\^-24.*DDIMScheduler",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "sigma_max": 900.0}
            | {"use_karras_sigmas": True},
            "sigma_max=900: must be at most",
        ),
        (
            {"_class_name": "DPMSolverSDEScheduler", "noise_sampler_seed": 3},
            "noise_sampler_seed=3.*key",
        ),
        ({"_class_name": "LCMScheduler"}, "at most original_inference_steps=50"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(config, words):
    num_steps = 60 if config["_class_name"] == "LCMScheduler" else 6
    with pytest.raises(ValueError, match=words):
        interop.DiffusersScheduler(config).sampler(num_steps)
