"""What records of samplers say, and who replays them."""

import jax.numpy as jnp
import numpy as np

# of the library, where `config` is silent
DEFAULTS = {
    "diffusers": dict(
        algorithm_type="dpmsolver++",
        disable_corrector=(),
        euler_at_final=False,
        lower_order_final=True,
        order=4,
        predict_x0=True,
        prediction_type="epsilon",
        s_churn=0.0,
        sigma_data=0.5,
        skip_prk_steps=False,
        solver_order=2,
        stochastic_sampling=False,
        variance_type="fixed_small",
    ),
    "dpm_solver": dict(
        algorithm="dpmsolver++",
        lower_order_final=True,
        method="multistep",
        order=2,
        solver_type="dpmsolver",
    ),
    "edm_sampler": dict(
        S_churn=0.0, alpha=1, scaling="none", schedule="linear", solver="heun"
    ),
    "kdiffusion_sampler": dict(eta=1.0, order=4, r=0.5, s_churn=0.0),
    "rectified_flow": dict(noise_decay_rate=1.0, noise_replacement_rate=0.5),
    "score_sde": dict(corrector="none", probability_flow=False),
    "sit": dict(diffusion_form="SBDM", diffusion_norm=1.0, last_step="Mean"),
}
CHAINS = ("DDIMScheduler", "DDPMScheduler")  # each step has an aim of its own
# with what a function multiplies the noise that it draws at every step; else eta
FACTOR = {
    **dict.fromkeys(("sample_euler", "sample_heun", "sample_dpm_2"), "s_churn"),
    **dict.fromkeys(("edm_sampler", "ablation_sampler"), "S_churn"),
}
OTHER_FACTORS = ("stoch_coeff", "churn", "epsilon")  # hackable_diffusion


def library(case):
    """The library of a family."""
    return "diffusers" if case.of("diffusers") else case.family


def said(case):
    """`config` and its `step_kwargs`, with the defaults of the library.

    Where `config` has no `method`, it is that of the record, without what stands in
    brackets; `orders` is the highest order of a step.
    """
    found = {
        "kind": case.kind,
        "method": case.method.split(" (")[0].strip(),
        **DEFAULTS.get(library(case), {}),
        **case.config,
        **case.config.get("step_kwargs", {}),
    }
    order = found.get("solver_order", found.get("order"))
    stages = case.a.get("order_list", case.a.get("orders"))
    found["orders"] = order if stages is None else int(max(stages))
    return found


def is_noisy(case):
    """Whether noise that it drew is part of its states."""
    settings = said(case)
    if settings.get("scheduler") in CHAINS:
        return True
    if settings.get("probability_flow"):
        return False
    factor = FACTOR.get(settings.get("function"), "eta")
    names = [name for name in (factor, *OTHER_FACTORS) if name in settings]
    return "noise" in case.a and all(settings[name] != 0 for name in names)


def lowered_at_the_end(case):
    """How many last steps diffusers lowers: the last to order 1, one before it to 2."""
    settings, count = said(case), len(case.a["alpha_eval"])
    if settings["lower_order_final"] and count < 15:
        return 2
    return 1 if settings["euler_at_final"] else 0


def second_order(case):
    """Our name for a form of the second-order step."""
    midpoint = ("midpoint", "dpmsolver", "logrho", "bh1", "bh2")
    forms = {
        **dict.fromkeys(midpoint, "midpoint"),
        **dict.fromkeys(("heun", "taylor"), "taylor"),
    }
    return case.choose("solver_type", forms, "midpoint")


def levels(case):
    """Alpha and sigma at the states of a chain: what a step aims at is met next."""
    a = case.a
    for name in ("alpha", "sigma"):
        np.testing.assert_array_equal(a[f"{name}_to"][:-1], a[f"{name}_eval"][1:])
        yield np.append(a[f"{name}_eval"], a[f"{name}_to"][-1])


class Ablation:
    """EDM's general sampler: sigma / alpha = `level(time)`, in its time, and a scaling.

    Our times are `top` times as short, so that levels may be raised.

    Args:
      level: sigma of the time.
      inverse: time of the sigma.
      slope: of `level`.
      scaled: whether alpha is `1 / sqrt(1 + sigma^2)`; else it is 1.
      top: positive.
      variable: in which EDM's sampler takes its steps.
    """

    def __init__(self, level, inverse, slope, scaled, top, variable):
        self.level, self.inverse, self.slope = level, inverse, slope
        self.scaled, self.top, self.variable = scaled, top, variable

    def time(self, sigma):
        return self.inverse(sigma) / self.top

    def alpha(self, t):
        level = self.level(self.top * t)
        return (1 + level**2) ** -0.5 if self.scaled else 0 * level + 1

    def sigma(self, t):
        return self.alpha(t) * self.level(self.top * t)

    def logsnr(self, t):
        return -2 * jnp.log(self.level(self.top * t))

    def inverse_logsnr(self, logsnr):
        return self.time(jnp.exp(-logsnr / 2))

    def derivatives(self, t):
        alpha, level = self.alpha(t), self.level(self.top * t)
        slope = self.top * self.slope(self.top * t)
        change = -(alpha**3) * level * slope if self.scaled else 0 * level
        return change, change * level + alpha * slope


def ablation_schedule(case):
    """Of a record of EDM's samplers; VP's is fitted to the ends of its grid.

    Records that name no schedule are those of `sigma = t` and alpha = 1, whose solvers
    in time are those in "eps".
    """
    settings, sigma = said(case), case.a.get("sigma_grid", case.a.get("sigma_eval"))
    scaled = case.choose("scaling", {"none": False, "vp": True}, "none")
    match settings.get("schedule", "linear"):
        case "linear":
            clock = (lambda t: t, lambda sigma: sigma, lambda t: 0 * t + 1)
        case "ve":
            clock = (
                lambda t: t**0.5,
                lambda sigma: sigma**2,
                lambda t: 0.5 / jnp.sqrt(t),
            )
        case "vp":
            clock = _vp_clock(np.log1p(sigma[0] ** 2), np.log1p(sigma[-2] ** 2))
        case _:
            raise case.unknown(f"schedule={settings['schedule']!r}")
    with_time = scaled or settings.get("schedule", "linear") != "linear"
    top = 2.0 ** np.ceil(np.log2(float(clock[1](2 * sigma.max()))))
    return Ablation(*clock, scaled, top, "dz_dt" if with_time else "eps")


def _vp_clock(last, first, epsilon=1e-3):
    """`log(1 + sigma^2) = beta_d t^2 / 2 + beta_min t`, by it at 1 and at epsilon."""
    beta_d = 2 * (first / epsilon - last) / (epsilon - 1)
    beta_min = last - beta_d / 2
    total = lambda t: beta_d * t**2 / 2 + beta_min * t
    level = lambda t: jnp.sqrt(jnp.expm1(total(t)))
    inverse = lambda sigma: (
        (jnp.sqrt(beta_min**2 + 2 * beta_d * jnp.log1p(sigma**2)) - beta_min) / beta_d
    )
    slope = lambda t: (beta_d * t + beta_min) * jnp.exp(total(t)) / (2 * level(t))
    return level, inverse, slope
