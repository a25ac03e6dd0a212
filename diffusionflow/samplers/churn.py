"""Stochastic DDIM samplers (the churn family), from DDIM to DDPM.

DDIM goes further than needed, and fresh noise brings it back. EDM uses the word churn
for noise that is added before the step. With `q = sigma_s alpha_t / (alpha_s sigma_t)`,
the square root of e to the power of minus the step in log-SNR, all of its steps are

    z_s = alpha_s x_hat + sigma_s (k eps_hat + sqrt(1 - k^2) xi),

and differ in k. The literature sets k by five numbers:

| number                             | k                          | DDIM | DDPM |
|------------------------------------|----------------------------|------|------|
| churn c, the fraction undone       | q^(c / (1 - c))            | 0    | 1/2  |
| "blog" eta, Gao et al. 2024        | q^(eta^2)                  | 0    | 1    |
| "sde" eta, SDE-DPM-Solver++        | q^eta                      | 0    | 1    |
| "ddim" eta, Song et al. 2020       | sqrt(1 - eta^2 (1 - q^2))  | 0    | 1    |
| `DDIMEta(eta, linear_in="scale")`  | 1 - eta (1 - q)            | 0    | 1    |

Churn 1 replaces all noise (k = 0). The first three are the same for every step; the
last two depend on the step between their ends. `eta_to_churn` and `churn_to_eta` are
the maps of the first four. On a schedule with alpha = 1 the "ddim" eta is that of the
ancestral samplers of k-diffusion.
"""

from typing import Any

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_bound, check_name, register, static
from diffusionflow._numeric import floating, root
from diffusionflow.predictions import DenoiseFn
from diffusionflow.schedules import Schedule

CONVENTIONS = ("blog", "sde", "ddim")
DDPM_VARIANCES = ("posterior", "forward")
Row = dict[str, Array]


class OneStep:
    """Base class of the family: a common step, and plans that differ."""

    num_noises = 1

    def init(self, z: Array) -> Array:
        return z

    def step(self, z: Array, row: Row, noise: Array, denoise_fn: DenoiseFn) -> Array:
        denoised = denoise_fn(z, row["t"])
        kept = row["x"] * denoised.x + row["eps"] * denoised.eps
        return kept + row["noise"] * noise[0]

    def output(self, z: Array) -> Array:
        return z


@register
class Churn(OneStep):
    """Stochastic DDIM: fresh noise undoes fraction `churn` of each denoising step.

    With c = churn and D the step in log-SNR, DDIM goes to `logsnr_t + D / (1 - c)` and
    noise brings it back to `logsnr_s = logsnr_t + D`:

        z_s = alpha_s x_hat + sigma_s (k eps_hat + sqrt(1 - k^2) xi),
        k = (sigma_s alpha_t / (alpha_s sigma_t))^(c / (1 - c)).

    c = 0 is DDIM; c = 1/2 is the ancestral sampler of DDPM with the posterior variance;
    c = 1 replaces all noise in every step, as consistency models do.

    Args:
      churn: in [0, 1].

    Raises:
      ValueError: `churn` is outside.

    Source: Gao et al. 2024, "Diffusion Meets Flow Matching", section on samplers (there
    eta^2 = c / (1 - c)); the idea of churn is that of Karras et al. 2022,
    arXiv 2206.00364, which adds its noise before the step.
    """

    churn: float | Array = 0.0

    def __post_init__(self) -> None:
        inside = lambda churn: 0 <= churn <= 1
        check_bound("churn", self.churn, inside, "in [0, 1]", "0 is DDIM, 0.5 is DDPM")

    @xp.quiet
    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        churn = xp.asarray(self.churn, t.dtype)
        some = churn < 1
        exponent = xp.where(some, churn / xp.where(some, 1 - churn, 1), xp.inf)
        kept = power(step_ratio(t, s, schedule), exponent)
        return row_keeping(t, s, schedule, kept, root((1 - kept) * (1 + kept)))


@register
class DDIMEta(OneStep):
    """Stochastic DDIM between DDIM (eta = 0) and DDPM (eta = 1), step by step.

    In the terms of the module k goes from 1 to q,

    - "variance": `k^2 = 1 - eta^2 (1 - q^2)`, so that the noise is eta times that of
      the posterior: the eta of the DDIM paper, and on a schedule with alpha = 1 that of
      k-diffusion's ancestral samplers,
    - "scale": `k = 1 - eta (1 - q)`, with more noise for an eta between 0 and 1:
      `stoch_coeff` of hackable_diffusion.

    Args:
      eta: in [0, 1]; 0 is DDIM, 1 is DDPM with the posterior variance.
      linear_in: "variance", k^2 linear in eta^2, or "scale", k linear in eta.

    Raises:
      ValueError: `eta` is outside, or `linear_in` unknown.

    Source: Song et al. 2020, arXiv 2010.02502, eq. 12 and 16.
    """

    eta: float | Array = 0.0
    linear_in: str = static(default="variance")

    def __post_init__(self) -> None:
        check_bound("eta", self.eta, lambda eta: 0 <= eta <= 1, "in [0, 1]")
        check_name("linear_in", self.linear_in, ("variance", "scale"))

    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        q = step_ratio(t, s, schedule)
        fresh = (1 - q) * (1 + q)
        eta = xp.asarray(self.eta, q.dtype)
        if self.linear_in == "scale":
            kept = 1 - eta * (1 - q)
            added = root(eta * (1 - q) * (1 + kept))
            return row_keeping(t, s, schedule, kept, added)
        kept = root(q**2 + (1 - eta) * (1 + eta) * fresh)
        return row_keeping(t, s, schedule, kept, eta * root(fresh))


@register
class DDPMForward(OneStep):
    """Ancestral (DDPM) sampler with the variance of the forward step, "fixedlarge".

    The mean of DDPM, and noise of variance
    `sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2 = sigma_t^2 (1 - q^2)`, larger than the
    posterior's by `sigma_t^2 / sigma_s^2`; none on the step to sigma = 0. The variance
    does not follow a scaling of the schedule, and the marginals are kept in the limit
    of small steps alone.

    Source: Ho et al. 2020, arXiv 2006.11239, section 3.2.
    """

    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        q, sigma_s = step_ratio(t, s, schedule), schedule.sigma(s)
        noise = schedule.sigma(t) * root((1 - q) * (1 + q))
        return dict(
            t=t,
            x=schedule.alpha(s),
            eps=sigma_s * q,
            noise=xp.where(sigma_s > 0, noise, 0),
        )


def ddim() -> Churn:
    """Returns DDIM, the deterministic sampler `z_s = alpha_s x_hat + sigma_s eps_hat`.

    It is `Churn(0.0)`, so that one program serves every churn: `run` takes a key for it
    too, and its noise is multiplied by 0.

    Source: Song et al. 2020, arXiv 2010.02502, eq. 12 with sigma = 0.
    """
    return Churn(0.0)


def ddpm(variance: str = "posterior") -> Churn | DDPMForward:
    """Returns DDPM, the ancestral sampler.

    Args:
      variance: "posterior" (beta tilde, "fixedsmall"), which is `Churn(0.5)`, or
        "forward" ("fixedlarge"), which is `DDPMForward()`.

    Returns:
      A sampler.

    Raises:
      ValueError: the variance is unknown.

    Source: Ho et al. 2020, arXiv 2006.11239, eq. 7 and 11, for any schedule and step.
    """
    check_name("variance", variance, DDPM_VARIANCES)
    return Churn(0.5) if variance == "posterior" else DDPMForward()


@xp.quiet
def eta_to_churn(
    eta: ArrayLike, *, convention: str, step: ArrayLike | None = None
) -> Array:
    """Converts an eta of the literature to churn, the fraction c that is undone.

    `c = w / (1 + w)` with w = eta^2 ("blog"), eta ("sde"), or
    `-log(1 - eta^2 (1 - e^-step)) / step` ("ddim").

    Args:
      eta: at least 0, any shape.
      convention: one of `CONVENTIONS`; see the module.
      step: `logsnr_s - logsnr_t`, positive and finite, broadcast against `eta`; "ddim"
        alone needs it.

    Returns:
      Array. It is not finite where "ddim" asks for more noise than there is.

    Raises:
      ValueError: the convention is unknown or its step is missing.
    """
    length = _check_step(convention, step)
    eta = floating(eta)
    match convention:
        case "blog":
            weight = eta**2
        case "sde":
            weight = eta
        case "ddim":
            weight = -xp.log1p(eta**2 * xp.expm1(-length)) / length
    return weight / (1 + weight)


@xp.quiet
def churn_to_eta(
    churn: ArrayLike, *, convention: str, step: ArrayLike | None = None
) -> Array:
    """Converts churn to an eta of the literature; the inverse of `eta_to_churn`.

    With `w = c / (1 - c)`: sqrt(w) ("blog"), w ("sde"), or
    `sqrt((1 - e^(-w step)) / (1 - e^-step))` ("ddim").

    Args:
      churn: in [0, 1), any shape.
      convention: one of `CONVENTIONS`.
      step: as in `eta_to_churn`.

    Returns:
      Array.

    Raises:
      ValueError: as `eta_to_churn`.

    Example:
      >>> print(churn_to_eta(0.5, convention="blog"))
      1.0
      >>> print(churn_to_eta(0.2, convention="sde"))
      0.25
    """
    length = _check_step(convention, step)
    churn = floating(churn)
    weight = churn / (1 - churn)
    match convention:
        case "blog":
            return root(weight)
        case "ddim":
            return root(xp.expm1(-weight * length) / xp.expm1(-length))
    return weight


def step_ratio(t: Array, s: Array, schedule: Schedule) -> Array:
    """Computes `q = sigma_s alpha_t / (alpha_s sigma_t)`, 0 if alpha_t sigma_s is."""
    return (schedule.alpha(t) * schedule.sigma(s)) / (
        schedule.alpha(s) * schedule.sigma(t)
    )


def power(ratio: Array, exponent: ArrayLike) -> Array:
    """Computes `ratio ** exponent`: `0 ** 0 = 1`, finite derivatives at 0, 0 at inf."""
    exponent = xp.asarray(exponent, ratio.dtype)
    finite = (ratio > 0) & (exponent < xp.inf)  # else a power has no derivative
    return xp.where(
        finite,
        xp.where(finite, ratio, 1) ** xp.where(finite, exponent, 1),
        xp.where(exponent > 0, 0.0, 1.0).astype(ratio.dtype),
    )


def row_keeping(
    t: Array, s: Array, schedule: Schedule, kept: Array, fresh: Array
) -> Row:
    """Makes rows of a sampler whose k is `kept`, with `fresh = sqrt(1 - k^2)`."""
    sigma = schedule.sigma(s)
    return dict(t=t, x=schedule.alpha(s), eps=sigma * kept, noise=sigma * fresh)


def _check_step(convention: str, step: ArrayLike | None) -> Any:
    check_name("convention", convention, CONVENTIONS)
    if step is None:
        if convention == "ddim":
            raise ValueError(
                "step=None: must be the step in log-SNR with convention='ddim', on "
                "which its eta depends"
            )
        return None
    return floating(step)
