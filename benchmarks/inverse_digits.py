"""Reconstructs held-out digits from measurements by every method, and draws them.

    diffusionflow train --config=digits --workdir=runs/digits
    python -m benchmarks.inverse_digits --workdir=runs/digits

Three measurements, each with noise: the middle 4x4 pixels are hidden; every pixel is
blurred with its neighbours; every second row alone is seen. The network of the run is
the prior, without a label. Of each method the table has, over all examples and all
noises, the root mean square of y - A x over the noise's standard deviation (where it is
much above 1 a sample contradicts its measurement), the distance of the samples' mean to
the digit, and the root of the samples' variance, both root mean squares over the
pixels, in [-1, 1]. Of an exact sampler of the true posterior the last columns differ,
but for chance, by the factor sqrt(1 + 1 / repeats) alone.
"""

import argparse
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from diffusionflow import grids, inverse, samplers, schedules
from diffusionflow.predictions import DenoiseFn
from experiments.checkpointing import restore
from experiments.checkpointing.loaded import Request
from experiments.config import build

T_MAX = 0.995  # alpha = 0 is refused
SHAPE = (8, 8, 1)
KERNEL = np.outer([1, 2, 1], [1, 2, 1]) / 16


def operators() -> dict[str, inverse.LinearOperator]:
    """Makes the three measurements."""
    middle, rows = np.ones(SHAPE, bool), np.zeros(SHAPE, bool)
    middle[2:6, 2:6], rows[::2] = False, True
    return {
        "middle hidden": inverse.masking(middle),
        "blurred": inverse.blurring(KERNEL, SHAPE),
        "4 of 8 rows": inverse.masking(rows),
    }


class Problem(NamedTuple):
    """A prior and measurements, one of each example, in the order of the batch.

    Fields:
      denoise_fn: of the prior.
      schedule: of it.
      variance: of a pixel of the data, the mean over pixels.
      measurement: with y `[batch, *output]`.
    """

    denoise_fn: DenoiseFn
    schedule: schedules.Schedule
    variance: float
    measurement: inverse.Measurement

    def sample(
        self, key: jax.Array, denoise_fn: DenoiseFn, num_steps: int, sampler: Any
    ) -> jax.Array:
        """Draws one sample of each example."""
        z_key, key = jax.random.split(key)
        z = samplers.prior(
            z_key,
            (len(self.measurement.y), *SHAPE),
            schedule=self.schedule,
            t=T_MAX,
        )
        times = grids.uniform(num_steps, t_max=T_MAX)
        settings = dict(sampler=sampler, schedule=self.schedule)
        return samplers.sample(key, denoise_fn, z, times, **settings).x


Draw = Callable[[jax.Array, Problem, int], jax.Array]


def guided(make: Callable[..., DenoiseFn], sampler: Any, calls: int) -> Draw:
    """Makes a method of a posterior denoiser that costs `calls` calls a step."""

    def draw(key: jax.Array, problem: Problem, num_calls: int) -> jax.Array:
        settings: dict[str, Any] = dict(schedule=problem.schedule)
        if make is inverse.pigdm:
            settings["data_variance"] = problem.variance
        denoise_fn = make(problem.denoise_fn, problem.measurement, **settings)
        return problem.sample(key, denoise_fn, num_calls // calls, sampler)

    return draw


def repaint(key: jax.Array, problem: Problem, num_calls: int) -> jax.Array:
    """Samples by RePaint, each step but the first five times: 4 calls fewer."""
    measurement = problem.measurement
    sampler = inverse.RePaint(
        measurement.y, measurement.operator.measured, resamplings=5, jump=1
    )
    return problem.sample(key, problem.denoise_fn, num_calls // 5, sampler)


ITERATIONS = 3
MMPS = functools.partial(inverse.mmps, num_iterations=ITERATIONS)
DDPM, DIFFPIR = samplers.ddpm(), samplers.FlowMap(0.3**0.5)
METHODS: dict[str, Draw] = {
    "DPS": guided(inverse.dps, DDPM, 2),
    "DPS, scale 0.1": guided(functools.partial(inverse.dps, scale=0.1), DDPM, 2),
    "PiGDM": guided(inverse.pigdm, DDPM, 2),
    f"MMPS, {ITERATIONS} iterations": guided(MMPS, DDPM, 2 + ITERATIONS),
    "DiffPIR": guided(inverse.proximal, DIFFPIR, 1),
    "RePaint": repaint,
}


class Digits:
    """A trained run as prior, and held-out digits.

    Args:
      workdir: of the run.
      count: digits, each of which is measured once.
      repeats: samples of each.
    """

    def __init__(self, workdir: str, count: int, repeats: int):
        loaded = restore.load(pathlib.Path(workdir), Request())
        self.model, self.params, self.repeats = loaded.model, loaded.params, repeats
        dataset = build.dataset(loaded.config["data"])
        known = len(dataset.test.labels)
        if not 1 <= count <= known:
            raise ValueError(
                f"--digits={count}: must be in [1, {known}], those held out"
            )
        numbers = np.arange(count) * (known // count)
        to_float = dataset.transform.to_float
        self.x = np.asarray(to_float(dataset.test.values[numbers]))
        train = dataset.train.values[np.arange(len(dataset.train.labels))]
        self.variance = float(np.asarray(to_float(train)).var(0).mean())

    def measured(self, operator: inverse.LinearOperator, std: float) -> np.ndarray:
        """Measures each digit, with noise."""
        y = np.asarray(operator(jnp.asarray(self.x)))
        noise = np.random.default_rng(0).normal(size=y.shape)
        return np.asarray(y + std * noise, np.float32)

    def samples(
        self, draw: Draw, operator: inverse.LinearOperator, std: float, calls: int
    ) -> np.ndarray:
        """Draws samples of each digit, `[repeats, count, *SHAPE]`."""
        y = np.tile(self.measured(operator, std), (self.repeats, 1, 1, 1))

        @jax.jit
        def run(params: Any, key: jax.Array) -> jax.Array:
            label = jnp.zeros(len(y), jnp.int32)  # of no influence at scale 0
            problem = Problem(
                self.model.denoise_fn(params, label, 0),
                self.model.objective.schedule,
                self.variance,
                inverse.Measurement(operator, y, std),
            )
            return draw(key, problem, calls)

        x = np.asarray(run(self.params, jax.random.key(1)))
        return x.reshape(self.repeats, *self.x.shape)


def numbers_of(
    digits: Digits, x: np.ndarray, operator: inverse.LinearOperator, std: float
) -> list[float]:
    """Computes the three columns of the table."""
    if not np.isfinite(x).all():
        return [np.inf] * 3
    y = digits.measured(operator, std)
    wrong = (y - np.asarray(operator(jnp.asarray(x)))) / std
    counted = np.ones(SHAPE, bool) if operator.measured is None else operator.measured
    root = lambda squares: float(np.sqrt(np.mean(squares)))
    return [
        root(wrong[:, :, np.asarray(counted)] ** 2),
        root((x.mean(0) - digits.x) ** 2),
        root(x.var(0, ddof=1)),
    ]


Picture = dict[str, dict[str, np.ndarray]]  # rows of images of each measurement


def drawn(pictures: Picture) -> Figure:
    """Draws a panel for each measurement, a row for each method."""
    count = len(next(iter(next(iter(pictures.values())).values())))
    most = max(len(rows) for rows in pictures.values())
    figure = Figure(figsize=(14.0, 0.55 * most), layout="constrained")
    for axes, (name, rows) in zip(
        figure.subplots(1, len(pictures)), pictures.items(), strict=True
    ):
        cells = [
            np.pad(images[..., 0], [(0, 0), (0, 1), (0, 1)]) for images in rows.values()
        ]
        image = np.concatenate([np.concatenate(list(row), axis=1) for row in cells])
        axes.imshow(image, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axes.set(title=name, xticks=[], anchor="N")
        axes.set_yticks(9 * np.arange(len(rows)) + 4, list(rows), fontsize=8)
        axes.tick_params(length=0)
        axes.set_xlim(-0.5, 9 * count - 1.5)
    return figure


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workdir", required=True, help="of a run on the digits")
    add("--calls", type=int, default=100, help="NFE of a method")
    add("--std", type=float, default=0.1, help="of the noise, in [-1, 1]")
    add("--digits", type=int, default=10, help="held-out digits")
    add("--repeats", type=int, default=16, help="samples of each")
    add("--methods", nargs="+", default=[*METHODS], choices=[*METHODS])
    add("--out", type=pathlib.Path, default=pathlib.Path("inverse_digits.png"))
    return parser.parse_args()


def main() -> None:
    """Prints the table and writes the picture."""
    args = parse()
    digits = Digits(args.workdir, args.digits, args.repeats)
    print("| measurement | method | residual / std | mean to digit | spread |")
    print("|---|---|---|---|---|")
    pictures: Picture = {}
    for name, operator in operators().items():
        shown = digits.measured(operator, args.std)
        if operator.measured is not None:
            shown = np.where(operator.measured, shown, -1)
        pictures[name] = {"digit": digits.x, "measured": shown}
        for method in args.methods:
            if method == "RePaint" and operator.measured is None:
                continue
            x = digits.samples(METHODS[method], operator, args.std, args.calls)
            columns = numbers_of(digits, x, operator, args.std)
            cells = " | ".join(
                f"{value:.2f}" if np.isfinite(value) else "diverges"
                for value in columns
            )
            print(f"| {name} | {method} | {cells} |", flush=True)
            if np.isfinite(x).all():
                pictures[name][method] = x[0]
    drawn(pictures).savefig(args.out, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
