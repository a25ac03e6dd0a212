"""Diffusions epsilon_t of generative SDEs, `(t, *, schedule) -> epsilon`.

Every one keeps the marginals (see `processes.interpolant`). In terms of
w = epsilon^2 / 2, with t = 0 at the data:

| diffusion                  | w                                  |
|----------------------------|------------------------------------|
| `Eta(eta)`                 | eta^2 g^2 / 2                      |
| `Sigma(norm, power)`       | norm sigma^power                   |
| `Linear(norm)`             | norm t                             |
| `Constant(norm)`           | norm                               |
| `Decreasing(norm)`         | (1 + norm cos(pi (1 - t)))^2 / 4   |
| `IncreasingDecreasing(norm)` | norm sin(pi t)^2                 |

"Decreasing" falls towards the data. `Eta(eta)` is the "SBDM" form of the source, whose
norm is eta^2.

Source: Ma et al. 2024, arXiv 2401.08740 (SiT), and its published code.
"""

from typing import Any

from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_bound, register, static
from diffusionflow._numeric import root
from diffusionflow.schedules import Schedule


@register
class Eta:
    """`epsilon = eta g`: 0 is the probability flow, 1 the reversal of the forward SDE.

    Args:
      eta: at least 0.

    Raises:
      ValueError: `eta` is negative.
    """

    eta: float | Array = 1.0

    def __post_init__(self) -> None:
        check_bound("eta", self.eta, lambda eta: eta >= 0, "at least 0")

    def __call__(self, t: Array, *, schedule: Schedule) -> Array:
        eta = xp.asarray(self.eta, t.dtype)
        g2 = schedule.g2(t)
        return eta * root(xp.where(eta > 0, g2, 0))


class _Normed:
    """`epsilon = sqrt(2 w)`; subclasses give w."""

    norm: float | Array

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "Args:" not in str(cls.__doc__):
            cls.__doc__ = f"{cls.__doc__}\n\n{_NORM}"

    def __post_init__(self) -> None:
        check_bound("norm", self.norm, lambda norm: norm >= 0, "at least 0")

    def _half_square(self, t: Array, norm: Array, schedule: Schedule) -> Array:
        raise NotImplementedError(f"{type(self).__name__} must define _half_square")

    def __call__(self, t: Array, *, schedule: Schedule) -> Array:
        return root(2 * self._half_square(t, xp.asarray(self.norm, t.dtype), schedule))


_NORM = """    Args:
      norm: at least 0.

    Raises:
      ValueError: `norm` is negative.
    """


@register
class Sigma(_Normed):
    """`epsilon^2 / 2 = norm sigma^power`.

    Args:
      norm: at least 0.
      power: at least 1; 1 is the "sigma" of the source.

    Raises:
      ValueError: a number is out of bounds.
    """

    norm: float | Array = 1.0
    power: float = static(default=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bound("power", self.power, lambda power: power >= 1, "at least 1")

    def _half_square(self, t: Array, norm: Array, schedule: Schedule) -> Array:
        return norm * schedule.sigma(t) ** self.power


@register
class Linear(_Normed):
    """`epsilon^2 / 2 = norm t`."""

    norm: float | Array = 1.0

    def _half_square(self, t: Array, norm: Array, schedule: Schedule) -> Array:
        return norm * t


@register
class Constant(_Normed):
    """`epsilon^2 / 2 = norm`."""

    norm: float | Array = 1.0

    def _half_square(self, t: Array, norm: Array, schedule: Schedule) -> Array:
        return norm * xp.ones_like(t)


@register
class Decreasing(_Normed):
    """`epsilon^2 / 2 = (1 + norm cos(pi (1 - t)))^2 / 4`."""

    norm: float | Array = 1.0

    def _half_square(self, t: Array, norm: Array, schedule: Schedule) -> Array:
        # 1 + cos(pi (1 - t)) = 2 sin(pi t / 2)^2
        part = 1 - norm + 2 * norm * xp.sin(xp.pi / 2 * t) ** 2
        return part**2 / 4


@register
class IncreasingDecreasing(_Normed):
    """`epsilon^2 / 2 = norm sin(pi t)^2`."""

    norm: float | Array = 1.0

    def _half_square(self, t: Array, norm: Array, schedule: Schedule) -> Array:
        return norm * xp.sin(xp.pi * t) ** 2
