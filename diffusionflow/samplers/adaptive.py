"""The probability-flow ODE with steps of adaptive length, through diffrax.

The variable of integration is the angle `atan2(sigma, alpha)`, from 0 (data) to pi / 2
(noise), and the state is `z / sqrt(alpha^2 + sigma^2)`, whose slope is v. Of the
variables in `variables` it is the one that is finite and smooth at both ends on every
schedule: the clocks of x and eps are infinite at one end, and dz/dt is where a schedule
has an infinite derivative, such as sigma' at t = 0 of `LinearBeta`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import check_bound, check_positive, cost
from diffusionflow._numeric import at_least_float32
from diffusionflow.predictions import DenoiseFn
from diffusionflow.schedules import Schedule


class Solution(NamedTuple):
    """What `solve` returns.

    Fields:
      x: z at `t1`, `[*batch, *event]`; infinite where `done` is False.
      done: whether `t1` was reached within the tolerances, bool `[*batch]`. It is False
        where `max_steps` were not enough or the field was not finite.
      steps: attempted steps, rejected ones included, `[*batch]`.
      nfe: network calls, `[*batch]`.
    """

    x: Array
    done: Array
    steps: Array
    nfe: Array


def solve(
    denoise_fn: DenoiseFn,
    z: Array,
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    schedule: Schedule,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
    batch_ndim: int = 1,
) -> Solution:
    """Integrates the probability-flow ODE from `t0` to `t1`, in either direction.

    Every example has its own steps (Tsitouras' method of order 5, six calls a step) and
    its own outcome; no example changes another's result.

    Args:
      denoise_fn: `(z, t) -> Denoised`, called on one example `[*event]` with scalar t,
        under `vmap`: conditioning that it closes over must not have a batch axis. With
        a condition for each example, `vmap` a call with `batch_ndim=0` over both.
      z: at `t0`, `[*batch, *event]`.
      t0: first time, scalar: 1 to sample, 0 to encode.
      t1: last time, scalar.
      schedule: the one of `denoise_fn`.
      rtol: relative tolerance of a step.
      atol: absolute tolerance, in units of `z / sqrt(alpha^2 + sigma^2)`.
      max_steps: cap on attempted steps, so that a stiff field ends too.
      batch_ndim: number of leading batch axes.

    Returns:
      `Solution`.

    Raises:
      ImportError: diffrax is missing.
      ValueError: a tolerance is not positive, or `max_steps` is below 1.
    """
    check_positive("rtol", rtol)
    check_positive("atol", atol)
    check_bound("max_steps", max_steps, lambda n: n >= 1, "at least 1")
    diffrax = _diffrax()
    z = at_least_float32(z)
    t0, t1 = jnp.asarray(t0, z.dtype), jnp.asarray(t1, z.dtype)
    start, first = _angle(schedule, t0)
    end, last = _angle(schedule, t1)
    earliest, latest = jnp.minimum(t0, t1), jnp.maximum(t0, t1)

    def field(angle: Array, y: Array, args: None) -> Array:
        del args
        log_ratio = jnp.log(jnp.cos(angle)) - jnp.log(jnp.sin(angle))
        # the ends themselves, where the angle is known only to rounding
        t = jnp.clip(schedule.inverse_logsnr(2 * log_ratio), earliest, latest)
        t = jnp.where(angle == start, t0, jnp.where(angle == end, t1, t))
        _, length = _angle(schedule, t)
        denoised = denoise_fn(y * length.astype(y.dtype), t.astype(y.dtype))
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return cos.astype(y.dtype) * denoised.eps - sin.astype(y.dtype) * denoised.x

    def one(z: Array) -> tuple[Array, Array, Array]:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            start,
            end,
            (end - start) / 100,
            z / first.astype(z.dtype),
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
            max_steps=max_steps,
            throw=False,
        )
        y = solution.ys[0] * last.astype(z.dtype)
        done = (solution.result == diffrax.RESULTS.successful) & jnp.isfinite(y).all()
        return jnp.where(done, y, jnp.inf), done, solution.stats["num_steps"]

    for _ in range(batch_ndim):
        one = jax.vmap(one)
    # diffrax is written for standard promotion
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        x, done, steps = one(z)
    return Solution(x, done, steps, (1 + 6 * steps) * cost(denoise_fn))


def _angle(schedule: Schedule, t: Array) -> tuple[Array, Array]:
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return jnp.arctan2(sigma, alpha), jnp.hypot(alpha, sigma)


def _diffrax() -> Any:
    try:
        import diffrax
    except ImportError as error:
        raise ImportError(
            'samplers.solve needs diffrax: pip install "diffusionflow[ode]"'
        ) from error
    return diffrax
