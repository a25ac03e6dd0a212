"""DPM-Solver with steps of adaptive length: two orders and a controller."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import (
    check_batch_ndim,
    check_below,
    check_bound,
    check_finite,
    check_name,
    check_not_negative,
    check_order,
    check_positive,
)
from diffusionflow._numeric import root
from diffusionflow.predictions import (
    Denoised,
    DenoiseFn,
    Denoiser,
    as_data,
    as_denoiser,
    check_unit_interval,
)
from diffusionflow.samplers.adaptive import Solution, check_tolerances
from diffusionflow.samplers.dpm_solver import gain_and_moments
from diffusionflow.samplers.nfe import times_calls
from diffusionflow.samplers.steps import check_times
from diffusionflow.schedules import Schedule, as_schedule

_CLOSE = 1e-5  # the end is reached so near to it in half log-SNR


class PID(NamedTuple):
    """Controller of the length of a step.

    With inverse errors `e_0, e_1, e_2` of this step and of the two accepted before, and
    order p, the next length is `h f` with

        f = 1 + atan(e_0^b_1 e_1^b_2 e_2^b_3 - 1),
        b_1 = (P + I + D) / p,    b_2 = -(P + 2 D) / p,    b_3 = D / p,

    and the step is accepted where f is at least `accept_safety`.

    Fields:
      p: proportional coefficient P.
      i: integral coefficient I.
      d: derivative coefficient D.
      accept_safety: see above.
    """

    p: float = 0.0
    i: float = 1.0
    d: float = 0.0
    accept_safety: float = 0.81

    def check(self) -> None:
        """Raises a `ValueError` where a number is not finite or not positive."""
        for name, value in zip("pid", self[:3], strict=True):
            check_finite(f"control.{name}", value)
        check_positive("control.accept_safety", self.accept_safety)


class Proportional(NamedTuple):
    """Controller of the length of a step by its own error e alone.

    The next length is `theta h e^(-1 / p)` for order p; a step is accepted where e is
    at most 1.

    Fields:
      theta: safety factor, below 1.
      close: the end is reached so near to it in time; 1e-5 in the authors' code.
    """

    theta: float = 0.9
    close: float = 0.0

    def check(self) -> None:
        """Raises a `ValueError` where a number is out of its bounds."""
        inside = lambda theta: 0 < theta < 1
        check_bound("control.theta", self.theta, inside, "in (0, 1)")
        check_not_negative("control.close", self.close)


_PID = PID()


class _Settings(NamedTuple):
    order: int
    variable: str
    rtol: float
    atol: float
    h_init: float
    control: PID | Proportional
    largest_over: int
    max_steps: int


def solve_dpm(
    denoise_fn: DenoiseFn,
    z: Array,
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    schedule: Schedule,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    variable: str = "eps",
    h_init: float = 0.05,
    control: PID | Proportional = _PID,
    max_steps: int = 1000,
    batch_ndim: int = 1,
    largest_over: int = 0,
) -> Solution:
    """Samples by DPM-Solver with adaptive steps in half log-SNR, from `t0` to `t1`.

    Every attempted step is taken with order `order` and with the order below; the error
    is the root mean square of their difference over

        max(atol, rtol max(|lower|, |lower of the step before|)).

    Every example has steps of its own. `solve` is the better solver of the ODE; this
    one is made for few calls.

    Args:
      denoise_fn: as in `solve`.
      z: at `t0`, `[*batch, *event]`.
      t0: first time, scalar, with alpha > 0.
      t1: last time, scalar, below `t0`, with sigma > 0.
      schedule: the one of `denoise_fn`.
      order: 2 or 3; so many calls an attempt.
      rtol: relative tolerance of a step.
      atol: absolute tolerance, in units of z.
      variable: "eps" for DPM-Solver, "x" for DPM-Solver++.
      h_init: length of the first attempt in half log-SNR.
      control: how the length follows from the errors, `PID` or `Proportional`.
      max_steps: cap on attempted steps.
      batch_ndim: number of leading batch axes; with 0 the whole batch is one example
        and its error is that of all together, as in k-diffusion.
      largest_over: number of leading axes of an example over which the error is the
        largest and not the mean: 1, with `batch_ndim=0`, is the authors' step for a
        whole batch.

    Returns:
      `Solution`, whose `x` is z at `t1`: the data is `denoise_fn(x, t1).x`.

    Raises:
      ValueError: the order is not 2 or 3, the variable unknown, a number out of its
        bounds, a time outside [0, 1], or the log-SNR infinite at one.

    Source: Lu et al. 2022, arXiv 2206.00927, algorithm of adaptive steps, with
    `Proportional(close=1e-5)`, `batch_ndim=0` and `largest_over=1` as in their code;
    k-diffusion, `sample_dpm_adaptive`, with `PID()`, for alpha = 1.
    """
    check_tolerances(rtol, atol, max_steps)
    check_order("order", order, 2, 3)
    check_name("variable", variable, ("eps", "x"))
    check_positive("h_init", h_init)
    if not isinstance(control, (PID, Proportional)):
        raise ValueError(f"control={control!r}: must be PID(...) or Proportional(...)")
    control.check()
    z, schedule = as_data(z, "z"), as_schedule(schedule)
    check_batch_ndim(batch_ndim, z.ndim)
    check_order("largest_over", largest_over, 0, max(z.ndim - batch_ndim - 1, 0))
    example = jax.ShapeDtypeStruct(z.shape[batch_ndim:], z.dtype)
    denoiser = as_denoiser(denoise_fn, like=example, schedule=schedule)
    for name, t in (("t0", t0), ("t1", t1)):
        check_unit_interval(name, t)
        check_times(denoiser, t, z)
        _check_finite(name, t, schedule)
    check_below("t1", t1, "t0", t0)
    ends = [schedule.logsnr(jnp.asarray(t, z.dtype)) / 2 for t in (t0, t1)]

    settings = _Settings(
        order, variable, rtol, atol, h_init, control, largest_over, max_steps
    )

    def one(z: Array) -> tuple[Array, Array, Array]:
        found = _integrate(denoiser, z, ends, schedule, settings)
        done = _reached(found.half, ends[1], schedule, control)
        done = done & jnp.isfinite(found.z).all()
        return jnp.where(done, found.z, jnp.inf), done, found.steps

    for _ in range(batch_ndim):
        one = jax.vmap(one)
    x, done, steps = one(z)
    return Solution(x, done, steps, times_calls(denoiser, order * steps))


def _check_finite(name: str, t: ArrayLike, schedule: Schedule) -> None:
    logsnr = schedule.logsnr(jnp.asarray(t, float))
    if not isinstance(logsnr, jax.core.Tracer) and not jnp.isfinite(logsnr):
        raise ValueError(
            f"{name}={t!r}: the log-SNR is {float(logsnr)} there; take a time inside, "
            "or samplers.solve"
        )


class _State(NamedTuple):
    half: Array  # half log-SNR
    z: Array
    lower: Array  # of the step before
    h: Array
    inverse_errors: Array  # [3]
    steps: Array


def _integrate(
    denoiser: Denoiser,
    z: Array,
    ends: list[Array],
    schedule: Schedule,
    settings: _Settings,
) -> _State:
    """Integrates in steps from the first half log-SNR of `ends` to the last."""
    start, end = ends

    def step(state: _State) -> _State:
        h = jnp.minimum(state.h, end - state.half)
        lower, higher = _pair(denoiser, state.z, state.half, h, schedule, settings)
        size = jnp.maximum(jnp.abs(lower), jnp.abs(state.lower))
        allowed = jnp.maximum(settings.atol, settings.rtol * size)
        scaled = ((lower - higher) / allowed) ** 2
        axes = tuple(range(settings.largest_over, scaled.ndim))
        error = jnp.max(root(jnp.mean(scaled, axis=axes)))
        accept, next_h, errors = _controlled(state, h, error, settings)
        take = lambda new, old: jnp.where(accept, new, old)
        return _State(
            half=take(state.half + h, state.half),
            z=take(higher, state.z),
            lower=take(lower, state.lower),
            h=next_h,
            inverse_errors=errors,
            steps=state.steps + 1,
        )

    def going(state: _State) -> Array:
        finite = jnp.isfinite(state.h) & (state.h > 0)
        reached = _reached(state.half, end, schedule, settings.control)
        return ~reached & (state.steps < settings.max_steps) & finite

    zero = jnp.zeros((), jnp.int32)
    h = jnp.asarray(settings.h_init, z.dtype)
    state = _State(start, z, z, h, jnp.zeros((3,), z.dtype), zero)
    return jax.lax.while_loop(going, step, state)


def _reached(
    half: Array, end: Array, schedule: Schedule, control: PID | Proportional
) -> Array:
    reached = half >= end - _CLOSE
    if isinstance(control, Proportional) and control.close > 0:
        t, last = (schedule.inverse_logsnr(2 * level) for level in (half, end))
        reached = reached | (t - last <= control.close)
    return reached


def _controlled(
    state: _State, h: Array, error: Array, settings: _Settings
) -> tuple[Array, Array, Array]:
    """Returns whether a step of length h is accepted, the next h, inverse errors."""
    control, order = settings.control, settings.order
    if isinstance(control, Proportional):
        least = jnp.maximum(error, jnp.finfo(error.dtype).tiny)  # for a finite length
        next_h = control.theta * h * least ** (-1.0 / order)
        return error <= 1, next_h, state.inverse_errors
    powers = jnp.array(
        [control.p + control.i + control.d, -control.p - 2 * control.d, control.d],
        error.dtype,
    )
    inverse = 1 / (error + 1e-8)
    first = state.steps == 0
    errors = jnp.where(first, inverse, state.inverse_errors).at[0].set(inverse)
    factor = 1 + jnp.arctan(jnp.prod(errors ** (powers / order)) - 1)
    accept = factor >= control.accept_safety
    kept = jnp.where(accept, errors[jnp.array([0, 0, 1])], errors)
    return accept, state.h * factor, kept


def _pair(
    denoiser: Denoiser,
    z: Array,
    half: Array,
    h: Array,
    schedule: Schedule,
    settings: _Settings,
) -> tuple[Array, Array]:
    """Takes steps of the order below `order` and of `order`."""
    order, variable = settings.order, settings.variable

    def level(part: float) -> tuple[Array, Array, Array]:
        t = schedule.inverse_logsnr(2 * (half + part * h))
        return t, schedule.alpha(t), schedule.sigma(t)

    def toward(part: float, *weighed: tuple[Array, Array]) -> Array:
        """Steps to DDIM's z there, plus weighted differences of the variable."""
        _, alpha, sigma = level(part)
        ddim = alpha * first.x + sigma * first.eps
        return ddim + sum(weight * change for weight, change in weighed)

    def moments(part: float) -> tuple[Array, Array]:
        """Computes weights of m_0 and m_1 of the step there."""
        _, alpha, sigma = level(part)
        gain, values = gain_and_moments(variable, part * h[None], alpha, sigma, 2)
        return (gain * values[0])[0], (gain * values[1])[0]

    first: Denoised = denoiser(z, level(0.0)[0])
    r = 0.5 if order == 2 else 1 / 3
    change = lambda later: getattr(later, variable) - getattr(first, variable)
    second = change(denoiser(toward(r), level(r)[0]))
    middle = toward(1.0, (moments(1.0)[0] / 2 / r, second))
    if order == 2:
        return toward(1.0), middle
    inside = toward(2 / 3, (moments(2 / 3)[1] * 2, second))
    third = change(denoiser(inside, level(2 / 3)[0]))
    return middle, toward(1.0, (moments(1.0)[1] * 1.5, third))
