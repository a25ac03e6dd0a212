"""DPM-Solver and DPM-Solver++ of single steps, one evaluation for each time."""

from typing import NamedTuple

import numpy as np
from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_name, check_order, register, static
from diffusionflow.predictions import Denoised, DenoiseFn
from diffusionflow.samplers import multistep
from diffusionflow.samplers.dpm_solver import SECOND, gain_and_moments, with_slope
from diffusionflow.schedules import Schedule


class State(NamedTuple):
    """`z`, the first prediction of a block, and later ones but the newest."""

    z: Array
    first: Denoised
    later: Array


class Goal(NamedTuple):
    """Length, gain and moments of steps (`multistep.integrals`), and their columns."""

    length: Array
    gain: Array
    moments: list[Array]
    columns: dict[str, Array]


@register
class DPMSolverSinglestep:
    """Singlestep DPM-Solver and DPM-Solver++ of order 1 to 3; a block is such a step.

    The times of the grid are the stages of all blocks: a block of order p is p of its
    steps, and every step costs one evaluation. The z after the j-th step of a block is
    that of a method of order j from the block's start, with the predictions at its
    first j times. So the number of steps is the NFE, as in the schedules of orders that
    the authors call "fast", and `trajectory` has the stages too. On a grid of equal
    steps in log-SNR the stages are where the authors put them, at 1/3 and 2/3 or at 1/2
    of a block.

    All blocks are of the highest order but the last, which has the steps that are left.
    With `lower_final` a last block of the highest order becomes one of an order less
    and a step of order 1 (3, 3, ..., 2, 1 for order 3). A step of infinite length in
    log-SNR, from alpha = 0 or to sigma = 0, is a block of its own, of order 1 (DDIM).

    Args:
      order: 1 to 3.
      variable: "x" for DPM-Solver++, "eps" for DPM-Solver.
      second: "taylor" integrates the polynomial through all predictions of a block
        exactly, so that its order holds for stages anywhere. "midpoint" is the
        published form: half the weight of the first difference in order 2, the last
        difference alone in order 3, which is then of that order only with the last
        stage at 2/3.
      stage: the same of the step of order 2 inside a block of order 3.
      lower_final: whether the end is lowered as above.

    Raises:
      ValueError: the order is outside or a name unknown.

    Source: Lu et al. 2022, arXiv 2206.00927, algorithms 1 and 2 and the schedule of
    orders of "fast"; arXiv 2211.01095. `second="midpoint"` is `sample_dpm_fast` of
    k-diffusion and the default of the authors' code, with `stage="midpoint"` too
    `DPMSolverSinglestepScheduler` of diffusers.
    """

    order: int = static(default=3)
    variable: str = static(default="x")
    second: str = static(default="taylor")
    stage: str = static(default="taylor")
    lower_final: bool = static(default=True)
    num_noises = 0

    def __post_init__(self) -> None:
        check_order("order", self.order, 1, 3)
        check_name("variable", self.variable, ("x", "eps"))
        check_name("second", self.second, SECOND)
        check_name("stage", self.stage, SECOND)

    def plan(self, t: Array, s: Array, schedule: Schedule) -> dict[str, Array]:
        alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
        h, usable = multistep.half_logsnr_steps(
            schedule.alpha(t), schedule.sigma(t), alpha_s, sigma_s
        )
        place, last = self._places(usable)
        lengths = [multistep.earlier(h, back, 1) for back in range(self.order)]
        total = xp.zeros_like(h)
        for back, length in enumerate(lengths):
            total = total + xp.where(place > back, length, 0)
        q = xp.where(usable, xp.exp(-total), 0)
        goal = self._goal(total, q, last, alpha_s, sigma_s)
        weights = [xp.zeros_like(h)] * max(self.order - 1, 1)
        for p in range(2, self.order + 1):
            active = place == p
            reached = [  # where the predictions are in the step, newest first
                xp.where(active, sum(lengths[k:p]) / goal.length, 1 - k / p)
                for k in range(1, p)
            ]
            for j, weight in enumerate(self._weights(p, last, reached, goal.moments)):
                weights[j] = xp.where(active, goal.gain * weight, weights[j])
        return dict(
            t=t,
            x=alpha_s,
            first=place == 1,
            differences=xp.stack(weights, axis=-1)[:, : self.order - 1],
            **goal.columns,
        )

    def _goal(
        self, total: Array, q: Array, last: Array, alpha_s: Array, sigma_s: Array
    ) -> Goal:
        """Computes where the steps from their block's start lead, without noise to s.

        Args:
          total: their length in half log-SNR, finite.
          q: `e^-total`, 0 where the length is infinite.
          last: whether s is the end of the block.
          alpha_s: at s.
          sigma_s: at s.
        """
        del q, last
        gain, moments = gain_and_moments(self.variable, total, alpha_s, sigma_s, 3)
        return Goal(total, gain, moments, dict(eps=sigma_s))

    def _places(self, usable: Array) -> tuple[Array, Array]:
        """Computes each step's number in its block, from 1, and whether it ends it."""
        count = usable.shape[0]
        index = np.arange(count, dtype=np.int32) - (~usable[0]).astype(np.int32)
        place = xp.where(index < 0, 0, index % self.order) + 1
        end = place[-1:]
        lowered = (self.lower_final and self.order > 1) & (end == self.order)
        end = xp.where(lowered | ~usable[-1:], 1, end)
        place = xp.concatenate([place[:-1], end])
        following = xp.concatenate([place[1:], xp.ones_like(place[:1])])
        return place, following == 1

    def _weights(
        self, p: int, last: Array, ends: list[Array], moments: list[Array]
    ) -> list[Array]:
        """Computes weights of later predictions less the first, newest first, at p."""
        if p == 2:
            forms = {form: with_slope(moments, form)[1] for form in SECOND}
            inside = forms[self.stage] if self.order == 3 else forms[self.second]
            slope = xp.where(last, forms[self.second], inside)
            return [slope / ends[0]]
        if self.second == "midpoint":
            return [moments[1] / ends[0]]
        return multistep.integrals([xp.zeros_like(ends[0]), *ends], moments)[1:]

    def init(self, z: Array) -> State:
        zero = xp.zeros_like(z)
        later = xp.zeros_like(z)[None][: max(self.order - 2, 0)]
        return State(z, Denoised(zero, zero), later)

    def step(
        self, state: State, row: dict, noise: Array, denoise_fn: DenoiseFn
    ) -> State:
        del noise
        denoised = denoise_fn(state.z, row["t"])
        first = Denoised(
            *(
                xp.where(row["first"], new, old)
                for new, old in zip(denoised, state.first, strict=True)
            )
        )
        z = row["x"] * first.x + row["eps"] * first.eps
        newest = getattr(denoised, self.variable)[None]
        later = xp.concatenate([newest, state.later])[: self.order - 1]
        differences = later - getattr(first, self.variable)[None]
        z = z + multistep.weigh(row["differences"], differences)
        return State(z, first, later[: max(self.order - 2, 0)])

    def output(self, state: State) -> Array:
        return state.z
