"""Everything that a config determines, built once."""

import functools
import pathlib
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.checkpointing import identity
from experiments.config import build, experiment, external, protocols
from experiments.config.experiment import Experiment
from experiments.data import coupled, loader, read_ahead, worker_pool
from experiments.data.base import Examples
from experiments.evaluation import heldout
from experiments.runtime import progress, rng, sharding
from experiments.runtime.errors import naming
from experiments.sampling import compiled_sampler, conditions
from experiments.training import label_probe, step
from experiments.training.state import TrainState

LARGEST_DRAW = 128  # samples that a device draws at once


class Trainer:
    """Everything that a config determines, built and compiled on use.

    Args:
      described: the config of the experiment, or what `experiment.from_config` made of
        it.
      workdir: of the run, if there is one: as of `experiment.from_config`.

    Raises:
      UsageError: if a value of the config is unknown or out of bounds, or the data set
        cannot be sent to the processes of `config.data.workers`, or so many of them do
        not start, which is known before data are loaded.
    """

    def __init__(
        self,
        described: ConfigDict | Experiment,
        workdir: str | pathlib.Path | None = None,
    ):
        if not isinstance(described, Experiment):
            described = experiment.from_config(described, workdir)
        self.experiment = described
        self.config = config = described.config
        worker_pool.check_startable(config.data.workers)
        self.dataset = build.dataset(config.data)
        self.model = described.model(self.dataset)
        step.check_examples(described.method, self.dataset)
        self.mesh = sharding.mesh(config.sharding.fsdp)
        if workers := config.data.workers:
            worker_pool.check_picklable(self._numbered_batches(), workers)
        self.recipe = step.StepConfig(
            model=self.model,
            optimizer=described.optimizer,
            label_dropout=config.label_dropout,
            ema_limit=config.ema.limit,
            ema_warmup=config.ema.warmup,
            bins=step.Bins(
                config.log.logsnr_min, config.log.logsnr_max, config.log.num_bins
            ),
            log_every=config.log.every,
            batch_size=config.batch_size,
            accumulate=config.optimizer.accumulate,
            nonfinite_limit=config.optimizer.nonfinite_limit,
            placement=self._placement(),
            gammas=described.gammas,
            num_steps=config.num_steps,
            has_teacher=self._has_teacher(),
            guidance=config.distillation.guidance,
            fused_attention=config.fused_attention,
            coupled=self._coupled(self.dataset.train),
        )
        self.init_fn = functools.partial(step.init, recipe=self.recipe)
        with naming("network"):
            shapes = self._shapes()
        if external.references(config.network.name):
            where = f"network.name: {config.network.name}"
            protocols.check_network(where, self.model, shapes.params)
        self.shardings = step.shardings(shapes, self.mesh, self.recipe.placement)
        self.abstract_state = sharding.abstract(shapes, self.shardings)
        self.identity = identity.make(
            config.to_dict(), self.model, self.dataset.identity()
        )
        self._compile()

    def _compile(self) -> None:
        config, same = self.config, sharding.replicated(self.mesh)
        streams = lambda: [
            rng.stream(config.seed, purpose) for purpose in (rng.TRAIN, rng.EVALUATE)
        ]
        self.train_key, self.eval_key = jax.jit(streams, out_shardings=same)()
        self.gather = lambda params: params
        if self.recipe.placement is not None:
            self.gather = jax.jit(self.gather, out_shardings=same)
        self.step_fn = jax.jit(
            functools.partial(step.train_step, recipe=self.recipe),
            donate_argnums=0,
            out_shardings=(self.shardings, same),
            compiler_options=sharding.compiler_options(),
        )
        self.begin_stage_fn = jax.jit(
            functools.partial(step.begin_stage, recipe=self.recipe),
            donate_argnums=0,
            out_shardings=self.shardings,
        )
        self.eval_fn = jax.jit(
            functools.partial(
                heldout.eval_step,
                model=self.model,
                draws=config.eval.draws,
                coupled=self._coupled(self.dataset.test),
            ),
            out_shardings=same,
            compiler_options=sharding.compiler_options(),
        )
        self.pictured = conditions.of_pictures(
            self.dataset.test, self.model.num_classes, config.samples.per_class
        )
        count = len(self.pictured.labels)
        self.sample_fn = compiled_sampler.make_sample_fn(
            self.model,
            self.experiment.sampling,
            guidance=config.guidance,
            batch_size=min(count, LARGEST_DRAW),
            most=count,
        )

    def init(self) -> TrainState:
        """Initializes the state before the first step."""
        key = rng.stream(self.config.seed, rng.INIT)
        return jax.jit(self.init_fn, out_shardings=self.shardings)(key)

    def _has_teacher(self) -> bool:
        """Returns whether the state holds the weights of a teacher to learn from."""
        method = self.model.method
        named = bool(self.config.distillation.teacher)
        return method is not None and method.takes_teacher and named

    def _placement(self) -> sharding.FSDPSharding | None:
        section = self.config.sharding
        if section.fsdp == 1:
            return None
        return sharding.FSDPSharding(self.mesh, section.least_size)

    def _coupled(self, examples: Examples) -> coupled.Coupled | None:
        """Builds the config's coupling, on examples to train on or held-out ones."""
        built = self.experiment.coupling
        if built is None:
            return None
        coupled.check_data(built, self.dataset)
        if isinstance(built, coupled.Semidiscrete):
            key = rng.stream(self.config.seed, rng.COUPLE)
            classes = self.model.num_classes
            with progress.announced("fitting the potentials of the coupling"):
                built = built.fit(key, examples, self.model.transform, classes)
        return coupled.Coupled(built, self.mesh)

    def _shapes(self) -> TrainState:
        """Returns the shapes and dtypes of the state."""
        key = rng.stream(self.config.seed, rng.INIT)
        return jax.eval_shape(self.init_fn, key)

    def batches(self, start: int) -> Generator[Examples]:
        """Reads this process's part of the batches from number `start` on.

        Closing the iterator ends the processes of `config.data.workers`.
        """
        return read_ahead.iterate(
            self._numbered_batches(), start, self.config.data.workers
        )

    def _numbered_batches(self) -> loader.Batches:
        """Makes this process's part of the batches, by number."""
        return loader.Batches(
            self.dataset.train,
            seed=self.config.seed,
            batch_size=self.config.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            augment_fn=self.dataset.augment_fn,
        )

    def root_mean_square(self, least: int = 1_024) -> float:
        """Computes the RMS of the first training examples, a value for `sigma_data`.

        Of the values that count, where there is a mask.

        The network's input `z / sqrt(sigma_data^2 alpha^2 + sigma^2)` then has mean
        square 1 at every level, whatever the mean of the data is.
        """
        total, count, seen = 0.0, 0, 0
        for batch in read_ahead.iterate(self._numbered_batches(), 0):
            x = np.asarray(self.model.transform.to_float(batch.values), np.float64)
            counts = np.broadcast_to(
                True if batch.mask is None else batch.mask, x.shape
            )
            total += float((x**2).sum(where=counts))
            count += int(counts.sum())
            seen += len(x)
            if seen >= least:
                break
        return float(np.sqrt(total / count))

    def evaluate(
        self, params: Any, check_fn: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Evaluates the held-out examples, each counted once: `EvalAccumulator.row`.

        Args:
          params: raw or averaged.
          check_fn: called before each batch; it may raise to end the evaluation.
        """
        params = self.gather(params)
        included = heldout.reached(self.model.objective.schedule)
        total = heldout.EvalAccumulator(self.config.eval.draws, included)
        count = len(self.dataset.test.labels)
        for number, mask in loader.padded(count, self.config.batch_size):
            check_fn()
            total.add(self._evaluated(params, number, mask), number, mask)
        return total.row()

    def condition_effects(self, params: Any) -> dict[str, float]:
        """Measures how much losses change with what the data condition on, by its name.

        Zero layers are lifted first. Empty where the data have no conditions.
        """
        same = sharding.replicated(self.mesh)
        params = jax.jit(label_probe.lifted, out_shardings=same)(params)
        test, found = self.dataset.test, {}
        number, mask = next(loader.padded(len(test.labels), self.config.batch_size))

        def losses_fn(**changed: np.ndarray) -> jax.Array:
            return self._evaluated(params, number, mask, **changed).loss

        if num_classes := self.dataset.num_classes:
            found["labels"] = label_probe.label_effect(
                lambda labels: losses_fn(labels=labels),
                test.labels[number],
                num_classes,
            )
        if (vectors := test.conditions) is not None:
            found["conditions"] = label_probe.vector_effect(
                lambda vectors: losses_fn(conditions=vectors), vectors[number]
            )
        return found

    def _evaluated(
        self,
        params: Any,
        number: np.ndarray,
        mask: np.ndarray,
        **changed: np.ndarray,
    ) -> heldout.Evaluation:
        """Evaluates a batch of test examples, of which each process reads its share.

        Args:
          params: raw or averaged.
          number: of the examples, [batch].
          mask: bool [batch], False for those that only fill the batch up.
          **changed: arrays [batch, ...] in the place of theirs, by field.
        """
        mine = loader.share(
            self.config.batch_size, jax.process_index(), jax.process_count()
        )
        batch = self.dataset.test.gather(number[mine])
        own = {"matched": batch.labels, "counts": mask[mine]}
        batch = batch._replace(**{name: array[mine] for name, array in changed.items()})
        local = batch, number[mine].astype(np.int32), own
        batch, number, own = sharding.place(self.mesh, local)
        return self.eval_fn(params, batch, number, self.eval_key, **own)
