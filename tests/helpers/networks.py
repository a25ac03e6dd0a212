"""What tests of networks share: inputs, parameters, compiling for one call."""

import jax
import jax.numpy as jnp
import numpy as np


def arguments(shape, key=0):
    """z, time and label for a batch of the shape."""
    keys = jax.random.split(jax.random.key(key), 3)
    z = jax.random.normal(keys[0], shape)
    time = jax.random.uniform(keys[1], shape[:1])
    return z, time, jax.random.randint(keys[2], shape[:1], 0, 3)


def perturbed(net, *inputs):
    """Parameters away from the zero outputs of the start, without compiling `init`."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 16
        start = 1.0 if path[-1].key == "scale" else 0.0
        noise = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
        return jnp.asarray(start + noise, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def fast(fn):
    """Compiled without optimisation: a third of the time for a program run once."""
    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


def count(net, shape):
    z, time, label = jnp.zeros(shape), jnp.zeros(1), jnp.zeros(1, jnp.int32)
    params = jax.eval_shape(net.init, jax.random.key(0), z, time, label)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def directions(rows):
    """How many singular values exceed 1 % of the largest."""
    values = np.linalg.svd(np.asarray(rows, np.float64), compute_uv=False)
    return int((values > 0.01 * values[0]).sum())
