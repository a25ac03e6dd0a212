"""Reverse diffusion: the forward step between two levels, taken backwards."""

from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_bound, register
from diffusionflow._numeric import root
from diffusionflow.samplers.churn import OneStep, Row, step_ratio
from diffusionflow.schedules import Schedule


@register
class ReverseDiffusion(OneStep):
    """Reverse diffusion sampler: discretises the reverse SDE as its forward step is.

    From s to t the process takes the step `z_t = a z_s + b xi` with
    `a = alpha_t / alpha_s` and `b^2 = sigma_t^2 - a^2 sigma_s^2`. Backwards,

        z_s = (2 - a) z_t + (1 + eta^2) / 2 b^2 score + eta b xi,
        score = -eps_hat / sigma_t.

    `ddpm("forward")` has the same noise and `(z_t + b^2 score) / a` for a mean, which
    differs in the second order of the step. To sigma = 0 no noise is added, and of the
    noise of z_t a part `1 - a + (1 - eta^2) / 2` stays: let the last step be short.
    From alpha = 0, where the forward step forgets z_s, the step is that of
    `DDIMEta(eta)`; the steps after it are long in log alpha on an equal grid of time,
    whatever their number, and with eta = 0 their error stays: take a schedule with
    alpha_1 > 0, or a grid in log-SNR.

    Args:
      eta: in [0, 1]; 1 is the reverse SDE, 0 the probability flow.

    Raises:
      ValueError: `eta` is outside.

    Source: Song et al. 2020, arXiv 2011.13456, section 4.1 and appendix E, eq. 46; the
    `ReverseDiffusionPredictor` of its code. The ancestral predictor there is
    `ddpm("forward")` of VP and `ddpm()` of VE.
    """

    eta: float | Array = 1.0

    def __post_init__(self) -> None:
        check_bound("eta", self.eta, lambda eta: 0 <= eta <= 1, "in [0, 1]")

    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
        q, eta = step_ratio(t, s, schedule), xp.asarray(self.eta, alpha.dtype)
        a, fresh, some = alpha / alpha_s, (1 - q) * (1 + q), alpha > 0
        eps = sigma * (2 - a - (1 + eta**2) / 2 * fresh)
        noise = xp.where(sigma_s > 0, eta * sigma * root(fresh), 0)
        return dict(
            t=t,
            x=xp.where(some, (2 - a) * alpha, alpha_s),
            eps=xp.where(some, eps, sigma_s * root((1 - eta) * (1 + eta))),
            noise=xp.where(some, noise, eta * sigma_s),
        )
