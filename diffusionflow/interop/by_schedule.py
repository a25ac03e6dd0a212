"""Conventions of other libraries' networks that are trained on a schedule of ours."""

import dataclasses

from diffusionflow import predictions, schedules
from diffusionflow._dataclass import check_name, is_traced
from diffusionflow.interop.convention import UNSCALED, Affine, Convention
from diffusionflow.interop.diffusers.conventions import _Index, _Level
from diffusionflow.interop.edm import NoiseClock, from_edm
from diffusionflow.predictions import AnyKind, as_kind

NUM_TIMESTEPS = 1000  # of diffusers and improved DDPM, where no table says it
OF_EDM = ("edm", "vp", "ve", "iddpm")  # preconditionings of `from_edm`
SOURCES = ("diffusers", "sit", *OF_EDM)
OF_SIT = (schedules.FlowMatching, schedules.Cosine, schedules.LinearBeta)


def from_schedule(
    schedule: schedules.Schedule,
    kind: AnyKind,
    *,
    source: str = "diffusers",
    sigma_data: float = 0.5,
) -> Convention:
    """Returns how a network of another library is called on a schedule of ours.

    "diffusers" and "sit" give it z, unscaled. "diffusers" calls it at the timestep
    `T t - 1` of a table of T levels, at sigma on `VE`, and at
    `1000 sigma / (alpha + sigma)` elsewhere; "sit" at `1 - t`, and its velocity (u,
    dz_dt) has the other sign. On the schedules of published networks these are
    `from_diffusers` and `from_sit`. "edm", "vp", "ve" and "iddpm" give it
    `c_in z / alpha` and c_noise of EDM's preconditionings at sigma / alpha, as
    `from_edm` does, and of "ve" eps has the other sign.

    Args:
      schedule: the one that the network is trained on.
      kind: prediction type.
      source: one of `SOURCES`.
      sigma_data: of "edm".

    Raises:
      ValueError: the source is unknown, SiT has no such path, `sigma_data` of "edm" is
        another than that of the kind `edm_f`, or a source of EDM is given a schedule
        with alpha(1) = 0, on which its noise level is infinite.
    """
    check_name("source", source, SOURCES)
    kind = as_kind(kind)
    if source in OF_EDM:
        return _of_edm(schedule, kind, source, sigma_data)
    if source == "sit":
        if not isinstance(schedule, OF_SIT):
            names = ", ".join(each.__name__ for each in OF_SIT)
            raise ValueError(f"schedule={schedule!r}: must be one of SiT's, {names}")
        sign = -1 if str(kind) in ("u", "dz_dt") else 1
        return Convention(schedule, kind, Affine(-1.0, 1.0), UNSCALED, sign)
    if isinstance(schedule, schedules.Discrete):
        count = float(len(schedule.alphas_cumprod))
        return Convention(schedule, kind, _Index(count), UNSCALED)
    if isinstance(schedule, schedules.VE):
        return Convention(schedule, kind, NoiseClock(schedule, "sigma"), UNSCALED)
    clock_fn = _Level(schedule, float(NUM_TIMESTEPS))
    return Convention(schedule, kind, clock_fn, UNSCALED)


def _of_edm(
    schedule: schedules.Schedule,
    kind: predictions.PredictionType,
    source: str,
    sigma_data: float,
) -> Convention:
    """Returns scale and clock of a preconditioning of EDM, for any prediction type."""
    if not is_traced(schedule) and not float(schedule.alpha(1.0)) > 0:
        raise ValueError(
            f"schedule={schedule!r} with source={source!r}: must have alpha(1) > 0, as "
            "the noise level sigma / alpha is infinite there; take the schedule edm, "
            "or a truncated one"
        )
    own = getattr(kind, "sigma_data", sigma_data)
    if source == "edm" and not is_traced(own, sigma_data) and own != sigma_data:
        raise ValueError(f"sigma_data={sigma_data}: must be {own}, that of {kind}")
    count = NUM_TIMESTEPS
    if isinstance(schedule, schedules.Discrete):
        count = len(schedule.alphas_cumprod)
    found = from_edm(source, sigma_data=sigma_data, schedule=schedule, num_levels=count)
    sign = -1 if source == "ve" and str(kind) == "eps" else 1
    return dataclasses.replace(found, kind=kind, sign=sign)
