"""Times this library in a process: the real training step, and the network alone.

Started by `train_step.py`; see `protocol.py` for what it answers.
"""

import argparse
import functools
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import protocol
from experiments.config import build, optimizers, registry
from experiments.config.model import Model
from experiments.data import DataTransform, Examples
from experiments.runtime import allocator, rng, sharding
from experiments.training import step

CLASSES = 10
OBJECTIVE = dict(
    schedule="flow_matching",
    kind="u",
    weighting="mse(kind='u')",
    times="uniform",
    proposal="",
)
OPTIMIZER = dict(
    learning_rate=1e-3,
    warmup_steps=100,
    schedule="cosine",
    name="adamw(b1=0.9, b2=0.99, weight_decay=0.01)",
    clip_norm=1.0,
)


def make_recipe(case: dict[str, Any], dtype: str) -> step.StepConfig:
    """Makes network, objective and optimizer of a case of `cases.py`."""
    entries = dict(case["network"])
    kind = registry.NETWORKS[entries.pop("name")]
    net = kind(**entries, num_classes=CLASSES, dtype=dtype)
    model = Model(
        net=net,
        objective=build.objective(OBJECTIVE),
        transform=DataTransform(levels=256),
        event_shape=tuple(case["shape"]),
        num_classes=CLASSES,
        sigma_data=1.0,
    )
    rate = optimizers.learning_rate(OPTIMIZER, 10_000)
    return step.StepConfig(
        model=model,
        optimizer=optimizers.optimizer(OPTIMIZER, 10_000, rate),
        label_dropout=0.1,
        ema_limit=0.999,
        ema_warmup=10.0,
        bins=step.Bins(-10.0, 10.0, 10),
        log_every=100,
        batch_size=case["batch_size"],
        accumulate=case.get("accumulate", 1),
    )


def network_only(params: Any, z: jax.Array, time: jax.Array, label: jax.Array, *, net):
    """Computes value and gradients of the mean square output: no loss, no optimizer."""

    def mean_square(params):
        rngs = {"dropout": jax.random.key(0)}
        out = net.apply({"params": params}, z, time, label, train=True, rngs=rngs)
        return (out**2).mean()

    return jax.value_and_grad(mean_square)(params)


def compiled(lowered: Any, options: dict[str, Any]) -> tuple[Any, float]:
    """Compiles a program; returns it and the seconds it took."""
    start = time.perf_counter()
    program = lowered.compile(compiler_options=options)
    return program, time.perf_counter() - start


class Programs:
    """The compiled programs of a case, what they work on, and how long it took.

    Args:
      case: shape, batch size and network.
      dtype: of convolutions and products.
      options: of the XLA compiler.
    """

    def __init__(self, case: dict[str, Any], dtype: str, options: dict[str, Any]):
        self.options = options
        recipe = make_recipe(case, dtype)
        mesh = sharding.data_mesh()
        self.same, self.cut = sharding.replicated(mesh), sharding.along_batch(mesh)
        self.batch = self._batch((case["batch_size"], *case["shape"]))
        self.key = jax.device_put(rng.stream(0, rng.TRAIN), self.same)
        start = time.perf_counter()
        init = functools.partial(step.init, recipe=recipe)
        self.state = jax.jit(init, out_shardings=self.same)(self.key)
        jax.block_until_ready(self.state)
        self.init_seconds = time.perf_counter() - start
        self.train, self.compile_seconds = compiled(self._lower_train(recipe), options)
        self.run_train()
        memory = jax.devices()[0].memory_stats() or {}  # of the training alone
        self.peak_device_bytes = memory.get("peak_bytes_in_use")
        self.inputs = self._network_inputs()
        self.params = jax.tree.map(jnp.copy, self.state.params)
        network = functools.partial(network_only, net=recipe.model.net)
        lowered = jax.jit(network, out_shardings=self.same).lower(
            self.params, *self.inputs
        )
        self.network_flops = lowered.cost_analysis()["flops"]
        self.network, _ = compiled(lowered, options)

    def run_train(self) -> None:
        """Runs one training step, to its end."""
        self.state, loss = self.train(self.state, self.batch, self.key)
        jax.block_until_ready((self.state, loss))

    def run_network(self) -> None:
        """Runs the network forward and backward, to its end."""
        jax.block_until_ready(self.network(self.params, *self.inputs))

    def facts(self) -> dict[str, Any]:
        """Collects what does not change from step to step, as JSON values."""
        memory, device = self.train.memory_analysis(), jax.devices()[0]
        return dict(
            device=device.device_kind,
            device_count=jax.device_count(),
            versions=dict(jax=jax.__version__),
            parameters=sum(leaf.size for leaf in jax.tree.leaves(self.params)),
            options=self.options,
            init_seconds=self.init_seconds,
            compile_seconds=self.compile_seconds,
            network_flops=self.network_flops,
            state_bytes=memory.argument_size_in_bytes,
            temporary_bytes=memory.temp_size_in_bytes,
            peak_device_bytes=self.peak_device_bytes,
        )

    def _batch(self, shape: tuple[int, ...]) -> Examples:
        generator = np.random.default_rng(0)
        values = generator.integers(0, 256, shape, np.uint8)
        labels = generator.integers(0, CLASSES, shape[0], np.int32)
        return jax.device_put(Examples(values, labels), self.cut)

    def _lower_train(self, recipe: step.StepConfig) -> Any:
        train = functools.partial(step.train_step, recipe=recipe)
        shardings = (self.same, self.same)
        train = jax.jit(train, donate_argnums=0, out_shardings=shardings)
        return train.lower(self.state, self.batch, self.key)

    def _network_inputs(self) -> tuple[jax.Array, ...]:
        z = jax.random.normal(self.key, self.batch.values.shape)
        t = jax.random.uniform(self.key, z.shape[:1])
        return (*jax.device_put((z, t), self.cut), self.batch.labels)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("case", "dtype", "options", "cache", "cpu_devices"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", args.cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    sharding.split_cpu(int(args.cpu_devices))
    allocator.keep_freed_memory(int(args.cpu_devices))  # as the commands do
    options = sharding.compiler_options()  # of the trainer
    if args.options:
        options = json.loads(args.options)
    programs = Programs(json.loads(args.case), args.dtype, options)
    programs.run_network()
    protocol.serve(
        programs.facts(), dict(step=programs.run_train, network=programs.run_network)
    )


if __name__ == "__main__":
    main()
