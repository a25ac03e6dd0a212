"""Losses of other libraries: every recorded value, from this library's losses.

Each recorder's words (`velocity`, time the other way round, sums for means) are put
into ours at the top of its test, and nowhere else.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import (
    interop,
    losses,
    objectives,
    predictions,
    schedules,
    times,
    weightings,
)
from tests.helpers import golden, golden_schedules

COSINE = schedules.Cosine()
ELSEWHERE = {"vdm": ["loss_recon"]}  # the decoder's term: test_likelihood_golden


def close(found, recorded):
    np.testing.assert_allclose(found, recorded, rtol=1e-10, atol=1e-12)


def around(sigma):
    """alpha = 1, with all recorded levels inside."""
    return schedules.EDM(float(sigma.min()) / 2, 2 * float(sigma.max()))


def recorded(value):
    """A network that returns what was recorded."""
    return lambda z, t: jnp.asarray(value)


def exact(case, kind, schedule):
    """The network of the recording: the exact prediction of its mixture."""
    mixture = golden.Mixture(case.meta["mixture"])

    def predict_fn(z, t):
        levels = schedule.alpha(t), schedule.sigma(t)
        x, eps = mixture.denoised(*(np.asarray(part) for part in (z, *levels)))
        denoised = predictions.Denoised(jnp.asarray(x), jnp.asarray(eps))
        return predictions.from_denoised(denoised, kind=kind, t=t, schedule=schedule)

    return predict_fn


def loss_of(case, predict_fn, schedule, kind, weighting, x, t, eps):
    """`objective_loss` at the recorded times and noise, float64."""
    objective = objectives.Objective(schedule, kind, weighting, times.Uniform())
    return np.asarray(
        losses.objective_loss(None, predict_fn, x, objective=objective, t=t, eps=eps)
    )


@golden.each("loss", "diffusers_training", 12)
def test_diffusers(case):
    """MSE of eps and v, plain and with min-SNR weights, at indices of the table."""
    settings, a = dict(case.config), case.a
    gamma = settings.pop("snr_gamma", None)
    with jax.enable_x64(True):
        convention = interop.from_diffusers(settings)
        schedule, kind = convention.schedule, convention.kind
        if hasattr(schedule, "alphas_cumprod"):
            t = (a["timesteps"] + 1) / len(schedule.alphas_cumprod)
        else:  # a flow
            t = schedule.inverse_logsnr(2 * np.log(a["alpha"] / a["sigma"]))
        weighting = weightings.MinSNR(gamma) if gamma else weightings.Mse(kind)
        arguments = (schedule, kind, weighting, a["x"], t, a["eps"])
        loss = loss_of(case, recorded(a["model_output"]), *arguments)
        ours = loss_of(case, exact(case, kind, schedule), *arguments)
        ratio = predictions.error_ratio(weighting.kind, kind, t, schedule=schedule)
        weight = np.asarray(weighting(t, schedule=schedule) * ratio)
    close(loss.mean(), a["loss"])
    close(ours.mean(), a["loss"])
    close(weight, a.get("weight", np.ones(len(t))))


@golden.each("loss", "edm_training", 12)
def test_edm(case):
    """Weighted x errors; sigma from the recorded uniform or normal draw."""
    a, schedule = case.a, around(case.a["sigma"])
    with jax.enable_x64(True):
        t = np.asarray(schedule.inverse_logsnr(-2 * np.log(a["sigma"])))
        sigma, weighting = case.choose("loss", EDM_LOSSES)(case)
        if case.config["loss"] == "EDMLoss":
            # the same weight, as a factor on the error of x
            std = case.config.get("sigma_data", 0.5)
            close(weightings.EDM(std)(t, schedule=schedule), a["weight"])
        network = exact(case, "x", schedule)
        arguments = (schedule, "x", weighting, a["x"], t, a["eps"])
        loss = loss_of(case, network, *arguments)
        factor = predictions.error_ratio(weighting.kind, "x", t, schedule=schedule)
    close(sigma, a["sigma"])
    close(factor, a["weight"])
    close(loss, a["loss_elementwise"].mean(1))


def vp_loss(case):
    low = case.config.get("beta_min", 0.1)
    vp = schedules.LinearBeta(low, low + case.config.get("beta_d", 19.9))
    t = 1 + (case.config.get("epsilon_t", 1e-5) - 1) * case.a["base_uniform"]
    return np.exp(-vp.logsnr(t) / 2), weightings.Mse("eps")


def ve_loss(case):
    ends = case.config.get("sigma_min", 0.02), case.config.get("sigma_max", 100.0)
    return schedules.VE(*ends).sigma(case.a["base_uniform"]), weightings.Mse("eps")


def edm_loss(case):
    config = case.config
    density = times.LogNormalSigma(config.get("P_mean", -1.2), config.get("P_std", 1.2))
    u = jax.scipy.stats.norm.cdf(case.a["base_normal"])
    wide = schedules.EDM(1e-7, 1e7)  # no mass beyond its ends
    kind = predictions.edm_f(config.get("sigma_data", 0.5))
    return wide.sigma(density.quantile(u, schedule=wide)), weightings.Mse(kind)


EDM_LOSSES = {"VPLoss": vp_loss, "VELoss": ve_loss, "EDMLoss": edm_loss}


@golden.each("loss", "kdiffusion_training", 10)
def test_k_diffusion(case):
    """Errors of F, eps and v on alpha = 1."""
    a, schedule, std = case.a, around(case.a["sigma"]), case.config["sigma_data"]
    of_f = predictions.edm_f(std)
    weighting = case.choose(
        "weighting",
        {
            "karras": weightings.Mse(of_f),
            "soft-min-snr": weightings.SoftMinSNR(std**-2.0),
            "snr": weightings.Factor(
                lambda logsnr: jax.nn.sigmoid(logsnr + 2 * np.log(std)), of_f
            ),
            "simple": weightings.Mse("eps"),
            "v": weightings.Mse(of_f),
        },
    )
    with jax.enable_x64(True):
        t = np.asarray(schedule.inverse_logsnr(-2 * np.log(a["sigma"])))
        found = predictions.edm_preconditioning(t, schedule=schedule, sigma_data=std)
        of_v = case.config["weighting"] == "v"  # there the output is v = -F
        close(found.c_skip, a["c_skip"])
        close(found.c_out, -a["c_out"] if of_v else a["c_out"])
        close(found.c_in, a["c_in"])
        if of_v:
            close(COSINE.inverse_logsnr(-2 * np.log(a["sigma"])), a["t_of_sigma"])
        network = exact(case, of_f, schedule)
        arguments = (schedule, of_f, weighting, a["x"], t, a["eps"])
        loss = loss_of(case, network, *arguments)
        factor = weighting(t, schedule=schedule) * predictions.error_ratio(
            weighting.kind, of_f, t, schedule=schedule
        )
    close(loss, a["loss"])
    if "weight" in a and case.config["weighting"] != "simple":
        close(factor, a["weight"])


@golden.each("loss", "score_sde", 14)
def test_score_sde(case):
    """Score matching with weight sigma^2 or g^2; means, or half sums, over the event.

    The discrete losses stand at levels of their own tables, found by log-SNR.
    """
    a, schedule = case.a, golden_schedules.of(case)
    half_sum = a["x"].shape[1] / 2
    scale = 1 if case.config.get("reduce_mean") else half_sum
    if "reduce" in case.config:
        scale = case.choose("reduce", {"half sum": half_sum, "mean": 1})
    likelihood = case.config.get("likelihood_weighting", False)
    weighting = weightings.Likelihood() if likelihood else weightings.Mse("eps")
    with jax.enable_x64(True):
        if "t" in a:
            low = case.config.get("eps", 1e-5)
            t = times.Uniform(low, 1.0).quantile(a["base_uniform"], schedule=schedule)
            close(t, a["t"])
        else:
            schedule, t = discrete(case, schedule)
        close(schedule.alpha(t), a["alpha"])
        close(schedule.sigma(t), a["sigma"])
        for kind in ("score", "eps"):
            loss = loss_of(
                case,
                exact(case, kind, schedule),
                schedule,
                kind,
                weighting,
                a["x"],
                np.asarray(t),
                a["eps"],
            )
            close(scale * loss, a["loss"])


def discrete(case, schedule):
    """Schedule and times of score_sde's discrete losses; index 0 of smld is noise."""
    index, count = case.a["index"], case.config.get("N", 1000)
    if case.choose("kind", {"ddpm": True, "smld": False}):
        ends = schedule.beta_min / count, schedule.beta_max / count
        return schedules.Discrete.linear_betas(count, *ends), (index + 1) / count
    return schedule, 1 - index / (count - 1)


@golden.each("loss", "sit", 21)
def test_sit(case):
    """Velocity, noise and score, t = 1 at the data; weights as errors of other kinds.

    Weight "velocity" on the noise error is the error of dz_dt, and "likelihood" half of
    the bound's weight.
    """
    a = case.a
    with jax.enable_x64(True):
        convention = interop.from_sit(case.config["path"], case.config["prediction"])
        schedule, kind = convention.schedule, convention.kind
        t = np.asarray(1 - a["t"])
        plain = weightings.Mse("dz_dt" if str(kind) == "dz_dt" else "eps")
        weighting, factor = case.choose(
            "loss_weight",
            {
                None: (plain, 1),
                "velocity": (weightings.Mse("dz_dt"), 1),
                "likelihood": (weightings.ELBO(), 0.5),
            },
        )
        predict_fn = convention.predict_fn(recorded(a["pred"]))
        loss = loss_of(case, predict_fn, schedule, kind, weighting, a["x1"], t, a["x0"])
        network = exact(case, kind, schedule)
        ours = loss_of(case, network, schedule, kind, weighting, a["x1"], t, a["x0"])
    close(factor * loss, a["loss"])
    close(factor * ours, a["loss"])


@golden.each("loss", "rectified_flow", 3)
def test_rectified_flow(case):
    """x_1 is data, x_0 noise; its straight, spherical and ddim interpolations."""
    a, t, schedule = case.a, 1 - case.a["t"], golden_schedules.of(case)
    with jax.enable_x64(True):
        close(schedule.alpha(t), a["alpha"])
        close(schedule.sigma(t), a["sigma"])
        arguments = (a["x1"], t, a["x0"])
        flipped = recorded(-a["velocity"])
        loss = losses.cfm_loss(flipped, *arguments, schedule=schedule)
        field = exact(case, "dz_dt", schedule)
        ours = losses.cfm_loss(field, *arguments, schedule=schedule)
        gap = losses.fm_loss(flipped, field, *arguments, schedule=schedule)
        z = a["x_t"]
        score = predictions.convert(
            -a["velocity"], source="dz_dt", target="score", z=z, t=t, schedule=schedule
        )
        close(np.mean(loss), a["loss"])
        close(np.mean(ours), a["loss"])
        close(gap, np.zeros(len(t)))
        close(score, a["score_from_velocity"])


@golden.each("loss", "hackable_diffusion", 15)
def test_hackable_diffusion(case):
    """The error of every kind from a prediction of any, with and without dlogsnr/dt.

    Its sigmoid weight is `e^bias sigmoid(logsnr - bias)` on the x error.
    """
    a, t, schedule = case.a, case.a["t"], golden_schedules.of(case)
    kind, prediction = case.choose("prediction", HACKABLE), recorded(a["prediction"])

    def loss(weighting):
        arguments = (schedule, kind, weighting, a["x0"], t, a["eps"])
        return loss_of(case, prediction, *arguments)

    with jax.enable_x64(True):
        slope = -np.asarray(schedule.dlogsnr_dt(t))
        for name, other in HACKABLE.items():
            plain = loss(weightings.Mse(other))
            close(plain, a[f"loss_as_{name}_plain"])
            close(slope * plain, a[f"loss_as_{name}_dlogsnr"])
        biases = [name for name in a if name.startswith("loss_sigmoid_bias")]
        assert biases
        for name in biases:
            bias = float(name.removeprefix("loss_sigmoid_bias"))
            close(loss(weightings.Sigmoid(bias)), a[name])


HACKABLE = dict(x0="x", epsilon="eps", score="score", velocity="dz_dt", v="v")


@golden.each("loss", "vdm", 18)
def test_vdm(case):
    """Terms of the bound: sums over the event, here means times its size, in nats."""
    config, a = case.config, case.a
    data, count, size = a["f"], len(a["f"]), a["f"].shape[1]
    steps, u = config["T"], a["base_uniform"]
    t = (u + np.arange(count) / count) % 1 if config["antithetic"] else u
    with jax.enable_x64(True):
        schedule = golden_schedules.of(case)
        network = exact(case, "eps", schedule)
        if steps:
            t = np.ceil(t * steps) / steps
            terms = steps * losses.kl_terms(
                network,
                data,
                t,
                t - 1 / steps,
                a["eps"],
                kind="eps",
                schedule=schedule,
            )
        else:
            terms = 0.5 * loss_of(
                case, network, schedule, "eps", weightings.ELBO(), data, t, a["eps"]
            )
        prior = losses.prior_kl(data, schedule=schedule)
        levels = np.asarray(schedule.sigma(np.array([0.0, 1.0])) ** 2)
    close(size * np.asarray(terms), a["loss_diff"])
    close(size * np.asarray(prior), a["loss_klz"])
    close(levels, [a["var_0"].item(), a["var_1"].item()])


def test_what_is_recorded_and_not_compared():
    names = {name for case in golden.cases("loss", "vdm") for name in case.a}
    used = {"x", "f", "eps", "base_uniform", "loss_diff", "loss_klz", "var_0", "var_1"}
    assert names - used <= {"eps_0", *ELSEWHERE["vdm"]}
    golden.expect(len(golden.cases("loss")), 12 + 12 + 10 + 14 + 21 + 3 + 15 + 18)
