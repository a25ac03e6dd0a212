"""The levels of a schedule at some times, as data."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import schedules
from diffusionflow._dataclass import register


@register
class Levels(schedules.Schedule):
    """What a schedule is at some times, as data: one compiled program for all."""

    levels: dict

    @classmethod
    def of(cls, schedule, t, dtype=np.float64):
        """Computed in float64, at times of any shape."""
        with jax.enable_x64(True):
            t = np.asarray(t, np.float64)
            slopes = schedule.derivatives(t)
            levels = {
                "alpha": schedule.alpha(t),
                "sigma": schedule.sigma(t),
                "logsnr": schedule.logsnr(t),
                "dalpha": slopes[0],
                "dsigma": slopes[1],
            }
            return cls({name: np.asarray(v, dtype) for name, v in levels.items()})

    def alpha(self, t):
        return jnp.asarray(self.levels["alpha"])

    def sigma(self, t):
        return jnp.asarray(self.levels["sigma"])

    def logsnr(self, t):
        return jnp.asarray(self.levels["logsnr"])

    def derivatives(self, t):
        return jnp.asarray(self.levels["dalpha"]), jnp.asarray(self.levels["dsigma"])

    def plain(self, *names):
        names = names or ("alpha", "sigma", "dalpha", "dsigma")
        return [np.asarray(self.levels[name], np.float64)[:, None] for name in names]
