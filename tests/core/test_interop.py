"""Conventions of other libraries, against what those libraries recorded."""

import jax
import numpy as np
import pytest

from diffusionflow import grids, interop, predictions, samplers, schedules
from tests.helpers import golden


def ids(cases):
    return dict(argvalues=cases, ids=str)


TABLES = golden.cases("schedule", "diffusers_training")
FORWARD = golden.cases("forward", "diffusers_training")
PRECONDITIONINGS = golden.cases("preconditioning", "edm_training")
PATHS = golden.cases("path", "sit")


def test_every_record_of_these_kinds_is_tested():
    counts = [len(cases) for cases in (TABLES, FORWARD, PRECONDITIONINGS, PATHS)]
    golden.expect(counts, [6, 4, 6, 3])


def time_of(convention, index):
    """The time at which the network is given `index`."""
    return (index + 1) / len(convention.schedule.alphas_cumprod)


@pytest.mark.parametrize("case", **ids(TABLES))
def test_diffusers_tables(case):
    convention = interop.from_diffusers(case.config)
    table, count = case.a["alphas_cumprod"], len(case.a["alphas_cumprod"])
    with jax.enable_x64(True):
        t = time_of(convention, np.arange(count))
        alpha, sigma = (np.asarray(f(t)) for f in levels(convention))
        clock = np.asarray(convention.clock_fn(t))
        snr = np.exp(convention.schedule.logsnr(t[case.a["snr_timesteps"]]))
    np.testing.assert_allclose(alpha**2, table, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(sigma**2, 1 - table, rtol=1e-10)
    np.testing.assert_allclose(clock, np.arange(count), atol=1e-9)
    np.testing.assert_allclose(snr, case.a["snr"], rtol=1e-10)


def levels(convention):
    return convention.schedule.alpha, convention.schedule.sigma


@pytest.mark.parametrize("case", **ids(FORWARD))
def test_diffusers_forward_process(case):
    """z_t and the target at the time at which the network is given the timestep."""
    convention = interop.from_diffusers(case.config)
    x, eps, steps = case.a["x"], case.a["eps"], case.a["timesteps"]
    flow = "shift" in case.config
    with jax.enable_x64(True):
        schedule = convention.schedule
        if flow:  # the clock is T sigma: sigma of the record is what the network sees
            t = schedule.inverse_logsnr(2 * np.log(case.a["alpha"] / case.a["sigma"]))
        else:
            t = time_of(convention, steps)
        alpha, sigma = (np.asarray(f(t))[:, None] for f in levels(convention))
        clock = np.asarray(convention.clock_fn(t))
        target = np.asarray(
            predictions.from_denoised(
                predictions.Denoised(x, eps), kind="v", t=t, schedule=schedule
            )
        )
    np.testing.assert_allclose(clock, steps, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(alpha * x + sigma * eps, case.a["z"], rtol=1e-10)
    assert str(convention.kind) == ("u" if flow else "eps")
    if not flow:
        np.testing.assert_allclose(target, case.a["v"], rtol=1e-10, atol=1e-12)


def test_the_shift_of_a_flow_scheduler_is_a_shifted_schedule():
    """sigma' = k sigma / (1 + (k - 1) sigma), and the network is given 1000 sigma'."""
    convention = interop.from_diffusers({"shift": 3.0})
    t = np.array([0.0, 0.2, 0.7, 1.0])
    with jax.enable_x64(True):
        sigma = np.asarray(convention.schedule.sigma(t))
        clock = np.asarray(convention.clock_fn(t))
    np.testing.assert_allclose(sigma, 3 * t / (1 + 2 * t), rtol=1e-14)
    np.testing.assert_allclose(clock, 1000 * sigma, rtol=1e-14)
    same = interop.from_diffusers(
        {
            "_class_name": "DPMSolverMultistepScheduler",
            "use_flow_sigmas": True,
            "flow_shift": 3.0,
            "prediction_type": "flow_prediction",
        }
    )
    assert same == convention


def precond(case):
    """Name and settings of a convention; without what no formula depends on."""
    names = dict.fromkeys(("beta_d", "beta_min", "sigma_data")) | {"M": "num_levels"}
    defaults = dict(C_1=0.001, C_2=0.008)  # others are no convention of ours
    unused = ("precond", "sigma_min", "sigma_max", "epsilon_t")
    left = {name: value for name, value in case.config.items() if name not in unused}
    settings = {names[name] or name: left.pop(name) for name in names if name in left}
    if not left.items() <= defaults.items():
        raise case.unknown(f"{left}")
    name = case.config["precond"].removesuffix("Precond").lower()
    low, high = case.a["sigma"].min(), case.a["sigma"].max()
    if low < 0.002 or high > 80:
        settings["schedule"] = schedules.EDM(float(low) / 2, 2 * float(high))
    return name, settings


@pytest.mark.parametrize("case", **ids(PRECONDITIONINGS))
def test_edm_preconditionings(case):
    """The recorded F gives the recorded D, and the network sees the recorded inputs."""
    name, settings = precond(case)
    z, sigma, seen = case.a["x"], case.a["sigma"], []

    def net_fn(z, time):
        seen.append((np.asarray(z), np.asarray(time)))
        return case.a["F"]

    with jax.enable_x64(True):
        convention = interop.from_edm(name, **settings)
        schedule = convention.schedule
        t = schedule.inverse_logsnr(-2 * np.log(sigma))
        denoise_fn = predictions.denoiser(
            convention.predict_fn(net_fn), kind=convention.kind, schedule=schedule
        )
        denoised = np.asarray(denoise_fn(z, t).x)
    given, time = seen[0]
    np.testing.assert_allclose(denoised, case.a["denoised"], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(given, case.a["network_input"], rtol=1e-10)
    np.testing.assert_allclose(time, case.a["c_noise"], rtol=1e-10, atol=1e-10)
    # and on a schedule with another scale: the same network, inputs and x
    with jax.enable_x64(True):
        settings["schedule"] = schedules.Cosine()
        other = interop.from_edm(name, **settings)
        t = other.schedule.inverse_logsnr(-2 * np.log(sigma))
        scale = np.asarray(other.schedule.alpha(t))[:, None]
        denoise_fn = predictions.denoiser(
            other.predict_fn(net_fn), kind=other.kind, schedule=other.schedule
        )
        denoised = np.asarray(denoise_fn(scale * z, t).x)
    np.testing.assert_allclose(denoised, case.a["denoised"], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(seen[1][0], case.a["network_input"], rtol=1e-10)


def test_edm_coefficients_in_edm_s_own_scale():
    """`edm_preconditioning` on alpha = 1 gives the recorded D from the recorded F."""
    own = [case for case in PRECONDITIONINGS if case.config["precond"] == "EDMPrecond"]
    golden.expect(len(own), 2)
    for case in own:
        z, sigma = case.a["x"], case.a["sigma"]
        with jax.enable_x64(True):
            schedule = schedules.EDM(float(sigma.min()) / 2, 2 * float(sigma.max()))
            t = schedule.inverse_logsnr(-2 * np.log(sigma))
            c_skip, c_out, c_in, c_noise = (
                np.asarray(part)
                for part in predictions.edm_preconditioning(
                    t, schedule=schedule, sigma_data=case.config.get("sigma_data", 0.5)
                )
            )
        found = c_skip[:, None] * z + c_out[:, None] * case.a["F"]
        np.testing.assert_allclose(found, case.a["denoised"], rtol=1e-10)
        np.testing.assert_allclose(c_in[:, None] * z, case.a["network_input"])
        np.testing.assert_allclose(c_noise, case.a["c_noise"], rtol=1e-10)


@golden.each("schedule", "edm_training", 1)
def test_the_table_of_iddpm(case):
    found = interop.iddpm_levels(
        case.config["M"], ratio_min=case.config["C_1"], offset=case.config["C_2"]
    )
    np.testing.assert_allclose(found, case.a["u"], rtol=1e-10)


def test_a_network_that_returns_the_denoised_image():
    """D(z; sigma) in EDM's scale, called on flow matching."""
    mixture = golden.Mixture("g2a", golden.SHIPPED)
    schedule = schedules.FlowMatching()
    convention = interop.from_edm("denoised", schedule=schedule)
    net_fn = lambda z, sigma: mixture.denoised(z, 1.0, np.asarray(sigma))[0]
    z, t = np.ones((3, 2)), np.array([0.1, 0.5, 0.9])
    with jax.enable_x64(True):
        denoise_fn = predictions.denoiser(
            convention.predict_fn(net_fn), kind=convention.kind, schedule=schedule
        )
        found = denoise_fn(z, t)
        expected = mixture.denoised(z, 1 - t, t)
        for value, exact in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, exact, rtol=1e-11)


@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
@pytest.mark.parametrize("case", **ids(PATHS))
def test_sit(case, prediction):
    """A network of the recorded outputs gives the recorded posterior means."""
    recorded = dict(velocity="velocity", noise="eps_hat", score="score")
    time, seen = case.a["t"], []

    def net_fn(z, time):
        seen.append(np.asarray(time))
        return case.a[recorded[prediction]]

    with jax.enable_x64(True):
        convention = interop.from_sit(case.config["path"], prediction)
        schedule = convention.schedule
        alpha, sigma = (np.asarray(f(1 - time)) for f in levels(convention))
        denoise_fn = predictions.denoiser(
            convention.predict_fn(net_fn), kind=convention.kind, schedule=schedule
        )
        x, eps = (np.asarray(part) for part in denoise_fn(case.a["x_t"], 1 - time))
    np.testing.assert_allclose(alpha, case.a["alpha"], rtol=1e-10)
    np.testing.assert_allclose(sigma, case.a["sigma"], rtol=1e-10)
    np.testing.assert_allclose(seen[0], time, rtol=1e-14)
    np.testing.assert_allclose(x, case.a["x1_hat"], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(eps, case.a["eps_hat"], rtol=1e-9, atol=1e-10)


def test_conventions_work_under_jit():
    for convention in (
        interop.from_diffusers({"rescale_betas_zero_snr": True}),
        interop.from_diffusers({"shift": 2.0}),
        interop.from_diffusers({"_class_name": "EDMEulerScheduler"}),
        *(interop.from_edm(output) for output in ("vp", "ve", "iddpm", "denoised")),
        interop.from_sit("VP", "score"),
    ):
        predict_fn = convention.predict_fn(lambda z, time: z * time[:, None])
        z, t = np.ones((2, 3), np.float32), np.array([0.2, 0.5], np.float32)
        plain = predict_fn(z, t)
        jitted = jax.jit(lambda fn, z, t: fn(z, t))(predict_fn, z, t)
        assert plain.dtype == np.float32
        np.testing.assert_allclose(plain, jitted, rtol=1e-4)


def test_a_continuous_euler_chain_is_called_at_a_quarter_of_log_sigma():
    """v on variance preserving z, and the clock of EDM, not an index."""
    sigma = np.array([0.002, 0.05, 1.0, 14.0])
    euler = {
        "_class_name": "EulerDiscreteScheduler",
        "timestep_type": "continuous",
        "prediction_type": "v_prediction",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
    }
    for ends, reached in (
        ({}, sigma[1:]),
        ({"sigma_min": 0.002, "sigma_max": 700.0}, sigma),
    ):
        convention = interop.from_diffusers(euler | ends)
        with jax.enable_x64(True):
            schedule = convention.schedule
            t = schedule.inverse_logsnr(-2 * np.log(reached))
            alpha, time = np.asarray(schedule.alpha(t)), convention.clock_fn(t)
            scale = np.asarray(convention.scale_fn(t))
        np.testing.assert_allclose(time, 0.25 * np.log(reached), rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(alpha, 1 / np.sqrt(1 + reached**2), rtol=1e-10)
        np.testing.assert_array_equal(scale, 1)
        assert str(convention.kind) == "v"
    with jax.enable_x64(True):  # the ends of the schedule are those of the config
        ends = np.exp(-np.asarray(schedule.logsnr(np.array([0.0, 1.0]))) / 2)
    np.testing.assert_allclose(ends, [0.002, 700.0], rtol=1e-10)
    discrete = interop.from_diffusers(euler | {"timestep_type": "discrete"})
    assert discrete.clock_fn(np.float32(0.5)) == 499


# As the library writes them: every option of the class, the unused ones null or False.
WRITTEN = [
    {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": "0.33.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "final_sigmas_type": "zero",
        "interpolation_type": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "rescale_betas_zero_snr": False,
        "sigma_max": None,
        "sigma_min": None,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "timestep_type": "discrete",
        "trained_betas": None,
        "use_beta_sigmas": False,
        "use_exponential_sigmas": False,
        "use_karras_sigmas": False,
    },
    {
        "_class_name": "UniPCMultistepScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "disable_corrector": [],
        "dynamic_thresholding_ratio": 0.995,
        "flow_shift": 1.0,
        "lower_order_final": True,
        "prediction_type": "epsilon",
        "shift_terminal": None,
        "sigma_max": None,
        "sigma_min": None,
        "solver_p": None,
        "time_shift_type": "exponential",
        "use_dynamic_shifting": False,
        "use_flow_sigmas": False,
    },
    {
        "_class_name": "SASolverScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "corrector_order": 2,
        "predictor_order": 2,
        "tau_func": None,
    },
    {
        "_class_name": "EulerDiscreteScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "sigma_max": 10.0,
        "sigma_min": 0.1,
    },
]


def test_what_current_versions_write_is_read():
    same = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    recorded = [case.a["alphas_cumprod"] for case in TABLES if case.config == same]
    golden.expect(len(recorded), 1)
    for config in WRITTEN:
        found = interop.from_diffusers(config)
        assert str(found.kind) == "eps"
        for table in recorded:
            ours = found.schedule.alphas_cumprod
            np.testing.assert_allclose(ours, table, rtol=1e-10)


def test_betas_that_a_config_lacks_are_those_of_its_class():
    def first_and_last(name, **entries):
        schedule = interop.from_diffusers({"_class_name": name, **entries}).schedule
        kept = schedule.alphas_cumprod
        return 1 - kept[0], 1 - kept[-1] / kept[-2]

    ddpm, heun = (1e-4, 0.02), (0.00085, 0.012)
    for name in ("DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler"):
        np.testing.assert_allclose(first_and_last(name), ddpm, rtol=1e-9)
    np.testing.assert_allclose(first_and_last("HeunDiscreteScheduler"), heun, rtol=1e-9)
    given = dict(beta_start=0.001, beta_end=0.1, beta_schedule="linear")
    for name in ("KDPM2DiscreteScheduler", "DPMSolverSDEScheduler", "DDIMScheduler"):
        found = first_and_last(name, **given)
        np.testing.assert_allclose(found, (0.001, 0.1), rtol=1e-9)


def test_every_recorded_class_is_known():
    families = ("ddim_ddpm", "dpmsolver", "edm", "flow", "sigma", "unipc_deis")
    names = {
        case.config["scheduler"]
        for family in families
        for case in golden.cases("sampler", f"diffusers_{family}")
    }
    assert len(names) > 15 or golden.NAMED
    betas = dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    for name in sorted(names):
        entries = betas if not name.startswith(("EDM", "FlowMatch")) else {}
        interop.from_diffusers({"_class_name": name, **entries})


@pytest.mark.ci
def test_the_network_of_a_chain_is_not_called_below_its_first_level():
    convention = interop.from_diffusers({})
    clock_fn, first = convention.clock_fn, np.float32(1 / 1000)
    for t in (0.0, 0.5 / 1000, np.array([0.5, 0.0], np.float32)):
        with pytest.raises(ValueError, match=r"below t = 1 / 1000.*t_min=1 / 1000"):
            clock_fn(t)
    np.testing.assert_allclose(clock_fn(first), 0, atol=1e-6)
    called = []

    def net_fn(z, index):
        jax.debug.callback(lambda index: called.append(float(index.min())), index)
        return z

    denoise_fn = predictions.denoiser(
        convention.predict_fn(net_fn), kind="eps", schedule=convention.schedule
    )
    grid = grids.uniform(7, t_min=1 / 1000)
    samplers.sample(
        jax.random.key(0),
        denoise_fn,
        np.ones((2, 3), np.float32),
        grid,
        sampler=samplers.ddim(),
        schedule=convention.schedule,
    )
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(called), np.sort(1000 * grid - 1), atol=1e-3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"beta_schedul": "linear"}, "beta_schedul.*did you mean 'beta_schedule'"),
        ({"beta_schedule": "laplase"}, "'laplase': did you mean 'laplace'"),
        ({"prediction_type": "velocity"}, "unknown prediction_type 'velocity'"),
        ({"use_flow_sigmas": True}, "prediction_type 'epsilon'.*flow_prediction"),
        ({"shift": 1.0, "use_dynamic_shifting": True}, "mu=None, image_seq_len=None"),
        ({"shift": 1.0, "invert_sigmas": True}, "invert_sigmas=True.*flip_time"),
        ({"shift": 1.0, "beta_start": 0.1}, "beta_start"),
        ({"shift": -1.0}, "k=-1.0"),
        ({"trained_betas": [0.1, 1.2]}, "betas="),
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting=True.*use_flow_sigmas"),
        ({"timestep_type": "continuous"}, "continuous.*'epsilon'.*v_prediction"),
        ({"timestep_type": "other"}, "unknown timestep_type 'other'"),
        (
            {
                "timestep_type": "continuous",
                "prediction_type": "v_prediction",
                "sigma_max": 700.0,
            },
            "sigma_min=None, sigma_max=700.0: give both",
        ),
        (
            {"_class_name": "DDIMScheduler", "timestep_type": "continuous"},
            "DDIMScheduler.*EulerDiscreteScheduler",
        ),
        ({"_class_name": "VQDiffusionScheduler"}, "'VQDiffusionScheduler'.*DDIMSch"),
        ({"_class_name": "DDIMSheduler"}, "did you mean 'DDIMScheduler'"),
        (
            {"_class_name": "DDIMScheduler", "shift": 3.0},
            "shift=3.0: DDIM.*FlowMatchEuler",
        ),
        (
            {"_class_name": "EDMEulerScheduler", "prediction_type": "sample"},
            "unknown prediction_type 'sample'",
        ),
    ],
)
def test_unsupported_settings_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        interop.from_diffusers(config)


def test_sampling_options_are_allowed_and_other_names_refused():
    plain = interop.from_diffusers({})
    config = {"clip_sample": True, "timestep_spacing": "leading", "_version": "0.1"}
    assert str(interop.from_diffusers(config).kind) == str(plain.kind) == "eps"
    betas = np.linspace(1e-4, 0.02, 1000)
    for given in ({}, {"num_train_timesteps": 1000}):
        for table in (list(betas), betas):
            trained = interop.from_diffusers({"trained_betas": table, **given})
            np.testing.assert_array_equal(
                trained.schedule.alphas_cumprod, plain.schedule.alphas_cumprod
            )
    for call in (
        lambda: interop.from_edm("F"),
        lambda: interop.from_edm("vp", beta_d=0.0),
        lambda: interop.from_edm("vp", num_levels=1),
        lambda: interop.from_sit("linear"),
        lambda: interop.from_sit("Linear", "v"),
    ):
        with pytest.raises(ValueError, match="F|beta_d=0.0|num_levels=1|linear|'v'"):
            call()
