"""Architectures of published weights as networks of a run.

They are called as their weights were trained, with the time and the scale of z that
their source has (`interop.from_schedule`); `sigma_data` counts in EDM's preconditioning
"edm" alone. So a run starts from published weights, and what it trains can be read
where these came from.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusionflow import interop, objectives
from diffusionflow.interop.by_schedule import OF_EDM
from experiments.runtime.errors import UsageError, check_name, naming

LABEL_FIELDS = ("label_dim", "num_embeds_ada_norm", "num_class_embeds")


@dataclasses.dataclass(frozen=True)
class PublishedNetwork:
    """A module of `networks.pretrained`, called as a run calls its network.

    Args:
      module: with `(z, time, label, train)`.
      convention: how its source calls it, one of `conventions_of` its class.
      num_classes: of the data; its label of that number is the null label, which is
        the module's own.

    Raises:
      ValueError: the module has no or too few labels for the classes, or too few
        channels in its output.
    """

    module: Any
    convention: str
    num_classes: int = 0

    def __post_init__(self) -> None:
        known = conventions_of(type(self.module))
        check_name("network.convention", self.convention, known)
        module, rows = self.module, self.module.num_labels
        name = next(name for name in LABEL_FIELDS if hasattr(module, name))
        with_null = name == "num_class_embeds"  # the others add the null label
        least = self.num_classes + with_null
        if rows is None and self.num_classes:
            raise ValueError(
                f"{type(module).__name__} takes no labels, and the data have "
                f"{self.num_classes} classes: set network.{name}={least}, or take data "
                "without labels"
            )
        if rows is not None and rows <= self.num_classes:
            null = ", one more for the null label" if with_null else ""
            raise ValueError(
                f"network.{name}={getattr(module, name)}: must be at least {least} for "
                f"data of {self.num_classes} classes{null}"
            )
        if getattr(module, "class_embed_type", None) is not None:
            raise ValueError(
                f"class_embed_type={module.class_embed_type!r}: must be None, for a "
                "table of the classes"
            )
        if (module.out_channels or module.in_channels) < module.in_channels:
            raise ValueError(
                f"out_channels={module.out_channels}: must be at least in_channels="
                f"{module.in_channels}"
            )

    @property
    def null_label(self) -> int | None:
        """The module's label of unconditional predictions, by default its last."""
        rows = self.module.num_labels
        return None if rows is None else getattr(self.module, "null_label", rows - 1)

    def describe(self) -> dict[str, Any]:
        """Returns class, convention and fields, for the identity of a run."""
        fields = dataclasses.fields(self.module)
        names = [each.name for each in fields if each.name not in ("parent", "name")]
        settings = {name: getattr(self.module, name) for name in names}
        own = {"class": type(self.module).__name__, "convention": self.convention}
        return own | settings

    def calling(
        self, objective: objectives.Objective, sigma_data: float
    ) -> interop.Convention:
        """Returns the convention of calling the network on an objective's schedule.

        Args:
          objective: of the run.
          sigma_data: of the run, for the convention "edm".

        Raises:
          UsageError: its source has no such schedule, or no such scale.
        """
        with naming(f"network.convention={self.convention}"):
            return interop.from_schedule(
                objective.schedule,
                objective.kind,
                source=self.convention,
                sigma_data=sigma_data,
            )

    def init(self, key: jax.Array, *inputs: Any, **settings: Any) -> Any:
        """Initializes the parameters, `{"params": ...}`."""
        del settings
        z, time, label = inputs
        return self.module.init(key, z, time, self._label(label))

    def apply(
        self,
        variables: Mapping[str, Any],
        z: jax.Array,
        time: jax.Array,
        label: jax.Array,
        *,
        train: bool = False,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> jax.Array:
        """Computes the output in the channels of z: a learned variance is left out."""
        own = self._label(label)
        output = self.module.apply(variables, z, time, own, train=train, rngs=rngs)
        return output[..., : z.shape[-1]]

    def _label(self, label: jax.Array) -> jax.Array | None:
        """Converts the data's labels to the module's; None if it has no labels."""
        null = self.null_label
        return (
            None if null is None else jnp.where(label == self.num_classes, null, label)
        )


def conventions_of(network: type) -> tuple[str, ...]:
    """Returns the conventions to call a class of networks by, the usual one first."""
    from diffusionflow.networks.pretrained.edm_levels import EDMUNet  # needs flax

    return OF_EDM if issubclass(network, EDMUNet) else ("diffusers", "sit")


def constructor(fn: type) -> Callable[..., PublishedNetwork]:
    """Makes the constructor of `network.name` for a class of `networks.pretrained`.

    It takes the fields of the class, and `convention`.
    """

    usual, *_ = conventions_of(fn)

    def make(
        *, convention: str = usual, num_classes: int = 0, **fields: Any
    ) -> PublishedNetwork:
        return PublishedNetwork(fn(**fields), convention, num_classes)

    own = inspect.signature(make).parameters
    fields = inspect.signature(fn).parameters
    taken = [each for name, each in fields.items() if name not in ("parent", "name")]
    taken = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in taken]
    taken += [own[name] for name in ("convention", "num_classes")]
    make.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    return make


def unwrapped(net: Any) -> tuple[Any, str]:
    """Returns the module of a run's network, and the convention it is called by.

    "diffusionflow" is that of `predictions.precondition`.
    """
    if isinstance(net, PublishedNetwork):
        return net.module, net.convention
    return net, "diffusionflow"


def check(
    net: Any, objective: objectives.Objective, sigma_data: float, method: Any
) -> None:
    """Raises a `UsageError` where a published network cannot be trained so."""
    if not isinstance(net, PublishedNetwork):
        return
    net.calling(objective, sigma_data)
    if method is not None and method.two_times:
        raise UsageError(
            f"network.name with distillation.method: {type(net.module).__name__} takes "
            "one time, and this method needs two; choose unet or dit"
        )
