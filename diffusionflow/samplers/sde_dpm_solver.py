"""SDE-DPM-Solver and SDE-DPM-Solver++: exponential multistep solvers of the eta-SDE."""

from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    check_name,
    check_not_negative,
    check_order,
    register,
    static,
)
from diffusionflow._numeric import root
from diffusionflow.predictions import DenoiseFn
from diffusionflow.samplers import multistep
from diffusionflow.samplers.churn import Row, power, step_ratio
from diffusionflow.samplers.dpm_solver import SECOND, THIRD
from diffusionflow.schedules import Schedule


@register
class SDEDPMSolver:
    """Stochastic multistep solver, exact for x_hat or eps_hat polynomials in log-SNR.

    With h = (logsnr_s - logsnr_t) / 2, H = (1 + eta) h, m_0 = x_hat at t and m_1, m_2
    those of the steps before, `d_1 = (m_0 - m_1) h / h_1`, `d_2 = (m_1 - m_2) h / h_2`:

        z_s = sigma_s / sigma_t e^(-eta h) z + sigma_s sqrt(1 - e^(-2 eta h)) xi
              + alpha_s ((1 - e^-H) m_0 + p D + P E),    p = 1 - (1 - e^-H) / H,
              P = 1/2 - p / H.

    Order 1: D = E = 0. Order 2: D = d_1, E = 0; the "midpoint" form has (1 - e^-H) / 2
    in place of p. Order 3, with r_i = h_i / h: D = d_1 + r_1 / (r_1 + r_2) (d_1 - d_2)
    and E = 2 (d_1 - d_2) / (r_1 + r_2). Published implementations leave out that 2, and
    are of order 2; theirs is "reference".

    With `variable="eps"` the predictions are those of eps_hat, and

        z_s = alpha_s / alpha_t z + sigma_s sqrt(eta (e^(2 h) - 1)) xi
              - (1 + eta) sigma_s ((e^h - 1) m_0 + p D + P E),
              p = (e^h - 1) / h - 1,    P = p / h - 1/2.

    The order grows from 1 with the first steps, and is 1 where h is infinite: from
    alpha = 0 (which its successors leave out as well) and to sigma = 0, where the
    result is `alpha_s x_hat`; these steps are the same in both variables. With eta > 0
    past predictions carry noise, and no more than order 1 of the law is claimed.

    Args:
      order: 1, 2 or 3.
      eta: noise, at least 0: 0 is the ODE, 1 the reversal of the forward SDE. Order 1
        is `Churn(eta / (1 + eta))`: DDIM at 0, DDPM at 1.
      second: "midpoint" or "taylor", of the steps of second order that are not a
        warm-up of order 3, where it is "taylor".
      third: "corrected" or "reference", of the steps of third order.
      variable: "x" for SDE-DPM-Solver++, "eps" for SDE-DPM-Solver.

    Raises:
      ValueError: a value is out of bounds or unknown.

    Source: Lu et al. 2022, arXiv 2211.01095, whose SDE solvers have eta = 1; eta as in
    k-diffusion.
    """

    order: int = static(default=2)
    eta: float | Array = 1.0
    second: str = static(default="midpoint")
    third: str = static(default="corrected")
    variable: str = static(default="x")
    num_noises = 1

    def __post_init__(self) -> None:
        check_order("order", self.order, 1, 3)
        check_not_negative("eta", self.eta)
        check_name("second", self.second, SECOND)
        check_name("third", self.third, THIRD)
        check_name("variable", self.variable, ("x", "eps"))

    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        q, alpha, sigma = (
            step_ratio(t, s, schedule),
            schedule.alpha(s),
            schedule.sigma(s),
        )
        eta = xp.asarray(self.eta, q.dtype)
        kept = power(q, eta)
        row = dict(
            t=t,
            z=sigma / schedule.sigma(t) * kept,
            x=alpha * (1 - power(q, 1 + eta)),
            eps=xp.zeros_like(q),
            noise=sigma * root((1 - kept) * (1 + kept)),
        )
        if self.variable == "x":
            near, far = self._differences(q, 1 + eta)
            return dict(row, near=alpha * near, far=alpha * far)
        finite = q > 0
        near, far = self._differences(q, -xp.ones_like(eta))
        gain = (1 + eta) * sigma
        less = 1 / xp.where(finite, q, 1)  # e^h
        ratio = alpha / xp.where(finite, schedule.alpha(t), 1)
        changed = dict(
            z=ratio,
            x=xp.zeros_like(q),
            eps=-gain * (less - 1),
            noise=sigma * root(eta * (less - 1) * (less + 1)),
        )
        row |= {name: xp.where(finite, changed[name], row[name]) for name in changed}
        return dict(row, near=gain * near, far=gain * far)

    def _differences(self, q: Array, growth: Array) -> tuple[Array, Array]:
        """Computes the factors of m_0 - m_1 and of m_1 - m_2."""
        finite = q > 0
        h = -xp.log(xp.where(finite, q, 0.5))  # placeholder where it is infinite
        one, two = (multistep.earlier(h, back, 1) for back in (1, 2))
        has_past = [multistep.earlier(finite, back, False) for back in (1, 2)]
        second = finite & has_past[0] & (self.order > 1)
        third = second & has_past[1] & (self.order > 2)
        _, slope, curve = multistep.phi_moments(-growth * h, 3)
        p, larger = growth * h * slope, growth * h * curve / 2
        if self.second == "midpoint" and self.order == 2:
            p = -xp.expm1(-growth * h) / 2
        share, span = one / (one + two), h / (one + two)
        bend = p * share + (2 if self.third == "corrected" else 1) * larger * span
        bend = xp.where(third, bend, 0)
        near = xp.where(second, (p + bend) * h / one, 0)
        return near, -bend * h / two

    def init(self, z: Array) -> multistep.State:
        return multistep.State.first(z, self.order - 1)

    def step(
        self, state: multistep.State, row: Row, noise: Array, denoise_fn: DenoiseFn
    ) -> multistep.State:
        denoised = denoise_fn(state.z, row["t"])
        latest = getattr(denoised, self.variable)
        z = row["z"] * state.z + row["x"] * denoised.x + row["eps"] * denoised.eps
        z = z + row["noise"] * noise[0]
        values = [latest, *state.past]
        for name, now, before in zip(("near", "far"), values, state.past, strict=False):
            z = z + row[name] * (now - before)
        return state.push(z, latest) if self.order > 1 else state._replace(z=z)

    def output(self, state: multistep.State) -> Array:
        return state.z
