"""Defines what sampling may begin from in place of noise, pictures among them.

A picture x noised to the level of a time t within the grid is a start like any other:
`z_t = alpha_t x + sigma_t eps` (SDEdit, Meng et al. 2021, arXiv 2108.01073). Known
pixels are kept as `diffusionflow.guidance.inpaint` does.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusionflow import guidance, processes, random, samplers
from diffusionflow.predictions import DenoiseFn
from diffusionflow.schedules import Schedule
from experiments.sampling.conditions import Conditions

FirstFn = Callable[[int, str], np.ndarray]  # (count, name) -> rows of an array
RunFn = Callable[..., Any]  # (edit, conditions, advance) -> what the edit gives


class Parts(NamedTuple):
    """What samples are made with.

    Fields:
      sampler: any.
      schedule: of the model.
      times: timestep schedule, float64 [num_steps + 1], falling.
      event_shape: of a sample.
    """

    sampler: Any
    schedule: Schedule
    times: np.ndarray
    event_shape: tuple[int, ...]


class Edit:
    """Base class of what samples from other than pure noise.

    Fields:
      columns: samples in a row of the picture; None for the usual number.
    """

    columns: int | None = None

    def rows(self, number: np.ndarray) -> np.ndarray:
        """Returns the number of the condition that sample `number` has."""
        return number

    def prepare(self, run_fn: RunFn, given: Conditions) -> None:
        """Computes what all samples need; called once, before the first is made.

        Args:
          run_fn: `(edit, conditions, advance)`, runs another edit with the weights and
            the sampler of the request; `advance(count)` is called as samples come.
          given: conditions of all samples.
        """

    def times(self, times: np.ndarray) -> np.ndarray:
        """Returns the part of the grid that is used, at least its last time."""
        return times

    def inputs(self, number: np.ndarray, purpose: int) -> Any:
        """Returns what samples `number` [n] begin from, a pytree of arrays [n, ...].

        Args:
          number: of the samples.
          purpose: of the random stream.
        """
        raise NotImplementedError

    def sample(
        self, parts: Parts, keys: jax.Array, denoise_fn: DenoiseFn, inputs: Any
    ) -> Any:
        """Makes samples; traced.

        Args:
          parts: with the times of `self.times`.
          keys: of the samples, [n].
          denoise_fn: guided, if that is asked for.
          inputs: of `self.inputs`.

        Returns:
          The samples [n, *event], or a dict of arrays [n, ...] with `samples`.
        """
        raise NotImplementedError

    def above(self, count: int, first_fn: FirstFn) -> list[np.ndarray]:
        """Returns what a picture shows above the samples, floats [count, *event] each.

        Args:
          count: samples that are shown.
          first_fn: gives the samples.
        """
        del count, first_fn
        return []

    def findings(self, first_fn: FirstFn) -> str | None:
        """Describes what was found, on one line, or None.

        Args:
          first_fn: gives the samples.
        """
        del first_fn
        return None


class FromPicture(Edit):
    """Samples that begin from noised pictures, whose known values may be kept.

    Sample i has picture i, in turn, and the noise that it has without a picture.

    Args:
      pictures: float32 [k, *event].
      num_steps: how many of the grid's last steps are made.
      whole: whether the start is noise alone, as without a picture.
      mask: bool [*event], True where the picture is known; None for nowhere.
    """

    def __init__(
        self,
        pictures: np.ndarray,
        *,
        num_steps: int,
        whole: bool,
        mask: np.ndarray | None,
    ):
        self._pictures, self._mask = pictures, mask
        self._num_steps, self._whole = num_steps, whole

    def times(self, times: np.ndarray) -> np.ndarray:
        return times[len(times) - 1 - self._num_steps :]

    def inputs(self, number: np.ndarray, purpose: int) -> Any:
        del purpose
        return self._pictures[number % len(self._pictures)]

    def sample(
        self, parts: Parts, keys: jax.Array, denoise_fn: DenoiseFn, inputs: Any
    ) -> Any:
        if not self._num_steps:
            return inputs
        (prior_key, noise_key), schedule = random.split(keys), parts.schedule
        if self._mask is not None:
            denoise_fn = guidance.inpaint(
                denoise_fn, inputs, self._mask, schedule=schedule
            )
        t, shape = parts.times[0], inputs.shape
        if self._whole:
            z = samplers.prior(prior_key, shape, schedule=schedule, t=t)
        else:
            eps = random.normal(prior_key, shape)
            z = processes.add_noise(inputs, eps, t, schedule=schedule)
        return samplers.sample(
            noise_key,
            denoise_fn,
            z,
            parts.times,
            sampler=parts.sampler,
            schedule=schedule,
        ).x

    def above(self, count: int, first_fn: FirstFn) -> list[np.ndarray]:
        del first_fn
        pictures = self.inputs(np.arange(count), 0)
        return [pictures if self._mask is None else np.where(self._mask, pictures, 0)]


class Plan(NamedTuple):
    """What samples are made of, and what tells them from others.

    Fields:
      edit: of which the samples are made; None for noise alone.
      settings: plain JSON values, what the samples depend on besides the request.
      name: of these, in names of files.
      words: of these, for the recipe.
    """

    edit: Edit | None = None
    settings: Mapping[str, Any] = {}
    name: str = ""
    words: str = ""


FROM_NOISE = Plan()
