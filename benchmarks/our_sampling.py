"""Samples the digits network in a process, and writes it for diffusers.

Started by `sampling.py`; see `protocol.py` for what it answers. The folder that it is
given holds afterwards the network (`network/`), what both sides start from
(`inputs.npz`), and our samples and output (`ours.npz`), all in the layout of torch.
"""

import argparse
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import cases, ours, protocol
from benchmarks.exported_networks import random_params
from diffusionflow import samplers
from diffusionflow.interop import own
from diffusionflow.interop.diffusers.networks import TIMESTEPS
from diffusionflow.networks.layers import num_groups
from experiments.checkpointing import diffusers_format
from experiments.config import build
from experiments.config.model import Model
from experiments.runtime import allocator, sharding
from experiments.sampling import compiled_sampler, conditions

NUM_STEPS = 20
# diffusers' Heun has sigma / alpha and z / alpha in float32, which are infinite at
# t = 1 and lose digits near it
FIRST = 9_900
EXACT = 128  # channels of which all normalisations have one number of groups
SEED = 0


def timesteps() -> np.ndarray:
    """Returns the timesteps of a run, at equal distances and 0 at the end."""
    return np.linspace(FIRST, 0, NUM_STEPS + 1).astype(int)


def make_model(channels: int) -> Model:
    """Makes the digits network in the form that diffusers has: see `diffusers_format`.

    The sinusoids of the time are those of diffusers, and it predicts eps.
    """
    case = cases.CASES["digits"]
    more = dict(channels=channels, time_features=channels, max_frequency=TIMESTEPS)
    case = case | dict(network=case["network"] | more)
    objective = ours.OBJECTIVE | dict(kind="eps", weighting="mse(kind='eps')")
    model = ours.make_recipe(case, "float32").model
    return model._replace(objective=build.objective(objective))


def plan(model: Model) -> diffusers_format.Plan:
    """Makes the configs of the network in diffusers, and the network.

    diffusers gives all normalisations one number of groups, so that it has the network
    of `EXACT` channels alone: its configs are taken, with the channels of ours. The
    groups that ours have are written next to them, see `groups_by_channels`.
    """
    net = model.net
    wide = net.clone(channels=EXACT, time_features=EXACT)
    exact = diffusers_format.plan(model._replace(net=wide))
    channels = [multiplier * net.channels for multiplier in net.multipliers]
    narrow = dict(
        block_out_channels=tuple(channels),
        attention_head_dim=channels[-1] // net.num_heads,
        norm_num_groups=num_groups(net.channels),
        attn_norm_num_groups=num_groups(net.channels),
    )
    return diffusers_format.Plan(
        exact.config | narrow, exact.scheduler, exact.network.clone(**narrow)
    )


def groups_by_channels(params: Any) -> dict[int, int]:
    """Returns the number of groups of each normalisation of ours, by its channels."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    widths = {leaf.shape[0] for path, leaf in leaves if path[-1].key == "scale"}
    return {width: num_groups(width) for width in sorted(widths)}


def write_network(folder: pathlib.Path, model: Model, params: Any) -> None:
    """Writes the network, its scheduler and its groups for diffusers."""
    config, scheduler, network = plan(model)
    moved = diffusers_format.params(model, network, params)
    more = {
        "scheduler_config.json": scheduler,
        "groups.json": groups_by_channels(params),
    }
    own.write_folder(folder, config, moved, more)


class Digits:
    """The two programs that are timed, and what they start from.

    Args:
      channels: of the first level.
      count: samples, and the batch size of the one call.
    """

    def __init__(self, channels: int, count: int):
        self.model = make_model(channels)
        self.params = random_params(self.model.net, self.model.event_shape)
        labels = conditions.labels_in_turn(count, self.model.num_classes)
        self.given = conditions.Conditions(labels)
        generator = np.random.default_rng(SEED)
        self.step = generator.integers(1, TIMESTEPS, count)
        self.z = generator.standard_normal((count, *self.model.event_shape), np.float32)
        self.sample_fn = self._sample_fn()
        net = self.model.net
        options = dict(compiler_options=sharding.compiler_options())

        @functools.partial(jax.jit, **options)
        def network(params: Any, *inputs: jax.Array) -> jax.Array:
            return net.apply({"params": params}, *inputs)

        time = jnp.asarray(self.step / TIMESTEPS, jnp.float32)
        inputs = jnp.asarray(self.z), time, jnp.asarray(labels)
        self.call = lambda: jax.block_until_ready(network(self.params, *inputs))

    def sample(self) -> np.ndarray:
        """Samples once."""
        return self.sample_fn(self.params, SEED, self.given)

    def with_noise(self) -> tuple[np.ndarray, np.ndarray]:
        """Samples once; returns the samples and the noise that they start from."""
        sample_fn = self._sample_fn(output_fn=lambda result, noise: (result.x, noise))
        return sample_fn(self.params, SEED, self.given)

    def _sample_fn(self, **output: Any) -> compiled_sampler.SampleFn:
        count = len(self.given.labels)
        return compiled_sampler.make_sample_fn(
            self.model,
            build.Sampling(samplers.Heun("eps"), timesteps() / TIMESTEPS),
            guidance=1,
            batch_size=count,
            most=count,
            **output,
        )


def write(folder: pathlib.Path, digits: Digits) -> None:
    """Writes the network, what both sides start from, and our results."""
    samples, noise = digits.with_noise()
    torch = lambda array: np.moveaxis(np.asarray(array), -1, 1)
    write_network(folder / "network", digits.model, digits.params)
    np.savez(
        folder / "inputs.npz",
        noise=torch(noise),
        z=torch(digits.z),
        step=digits.step,
        label=digits.given.labels,
        timesteps=timesteps()[:-1],
    )
    np.savez(folder / "ours.npz", samples=torch(samples), output=torch(digits.call()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True, type=pathlib.Path)
    for name in ("channels", "count", "calls"):
        parser.add_argument(f"--{name}", required=True, type=int)
    args = parser.parse_args()
    allocator.keep_freed_memory(steps=False)  # as the command does
    digits = Digits(args.channels, args.count)
    write(args.folder, digits)
    digits.sample()  # compiles
    facts = dict(
        device=jax.devices()[0].device_kind,
        versions=dict(jax=jax.__version__),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(digits.params)),
    )
    calls = lambda: [digits.call() for _ in range(args.calls)]
    protocol.serve(facts, dict(sampling=digits.sample, calls=calls))


if __name__ == "__main__":
    main()
