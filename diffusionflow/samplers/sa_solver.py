"""SA-Solver: stochastic Adams methods, a predictor and a corrector."""

from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    check_below,
    check_bound,
    check_count,
    check_name,
    check_not_negative,
    check_order,
    register,
    static,
)
from diffusionflow._numeric import root
from diffusionflow.samplers import multistep
from diffusionflow.samplers.churn import power, step_ratio
from diffusionflow.samplers.unipc import PredictorCorrector, correction
from diffusionflow.schedules import Schedule


@register
class SASolver(PredictorCorrector):
    """Stochastic Adams predictor and corrector; one network call a step.

    The predictor is `SDEDPMSolver`'s step with eta = tau^2,

        z_s = sigma_s / sigma_t e^(-tau^2 h) z + sigma_s sqrt(1 - e^(-2 tau^2 h)) xi
              + alpha_s (1 + tau^2) int_0^h e^((1 + tau^2) (u - h)) P(u) du,

    P the polynomial in half log-SNR through the last `order` values of x_hat, or its
    form in eps_hat. When the next step has evaluated the network at the result, the
    step is repeated with P through that value and the `corrector - 1` before it, and
    with the same noise. The result of the last step is not corrected. In "x" a straight
    P is not integrated exactly: as in the authors' code, its slope has half the weight
    `(1 + tau^2) h`.

    tau = 0 is `UniPC(order, "bh1", lower_final=order)` for `corrector = order + 1`. A
    step of infinite length in log-SNR, from alpha = 0 or to sigma = 0, is DDIM's with
    that noise and is not corrected.

    Args:
      order: 1 to 3, of the predictor; it rises from 1 in the first steps, and falls to
        1 in the last ones.
      corrector: 0 (none) to 4, the number of predictions in P.
      tau: noise, at least 0: 0 is the ODE, 1 the reversal of the forward SDE.
      t_min: first time of the steps that add noise.
      t_max: last time of these; all others have tau = 0.
      lower_final: as in `DPMSolver`; 0 does not lower the last steps.
      variable: "x" or "eps", what is interpolated.

    Raises:
      ValueError: a number is out of bounds, or the variable unknown.

    Source: Xue et al. 2023, arXiv 2309.05019, algorithm 1, and its code. It is the
    `SASolverScheduler` of diffusers, whose `tau_func` is 1 for timesteps from 200 to
    800.
    """

    order: int = static(default=2)
    corrector: int = static(default=2)
    tau: float | Array = 1.0
    t_min: float | Array = 0.0
    t_max: float | Array = 1.0
    lower_final: int = static(default=4)
    variable: str = static(default="x")
    num_noises = 1

    def __post_init__(self) -> None:
        check_order("order", self.order, 1, 3)
        check_order("corrector", self.corrector, 0, 4)
        check_count("lower_final", self.lower_final, 0)
        check_not_negative("tau", self.tau)
        check_name("variable", self.variable, ("x", "eps"))
        for name in ("t_min", "t_max"):
            inside = lambda time: 0 <= time <= 1
            check_bound(name, getattr(self, name), inside, "in [0, 1], not a timestep")
        check_below("t_min", self.t_min, "t_max", self.t_max)

    @property
    def width(self) -> int:
        return max(self.order, self.corrector - 1)

    def plan(self, t: Array, s: Array, schedule: Schedule) -> dict[str, Array]:
        alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
        alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
        h, usable = multistep.half_logsnr_steps(alpha_t, sigma_t, alpha_s, sigma_s)
        tau = xp.asarray(self.tau, h.dtype)
        eta = xp.where((t >= self.t_min) & (t <= self.t_max), tau**2, 0)
        kept = power(step_ratio(t, s, schedule), eta)
        row = dict(
            eps=sigma_s * kept,
            noise=sigma_s * root((1 - kept) * (1 + kept)),
            carry=sigma_s / sigma_t * kept,
        )
        if self.variable == "x":
            moments = multistep.phi_moments(-(1 + eta) * h, self.width + 1)
            slope, gain = xp.ones_like(h) / 2, (1 + eta) * h * alpha_s
        else:
            moments = multistep.phi_moments(h, self.width + 1)
            slope, gain = moments[min(1, self.width)], -(1 + eta) * h * sigma_s
            grown = xp.expm1(xp.where(usable, h, 0))
            changed = dict(
                eps=sigma_s * (1 - eta * grown),
                noise=sigma_s * root(eta * grown * (grown + 2)),
                carry=alpha_s / xp.where(usable, alpha_t, 1),
            )
            row = {key: xp.where(usable, changed[key], row[key]) for key in row}
        return dict(
            row, t=t, x=alpha_s, **self._weights(h, usable, gain, moments, slope)
        )

    def _weights(
        self,
        h: Array,
        usable: Array,
        gain: Array,
        moments: list[Array],
        slope: Array,
    ) -> dict[str, Array]:
        """Computes the columns of the past predictions."""
        orders, counts = self._orders(usable)
        predictor = multistep.past_weights(
            h, orders, self.order, [[moments[0], slope], moments]
        )
        corrector = correction(h, counts, self.width, predictor, moments, slope)
        return dict(
            past=gain[:, None] * predictor,
            correction=multistep.earlier(gain[:, None] * corrector, 1, 0),
        )

    def _orders(self, usable: Array) -> tuple[Array, Array]:
        """Computes the predictor's orders; counts earlier predictions in the corrector.

        Both rise, and fall with the steps that are left, to bounds of their own.
        """
        falls = lambda order: min(self.lower_final, order)
        orders = multistep.orders(usable, self.order, falls(self.order))
        if self.corrector == 0:
            return orders, -xp.ones_like(orders)
        highest = max(self.corrector - 1, 1)
        counts = multistep.orders(usable, highest, falls(highest))
        counts = xp.minimum(counts, self.corrector - 1)
        return orders, xp.where(usable, counts, -1)
