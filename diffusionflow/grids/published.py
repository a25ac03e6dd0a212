"""Grids that others computed for their models."""

import numpy as np

from diffusionflow._dataclass import check_count, check_name
from diffusionflow.grids.fixed import at_logsnr
from diffusionflow.schedules import Schedule

TABLES = {  # sigma / alpha
    "stable_diffusion": (
        *(14.615, 6.475, 3.861, 2.697, 1.886, 1.396),
        *(0.963, 0.652, 0.399, 0.152, 0.029),
    ),
    "sdxl": (
        *(14.615, 6.315, 3.771, 2.181, 1.342, 0.862),
        *(0.555, 0.380, 0.234, 0.113, 0.029),
    ),
}


def align_your_steps(
    num_steps: int, *, schedule: Schedule, table: str = "stable_diffusion"
) -> np.ndarray:
    """Makes the Align Your Steps grid: the published levels, log-linear between them.

    They were computed for latents of Stable Diffusion, whose noisiest level is the
    first of the table. For a model of your own `optimize` computes some.

    Args:
      num_steps: at least 1; of 10 the levels are those of the table. The last is
        above 0, and `samplers.sample` adds a step to the data.
      schedule: any; gives the times.
      table: of `TABLES`.

    Returns:
      float64 `[num_steps + 1]`.

    Raises:
      ValueError: no step, an unknown table, or levels that the schedule does not reach
        within [0, 1].

    Source: Sabour et al. 2024, arXiv 2404.14507, table 3.
    """
    check_count("num_steps", num_steps)
    check_name("table", table, TABLES)
    levels = np.log(TABLES[table])
    place = np.linspace(0, len(levels) - 1, num_steps + 1)
    ratios = np.interp(place, np.arange(len(levels)), levels)
    return at_logsnr(schedule, -2 * ratios)
