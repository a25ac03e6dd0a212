"""The process that times this library: the real training step, and the network alone.

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
from diffusionflow import networks
from experiments import build, step
from experiments.data import DataTransform, Examples
from experiments.model import Model

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
    b1=0.9,
    b2=0.99,
    weight_decay=0.01,
    clip_norm=1.0,
)


def make_recipe(case: dict[str, Any], dtype: str) -> step.Recipe:
    """Network, objective and optimizer of a case."""
    net = networks.UNet(**case["network"], num_classes=CLASSES, dtype=dtype)
    model = Model(
        net=net,
        objective=build.objective(OBJECTIVE),
        transform=DataTransform(levels=256),
        event_shape=tuple(case["shape"]),
        num_classes=CLASSES,
        sigma_data=1.0,
    )
    return step.Recipe(
        model=model,
        optimizer=build.optimizer(OPTIMIZER, 10_000),
        label_dropout=0.1,
        ema_limit=0.999,
        ema_warmup=10.0,
        bins=step.Bins(-10.0, 10.0, 10),
        log_every=100,
    )


def network_only(params: Any, z: jax.Array, time: jax.Array, label: jax.Array, *, net):
    """Value and gradients of the mean square of the output: no loss, no optimizer."""

    def mean_square(params):
        rngs = {"dropout": jax.random.key(0)}
        out = net.apply({"params": params}, z, time, label, train=True, rngs=rngs)
        return (out**2).mean()

    return jax.value_and_grad(mean_square)(params)


def compiled(lowered: Any, options: dict[str, Any]) -> tuple[Any, float]:
    """The compiled program and the seconds it took."""
    start = time.perf_counter()
    program = lowered.compile(compiler_options=options)
    return program, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("case", "dtype", "options", "cache"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    if args.cache:
        jax.config.update("jax_compilation_cache_dir", args.cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    case, options = json.loads(args.case), json.loads(args.options)
    recipe = make_recipe(case, args.dtype)
    rng = np.random.default_rng(0)
    shape = (case["batch_size"], *case["shape"])
    batch = Examples(
        jnp.asarray(rng.integers(0, 256, shape, np.uint8)),
        jnp.asarray(rng.integers(0, CLASSES, shape[0], np.int32)),
    )
    key = step.stream(0, step.TRAIN)

    start = time.perf_counter()
    state = jax.jit(functools.partial(step.init, recipe=recipe))(key)
    jax.block_until_ready(state)
    init_seconds = time.perf_counter() - start
    train = jax.jit(
        functools.partial(step.train_step, recipe=recipe), donate_argnums=0
    ).lower(state, batch, key)
    train, compile_seconds = compiled(train, options)
    inputs = (
        jax.random.normal(key, shape),
        jax.random.uniform(key, shape[:1]),
        batch.labels,
    )
    params = jax.tree.map(jnp.copy, state.params)
    network = jax.jit(functools.partial(network_only, net=recipe.model.net))
    network = network.lower(params, *inputs)
    flops = network.cost_analysis()["flops"]
    network, _ = compiled(network, options)
    carried = [state]

    def run_train() -> None:
        carried[0], loss = train(carried[0], batch, key)
        jax.block_until_ready((carried[0], loss))

    def run_network() -> None:
        jax.block_until_ready(network(params, *inputs))

    for program in (run_train, run_network):
        program()
    memory = train.memory_analysis()
    facts = dict(
        device=jax.devices()[0].device_kind,
        backend=jax.default_backend(),
        versions=dict(jax=jax.__version__),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        init_seconds=init_seconds,
        compile_seconds=compile_seconds,
        network_flops=flops,
        state_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        peak_device_bytes=(jax.devices()[0].memory_stats() or {}).get(
            "peak_bytes_in_use"
        ),
    )
    protocol.serve(facts, dict(step=run_train, network=run_network))


if __name__ == "__main__":
    main()
