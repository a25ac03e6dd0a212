"""The conventions of SiT."""

from diffusionflow import schedules
from diffusionflow._dataclass import check_name
from diffusionflow.interop.convention import UNSCALED, Affine, Convention


def from_sit(path: str = "Linear", prediction: str = "velocity") -> Convention:
    """Returns the conventions of SiT, where t = 0 is noise and t = 1 is data.

    The network is called at `1 - t`. Its velocity is that of rising time, minus our
    dz_dt; noise and score have the same sign.

    Args:
      path: "Linear", "GVP" or "VP": `FlowMatching`, `Cosine`, `LinearBeta` here.
      prediction: "velocity", "noise" or "score".

    Returns:
      `Convention`.

    Raises:
      ValueError: a name is unknown.

    Source: Ma et al. 2024, arXiv 2401.08740.
    """
    paths = dict(
        Linear=schedules.FlowMatching(),
        GVP=schedules.Cosine(),
        VP=schedules.LinearBeta(),
    )
    kinds = dict(velocity="dz_dt", noise="eps", score="score")
    check_name("path", path, paths)
    check_name("prediction", prediction, kinds)
    sign = -1 if prediction == "velocity" else 1
    kind, reverse = kinds[prediction], Affine(-1.0, 1.0)
    return Convention(paths[path], kind, reverse, UNSCALED, sign)
