"""Butcher tableaus of the explicit Runge-Kutta methods."""

from typing import Any, NamedTuple

from diffusionflow._dataclass import check_bound, check_name


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


def second_order(c: float) -> ButcherTableau:
    """Returns the two-stage method of order 2 whose second stage is at `c`.

    1/2 is the midpoint method, 2/3 Ralston's, 1 Heun's; it is `alpha` of EDM.

    Args:
      c: in (0, 1].

    Raises:
      ValueError: `c` is outside.

    Source: Karras et al. 2022, arXiv 2206.00364, the table of the general sampler.
    """
    check_bound("c", c, lambda c: 0 < c <= 1, "in (0, 1]")
    return ButcherTableau((0.0, c), ((), (c,)), (1 - 1 / (2 * c), 1 / (2 * c)))


EULER = ButcherTableau((0.0,), ((),), (1.0,))
MIDPOINT = second_order(0.5)
HEUN = second_order(1.0)
RK4 = ButcherTableau(
    (0.0, 0.5, 0.5, 1.0),
    ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
)
_BOGACKI_SHAMPINE = ButcherTableau(
    (0.0, 1 / 2, 3 / 4), ((), (1 / 2,), (0.0, 3 / 4)), (2 / 9, 1 / 3, 4 / 9)
)
_DORMAND_PRINCE = ButcherTableau(
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# of embedded pairs the solution that is propagated
NAMED = {
    "euler": EULER,
    "midpoint": MIDPOINT,
    "ralston": second_order(2 / 3),
    "heun": HEUN,
    "heun3": ButcherTableau(
        (0.0, 1 / 3, 2 / 3), ((), (1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4)
    ),
    "bogacki_shampine": _BOGACKI_SHAMPINE,
    "rk4": RK4,
    "three_eighths": ButcherTableau(
        (0.0, 1 / 3, 2 / 3, 1.0),
        ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
    ),
    "dormand_prince": _DORMAND_PRINCE,
}


def as_tableau(method: str | ButcherTableau) -> ButcherTableau:
    """Returns a tableau, which may be given by its name in `NAMED`.

    Raises:
      ValueError: the name is unknown, or the method is not explicit and consistent.
    """
    if isinstance(method, str):
        check_name("method", method, NAMED)
        return NAMED[method]
    try:
        good = _is_explicit(*method)
    except TypeError:  # parts of any type
        good = False
    if not good:
        raise ValueError(
            f"method={method!r}: must be an explicit method with nodes c in (0, 1] "
            "after the first, rows of a that sum to c, and weights b that sum to 1, "
            f"or one of {', '.join(NAMED)}"
        )
    c, a, b = method
    return ButcherTableau(tuple(c), tuple(map(tuple, a)), tuple(b))


def _is_explicit(c: Any, a: Any, b: Any) -> bool:
    """Returns whether nodes, stages and weights are an explicit, consistent method."""
    places = zip(c[1:], a[1:], strict=False)
    return (
        len(c) == len(a) == len(b) > 0
        and c[0] == 0
        and [len(row) for row in a] == list(range(len(c)))
        and all(0 < place <= 1 for place in c[1:])
        and all(abs(sum(row) - place) < 1e-9 for place, row in places)
        and abs(sum(b) - 1) < 1e-9
    )
