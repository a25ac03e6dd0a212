"""Makes programs of a given size, and counts their work; `exponents.py` measures them.

Each function of `PROGRAMS` makes one of a training step, sampling or evaluation. Work
is counted in floating-point operations: of compiled programs by XLA from the program
that it is given (a loop's body once), of metrics by the formulas in their functions.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import budget, cases, ours
from diffusionflow import metrics
from experiments.config.model import Model
from experiments.data import loader
from experiments.data.base import Examples
from experiments.evaluation import heldout, likelihoods, sample_quality
from experiments.runtime import rng, sharding
from experiments.sampling import compiled_sampler, conditions
from experiments.training.step import train_step

EVALUATED = 32  # examples of a batch
FEW = likelihoods.Settings(num_times=4, num_draws=1, ode_steps=2)
RESAMPLES = 100


class Size(NamedTuple):
    """How much there is to do; a program uses some of it.

    Fields:
      network: of `NETWORKS`.
      channels: of the network.
      side: of the images.
      count: examples of a batch, samples, or held-out examples.
      steps: of the sampler.
      data: rows that samples are compared with.
      features: of a row.
    """

    network: str = "unet"
    channels: int = 32
    side: int = 8
    count: int = 16
    steps: int = 4
    data: int = 2_000
    features: int = 64

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return self.side**2


class Program(NamedTuple):
    """What is timed.

    Fields:
      run_fn: runs it once, to its end.
      flops: counted.
    """

    run_fn: Callable[[], Any]
    flops: float


def _unet(channels: int, attention: tuple[int, ...]) -> dict[str, Any]:
    own = dict(channels=channels, attention_resolutions=attention)
    return cases.CASES["digits"]["network"] | own


NETWORKS: Mapping[str, Callable[[int, int], dict[str, Any]]] = {
    "unet": lambda channels, side: _unet(channels, ()),
    "attention": lambda channels, side: _unet(channels, (side, side // 2)),
    "dit": lambda channels, side: dict(
        name="dit", features=4 * channels, num_blocks=4, num_heads=4, patch_size=2
    ),
}


@functools.cache
def _recipe(size: Size) -> Any:
    shape = [size.side, size.side, 1]
    network = NETWORKS[size.network](size.channels, size.side)
    case = dict(shape=shape, batch_size=size.count, network=network)
    return ours.make_recipe(case, "float32")


def _drawn(shapes: Any) -> Any:
    """Draws weights of these shapes, none of them 0."""
    generator = np.random.default_rng(0)
    draw = lambda leaf: 0.05 * generator.standard_normal(leaf.shape)
    return jax.tree.map(lambda leaf: jnp.asarray(draw(leaf), leaf.dtype), shapes)


def _examples(size: Size) -> Examples:
    generator = np.random.default_rng(1)
    shape = (size.count, size.side, size.side, 1)
    labels = np.arange(size.count, dtype=np.int32) % ours.CLASSES
    return Examples(generator.integers(0, 256, shape, np.uint8), labels)


def _model(size: Size) -> tuple[Model, Any]:
    model = _recipe(size).model
    return model, _drawn(jax.eval_shape(model.init, jax.random.key(0)))


def step(size: Size) -> Program:
    """Makes the training step of a batch."""
    recipe = _recipe(size)
    shapes = budget.shapes(recipe)[0]
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    held = [state._replace(params=_drawn(shapes.params))]
    batch, key = jax.device_put(_examples(size)), rng.stream(0, rng.TRAIN)
    train = functools.partial(train_step, recipe=recipe)
    lowered = jax.jit(train, donate_argnums=0).lower(held[0], batch, key)
    compiled = lowered.compile(compiler_options=sharding.compiler_options())

    def run() -> None:
        held[0], loss = compiled(held[0], batch, key)
        jax.block_until_ready((held[0], loss))

    return Program(run, lowered.cost_analysis()["flops"])


def sample(size: Size) -> Program:
    """Makes samples as the command does, by Heun's method."""
    model, params = _model(size)
    section = dict(name="heun(variable='u')", num_steps=size.steps, grid="uniform")
    given = conditions.Conditions(conditions.labels_in_turn(size.count, ours.CLASSES))
    sample_fn = compiled_sampler.make_sample_fn(
        model, section, guidance=1.0, batch_size=EVALUATED, most=size.count
    )
    z = jnp.zeros((size.count, *model.event_shape))
    network = lambda params: model.denoise_fn(params, given.labels, 1.0)(z, 0.5)
    flops = jax.jit(network).lower(params).cost_analysis()["flops"]
    return Program(lambda: sample_fn(params, 0, given), 2 * size.steps * flops)


def heldout_errors(size: Size) -> Program:
    """Computes the eps-MSE of held-out examples at all log-SNRs."""

    def program(params: Any, batch: Examples, number: jax.Array) -> Any:
        key = rng.stream(0, rng.EVALUATE)
        errors = heldout.eps_mse(params, batch, number, key, model=_recipe(size).model)
        return {"eps_mse": errors}

    fn = jax.jit(program, compiler_options=sharding.compiler_options())
    return _in_batches(size, fn)


def bound(size: Size) -> Program:
    """Computes the variational bound of held-out examples."""
    model = _recipe(size).model
    return _in_batches(size, likelihoods._compiled(likelihoods._bound, model, FEW))


def ode(size: Size) -> Program:
    """Computes the density of held-out examples by the ODE."""
    model = _recipe(size).model
    return _in_batches(size, likelihoods._compiled(likelihoods._ode, model, FEW))


def _in_batches(size: Size, fn: Any) -> Program:
    """Evaluates `(params, batch, number) -> arrays` on all examples, in batches."""
    (_, params), examples = _model(size), _examples(size)

    def run() -> dict[str, np.ndarray]:
        rows: dict[str, list[np.ndarray]] = {}
        for number, mask in loader.padded(size.count, EVALUATED):
            found = fn(params, examples.gather(number), number.astype(np.int32))
            for name, values in found.items():
                rows.setdefault(name, []).append(np.asarray(values)[mask])
        return {name: np.concatenate(values) for name, values in rows.items()}

    number = np.arange(EVALUATED, dtype=np.int32)
    lowered = fn.lower(params, examples.gather(number % size.count), number)
    batches = math.ceil(size.count / EVALUATED)
    return Program(run, batches * lowered.cost_analysis()["flops"])


def frechet(size: Size) -> Program:
    """Computes the Frechet distance of samples to data, and its resamples.

    Counted are the QR decomposition of the samples, the product of the roots, the
    singular values and vectors of that (22 d^3 for d x d: Golub and Van Loan, Matrix
    Computations), and the derivatives by each row; those of the data are kept.
    """
    n, m, d = size.count, size.data, size.features
    of_samples, of_data = min(n, d), min(m, d)
    least, most = sorted((of_samples, of_data))
    flops = 2 * n * d * of_samples + 2 * d * of_samples * of_data
    flops += 4 * most**2 * least + 18 * least**3 + 4 * d * most * least
    flops += 2 * (n + m) * (d * least + RESAMPLES)
    return Program(_metric(size, "frechet"), flops)


def mmd(size: Size) -> Program:
    """Computes KID of samples to data, and its resamples: all pairs, each once."""
    return Program(_metric(size, "mmd"), _of_pairs(size))


def energy(size: Size) -> Program:
    """Computes the energy distance of samples to data, likewise."""
    return Program(_metric(size, "energy"), _of_pairs(size))


def _of_pairs(size: Size) -> float:
    """Counts what pairs of samples, and of a sample and a row of the data, take."""
    pairs = size.count * (size.count / 2 + size.data)
    return pairs * 2 * (size.features + RESAMPLES + 1)


def _metric(size: Size, name: str) -> Callable[[], Any]:
    """Makes what `SampleEvaluator` does for one metric and kind of features."""
    generator, memo = np.random.default_rng(2), metrics.Memo()
    scales = np.geomspace(0.1, 2.0, size.features)
    x, y = (
        scales * generator.standard_normal((rows, size.features))
        for rows in (size.count, size.data)
    )

    def run() -> Any:
        with threadpool_limits(sample_quality.threads(size.features)):
            return metrics.measure_resampled(
                jax.random.key(0), sample_quality.METRICS[name], x, y,
                features="drawn", reference="drawn", num_resamples=RESAMPLES, memo=memo,
            )  # fmt: skip

    return run


PROGRAMS: Mapping[str, Callable[[Size], Program]] = {
    "step": step,
    "sample": sample,
    "eps-MSE": heldout_errors,
    "bound": bound,
    "ODE": ode,
    "Frechet": frechet,
    "MMD": mmd,
    "energy": energy,
}
