"""Conventions of other libraries' networks that are trained on a schedule of ours."""

from diffusionflow import schedules
from diffusionflow._dataclass import check_name
from diffusionflow.interop.convention import UNSCALED, Affine, Convention
from diffusionflow.interop.diffusers.conventions import _Index, _Level
from diffusionflow.interop.edm import NoiseClock
from diffusionflow.predictions import AnyKind, as_kind

NUM_TIMESTEPS = 1000.0  # of diffusers, where the schedule is no table
SOURCES = ("diffusers", "sit")
OF_SIT = (schedules.FlowMatching, schedules.Cosine, schedules.LinearBeta)


def from_schedule(
    schedule: schedules.Schedule, kind: AnyKind, *, source: str = "diffusers"
) -> Convention:
    """Returns how a network of another library is called on a schedule of ours.

    Its input is z, unscaled. "diffusers" calls it at the timestep `T t - 1` of a table
    of T levels, at sigma on `VE`, and at `1000 sigma / (alpha + sigma)` elsewhere;
    "sit" at `1 - t`, and its velocity (u, dz_dt) has the other sign. On the schedules
    of published networks these are `from_diffusers` and `from_sit`.

    Args:
      schedule: the one that the network is trained on.
      kind: prediction type.
      source: "diffusers" or "sit".

    Raises:
      ValueError: the source is unknown, or SiT has no such path.
    """
    check_name("source", source, SOURCES)
    kind = as_kind(kind)
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
    return Convention(schedule, kind, _Level(schedule, NUM_TIMESTEPS), UNSCALED)
