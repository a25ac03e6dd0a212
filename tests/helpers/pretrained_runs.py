"""Published networks replayed: the recorded outputs and gradients of diffusers."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import interop
from tests.helpers import pretrained_weights

CHAIN = {"_class_name": "DDPMScheduler"}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def write(path, config, state, scheduler=None):
    """Writes the folder of a network as diffusers does."""
    from safetensors.numpy import save_file

    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(state, path / WEIGHTS)
    if scheduler is not None:
        (path / "scheduler_config.json").write_text(json.dumps(scheduler))
    return path


def last(image):
    """Channels last."""
    return np.moveaxis(image, -3, -1)


def close(found, exact, tolerance):
    """Equal to `tolerance` of the largest number."""
    scale = np.abs(exact).max()
    np.testing.assert_allclose(found / scale, exact / scale, atol=tolerance, rtol=0)


def opened(case, path):
    """Opens the network of a record, with its random weights in a folder."""
    state = pretrained_weights.random_state(case["shapes"])
    return interop.load(write(path, case["config"], state), scheduler=CHAIN).network


def reproduces(network, case, *, gradient):
    """Whether a network has the output of a record, 1e-5, and its gradients, 1e-4.

    The gradient in z, and where the record has them those in the parameters: the size
    of each, and its part along the parameter.
    """
    label = jnp.asarray(case["label"]) if "label" in case else None
    more = dict(augment=case["augment"]) if "augment" in case else {}
    z, time = jnp.asarray(last(case["z"])), jnp.asarray(case["time"])
    numbers = last(pretrained_weights.arrays(1, *case["output"].shape))

    def whole(z, params):
        variables = {"params": params}
        output = network.module.apply(variables, z, time, label, **more)
        return (output * numbers).sum(), output

    if gradient:
        both = (0, 1) if "slopes" in case else (0,)
        run = jax.jit(jax.value_and_grad(whole, both, has_aux=True))
        (_, output), (found, *slopes) = run(z, network.params)
        close(found, last(case["gradient"]), 1e-4)
        for each in slopes:
            are_slopes(each, network.params, case["slopes"])
    else:
        output = jax.jit(whole)(z, network.params)[1]
    close(output, last(case["output"]), 1e-5)


def are_slopes(gradient, params, exact):
    """Whether gradients in parameters are those of a record, relative to their size."""
    named, here = (
        {
            ".".join(key.key for key in path): np.asarray(leaf, np.float64)
            for path, leaf in leaves
        }
        for leaves in map(jax.tree_util.tree_leaves_with_path, (params, gradient))
    )
    largest = max(size for size, _ in exact.values())
    for name, (size, along) in exact.items():
        found, weight = here[name], named[name]
        tolerance = 1e-4 * size + 1e-5 * largest
        assert abs(np.linalg.norm(found) - size) < tolerance, name
        part = (found * weight).sum() / np.linalg.norm(weight)
        assert abs(part - along) < tolerance, name


def predicts_as(model, params, there):
    """Whether a run's model of digits predicts what opened files do, bit for bit.

    Of a class and of the null label, inside and at the end of time.
    """
    z, t, label = jnp.ones((2, 8, 8, 1)), jnp.array([0.3, 1.0]), jnp.array([3, 10])
    predict_fn = model.predict_fn(params, label)
    found = jax.jit(lambda z, t: predict_fn(z, t))(z, t)
    exact = jax.jit(lambda z, t: there.predict_fn(z, t, label))(z, t)
    np.testing.assert_array_equal(found, exact)
