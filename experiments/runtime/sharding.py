"""Shards arrays: the batch over all devices, large leaves over some.

The devices are a grid of two axes. The batch is sharded over both of them; with an axis
`fsdp` of more than one device, parameters, optimizer and averages are sharded over that
one and gathered for the network (fully sharded data parallel).
"""

import functools
import os
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.runtime.errors import require

DATA, FSDP = "data", "fsdp"
# jaxlib 0.10 gives CPU convolutions to YNNPACK, which is slower and less accurate
# here than what it gives them to without; products are faster by YNNPACK
# (docs/performance.md).
CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
}


def split_cpu(count: int) -> None:
    """Splits the CPU into `count` devices, before the first array; XLA_FLAGS win.

    Work that one device leaves serial (small maps, element by element) then runs side
    by side; the results are the same up to rounding.

    Raises:
      UsageError: if `count` is not positive.
    """
    require("cpu_devices", count, count >= 1, "positive")
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)


@functools.cache
def compiler_options() -> dict[str, str]:
    """Returns XLA compiler options for this backend that this jaxlib knows.

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


def mesh(fsdp: int = 1) -> Mesh:
    """Arranges all devices of all processes as [devices / fsdp, fsdp]."""
    grid = np.array(jax.devices()).reshape(-1, fsdp)
    return Mesh(grid, (DATA, FSDP), axis_types=(AxisType.Auto,) * 2)


def data_mesh(count: int | None = None) -> Mesh:
    """Puts the devices of this process, or the first `count`, on one axis."""
    used = np.array(jax.local_devices()[:count])
    return Mesh(used, (DATA,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts the same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def along_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


class FSDPSharding(NamedTuple):
    """Shards leaves of at least `least` entries over the axis `fsdp`.

    Others are replicated. A leaf is sharded along the longest axis that divides evenly.

    Fields:
      mesh: with the axis `fsdp`.
      least: number of entries.
    """

    mesh: Mesh
    least: int

    def sharding(self, leaf: Any) -> NamedSharding:
        """Returns the sharding of a leaf, anything with `shape` and `size`."""
        count, axes = self.mesh.shape[FSDP], range(len(leaf.shape))
        even = [axis for axis in axes if leaf.shape[axis] % count == 0]
        if leaf.size < self.least or not even:
            return replicated(self.mesh)
        longest = max(even, key=lambda axis: leaf.shape[axis])
        names = [FSDP if axis == longest else None for axis in axes]
        return NamedSharding(self.mesh, PartitionSpec(*names))

    def shardings(self, tree: Any) -> Any:
        """Returns the shardings of the leaves of a pytree."""
        return jax.tree.map(self.sharding, tree)

    def shard(self, tree: Any) -> Any:
        """Shards the leaves, inside a program."""
        return jax.lax.with_sharding_constraint(tree, self.shardings(tree))

    def gather(self, tree: Any) -> Any:
        """Gathers the leaves on every device, inside a program."""
        return jax.lax.with_sharding_constraint(tree, replicated(self.mesh))


def check_batch(name: str, batch_size: int, parts: int = 1) -> None:
    """Raises a `UsageError` unless the devices share each microbatch evenly."""
    count = jax.device_count()
    good = batch_size >= 1 and batch_size % (count * parts) == 0
    words = [f"the {count} devices"] if count > 1 else []
    words += [f"the {parts} parts of optimizer.accumulate"] if parts > 1 else []
    bound = f"a positive multiple of {' times '.join(words)}" if words else "positive"
    require(name, batch_size, good, bound)


def check_fsdp(name: str, fsdp: int) -> None:
    """Raises a `UsageError` unless `fsdp` divides the number of devices."""
    count = jax.device_count()
    good = fsdp >= 1 and count % fsdp == 0
    require(name, fsdp, good, f"a divisor of the number of devices, {count}")


def place(mesh: Mesh, tree: Any) -> Any:
    """Makes global arrays of this process's slice [local_batch, ...] of every leaf."""
    return jax.make_array_from_process_local_data(along_batch(mesh), tree)


def abstract(shapes: Any, shardings: Any = None) -> Any:
    """Makes shapes and dtypes of a pytree a target for restoring.

    Args:
      shapes: pytree of leaves with `shape` and `dtype`.
      shardings: the same tree of shardings; None for every device of this process.
    """
    if shardings is None:
        same = replicated(data_mesh())
        shardings = jax.tree.map(lambda leaf: same, shapes)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        shapes,
        shardings,
    )
