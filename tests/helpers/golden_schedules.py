"""Our schedule for what a record says of its own.

Times of recorders whose t = 1 is the data are for the caller to reverse. A recorder's
word may carry numbers ("vp-b0.3-12", "poly2", "shifted-cosine-256-64"); entries of
`config` come first, then these, then the defaults of the library.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import schedules

FLOW, COSINE = schedules.FlowMatching(), schedules.Cosine()
ENTRIES = ("scheduler", "path", "interp", "sde", "schedule")


def of(case, entry=None):
    """The schedule that `config[entry]` names; without `entry`, the record's own."""
    if case.family == "reference":
        return _reference(case)
    if case.family == "vdm":
        gamma = case.config
        return schedules.LinearLogSNR(-gamma["gamma_max"], -gamma["gamma_min"])
    if case.family == "kdiffusion_likelihood":
        return schedules.VE(case.config["sigma_min"], case.config["sigma_max"])
    entry = entry or next((name for name in ENTRIES if name in case.config), None)
    if entry is None:
        raise case.unknown("its schedule", f"none of {ENTRIES} is there")
    return _named(case, str(case.config[entry]))


def _named(case, name):
    shifted = re.fullmatch(r"shifted-(.+)-([\d.]+)-([\d.]+)", name)
    if shifted:
        base, target, size = shifted.groups()
        return _shifted(_named(case, base), float(target) / float(size))
    word = re.match(r"[A-Za-z]*", name)[0]
    numbers = re.findall(r"\d+(?:\.\d*)?(?:e-?\d+)?", name[len(word) :])
    build = BUILDERS.get(case.family, {}).get(word)
    if build is None:
        raise case.unknown(f"schedule {name!r}")
    return build(case, list(map(float, numbers)))


def _given(case, numbers, *names_and_defaults):
    """A number for each `(names, default)`: of `config`, else the word, else that."""
    for place, (names, default) in enumerate(names_and_defaults):
        known = [case.config[name] for name in names if name in case.config]
        yield float((known + numbers[place : place + 1] + [default])[0])


def _beta(case, numbers):
    return schedules.LinearBeta(*_rates(case, numbers))


def _rates(case, numbers):
    return _given(
        case,
        numbers,
        (("beta_min", "beta_0", "continuous_beta_0"), 0.1),
        (("beta_max", "beta_1", "continuous_beta_1"), 20.0),
    )


def _exploding(case, numbers):
    """From sigma_min to sigma_max; a run starts at the latter."""
    last = ("sigma_max", "init_scale")
    return schedules.VE(*_given(case, numbers, (("sigma_min",), 0.01), (last, 50.0)))


def _geometric(case, numbers):
    """The library has no defaults: what is said nowhere is read off the levels."""
    ends = (np.nan, np.nan)
    if "sigma" in case.a:
        t, level = case.a["t"], np.log(case.a["sigma"])
        slope = (level[-1] - level[0]) / (t[-1] - t[0])
        ends = np.exp(level[0] - slope * t[0] + slope * np.array([0.0, 1.0]))
    found = _given(case, numbers, (("sigma_min",), ends[0]), (("sigma_max",), ends[1]))
    return schedules.VE(*found)


def _power(case, numbers):
    (power,) = _given(case, numbers, (("n", "power"), np.nan))
    if not power > 0:
        raise case.unknown("the power of its path")
    return schedules.Interpolated(
        lambda t: (1 - t) ** power, lambda t: 1 - (1 - t) ** power
    )


def _linear_vp(case, numbers):
    return schedules.Interpolated(lambda t: 1 - t, lambda t: jnp.sqrt(t * (2 - t)))


def _inverse_cosine(case, numbers):
    return schedules.Interpolated(
        lambda t: jnp.sqrt(jnp.arccos(2 * t - 1) / jnp.pi),
        lambda t: jnp.sqrt(jnp.arccos(1 - 2 * t) / jnp.pi),
    )


def _discrete(case, numbers):
    """`log alpha` linear in t through the levels `t = i / count` of a table.

    Beyond its first level the line through the first two goes on, to alpha = 1.
    """
    count = case.config["total_N"]
    table = np.log1p(-case.a["betas"][:count]).cumsum() / 2

    def log_alpha(t):
        before = jnp.clip(jnp.ceil(t * count) - 2, 0, count - 2)
        level, part = before.astype(int), t * count - 1 - before
        low, high = jnp.asarray(table)[level], jnp.asarray(table)[level + 1]
        return jnp.minimum(low + part * (high - low), 0)

    return schedules.Interpolated(
        lambda t: jnp.exp(log_alpha(t)),
        lambda t: jnp.sqrt(-jnp.expm1(2 * log_alpha(t))),
    )


def _always(schedule):
    return lambda case, numbers: schedule


BUILDERS = {
    "flow_matching": {
        "condot": _always(FLOW),
        "cosine": _always(COSINE),
        "vp": _beta,
        "linearvp": _linear_vp,
        "poly": _power,
    },
    "sit": {"Linear": _always(FLOW), "GVP": _always(COSINE), "VP": _beta},
    "rectified_flow": {
        **dict.fromkeys(("straight", "lerp"), _always(FLOW)),
        **dict.fromkeys(("spherical", "slerp"), _always(COSINE)),
        **dict.fromkeys(("ddim", "ddpm", "DDIM"), _beta),
    },
    "score_sde": {
        "vp": _beta,
        "subvp": lambda *args: schedules.SubVP(*_rates(*args)),
        "ve": _exploding,
    },
    "hackable_diffusion": {
        "rf": _always(FLOW),
        "cosine": _always(COSINE),
        "invcosine": _inverse_cosine,
        "linear": _beta,
        "geometric": _geometric,
    },
    "dpm_solver": {
        "linear": _beta,
        "cosine": _always(schedules.IDDPMCosine()),
        "discrete": _discrete,
    },
}


def _shifted(base, k):
    """`base` between log-SNR 15 and -15, on [0, 1], then shifted by -2 log k."""
    match base:
        case schedules.Cosine():
            return schedules.Shifted(schedules.Cosine(-15.0, 15.0), k)
        case schedules.VE():
            return schedules.Shifted(schedules.VE(np.exp(-7.5), np.exp(7.5)), k)
        case schedules.LinearBeta():
            base = longer(base, -15.0)
    with jax.enable_x64(True):
        first, last = (float(base.inverse_logsnr(end)) for end in (15.0, -15.0))
    cut = lambda t: (1 - t) * first + t * last
    if isinstance(base, schedules.Interpolated):  # variance preserving, the only one
        logsnr = lambda t: base.logsnr(cut(t)) - 2 * np.log(k)
        return schedules.Interpolated(
            lambda t: jnp.sqrt(jax.nn.sigmoid(logsnr(t))),
            lambda t: jnp.sqrt(jax.nn.sigmoid(-logsnr(t))),
        )
    whole = schedules.Shifted(base, k)
    return schedules.Interpolated(
        lambda t: whole.alpha(cut(t)), lambda t: whole.sigma(cut(t))
    )


def longer(schedule, logsnr):
    """The process of a linear beta, on a clock that goes on beyond a log-SNR."""
    low, high = schedule.beta_min, schedule.beta_max
    for times in (tenths / 10 for tenths in range(10, 1000)):
        last = low + (high - low) * times
        found = schedules.LinearBeta(low * times, last * times)
        if float(found.logsnr(1.0)) < logsnr:
            return found
    raise ValueError(f"{schedule} does not reach a log-SNR of {logsnr}")


def _reference(case):
    """The closed form that `path` writes out."""
    path, number = case.config["path"], r"([\d.]+)"
    if path == "alpha=1-t, sigma=t":
        return FLOW
    if path == "alpha=cos(pi t/2), sigma=sin(pi t/2)":
        return COSINE
    if rate := re.match(rf"beta\(t\)={number}\+{number}t, alpha=exp", path):
        low, slope = map(float, rate.groups())
        return schedules.LinearBeta(low, low + slope)
    if path.startswith("alpha=1, sigma=t"):
        return schedules.EDM(case.config["t_start"], case.config["t_end"])
    raise case.unknown(f"path {path!r}")


def betas(config):
    """The betas of a config of diffusers."""
    if config.get("trained_betas") is not None:
        return np.asarray(config["trained_betas"])
    count = config.get("num_train_timesteps", 1000)
    first, last = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    match config.get("beta_schedule", "linear"):
        case "linear":
            return np.linspace(first, last, count)
        case "scaled_linear":
            return np.linspace(first**0.5, last**0.5, count) ** 2
        case "sigmoid":
            return first + (last - first) / (1 + np.exp(-np.linspace(-6, 6, count)))
        case "squaredcos_cap_v2":
            with jax.enable_x64(True):
                alpha = schedules.IDDPMCosine().alpha(np.arange(count + 1) / count)
            alpha = np.asarray(alpha)
            return np.minimum(1 - (alpha[1:] / alpha[:-1]) ** 2, 0.999)
    raise ValueError(f"beta_schedule={config['beta_schedule']!r} is not known here")


def chain(config):
    """The table of a config of diffusers, as a schedule."""
    schedule = schedules.Discrete.from_betas(betas(config))
    if config.get("rescale_betas_zero_snr"):
        table = schedules.zero_terminal_snr(schedule.alphas_cumprod)
        return schedules.Discrete(table)
    return schedule
