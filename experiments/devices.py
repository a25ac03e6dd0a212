"""Where arrays live: one axis of devices, over which the batch is cut."""

import os
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.errors import check_bound

AXIS = "data"


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


def data_mesh() -> Mesh:
    """All devices of all processes on one axis."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


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
