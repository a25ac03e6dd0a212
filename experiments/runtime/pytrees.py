"""Names, compares and hashes the leaves of pytrees."""

import hashlib
from typing import Any

import jax
import numpy as np


def named_leaves(tree: Any) -> dict[str, Any]:
    """Maps paths to leaves, in their order: `block_0/kernel`.

    The paths are the same for a NamedTuple and for the dict that Orbax makes of it.
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {name(path): leaf for path, leaf in leaves}


def first_difference(saved: Any, target: Any) -> str | None:
    """Describes the first leaf in which two trees of shaped leaves differ.

    Args:
      saved: pytree of leaves with `shape` and `dtype`, as in the checkpoint.
      target: the same, as wanted here.

    Returns:
      A sentence, or None if names, shapes and dtypes all agree.
    """
    saved, target = named_leaves(saved), named_leaves(target)
    for name in sorted(saved.keys() | target.keys()):
        if name not in target:
            return f"{name} is in the checkpoint but not in this program"
        if name not in saved:
            return f"{name} is not in the checkpoint"
        for field in ("shape", "dtype"):
            there, here = (getattr(tree[name], field) for tree in (saved, target))
            if there != here:
                return f"{name} has {field} {there} in the checkpoint, {here} here"
    return None


def digest(tree: Any) -> str:
    """Computes a hash of the numbers of all leaves: 16 digits identify the weights."""
    hasher = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        hasher.update(np.asarray(leaf).tobytes())
    return hasher.hexdigest()[:16]


def is_here(tree: Any) -> bool:
    """Returns whether this process has all numbers of all leaves."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    return all(each.is_fully_addressable or each.is_fully_replicated for each in leaves)
