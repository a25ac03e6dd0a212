"""Butcher tableaus of the explicit Runge-Kutta methods."""

from typing import NamedTuple


class ButcherTableau(NamedTuple):
    """An explicit Runge-Kutta method of s stages.

    `k_i = f(y_i at c_i)`, `y_i = y + h sum_j a_ij k_j`, `y_end = y + h sum_j b_j k_j`.

    Fields:
      c: place of each stage in the step, `[s]`, the first is 0.
      a: rows of the strict lower triangle, the first is empty.
      b: weights of the result, `[s]`.
    """

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]


EULER = ButcherTableau((0.0,), ((),), (1.0,))
MIDPOINT = ButcherTableau((0.0, 0.5), ((), (0.5,)), (0.0, 1.0))
HEUN = ButcherTableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5))
RK4 = ButcherTableau(
    (0.0, 0.5, 0.5, 1.0),
    ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
)
