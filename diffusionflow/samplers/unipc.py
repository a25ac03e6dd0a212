"""UniPC: a predictor and a corrector that share their evaluations."""

from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_bound, check_name, register, static
from diffusionflow.predictions import DenoiseFn
from diffusionflow.samplers import multistep
from diffusionflow.samplers.dpm_solver import gain_and_moments
from diffusionflow.schedules import Schedule

B = ("bh1", "bh2")


@register
class UniPC:
    """DPM-Solver(++) corrected by each new prediction; one network call a step.

    The predictor of order p puts a polynomial through the last p predictions, as
    `DPMSolver` does. When the next step has evaluated the network at the result, the
    step before is repeated with that prediction too (the corrector, which brings the
    order to p + 1), and the new step starts from there, with the prediction as it is.
    The result of the last step is not corrected. Both are linear in the same z, so the
    correction is a difference of weights and only predictions are remembered.

    Where two predictions meet (the predictor at p = 2, the corrector at p = 1) their
    slope has the weight B / 2, with B(h) = h (bh1) or 1 - e^{-h} (bh2; e^h - 1 in
    "eps"); elsewhere the weights follow from the order alone and B drops out. A step of
    infinite length in log-SNR, from alpha = 0 or to sigma = 0, is DDIM's and is not
    corrected.

    Args:
      order: 1 to 3, of the predictor; it rises from 1 in the first steps.
      b: "bh1" or "bh2".
      variable: "x" or "eps", what is interpolated.
      lower_final: as in `DPMSolver`.

    Raises:
      ValueError: a number is out of bounds or a name unknown.

    Source: Zhao et al. 2023, arXiv 2302.04867.
    """

    order: int = static(default=2)
    b: str = static(default="bh2")
    variable: str = static(default="x")
    lower_final: int = static(default=0)
    num_noises = 0

    def __post_init__(self) -> None:
        check_bound("order", self.order, lambda n: n in (1, 2, 3), "1, 2 or 3")
        check_bound("lower_final", self.lower_final, lambda n: n >= 0, "at least 0")
        check_name("b", self.b, B)
        check_name("variable", self.variable, ("x", "eps"))

    def plan(self, t: Array, s: Array, schedule: Schedule) -> dict[str, Array]:
        # In the paper's terms: `predictor` are the weights a_m / r_m of UniP and
        # `corrector` those of UniC less UniP's, which act on the step before, at its
        # end t; `carry` takes that change of z_t through the next step, linear in z.
        alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
        alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
        h, usable = multistep.half_logsnr_steps(alpha_t, sigma_t, alpha_s, sigma_s)
        orders = multistep.orders(usable, self.order, self.lower_final)
        gain, moments = gain_and_moments(
            self.variable, h, alpha_s, sigma_s, self.order + 1
        )
        slope = (moments[0] if self.b == "bh2" else xp.ones_like(h)) / 2
        predictor = multistep.past_weights(
            h, orders, self.order, [[moments[0], slope], moments]
        )
        corrector = self._correction(h, orders, usable, predictor, moments, slope)
        correction = multistep.earlier(gain[:, None] * corrector, 1, 0)
        # the step before made alpha_t > 0 where there is something to correct
        level_t, level_s = (
            (sigma_t, sigma_s) if self.variable == "x" else (alpha_t, alpha_s)
        )
        some = level_t > 0
        return dict(
            t=t,
            x=alpha_s,
            eps=sigma_s,
            past=gain[:, None] * predictor,
            correction=correction,
            carry=xp.where(some, level_s / xp.where(some, level_t, 1), 0),
        )

    def _correction(
        self,
        h: Array,
        orders: Array,
        usable: Array,
        predictor: Array,
        moments: list[Array],
        slope: Array,
    ) -> Array:
        """Weights of UniC-p less those of UniP-p, on the last `order` predictions.

        They act on differences to the newest prediction, the network's at the end of
        the step. Both solve the paper's `R_p(h) a_p B(h) = phi_p(h)`: their weights
        integrate Lagrange's polynomials exactly, whatever B is. Only for one unknown
        (p = 1 here, p = 2 of the predictor) the paper takes `a_1 = 1/2` instead, and
        there B stays in the weight (`slope`).
        """
        newest = moments[0] - xp.sum(predictor, axis=-1)  # at the start of the step
        predicted = xp.concatenate([newest[:, None], predictor], axis=-1)
        correction = xp.zeros_like(predicted)
        for p in range(1, self.order + 1):
            active = (orders == p) & usable
            nodes = multistep.nodes(h, p, active)
            weights = multistep.integrals(
                [xp.ones_like(h), *nodes],
                [moments[0], slope] if p == 1 else moments,
            )[1:]
            weights += [xp.zeros_like(h)] * (self.order - p)
            difference = xp.stack(weights, axis=-1) - predicted
            correction = xp.where(active[:, None], difference, correction)
        return correction

    def init(self, z: Array) -> multistep.State:
        return multistep.State.first(z, self.order)

    def step(
        self, state: multistep.State, row: dict, noise: Array, denoise_fn: DenoiseFn
    ) -> multistep.State:
        del noise
        denoised = denoise_fn(state.z, row["t"])
        prediction = getattr(denoised, self.variable)
        differences = state.past - prediction[None]
        correction = multistep.weigh(row["correction"], differences)
        z = (
            row["x"] * denoised.x
            + row["eps"] * denoised.eps
            + row["carry"] * correction
        )
        z = z + multistep.weigh(row["past"], differences[: self.order - 1])
        return state.push(z, prediction)

    def output(self, state: multistep.State) -> Array:
        return state.z
