"""Everything that a config determines, built once."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from experiments import (
    batches,
    build,
    checkpoints,
    data,
    devices,
    identity,
    model,
    sampling,
    step,
)
from experiments.errors import naming
from experiments.step import TrainState


class Trainer:
    """Everything that a config determines, built and compiled on use.

    Args:
      config: of the experiment.

    Raises:
      UsageError: if a value of the config is unknown or out of bounds.
    """

    def __init__(self, config: ml_collections.ConfigDict):
        build.check(config)
        self.config = config = ml_collections.FrozenConfigDict(config)
        self.dataset = build.dataset(config.data)
        self.model = model.from_config(config, self.dataset)
        self.learning_rate = build.learning_rate(config.optimizer, config.num_steps)
        self.recipe = step.Recipe(
            model=self.model,
            optimizer=build.optimizer(config.optimizer, config.num_steps),
            label_dropout=config.label_dropout,
            ema_limit=config.ema.limit,
            ema_warmup=config.ema.warmup,
            bins=step.Bins(
                config.log.logsnr_min, config.log.logsnr_max, config.log.num_bins
            ),
            log_every=config.log.every,
        )
        self.mesh = devices.data_mesh()
        self.init_fn = functools.partial(step.init, recipe=self.recipe)
        with naming("network"):
            self.abstract_state = self._abstract_state()
        self.identity = checkpoints.plain_json(
            identity.make(config.to_dict(), self.model)
        )
        self._compile()

    def _compile(self) -> None:
        config, same = self.config, devices.replicated(self.mesh)
        self.train_key = jax.device_put(step.stream(config.seed, step.TRAIN), same)
        self.eval_key = jax.device_put(step.stream(config.seed, step.EVALUATE), same)
        self.step_fn = jax.jit(
            functools.partial(step.train_step, recipe=self.recipe),
            donate_argnums=0,
            out_shardings=(same, same),
            compiler_options=devices.compiler_options(),
        )
        self.eval_fn = jax.jit(
            functools.partial(
                step.eval_step, model=self.model, draws=config.eval.draws
            ),
            out_shardings=same,
            compiler_options=devices.compiler_options(),
        )
        count = config.samples.per_class * self.model.num_classes
        self.draw_fn = sampling.make_draw_fn(
            self.model,
            config.sampler,
            guidance=config.guidance,
            batch_size=count,
            most=count,
        )

    def init(self) -> TrainState:
        """The state before the first step."""
        same = devices.replicated(self.mesh)
        key = step.stream(self.config.seed, step.INIT)
        return jax.jit(self.init_fn, out_shardings=same)(key)

    def _abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        key = step.stream(self.config.seed, step.INIT)
        return devices.abstract(jax.eval_shape(self.init_fn, key))

    def batches(self, start: int) -> Iterator[data.Examples]:
        """This process's part of the batches from number `start` on."""
        mine = batches.Batches(
            self.dataset.train,
            seed=self.config.seed,
            batch_size=self.config.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            draw_fn=self.dataset.draw_fn,
        )
        return batches.iterate(mine, start)

    def evaluate(self, params: Any) -> float:
        """Mean loss of the test examples, each counted once."""
        total = 0.0
        parts = batches.padded(self.dataset.test, self.config.batch_size)
        for batch, number, mask in parts:
            placed = devices.place(self.mesh, (batch, number.astype(np.int32)))
            losses = self.eval_fn(params, *placed, self.eval_key)
            total += float(np.asarray(losses, np.float64)[mask].sum())
        return total / len(self.dataset.test.labels)
