"""Where arrays live: one axis of devices, over which the batch is cut."""

import functools
import os
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.errors import check_bound

AXIS = "data"
# jaxlib 0.10 gives CPU convolutions to YNNPACK, which is slower and less accurate
# here than what it gives them to without (docs/performance.md).
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


def split_cpu(count: int) -> None:
    """Makes the CPU `count` devices, before the first array; XLA_FLAGS go first.

    Work that one device leaves serial (small maps, element by element) then runs side
    by side; the results are the same up to rounding.

    Raises:
      UsageError: if `count` is not positive.
    """
    check_bound("cpu_devices", count, count >= 1, "positive")
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)


@functools.cache
def compiler_options() -> dict[str, str]:
    """Options of the XLA compiler for this backend, as far as this jaxlib knows them.

    For `jax.jit(..., compiler_options=...)`: there an unknown name is an error that can
    be caught, where in XLA_FLAGS it would end the process.
    """
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=CPU_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return CPU_OPTIONS


def data_mesh(count: int | None = None) -> Mesh:
    """All devices of all processes on one axis, or the first `count`."""
    used = jax.devices()[:count]
    kinds = (AxisType.Auto,)
    return jax.make_mesh((len(used),), (AXIS,), axis_types=kinds, devices=used)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def along_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis cut over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def check_batch(name: str, batch_size: int) -> None:
    """Raises a `UsageError` unless the devices can share a batch evenly."""
    count = jax.device_count()
    good = batch_size >= 1 and batch_size % count == 0
    bound = f"a positive multiple of the {count} devices" if count > 1 else "positive"
    check_bound(name, batch_size, good, bound)


def place(mesh: Mesh, tree: Any) -> Any:
    """This process's part [local_batch, ...] of every leaf, as global arrays."""
    sharding = along_batch(mesh)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), tree
    )


def abstract(shapes: Any) -> Any:
    """Shapes and dtypes of a pytree as a target for restoring, on every device."""
    same = replicated(data_mesh())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=same), shapes
    )
