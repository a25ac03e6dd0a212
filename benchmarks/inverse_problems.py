"""Measures the bias of methods for inverse problems against exact posteriors.

    python benchmarks/inverse_problems.py

Data are a Gaussian and a mixture of four in 8 dimensions, with their exact denoisers,
so that what is measured is the method and not a network. A measurement is a random
matrix (4 of 8, compressed sensing) or a mask (4 of 8), with noise of two levels; the
posterior is known (`inverse.posterior`). Of each method, at three numbers of calls, the
table has, averaged over measurements,

- mean: the distance of the means over the root of the posterior's total variance,
- covariance: the Frobenius distance of the covariances over the posterior's norm,
- sliced W2: the mean over directions of the squared 2-Wasserstein distance to as many
  exact samples, its root over the same root. (Without projections the distance of two
  sets of the same law is large already in 8 dimensions.)

"exact denoiser" has the error of the sampler alone, and "exact samples" none: what it
shows is what a finite number of samples does to each column.
"""

import argparse
import functools
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from diffusionflow import (  # noqa: E402
    analytic,
    grids,
    guidance,
    inverse,
    metrics,
    samplers,
    schedules,
)

SCHEDULE = schedules.FlowMatching()
T_MAX = 0.995  # alpha = 0 is refused
SHAPE = (8,)
MASK = np.arange(8) % 2 == 0
ITERATIONS = 3
ZETA = 0.3  # DiffPIR's share of new noise


class Case(NamedTuple):
    """A prior and a kind of measurement."""

    data: str
    operator: str
    std: float

    def __str__(self) -> str:
        return f"{self.data}, {self.operator}, std {self.std:g}"


CASES = [
    Case(data, operator, std)
    for data, operator in (
        ("Gaussian", "matrix"),
        ("mixture", "matrix"),
        ("mixture", "mask"),
    )
    for std in (0.1, 0.5)
]


def prior(name: str) -> analytic.Mixture:
    """Makes the data."""
    rng = np.random.default_rng(0)
    variances = rng.uniform(0.05, 0.6, SHAPE)
    if name == "Gaussian":
        return analytic.gaussian(np.zeros(SHAPE), variances)
    means = rng.normal(size=(4, *SHAPE))
    return analytic.Mixture(np.array([0.4, 0.3, 0.2, 0.1]), means, variances / 3)


def measured(case: Case, number: int) -> inverse.Measurement:
    """Makes measurement `number`, of data drawn from the prior."""
    rng = np.random.default_rng(number + 1)
    matrix = np.random.default_rng(7).normal(size=(4, 8)) / np.sqrt(8)
    operator = (
        inverse.masking(MASK)
        if case.operator == "mask"
        else inverse.multiplication(matrix, SHAPE)
    )
    x = prior(case.data).sample(jax.random.key(100 + number), ())
    y = np.asarray(operator(x))
    return inverse.Measurement(
        operator, y + case.std * rng.normal(size=y.shape), case.std
    )


Draw = Callable[[jax.Array, Any, inverse.Measurement, int, int], jax.Array]


def with_denoiser(make: Callable[..., Any], sampler: Any, calls: int) -> Draw:
    """A method that is a denoiser, with `num_calls / calls` steps of a sampler."""

    def draw(
        key: jax.Array,
        prior_fn: Any,
        measurement: inverse.Measurement,
        num_calls: int,
        count: int,
    ) -> jax.Array:
        z_key, key = jax.random.split(key)
        z = samplers.prior(z_key, (count, *SHAPE), schedule=SCHEDULE, t=T_MAX)
        denoise_fn = make(prior_fn, measurement, schedule=SCHEDULE)
        times = grids.uniform(num_calls // calls, t_max=T_MAX)
        settings = dict(sampler=sampler, schedule=SCHEDULE)
        return samplers.sample(key, denoise_fn, z, times, **settings).x

    return draw


def repaint(
    key: jax.Array,
    prior_fn: Any,
    measurement: inverse.Measurement,
    num_calls: int,
    count: int,
) -> jax.Array:
    """RePaint, all steps but the first five times: 4 calls fewer than asked."""
    sampler = inverse.RePaint(measurement.y, MASK, resamplings=5, jump=1)
    draw = with_denoiser(lambda fn, *_, **__: fn, sampler, 5)
    return draw(key, prior_fn, measurement, num_calls, count)


def twisted(
    key: jax.Array,
    prior_fn: Any,
    measurement: inverse.Measurement,
    num_calls: int,
    count: int,
) -> jax.Array:
    """Twisted SMC with as many particles as there are samples."""
    z_key, key, pick_key = jax.random.split(key, 3)
    z = samplers.prior(z_key, (count, *SHAPE), schedule=SCHEDULE, t=T_MAX)
    times = grids.uniform(num_calls // 2, t_max=T_MAX)
    settings = dict(schedule=SCHEDULE, data_variance=0.3)
    particles = inverse.twisted_smc(key, prior_fn, z, times, measurement, **settings)
    return inverse.resample(pick_key, particles)


def inpaint(fn: Any, measurement: inverse.Measurement, **settings: Any) -> Any:
    """`guidance.inpaint`, for comparison."""
    return guidance.inpaint(fn, measurement.y, MASK, **settings)


DDPM, DIFFPIR = samplers.ddpm(), samplers.FlowMap(ZETA**0.5)
MMPS = functools.partial(inverse.mmps, num_iterations=ITERATIONS)
PIGDM = functools.partial(inverse.pigdm, data_variance=0.3)
METHODS: dict[str, tuple[Draw, bool]] = {  # whether it is for masks alone
    "DPS": (with_denoiser(inverse.dps, DDPM, 2), False),
    "PiGDM, v = 0.3": (with_denoiser(PIGDM, DDPM, 2), False),
    f"MMPS, {ITERATIONS} iterations": (with_denoiser(MMPS, DDPM, 5), False),
    "DiffPIR": (with_denoiser(inverse.proximal, DIFFPIR, 1), False),
    "twisted SMC": (twisted, False),
    "RePaint, 5 times, 4 calls fewer": (repaint, True),
    "guidance.inpaint": (with_denoiser(inpaint, DDPM, 1), True),
}
EXACT = with_denoiser(lambda fn, *_, **__: fn, DDPM, 1)


def errors(x: np.ndarray, law: Any, reference: np.ndarray) -> np.ndarray:
    """Computes the three columns of the table."""
    x = np.asarray(x, np.float64)
    if not np.isfinite(x).all():
        return np.full(3, np.inf)
    mean, covariance = law.mean(), law.covariance()
    scale = np.sqrt(np.trace(covariance))
    spread = np.cov(x.T) - covariance
    distance = metrics.SlicedWasserstein2(jax.random.key(0))(x, reference)
    return np.array(
        [
            np.linalg.norm(x.mean(0) - mean) / scale,
            np.linalg.norm(spread) / np.linalg.norm(covariance),
            float(distance) / scale,
        ]
    )


def rows(case: Case, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measures every method on a case."""
    prior_fn = prior(case.data).denoise_fn(schedule=SCHEDULE)
    problems = [measured(case, number) for number in range(args.num_measurements)]
    laws = [inverse.posterior(prior(case.data), problem) for problem in problems]
    sample = lambda law, seed, count: np.asarray(
        law.sample(jax.random.key(seed), (count,)), np.float64
    )
    references = [sample(law, 1, args.num_samples) for law in laws]

    def row(name: str, calls: int, found: list[Any]) -> dict[str, Any]:
        each = [errors(*parts) for parts in zip(found, laws, references, strict=True)]
        return dict(
            case=str(case), method=name, calls=calls, errors=np.mean(each, 0).tolist()
        )

    yield row("exact samples", 0, [sample(law, 2, args.num_samples) for law in laws])
    for calls in args.calls:
        settings = dict(num_calls=calls, count=args.num_samples)
        run = jax.jit(functools.partial(EXACT, measurement=None, **settings))
        denoisers = [law.denoise_fn(schedule=SCHEDULE) for law in laws]
        found = [run(jax.random.key(3), denoise_fn) for denoise_fn in denoisers]
        yield row("exact denoiser", calls, found)
    for name, (method, for_masks) in METHODS.items():
        if for_masks and case.operator != "mask":
            continue
        for calls in args.calls:
            settings = dict(num_calls=calls, count=args.num_samples)
            run = jax.jit(functools.partial(method, **settings))
            found = [run(jax.random.key(3), prior_fn, problem) for problem in problems]
            yield row(name, calls, found)


def table(case: Case, results: list[dict[str, Any]]) -> str:
    """A Markdown table of the results of a case."""
    lines = [f"\n{case}\n", "| method | calls | mean | covariance | sliced W2 |"]
    lines.append("|---|---|---|---|---|")
    for result in results:
        numbers = " | ".join(f"{error:.2f}" for error in result["errors"])
        lines.append(f"| {result['method']} | {result['calls'] or ''} | {numbers} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--calls", type=int, nargs="+", default=[20, 100], help="NFE of a method")
    add("--cases", default="", help="those alone whose name contains this")
    add("--num_measurements", type=int, default=2, help="values of y that are averaged")
    add("--num_samples", type=int, default=1000, help="particles as well")
    add("--out", type=pathlib.Path, help="JSON file of the results")
    return parser.parse_args()


def main() -> None:
    """Prints the tables."""
    args, results, start = parse(), [], time.time()
    for case in (case for case in CASES if args.cases in str(case)):
        here = list(rows(case, args))
        print(table(case, here), flush=True)
        print(f"{case}: {time.time() - start:.0f} s", file=sys.stderr, flush=True)
        results += here
    if args.out:
        args.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
