"""A scheduler of diffusers: its levels, its sampler and what it does to x_hat."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusionflow import predictions, samplers
from diffusionflow._dataclass import check_count, check_name
from diffusionflow._numeric import in_float64
from diffusionflow.interop.diffusers import finish, methods, steps
from diffusionflow.interop.diffusers.conventions import from_diffusers
from diffusionflow.interop.diffusers.options import EDMS, FLOWS, read
from diffusionflow.interop.diffusers.steps import DiffusersSteps

_ENDS = ("zero", "sigma_min")


class DiffusersScheduler:
    """Reads a scheduler of diffusers whole: network, levels, sampler, clipping.

    Args:
      config: the dictionary of its `scheduler_config.json`, with `_class_name`.
      mu: as in `from_diffusers`.
      image_seq_len: as in `from_diffusers`.
      eta: as in the `step` of DDIMScheduler (default 0) and TCDScheduler (0.3).

    Attributes:
      name: class.
      settings: its entries, with the defaults of the class.
      ignored: entries of the config that belong to other classes, without effect.
      convention: of its network: `from_diffusers`.

    Raises:
      ValueError: an unknown class or entry, or a value without a counterpart here.

    Example:
      >>> scheduler = DiffusersScheduler({"_class_name": "DDIMScheduler"})
      >>> scheduler.steps(4).timesteps.tolist()
      [750.0, 500.0, 250.0, 0.0]
      >>> scheduler.grid(4).tolist()
      [0.751, 0.501, 0.251, 0.001, 0.0]
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        mu: float | None = None,
        image_seq_len: int | None = None,
        eta: float | None = None,
    ) -> None:
        self.name, self.settings, self.ignored = read(config)
        self.convention = from_diffusers(config, mu=mu, image_seq_len=image_seq_len)
        self.eta = eta
        end = self.settings.get("final_sigmas_type", "zero")
        check_name("final_sigmas_type", end, _ENDS)
        self._flow = self.name in FLOWS or bool(self.settings.get("use_flow_sigmas"))
        self._check_flow()

    def _check_flow(self) -> None:
        spread = [
            f"use_{kind}_sigmas"
            for kind in ("karras", "exponential", "beta")
            if self.settings.get(f"use_{kind}_sigmas")
        ]
        if spread and self._flow and self.name not in FLOWS:
            raise ValueError(
                f"use_flow_sigmas with {spread[0]}: give one of the two; the levels of "
                "the other exceed 1, the highest of a flow"
            )
        end = self.settings.get("shift_terminal")
        if end and not self._flow:
            raise ValueError(f"shift_terminal={end!r}: needs use_flow_sigmas=True")

    def steps(self, num_steps: int, *, sigmas: Any = None) -> DiffusersSteps:
        """Lists the steps that `set_timesteps(num_steps)` makes.

        Args:
          num_steps: N.
          sigmas: of a flow, `set_timesteps(sigmas=...)`: levels before the shift,
            `[num_steps]`, as some pipelines pass them.

        Returns:
          `DiffusersSteps`; one fewer than N where the last changes nothing or is
          `to_data`.

        Raises:
          ValueError: N or an entry is out of its bounds.
        """
        check_count("num_steps", num_steps)
        if sigmas is not None and not self._flow:
            raise ValueError(
                f"sigmas: must be None, as the levels of {self.name} follow from its "
                "betas; use_flow_sigmas=True takes sigmas"
            )
        schedule, parts = self.convention.schedule, (self.name, self.settings)
        if self.name in EDMS:
            return steps.of_edm(*parts, schedule, num_steps)
        if self._flow:
            return steps.of_flow(*parts, schedule, num_steps, sigmas)
        return steps.of_chain(*parts, schedule, num_steps)

    def grid(self, num_steps: int, *, sigmas: Any = None) -> np.ndarray:
        """Returns the steps as a sampling grid for `samplers.sample`.

        Raises:
          ValueError: as `steps`; or a step aims elsewhere than where the next starts.
        """
        found = self.steps(num_steps, sigmas=sigmas)
        if not np.array_equal(found.t[1:], found.s[:-1]):
            spacing = self.settings.get("timestep_spacing")
            raise ValueError(
                f"{self.name} with timestep_spacing={spacing!r}, {num_steps} steps: "
                "they are no grid, as a step ends at another level than the next "
                "begins at; use steps(num_steps) or sample(...), or grids.discrete"
            )
        return np.append(found.t, found.s[-1])

    def sampler(self, num_steps: int) -> samplers.Sampler:
        """Returns the sampler that takes the steps.

        Raises:
          ValueError: the method is not shipped.
        """
        listed = self.steps(num_steps)
        return methods.sampler(self.name, self.settings, num_steps, listed, self.eta)

    def denoise_fn(
        self, net_fn: Callable[[Array, Array], Array], listed: DiffusersSteps
    ) -> predictions.Denoiser:
        """Returns the denoiser of the source's `net_fn(z, timestep)`.

        The network is given the timesteps of the scheduler, and x_hat is clipped or
        thresholded as `clip_sample` and `thresholding` say.

        Args:
          net_fn: the source's network.
          listed: from `steps`.
        """
        convention = finish.listed(self.convention, listed.t, listed.timesteps)
        denoiser = predictions.denoiser(
            convention.predict_fn(net_fn),
            kind=convention.kind,
            schedule=convention.schedule,
        )
        return finish.finished(self.name, self.settings, denoiser, convention)

    def sample(
        self,
        key: Array | None,
        net_fn: Callable[[Array, Array], Array],
        noise: Array,
        num_steps: int,
        *,
        sigmas: Any = None,
        draws: Any = None,
        trajectory: bool = False,
    ) -> samplers.Result:
        """Samples as the scheduler does, step for step.

        Args:
          key: for the noise of a stochastic method; None where it draws none.
          net_fn: the source's network `(z, timestep)`, channels last as all arrays.
          noise: standard normal, `[*batch, *event]`.
          num_steps: N.
          sigmas: as in `steps`.
          draws: `noise` of `samplers.run`.
          trajectory: whether to return z before and after each step.

        Returns:
          `samplers.Result`.

        Raises:
          ValueError: the method is not shipped, or as `steps`.
        """
        found = self.steps(num_steps, sigmas=sigmas)
        sampler, schedule = self.sampler(num_steps), self.convention.schedule
        denoiser = self.denoise_fn(net_fn, found)
        predictions.check_determined(self.convention.kind, found.t, schedule=schedule)
        rows = in_float64(
            lambda sampler, t, s, schedule: sampler.plan(t, s, schedule),
            sampler,
            found.t,
            found.s,
            schedule,
        )
        z = jnp.asarray(noise) * found.init_scale
        given: dict[str, Any] = dict(noise=draws, trajectory=trajectory)
        result = samplers.run(key, denoiser, z, rows, sampler=sampler, **given)
        if not found.to_data:
            return result
        x = denoiser(result.x, jnp.asarray(found.s[-1], z.dtype)).x
        nfe = None if result.nfe is None else result.nfe + 1
        states = result.trajectory
        if states is not None:
            states = jnp.concatenate([states, x[None]])
        return samplers.Result(x, nfe, states)
