"""Networks of this library as files: safetensors, and a config that says what they are.

`config.json` has the class and the fields of the network, schedule, prediction type,
scale of the data and shape of an example; `interop.load` opens the folder.
"""

import json
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import predictions, schedules
from diffusionflow._dataclass import check_name, register, static
from diffusionflow.interop.as_json import described, meaning_of
from diffusionflow.interop.by_schedule import SOURCES, from_schedule
from diffusionflow.interop.convention import Convention
from diffusionflow.interop.hub import STEM
from diffusionflow.interop.parameters import as_parameter, filled
from diffusionflow.interop.pretrained import Network, Prediction, Pretrained
from diffusionflow.interop.weights import read_weights

CLASS = "diffusionflow"  # entry `_class_name` of a folder of ours
FORMAT = 1
CONVENTIONS = (CLASS, *SOURCES)


@register
class InputScale:
    """`1 / sqrt(sigma_data^2 alpha^2 + sigma^2)`, the scale of `precondition`."""

    schedule: Any
    sigma_data: Any

    def __call__(self, t: Array) -> Array:
        return 1 / self.schedule.z_std(t, self.sigma_data)


@register
class NoiseLevel:
    """`sigma / (alpha + sigma)`, the time of `precondition`."""

    schedule: Any

    def __call__(self, t: Array) -> Array:
        return self.schedule.noise_level(t)


@register
class OwnNetwork(Network):
    """A network of this library with its parameters: `(z, time, label) -> output`.

    Args:
      params: its parameters.
      module: the network.
      event_ndim: axes of an example.
    """

    event_ndim: int = static(default=3)

    def __call__(self, z: Array, time: Array, label: Array | None = None) -> Array:
        """Computes the output.

        Args:
          z: [*batch, *event].
          time: [] or [*batch].
          label: int [] or [*batch]; floats [*batch, features] are the vector of a
            network with `vector_features`; None for neither.
        """
        start = z.ndim - self.event_ndim
        batch, event = z.shape[:start], z.shape[start:]

        def flat(value: Array, rank: int = 0) -> Array:
            inner = value.shape[value.ndim - rank :]
            return jnp.broadcast_to(value, (*batch, *inner)).reshape(-1, *inner)

        given: dict[str, Array] = {}
        if label is not None and jnp.issubdtype(label.dtype, jnp.integer):
            given["label"] = flat(label)
        elif label is not None:
            name = "vector" if hasattr(self.module, "vector_features") else "label"
            given[name] = flat(label, 1)
        variables = {"params": self.params}
        z = z.reshape(-1, *event)
        output = self.module.apply(variables, z, flat(time), **given)
        return output[..., : event[-1]].reshape(*batch, *event)


@register
class OwnPrediction(Prediction):
    """The prediction of a network that `predictions.precondition` calls."""

    def __call__(self, z: Array, t: ArrayLike, label: ArrayLike | None = None) -> Array:
        label = self.label if label is None else jnp.asarray(label)
        scale = self.convention.scale_fn
        predict_fn = predictions.precondition(
            jax.tree_util.Partial(self.network, label=label),
            schedule=scale.schedule,
            sigma_data=scale.sigma_data,
        )
        return predict_fn(z, t)


def save(
    path: str | pathlib.Path,
    module: Any,
    params: Any,
    *,
    schedule: schedules.Schedule,
    kind: predictions.AnyKind,
    event_shape: tuple[int, ...],
    sigma_data: float = 1.0,
    convention: str = CLASS,
    facts: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes a network of this library as safetensors with a config.

    `load(path).predict_fn` is then `predictions.precondition` of the network, bit for
    bit.

    Args:
      path: of a folder that is new.
      module: a network of `networks` or `networks.pretrained`.
      params: its parameters, float32.
      schedule: on which it was trained, one of `schedules`.
      kind: its prediction type.
      event_shape: of an example, channels last.
      sigma_data: scale of the data passed to `precondition` or `from_schedule`.
      convention: "diffusionflow" for `precondition`; else a `source` of
        `from_schedule`.
      facts: further entries of the config, plain JSON values.

    Returns:
      The folder.

    Raises:
      ValueError: the folder is there, network, schedule or kind are none of this
        library, or the convention has no such schedule or scale.
    """
    path = pathlib.Path(path)
    check_name("convention", convention, CONVENTIONS)
    if path.exists():
        raise ValueError(f"{path} exists: give the path of a new folder")
    if convention != CLASS:  # what could not be opened is not written
        from_schedule(schedule, kind, source=convention, sigma_data=sigma_data)
    config = {
        "_class_name": CLASS,
        "format": FORMAT,
        "network": described("network", module),
        "schedule": described("schedule", schedule),
        "kind": described("kind", predictions.as_kind(kind)),
        "sigma_data": float(sigma_data),
        "convention": convention,
        "event_shape": list(event_shape),
        **_of_images(event_shape),
        **(facts or {}),
    }
    write_folder(path, config, params)
    return path


def _of_images(event_shape: tuple[int, ...]) -> dict[str, Any]:
    """Makes the entries that other readers of such folders look at."""
    if len(event_shape) != 3:
        return {}
    return {"sample_size": list(event_shape[:2]), "in_channels": event_shape[2]}


def write_folder(
    path: pathlib.Path,
    config: Mapping[str, Any],
    params: Any,
    files: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Writes `config.json` and weights into a folder, all or nothing.

    Args:
      path: of the folder, which is new.
      config: plain JSON values.
      params: nested dictionaries; names are joined by dots.
      files: further files of JSON, by name.
    """
    from safetensors.numpy import save_file  # an extra

    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(params))
    state = {
        ".".join(key.key for key in name): np.ascontiguousarray(leaf, np.float32)
        for name, leaf in leaves
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    place = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        unfinished = place / path.name  # mkdtemp's own is closed to other users
        unfinished.mkdir()
        save_file(state, unfinished / f"{STEM}.safetensors", metadata={"format": "pt"})
        for name, value in {"config.json": config, **(files or {})}.items():
            text = json.dumps(value, indent=2, allow_nan=False)
            (unfinished / name).write_text(text + "\n")
        # safetensors makes files that other users cannot read
        mode = (unfinished / "config.json").stat().st_mode
        (unfinished / f"{STEM}.safetensors").chmod(mode)
        try:
            unfinished.rename(path)
        except OSError as error:
            if path.exists():  # since the start
                raise ValueError(
                    f"{path} exists: give the path of a new folder"
                ) from error
            raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def open_own(folder: pathlib.Path, config: Mapping[str, Any]) -> Pretrained:
    """Opens a folder that `save` wrote.

    Args:
      folder: with the weights.
      config: of its `config.json`.

    Raises:
      ValueError: an entry is missing or none of this library, or the weights are not
        exactly those of the network.
    """
    if config.get("format") != FORMAT:
        raise ValueError(
            f"config.json of format {config.get('format')!r}: must be {FORMAT}; export "
            "the run again"
        )
    module, schedule, kind = meaning_of(config)
    check_name("convention of config.json", config["convention"], CONVENTIONS)
    event_shape = tuple(config["event_shape"])
    params = _params(module, event_shape, folder)
    network = OwnNetwork(params, module, len(event_shape))
    source, sigma_data = config["convention"], config["sigma_data"]
    if source != CLASS:
        convention = from_schedule(schedule, kind, source=source, sigma_data=sigma_data)
        return Pretrained(Prediction(network, convention), convention, config)
    scale, time = InputScale(schedule, sigma_data), NoiseLevel(schedule)
    convention = Convention(schedule, kind, time, scale)
    return Pretrained(OwnPrediction(network, convention), convention, config)


def _params(module: Any, event_shape: tuple[int, ...], folder: pathlib.Path) -> Any:
    """Reads the parameters of a module from the file of a folder."""
    try:
        inputs = _inputs(module, event_shape)
        shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    except Exception as error:  # fields of a config are of any type
        detail = " ".join(str(error).split())[:300]
        raise ValueError(f"config.json: network: {detail}") from error
    state = read_weights(folder, put=as_parameter)
    return filled(shapes, state, type(module).__name__)


def _inputs(module: Any, event_shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Returns the shapes that a network is initialised with."""
    if hasattr(module, "example_inputs"):
        return module.example_inputs()
    of, count = jax.ShapeDtypeStruct, getattr(module, "vector_features", 0)
    z, time, label = (
        of((1, *event_shape), jnp.float32),
        of((1,), jnp.float32),
        of((1,), jnp.int32),
    )
    inputs = (z, time, label)
    return (*inputs, of((1, count), jnp.float32)) if count else inputs
