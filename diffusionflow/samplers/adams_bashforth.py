"""Adams-Bashforth solvers of the probability-flow ODE in a variable of choice."""

from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_bound, check_name, register, static
from diffusionflow.samplers import multistep, variables
from diffusionflow.schedules import Schedule


@register
class AdamsBashforth(multistep.Multistep):
    """Multistep ODE solver (Adams-Bashforth), in the variable's own clock.

    `z_s / scale_s = z_t / scale_t + int P d clock` over the step, P the polynomial
    through the slopes at the last `order` times; the steps may differ in length. Order
    1 is Euler. The order rises from 1 in the first steps. A step with an infinite clock
    ("x" to sigma = 0, "eps" from alpha = 0) is Euler's, one from an infinite slope
    ("dz_dt" at t = 1 of `Sigmoid`) DDIM's, and no later one reaches back over it.

    Args:
      order: 1 to 4.
      variable: one of `VARIABLES`; the table is in `variables`.

    Raises:
      ValueError: the order is outside, or the variable unknown.
    """

    order: int = static(default=2)
    variable: str = static(default="dz_dt")

    def __post_init__(self) -> None:
        check_bound("order", self.order, lambda n: n in (1, 2, 3, 4), "1, 2, 3 or 4")
        check_name("variable", self.variable, variables.VARIABLES)

    def plan(self, t: Array, s: Array, schedule: Schedule) -> dict[str, Array]:
        usable = variables.finite_step(self.variable, t, s, schedule)
        middle = (t + s) / 2  # placeholder where it is not
        start, end = xp.where(usable, t, middle), xp.where(usable, s, middle)
        _, gain = variables.ratio_and_gain(self.variable, start, end, schedule)
        step = gain / variables.scale(self.variable, end, schedule)
        step = xp.where(usable, step, 1)
        moments = [xp.full_like(step, 1 / (k + 1)) for k in range(self.order)]
        weights = multistep.past_weights(
            step,
            multistep.orders(usable, self.order),
            self.order,
            [moments] * (self.order - 1),
        )
        a, b = variables.slope(self.variable, start, schedule)
        euler = variables.euler(self.variable, t, s, schedule)
        return dict(t=t, a=a, b=b, past=gain[:, None] * weights, **euler)
