"""Published networks with their weights and conventions, opened from a folder."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import grids, predictions, samplers, schedules
from diffusionflow._dataclass import is_traced, register, static
from diffusionflow.interop.convention import Convention
from diffusionflow.interop.diffusers import DiffusersScheduler
from diffusionflow.interop.diffusers.options import CLASSES
from diffusionflow.interop.parameters import params_of
from diffusionflow.predictions import NetworkDenoiser


@register
class Network:
    """A Flax module with its parameters: `(z, time, label) -> output`.

    Args:
      module: the network.
      params: its parameters.
    """

    params: Any
    module: Any = static()

    def __call__(self, z: Array, time: Array, label: Array | None = None) -> Array:
        """Computes the output, cut to the channels of z.

        Args:
          z: [*batch, height, width, channels].
          time: [] or [*batch], the network's own.
          label: int [] or [*batch], or an embedding [*batch, features], or None.

        Returns:
          An array like z. Channels beyond those of z, a learned variance, are left
          out.
        """
        batch, event = z.shape[:-3], z.shape[-3:]

        def flat(value: Array, rank: int = 0) -> Array:
            inner = value.shape[value.ndim - rank :]
            return jnp.broadcast_to(value, (*batch, *inner)).reshape(-1, *inner)

        if label is not None:
            label = flat(label, 0 if jnp.issubdtype(label.dtype, jnp.integer) else 1)
        variables = {"params": self.params}
        output = self.module.apply(variables, flat(z, 3), flat(time), label)
        return output[..., : event[-1]].reshape(z.shape)


@register
class Prediction:
    """The prediction of a published network at our times, `(z, t, label) -> array`.

    Args:
      network: a `Network`.
      convention: its `Convention`.
      label: of all calls without one; None for none.
    """

    network: Any
    convention: Any
    label: Any = None

    def __call__(self, z: Array, t: ArrayLike, label: ArrayLike | None = None) -> Array:
        label = self.label if label is None else jnp.asarray(label)
        net_fn = jax.tree_util.Partial(self.network, label=label)
        return self.convention.predict_fn(net_fn)(z, t)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A network with its weights, and what it was trained for.

    Fields:
      predict_fn: a pytree `(z, t[, label]) -> prediction`; z is [*batch, height,
        width, channels], t of this library.
      convention: schedule, prediction type, time and scale of the network.
      config: what `config.json` said.
      scheduler: what `scheduler_config.json` said; None of a network without.
    """

    predict_fn: Prediction
    convention: Convention
    config: Mapping[str, Any]
    scheduler: Mapping[str, Any] | None = None

    @property
    def kind(self) -> Any:
        """Prediction type of `predict_fn`."""
        return self.convention.kind

    @property
    def schedule(self) -> Any:
        """Schedule that the times of `predict_fn` belong to."""
        return self.convention.schedule

    @property
    def network(self) -> Network:
        """The Flax module and its parameters."""
        return self.predict_fn.network

    @property
    def null_label(self) -> int | None:
        """Label of unconditional predictions; None if the network has none."""
        own = self.config.get("null_label")
        return getattr(self.network.module, "null_label", None) if own is None else own

    @property
    def denoise_fn(self) -> NetworkDenoiser:
        """The denoiser for samplers, of the null label if the network has one."""
        return self.denoiser(self.null_label)

    def denoiser(self, label: ArrayLike | None = None) -> NetworkDenoiser:
        """Returns the denoiser given a label.

        Args:
          label: int [] or [*batch]; None for a network without labels.
        """
        predict_fn = dataclasses.replace(self.predict_fn, label=self._checked(label))
        return predictions.denoiser(predict_fn, kind=self.kind, schedule=self.schedule)

    def _checked(self, label: ArrayLike | None) -> Array | None:
        """Returns the label as an array, its range checked as far as can be seen."""
        if label is None:
            return None
        label = jnp.asarray(label)
        count = self.network.module.num_labels
        if is_traced(label) or not jnp.issubdtype(label.dtype, jnp.integer):
            return label
        if count is not None and not np.all((label >= 0) & (label < count)):
            raise ValueError(f"label={np.asarray(label)}: must be in 0..{count - 1}")
        return label

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example it was trained on: height, width, channels of an image.

        Raises:
          ValueError: the config has neither `event_shape` nor `sample_size`.
        """
        if "event_shape" in self.config:
            return tuple(map(int, self.config["event_shape"]))
        size = self.config.get("sample_size")
        if size is None:
            raise ValueError(
                "config.json has no sample_size: choose height and width yourself, any "
                "are allowed"
            )
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return int(height), int(width), int(self.network.module.in_channels)

    @property
    def _sampling(self) -> DiffusersScheduler | None:
        """The scheduler of the config, if its class has steps here."""
        known = self.scheduler and self.scheduler.get("_class_name") in CLASSES
        return DiffusersScheduler(self.scheduler or {}) if known else None

    def grid(self, num_steps: int) -> np.ndarray:
        """Returns times from noise to data that the network was trained on.

        With a scheduler's config those of its `timestep_spacing` and further entries,
        as `DiffusersScheduler.grid`, which may start below 1. Without one, of a chain
        of levels those of `grids.discrete`, "trailing", else uniform ones.

        Args:
          num_steps: number of steps.

        Returns:
          float64 `[num_steps + 1]`, falling; uniform ones from 1 to 0.

        Raises:
          ValueError: the scheduler's steps are no grid.
        """
        scheduler = self._sampling
        if scheduler is not None:
            return scheduler.grid(num_steps)
        if isinstance(self.schedule, schedules.Discrete):
            num_levels = len(self.schedule.alphas_cumprod)
            return grids.discrete(num_steps, num_levels=num_levels)
        return grids.uniform(num_steps)

    def sample(
        self,
        key: Array | None,
        noise: Array,
        num_steps: int,
        *,
        label: ArrayLike | None = None,
        draws: Any = None,
        trajectory: bool = False,
    ) -> samplers.Result:
        """Samples as the scheduler of its config does, step for step.

        The steps, the method and `clip_sample` or `thresholding` are those of the
        config, see `DiffusersScheduler`.

        Args:
          key: for the noise of a stochastic method; None where it draws none.
          noise: standard normal, [*batch, height, width, channels].
          num_steps: number of steps.
          label: int [] or [*batch]; None for the null label, if there is one.
          draws: `noise` of `samplers.run`.
          trajectory: whether to return z before and after each step.

        Returns:
          `samplers.Result`.

        Raises:
          ValueError: there is no scheduler's config, or its method is not shipped.
        """
        scheduler = self._sampling
        if scheduler is None:
            raise ValueError(
                "no config of a scheduler whose steps are known: use samplers.sample "
                "with denoiser(label) and grid(num_steps)"
            )
        label = self._checked(self.null_label if label is None else label)
        net_fn = jax.tree_util.Partial(self.network, label=label)
        given: dict[str, Any] = dict(draws=draws, trajectory=trajectory)
        return scheduler.sample(key, net_fn, noise, num_steps, **given)


def assembled(
    module: Any,
    state: dict[str, Any],
    convention: Convention,
    config: Mapping[str, Any],
    name: str,
) -> Pretrained:
    """Puts a network and the arrays of its parameters together.

    Args:
      module: a Flax module of `networks.pretrained`.
      state: arrays under the names of its parameters, joined by dots; used up.
      convention: schedule, prediction type, time and scale of the network.
      config: entries of the network, of which `sample_size` is looked at.
      name: of the network, for messages.

    Raises:
      ValueError: the arrays are not exactly those of the network.
    """
    network = Network(params_of(module, state, name), module)
    return Pretrained(Prediction(network, convention), convention, config)
