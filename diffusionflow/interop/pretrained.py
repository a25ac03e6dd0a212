"""Published networks with their weights and conventions, opened from a folder."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import grids, predictions, schedules
from diffusionflow._dataclass import check_name, is_traced, register, static
from diffusionflow.interop.convention import UNSCALED, Convention
from diffusionflow.interop.diffusers import from_diffusers
from diffusionflow.interop.edm import NoiseClock
from diffusionflow.interop.parameters import (
    as_parameter,
    entries_of,
    params_of,
    with_new_names,
)
from diffusionflow.interop.weights import read_json, read_weights
from diffusionflow.predictions import NetworkDenoiser

# entries of config.json that say nothing of the network
ELSEWHERE = ("sample_size",)


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
        return getattr(self.network.module, "null_label", None)

    @property
    def denoise_fn(self) -> NetworkDenoiser:
        """The denoiser for samplers, of the null label if the network has one."""
        return self.denoiser(self.null_label)

    def denoiser(self, label: ArrayLike | None = None) -> NetworkDenoiser:
        """Returns the denoiser given a label.

        Args:
          label: int [] or [*batch]; None for a network without labels.
        """
        if label is not None:
            label = jnp.asarray(label)
            self._check_label(label)
        predict_fn = dataclasses.replace(self.predict_fn, label=label)
        return predictions.denoiser(predict_fn, kind=self.kind, schedule=self.schedule)

    def _check_label(self, label: Array) -> None:
        count = self.network.module.num_labels
        if is_traced(label) or not jnp.issubdtype(label.dtype, jnp.integer):
            return
        if count is not None and not np.all((label >= 0) & (label < count)):
            raise ValueError(f"label={np.asarray(label)}: must be in 0..{count - 1}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what it was trained on.

        Raises:
          ValueError: the config has no `sample_size`.
        """
        size = self.config.get("sample_size")
        if size is None:
            raise ValueError("config.json has no sample_size: any size is allowed")
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return int(height), int(width), int(self.config["in_channels"])

    def grid(self, num_steps: int) -> np.ndarray:
        """Returns times from noise to data that the network was trained on.

        Of a chain of levels those of `grids.discrete`, "trailing"; else uniform ones.

        Args:
          num_steps: number of steps.

        Returns:
          float64 `[num_steps + 1]`, from 1 to 0.
        """
        if isinstance(self.schedule, schedules.Discrete):
            num_levels = len(self.schedule.alphas_cumprod)
            return grids.discrete(num_steps, num_levels=num_levels)
        return grids.uniform(num_steps)


def load(
    path: str | pathlib.Path, *, scheduler: Mapping[str, Any] | None = None
) -> Pretrained:
    """Opens a published network: architecture, weights and conventions.

    Args:
      path: a folder that `save` wrote, or one in the layout of diffusers: of a network
        (`config.json` and its weights) or of a pipeline (`model_index.json`, the
        network in `unet` or `transformer`, `scheduler/scheduler_config.json`).
      scheduler: the dictionary of the scheduler's config; by default it is read from
        `scheduler_config.json` in the folder, or in the pipeline's `scheduler`.

    Returns:
      `Pretrained`, parameters in float32.

    Raises:
      ValueError: a file is missing or corrupted, the class or an entry of a config is
        not known here, or the weights are not exactly those of the network; the
        message lists names.
    """
    folder = _network_folder(pathlib.Path(path))
    config = read_json(folder / "config.json")
    name = str(config.get("_class_name"))
    if name == "diffusionflow":
        from diffusionflow.interop.own import open_own

        return open_own(folder, config)
    check_name("_class_name", name, ARCHITECTURES)
    module = ARCHITECTURES[name](config)
    scheduler = _scheduler(folder) if scheduler is None else scheduler
    convention = _convention(scheduler)
    state = with_new_names(read_weights(folder, put=as_parameter))
    model = assembled(module, state, convention, config, name)
    return dataclasses.replace(model, scheduler=scheduler)


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
      config: entries of the network, of which `sample_size` and `in_channels` are
        looked at.
      name: of the network, for messages.

    Raises:
      ValueError: the arrays are not exactly those of the network.
    """
    network = Network(params_of(module, state, name), module)
    return Pretrained(Prediction(network, convention), convention, config)


def _network_folder(path: pathlib.Path) -> pathlib.Path:
    if not path.is_dir():
        raise ValueError(
            f"no folder {str(path)!r}: nothing is downloaded; give a local folder in "
            "the layout of diffusers"
        )
    if (path / "config.json").is_file():
        return path
    for name in ("unet", "transformer"):
        if (path / name / "config.json").is_file():
            return path / name
    raise ValueError(
        f"no network in {str(path)!r}: must hold config.json, or a folder unet or "
        "transformer with one"
    )


def _scheduler(folder: pathlib.Path) -> dict[str, Any]:
    for place in (folder, folder.parent / "scheduler"):
        if (place / "scheduler_config.json").is_file():
            return read_json(place / "scheduler_config.json")
    raise ValueError(
        f"no scheduler_config.json in {str(folder)!r}: give scheduler=, a dictionary "
        "such as {'_class_name': 'DDPMScheduler'}; it says how the network was trained"
    )


def _convention(config: Mapping[str, Any]) -> Convention:
    """That of `from_diffusers`, and of the VE scheduler, whose network is the score."""
    if config.get("_class_name") != "ScoreSdeVeScheduler":
        return from_diffusers(config)
    schedule = schedules.VE(
        config.get("sigma_min", 0.01), config.get("sigma_max", 1348.0)
    )
    return Convention(schedule, "score", NoiseClock(schedule, "sigma"), UNSCALED)


def _unet2d(config: Mapping[str, Any]) -> Any:
    from diffusionflow.networks.pretrained import UNet2D

    return UNet2D(**entries_of(UNet2D, config, ELSEWHERE))


def _dit(config: Mapping[str, Any]) -> Any:
    from diffusionflow.networks.pretrained import DiTTransformer2D

    entries = {name: value for name, value in config.items() if value is not None}
    if config["_class_name"] == "Transformer2DModel":  # of files before 2024
        entries = {
            name: value
            for name, value in entries.items()
            if TEXT_OPTIONS.get(name, ...) != value
        }
    return DiTTransformer2D(**entries_of(DiTTransformer2D, entries, ()))


# entries of Transformer2DModel that are about text or discrete images, each with the
# value of a DiT
TEXT_OPTIONS = dict(
    double_self_attention=False,
    only_cross_attention=False,
    use_linear_projection=False,
)

ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "UNet2DModel": _unet2d,
    "DiTTransformer2DModel": _dit,
    "Transformer2DModel": _dit,
}
