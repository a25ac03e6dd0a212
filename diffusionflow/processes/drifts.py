"""Drift and diffusion of the processes that share the marginals of a schedule."""

from typing import NamedTuple

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_name, is_traced
from diffusionflow._numeric import cast, floating, in_float64, root
from diffusionflow.predictions import (
    Denoised,
    DenoiseFn,
    as_data,
    as_denoiser,
    per_event,
)
from diffusionflow.processes.coefficients import scaled
from diffusionflow.schedules import Schedule, as_schedule

DIRECTIONS = ("reverse", "forward")


class SdeTerms(NamedTuple):
    """Drift and diffusion of `dz = drift dt + diffusion dw`.

    Fields:
      drift: `[*batch, *event]`.
      diffusion: `()` or `[*batch]`, in the dtype of the drift.
    """

    drift: Array
    diffusion: Array


@xp.quiet
def forward(z: Array, t: ArrayLike, *, schedule: Schedule) -> SdeTerms:
    """Computes the terms of the forward SDE, dt > 0, to noise: `dz = f z dt + g dw`.

    Args:
      z: `[*batch, *event]`.
      t: scalar or `[*batch]`.
      schedule: any.

    Returns:
      `SdeTerms`; infinite where alpha = 0.

    Raises:
      ValueError: `t` does not begin the shape of `z`.
    """
    as_schedule(schedule)
    z, t = as_data(z, "z"), floating(t)
    drift = per_event(schedule.f(t), z) * z
    return SdeTerms(drift, cast(root(schedule.g2(t)), z))


def probability_flow(
    denoise_fn: DenoiseFn, z: Array, t: ArrayLike, *, schedule: Schedule
) -> SdeTerms:
    """Computes the drift of the probability-flow ODE: same marginals, either direction.

    `dz / dt = f z - g^2 / 2 score = alpha' x_hat + sigma' eps_hat`.

    Args:
      denoise_fn: `(z, t) -> Denoised`.
      z: `[*batch, *event]`.
      t: scalar or `[*batch]`.
      schedule: the one of `denoise_fn`.

    Returns:
      `SdeTerms` with diffusion 0.

    Raises:
      ValueError: `t` does not begin the shape of `z`, or sigma = 0 with an infinite
        slope at a `t` that is not traced (t = 0 of `LinearBeta`), where the score
        cannot be recovered from `Denoised`; at traced times the drift is not finite.
    """
    return reverse(denoise_fn, z, t, schedule=schedule, eta=0.0)


@xp.quiet
def reverse(
    denoise_fn: DenoiseFn,
    z: Array,
    t: ArrayLike,
    *,
    schedule: Schedule,
    eta: ArrayLike = 1.0,
) -> SdeTerms:
    """Computes the terms of the reverse-time SDE with diffusion `eta g`; **dt < 0**.

    `dz = (f z - (1 + eta^2) / 2 g^2 score) dt + eta g dw`; its drift is computed as
    `alpha' x_hat + sigma' eps_hat + eta^2 (sigma' - f sigma) eps_hat`.

    Args:
      denoise_fn: `(z, t) -> Denoised`.
      z: `[*batch, *event]`.
      t: scalar or `[*batch]`.
      schedule: the one of `denoise_fn`.
      eta: scalar or of the shape of `t`; 0 is the probability flow, 1 the reversal of
        `forward`. Any value keeps the marginals.

    Returns:
      `SdeTerms`; infinite where alpha = 0 and eta is not.

    Raises:
      ValueError: `t` does not begin the shape of `z`, or sigma = 0 with an infinite
        slope at a `t` that is not traced (t = 0 of `LinearBeta`), where the score
        cannot be recovered from `Denoised`; at traced times the drift is not finite.

    Source: Song et al. 2021, arXiv 2011.13456 (eta = 1 and 0); Gao et al. 2024,
    "Diffusion Meets Flow Matching" (any eta).
    """
    as_schedule(schedule)
    t = floating(t)
    dsigma = schedule.derivatives(t)[1]
    eta = xp.broadcast_to(cast(eta, t), t.shape)
    rate = dsigma - schedule.f(t) * schedule.sigma(t)  # g^2 / (2 sigma)
    g = root(schedule.g2(t))
    mean, denoised = _mean_slope(denoise_fn, z, t, schedule)
    added = per_event(scaled(eta**2, rate), mean) * denoised.eps
    return SdeTerms(mean + added, cast(scaled(eta, g), mean))


@xp.quiet
def interpolant(
    denoise_fn: DenoiseFn,
    z: Array,
    t: ArrayLike,
    *,
    schedule: Schedule,
    epsilon: ArrayLike,
    direction: str = "reverse",
) -> SdeTerms:
    """Computes the terms of the interpolant SDE: any diffusion, either direction.

    `dz = (E[dz/dt | z] -+ epsilon^2 / 2 score) dt + epsilon dw` with minus for
    "reverse", dt < 0, and plus for "forward", dt > 0; `score = -eps_hat / sigma`. It is
    the function `reverse` for `epsilon = eta g`.

    Args:
      denoise_fn: `(z, t) -> Denoised`.
      z: `[*batch, *event]`.
      t: scalar or `[*batch]`.
      schedule: the one of `denoise_fn`.
      epsilon: the diffusion at `t`, scalar or of the shape of `t`.
      direction: "reverse" (towards the data) or "forward".

    Returns:
      `SdeTerms`; infinite where sigma = 0 and epsilon is not. Where epsilon is 0 the
      score is left out.

    Raises:
      ValueError: the direction is unknown, `t` does not begin the shape of `z`, or
        sigma = 0 with an infinite slope at a `t` that is not traced (t = 0 of
        `LinearBeta`), where the score cannot be recovered from `Denoised`; at traced
        times the drift is not finite.

    Source: Albergo et al. 2023, arXiv 2303.08797; Ma et al. 2024, arXiv 2401.08740
    (w_t there is epsilon^2 / 2).
    """
    check_name("direction", direction, DIRECTIONS)
    as_schedule(schedule)
    t = floating(t)
    epsilon = xp.broadcast_to(cast(epsilon, t), t.shape)
    rate = scaled(epsilon**2, 0.5 / schedule.sigma(t))
    mean, denoised = _mean_slope(denoise_fn, z, t, schedule)
    added = per_event(rate, mean) * denoised.eps
    drift = mean + added if direction == "reverse" else mean - added
    return SdeTerms(drift, cast(epsilon, drift))


def _mean_slope(
    denoise_fn: DenoiseFn, z: Array, t: Array, schedule: Schedule
) -> tuple[Array, Denoised]:
    """Computes `E[dz/dt | z]`, and the `Denoised` that it is computed from."""
    z = as_data(z, "z")
    _check_slope(schedule, t)
    denoised = as_denoiser(denoise_fn, schedule=schedule)(z, t)
    a, b = (per_event(part, z) for part in schedule.derivatives(t))
    return a * denoised.x + b * denoised.eps, denoised


def _check_slope(schedule: Schedule, t: Array) -> None:
    """Refuses sigma = 0 of infinite slope: eps_hat / sigma is undefined there."""
    if is_traced(schedule, t):
        return
    lost = lambda schedule, t: (
        (schedule.sigma(t) == 0) & xp.isinf(schedule.derivatives(t)[1])
    )
    singular = np.asarray(in_float64(lost, schedule, t))
    if singular.any():
        raise ValueError(
            f"t={np.asarray(t)[singular].ravel()[0]}: sigma is 0 and its slope "
            f"infinite on {schedule}, where x_hat and eps_hat do not give the score; "
            "keep away from that time"
        )
