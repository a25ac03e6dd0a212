"""UniPC: a predictor and a corrector that share their evaluations."""

from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    check_count,
    check_name,
    check_order,
    register,
    static,
)
from diffusionflow.predictions import DenoiseFn
from diffusionflow.samplers import multistep
from diffusionflow.samplers.dpm_solver import gain_and_moments
from diffusionflow.schedules import Schedule

B = ("bh1", "bh2")


class PredictorCorrector:
    """Base class of samplers that correct a step with the prediction at its end.

    The correction of a step is linear in predictions, so it is a change of weights that
    the next step adds to z, `carry` times. Columns of a row: `t`; `x`, `eps` of the
    step of order 1; `past [order - 1]` and `correction [width]`, the weights of the
    differences of past predictions, `width` of them, to the newest; `carry`; `noise`,
    where the sampler draws some.
    """

    num_noises: int
    order: int
    variable: str

    @property
    def width(self) -> int:
        """How many past predictions are kept."""
        raise NotImplementedError(f"{type(self).__name__} must define width")

    def init(self, z: Array) -> multistep.State:
        return multistep.State.first(z, self.width)

    def step(
        self, state: multistep.State, row: dict, noise: Array, denoise_fn: DenoiseFn
    ) -> multistep.State:
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
        if self.num_noises:
            z = z + row["noise"] * noise[0]
        return state.push(z, prediction)

    def output(self, state: multistep.State) -> Array:
        return state.z


@register
class UniPC(PredictorCorrector):
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
        check_order("order", self.order, 1, 3)
        check_count("lower_final", self.lower_final, 0)
        check_name("b", self.b, B)
        check_name("variable", self.variable, ("x", "eps"))

    @property
    def width(self) -> int:
        return self.order

    def plan(self, t: Array, s: Array, schedule: Schedule) -> dict[str, Array]:
        # In the paper's terms: `predictor` are the weights a_m / r_m of UniP and
        # `correction` those of UniC less UniP's, which act on the step before, at its
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
        corrector = correction(
            h, xp.where(usable, orders, -1), self.width, predictor, moments, slope
        )
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
            correction=multistep.earlier(gain[:, None] * corrector, 1, 0),
            carry=xp.where(some, level_s / xp.where(some, level_t, 1), 0),
        )


def correction(
    h: Array,
    counts: Array,
    width: int,
    predictor: Array,
    moments: list[Array],
    slope: Array,
) -> Array:
    """Computes weights of the corrector less the predictor's, `[num_steps, width]`.

    They act on differences of the last `width` predictions, those at the start of the
    step and before it, to the newest, the network's at its end. Both correctors, UniC
    and SA-Solver's, integrate the polynomial through the newest prediction and `count`
    before it exactly; in UniPC's paper they solve `R_p(h) a_p B(h) = phi_p(h)`,
    whatever B is. Only through two predictions, the papers take another weight of their
    slope (`slope`).

    Args:
      h: length of every step, finite, `[num_steps]`.
      counts: earlier predictions of the corrector, int `[num_steps]`; -1 for a step
        that is not corrected.
      width: at least `order` and all counts.
      predictor: weights of the predictor, from `multistep.past_weights`.
      moments: of the integral over a step; `width + 1` of them.
      slope: m_1 of the corrector with one earlier prediction.
    """
    newest = moments[0] - xp.sum(predictor, axis=-1)  # at the start of the step
    predicted = [newest, *(predictor[:, j] for j in range(predictor.shape[-1]))]
    zero = xp.zeros_like(h)
    columns = [zero] * width
    for count in range(width + 1):
        active = counts == count
        nodes = [xp.ones_like(h), *multistep.nodes(h, count, active)[:count]]
        weights = multistep.integrals(
            nodes, [moments[0], slope] if count == 1 else moments
        )[1:]
        for j in range(width):
            corrected = weights[j] if j < count else zero
            before = predicted[j] if j < len(predicted) else zero
            columns[j] = xp.where(active, corrected - before, columns[j])
    return xp.stack(columns, axis=-1)
