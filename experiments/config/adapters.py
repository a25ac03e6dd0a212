"""Users' networks and data as the application takes them.

Flax (Linen) modules pass as they are. Modules of Flax NNX and Equinox are given `init`
and `apply` in the manner of Linen; their parameters are a flat dictionary by path.
"""

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from experiments.config import published
from experiments.data import array_checks, base, dataset_check
from experiments.data.base import DataSet
from experiments.runtime.errors import UsageError, naming

PUBLISHED = "diffusionflow.networks.pretrained."
RANDOM = {"flax.nnx": "rngs", "equinox": "key"}  # argument of the random numbers


def constructor(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the constructor that `network.name` calls.

    For classes of NNX, Equinox and `networks.pretrained` it is an adapter of them.
    """
    if isinstance(fn, type) and fn.__module__.startswith(PUBLISHED):
        return published.constructor(fn)
    for library, argument in RANDOM.items():
        base = getattr(sys.modules.get(library), "Module", None)
        if base is not None and isinstance(fn, type) and issubclass(fn, base):
            adapter = NNXNetwork if library == "flax.nnx" else EquinoxNetwork
            init: Any = vars(fn).get("__init__", fn)  # NNX's class takes anything
            signature = inspect.signature(init)
            kept = [
                each
                for each in signature.parameters.values()
                if each.name not in ("self", argument)
            ]

            make: Any = lambda *, _adapter=adapter, **arguments: _adapter(fn, arguments)
            make.__signature__ = signature.replace(parameters=kept)
            return make
    return fn


@dataclasses.dataclass(frozen=True)
class _Adapter:
    """A module that is built from its arguments wherever it is called.

    Args:
      module: the class.
      arguments: of its constructor, without the random numbers.
    """

    module: type
    arguments: Mapping[str, Any]
    num_classes: int = 0
    vector_features: int = 0

    def __post_init__(self) -> None:
        for name in ("num_classes", "vector_features"):
            object.__setattr__(self, name, int(self.arguments.get(name) or 0))

    @property
    def two_times(self) -> bool:
        """Whether `__call__` takes a `second_time`; it is given the time for None."""
        return "second_time" in inspect.signature(self.module.__call__).parameters

    def describe(self) -> dict[str, Any]:
        """Returns class and arguments, for the identity of a run."""
        return {"class": self.module.__qualname__, **self.arguments}

    def _arguments(self, inputs: tuple, more: Mapping[str, Any]) -> tuple[tuple, dict]:
        """Returns as many of `inputs` and `more` as the module's `__call__` takes."""
        taken = inspect.signature(self.module.__call__).parameters
        positional = [
            each
            for name, each in list(taken.items())[1:]
            if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
            and name not in more
        ]
        keywords = {name: more[name] for name in more if name in taken}
        return inputs[: len(positional)], keywords


class NNXNetwork(_Adapter):
    """`init` and `apply` of a `flax.nnx.Module` with `__call__(z, time, label, ...)`.

    It is called with as many inputs as it takes, and with `train=` and `second_time=`
    where it takes them;
    without it, `module.train()` and `module.eval()` set dropout and the like. Variables
    that are not parameters, but for random numbers, are refused: they would not be
    saved.
    """

    def init(self, key: jax.Array, *inputs: Any, **settings: Any) -> dict:
        """Initializes the parameters, by their paths."""
        del inputs, settings
        from flax import nnx

        parts: Any = nnx.split(self._made(key), nnx.Param, ...)
        _, params, rest = parts
        others = [path for path, each in rest.flat_state() if not _is_random(each)]
        if others:
            raise UsageError(
                f"network.name: {self.module.__qualname__} has variables that are no "
                f"parameters, such as {'.'.join(map(str, others[0]))}: only nnx.Param "
                "is trained and saved"
            )
        return {"params": _flat(params)}

    def apply(
        self,
        variables: Mapping[str, Any],
        *inputs: Any,
        train: bool = False,
        rngs: Mapping[str, jax.Array] | None = None,
        second_time: jax.Array | None = None,
    ) -> jax.Array:
        """Computes the output with given parameters, as `flax.linen.Module.apply`."""
        from flax import nnx

        module = self._made((rngs or {}).get("dropout", jax.random.key(0)))
        parts: Any = nnx.split(module, nnx.Param, ...)
        graph, params, rest = parts
        params = _filled(params, variables["params"])
        module = nnx.merge(graph, params, rest)
        module.train() if train else module.eval()
        second_time = inputs[1] if second_time is None else second_time
        more = {"train": train, "second_time": second_time}
        given, more = self._arguments(inputs, more)
        return module(*given, **more)

    def _made(self, key: jax.Array) -> Any:
        from flax import nnx

        return self.module(**self.arguments, rngs=nnx.Rngs(key))


class EquinoxNetwork(_Adapter):
    """`init` and `apply` of an `equinox.Module` that acts on one example.

    `__call__(z, time, label, ...)` is vmapped over the batch, as is `second_time` where
    it takes that; where it takes `key`, it is given one for each example while
    training, and None otherwise.
    """

    def init(self, key: jax.Array, *inputs: Any, **settings: Any) -> dict:
        """Initializes the parameters, by their paths."""
        del inputs, settings
        import equinox

        module = self.module(**self.arguments, key=key)
        params = equinox.filter(module, equinox.is_inexact_array)
        return {"params": _flat(params)}

    def apply(
        self,
        variables: Mapping[str, Any],
        *inputs: Any,
        train: bool = False,
        rngs: Mapping[str, jax.Array] | None = None,
        second_time: jax.Array | None = None,
    ) -> jax.Array:
        """Computes the output with given parameters, as `flax.linen.Module.apply`."""
        import equinox

        module = self.module(**self.arguments, key=jax.random.key(0))
        params, rest = equinox.partition(module, equinox.is_inexact_array)
        module = equinox.combine(_filled(params, variables["params"]), rest)
        second_time = inputs[1] if second_time is None else second_time

        def call(inputs: tuple, second_time: Any, key: Any = None) -> Any:
            more = {"key": key, "second_time": second_time}
            given, more = self._arguments(inputs, more)
            return module(*given, **more)

        if not train or rngs is None or "dropout" not in rngs:
            return jax.vmap(call)(inputs, second_time)
        keys = jax.random.split(rngs["dropout"], len(inputs[0]))
        return jax.vmap(call)(inputs, second_time, keys)


def _is_random(variable: Any) -> bool:
    from flax import nnx

    return issubclass(variable.type, nnx.RngState)


def _path(path: Any) -> str:
    text = jax.tree_util.keystr(path, simple=True, separator=".")
    return text.removesuffix(".value")


def _flat(tree: Any) -> dict[str, jax.Array]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_path(path): leaf for path, leaf in leaves}


def _filled(tree: Any, params: Mapping[str, jax.Array]) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: params[_path(path)], tree)


def as_network(where: str, built: Any) -> Any:
    """Checks that a network has `init` and `apply`.

    Raises:
      UsageError: it has not; it names what is accepted.
    """
    if all(callable(getattr(built, name, None)) for name in ("init", "apply")):
        return built
    raise UsageError(
        f"{where}: {built!r} is no network: must be a module of Flax (Linen or NNX) or "
        "Equinox, or have init(key, z, time, label, train) and apply(variables, z, "
        "time, label, train, rngs)"
    )


def as_dataset(where: str, found: Any) -> DataSet:
    """Makes a data set from what a user's function returned.

    Args:
      where: config entry, for errors.
      found: a `DataSet`; or float values `[n, *event]`, alone or with integer labels
        `[n]`: every 9th example of a class is then held out.

    Raises:
      UsageError: it is none of these, or a data set that does not fit itself.
    """
    if isinstance(found, DataSet):
        with naming(where):
            dataset_check.check(found)
        return found
    values, labels = found if isinstance(found, tuple) else (found, None)
    if not hasattr(values, "dtype"):
        raise UsageError(
            f"{where}: gives a {type(values).__name__}: must be an array of floats "
            "[n, *event], alone or with integer labels [n], or an "
            "experiments.data.DataSet"
        )
    values = np.asarray(values)
    if values.dtype.kind != "f" or values.ndim < 2:
        raise UsageError(
            f"{where}: values of shape {values.shape} and type {values.dtype}: must be "
            "floats [n, *event], alone or with integer labels [n], or an "
            "experiments.data.DataSet"
        )
    with naming(where):
        out = "return numpy.moveaxis(values, 1, -1), or a DataSet to keep all as it is"
        array_checks.check_channels("values", values, out)
        found = array_checks.finite("values", values)
        labels = None if labels is None else np.asarray(labels)
        return base.split(found, labels, None)
