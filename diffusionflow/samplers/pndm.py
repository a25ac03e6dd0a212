"""PNDM and PLMS: pseudo linear multistep methods with a warm-up of several stages."""

from typing import Any

import jax
import numpy as np
from jax import Array

from diffusionflow._dataclass import check_name, check_order, register, static
from diffusionflow.predictions import DenoiseFn
from diffusionflow.samplers import multistep, tableaus, variables
from diffusionflow.samplers.adams_bashforth import AdamsBashforth
from diffusionflow.samplers.ode import later_stages, through_stages
from diffusionflow.schedules import Schedule

# the tableau, and the number of first steps that it takes
WARM_UPS = {"runge_kutta": tableaus.RK4, "heun": tableaus.HEUN}


@register
class PNDM(multistep.Multistep):
    """Pseudo numerical method: `AdamsBashforth(order, "eps", "step")`, warmed up.

    A step is DDIM's with `e = sum_j w_j eps_j` in place of eps_hat, w the weights of
    Adams-Bashforth for equal steps, whatever the steps are. The first steps, which lack
    predictions of earlier ones, take more calls:

    - "runge_kutta" (PNDM): the classical method of order 4 in the first `order - 1`
      steps, four calls each, two of them in the middle of the step in time,
    - "heun" (PLMS): Heun's method in the first step, two calls; the order then rises by
      one a step.

    Without a warm-up it is `AdamsBashforth(4, "eps", "step")` (iPNDM). A step from
    alpha = 0 is DDIM's, and the warm-up begins after it; a step of the warm-up to
    sigma = 0 is the multistep method's of lower order. The order of convergence is 2.

    Args:
      order: 2 to 4, of the multistep method.
      warm_up: "runge_kutta" or "heun".

    Raises:
      ValueError: the order is outside, or the warm-up unknown.

    Source: Liu et al. 2022, arXiv 2202.09778: transfer eq. 11, multistep eq. 12,
    Runge-Kutta eq. 13. PLMS is that of the code of Stable Diffusion and of diffusers'
    `skip_prk_steps`; diffusers aims at levels of its own.
    """

    order: int = static(default=4)
    warm_up: str = static(default="runge_kutta")

    def __post_init__(self) -> None:
        check_order("order", self.order, 2, 4)
        check_name("warm_up", self.warm_up, WARM_UPS)

    def plan(self, t: Array, s: Array, schedule: Schedule) -> dict[str, Any]:
        tableau = WARM_UPS[self.warm_up]
        usable = variables.finite_step("eps", t, s, schedule)
        orders = multistep.orders(usable, self.order)
        enough = self.order if self.warm_up == "runge_kutta" else 2
        warm = usable & (orders < enough) & (schedule.sigma(s) > 0)
        rows = AdamsBashforth(self.order, "eps", "step").plan(t, s, schedule)
        return dict(
            rows,
            warm=warm,
            stages=later_stages(tableau, "eps", t, s, warm, schedule, "dz_dt"),
            calls=1 + (len(tableau.c) - 1) * warm.astype(np.int32),
        )

    def step(
        self, state: multistep.State, row: dict, noise: Array, denoise_fn: DenoiseFn
    ) -> multistep.State:
        del noise
        denoised = denoise_fn(state.z, row["t"])
        state_s = self.advance(state, row, denoised)
        warmed = lambda z: through_stages(z, row["stages"], denoised, denoise_fn)
        z = jax.lax.cond(row["warm"], warmed, lambda z: state_s.z, state.z)
        return state_s._replace(z=z)
