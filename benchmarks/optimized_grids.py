"""Measures optimised sampling grids against fixed ones, at equal network calls.

    python -m benchmarks.optimized_grids
    python -m benchmarks.optimized_grids --workdir=runs/digits --noises=256
    python -m benchmarks.optimized_grids --coefficients

Without a run: a mixture in one dimension whose modes have unequal scales, with its
exact denoiser, on flow matching and on EDM's schedule. For each sampler, number of
calls and seed, `grids.optimize` computes a grid on noise of that seed; then its error
and those of the fixed grids, the config's own among them, are measured on other noise:
the mean distance of end points to a fine solution. Means over the seeds, with the
standard error by the noise or by the scatter of the seeds, the larger of both.

With `--coefficients`, `samplers.optimize_coefficients` then starts from each optimised
grid, on the same noise as the grid, and is compared with it on the other noise.
"""

import argparse
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusionflow import grids, samplers, schedules
from diffusionflow.grids.end_points import EndPoints
from diffusionflow.grids.optimized import Search
from diffusionflow.predictions import DenoiseFn
from experiments.analysis import sampler_error
from experiments.checkpointing import restore
from experiments.checkpointing.loaded import Loaded, Request
from experiments.sampling import conditions, optimized_grid

SAMPLERS = {
    "DDIM": samplers.ddim(),
    "Adams-Bashforth 2": samplers.AdamsBashforth(2, "u"),
    "DPM-Solver++ 2M": samplers.DPMSolver(2),
    "UniPC": samplers.UniPC(2),
}


class Model(NamedTuple):
    """What is sampled.

    Fields:
      name: of the model.
      denoise_fn: of a number of samples, in the order of their noise.
      shape: of a sample.
      schedule: of the model.
      default_fn: the grid of the recipe, from a number of steps to the data.
    """

    name: str
    denoise_fn: Callable[[int], DenoiseFn]
    shape: tuple[int, ...]
    schedule: schedules.Schedule
    default_fn: Callable[[int], np.ndarray]


def mixture(schedule: schedules.Schedule) -> Model:
    """The mixture on a schedule, whose recipe's grid is uniform in its time."""
    noisy = float(np.asarray(schedule.sigma(0.0))) > 0
    return Model(
        f"mixture on {type(schedule).__name__}",
        lambda count: sampler_error.mixture().denoise_fn(schedule=schedule),
        (),
        schedule,
        lambda count: grids.uniform(count - noisy),
    )


def trained(workdir: str) -> Model:
    """The newest averaged weights of a run."""
    loaded: Loaded = restore.load(pathlib.Path(workdir), Request())
    model, schedule = loaded.model, loaded.model.objective.schedule

    def denoise_fn(count: int) -> DenoiseFn:
        labels = conditions.labels_in_turn(count, model.num_classes)
        return model.denoise_fn(loaded.params, labels, loaded.request.guidance)

    def default_fn(count: int) -> np.ndarray:
        section = loaded.config["sampler"]
        found = optimized_grid.config_grid(section, schedule, count)
        assert found is not None, "the config names a file of a grid"
        return found

    name = pathlib.Path(workdir).name
    return Model(name, denoise_fn, model.event_shape, schedule, default_fn)


class Bench:
    """Measures a model's grids on noise that no search has seen.

    Args:
      model: what is sampled.
      options: of the command line.
    """

    def __init__(self, model: Model, options: argparse.Namespace):
        self.model, self.options = model, options
        self.known: dict[int, EndPoints] = {}

    def ends(self, seed: int, count: int) -> EndPoints:
        """End points of the noise of a seed, computed once."""
        if seed not in self.known:
            shape, schedule = (count, *self.model.shape), self.model.schedule
            self.known[seed] = EndPoints(
                self.model.denoise_fn(count),
                samplers.prior(jax.random.key(seed), shape, schedule=schedule),
                schedule=schedule,
                t_max=1.0,
                reference_steps=self.options.reference_steps,
            )
        return self.known[seed]

    def unseen(self, seed: int) -> EndPoints:
        """End points of noise that the search of a seed has not seen."""
        return self.ends(1_000 + seed, self.options.unseen or 2 * self.options.noises)

    def searched(self, sampler: Any, calls: int, seed: int) -> grids.Optimized:
        """Computes a grid; the search is that of `grids.optimize`."""
        known = grids.candidates(calls, schedule=self.model.schedule)
        search = Search(self.ends(seed, self.options.noises), sampler, known, seed)
        return search.result(num_parameters=8, max_evaluations=self.options.tries)

    def one(self, sampler: Any, calls: int, seed: int) -> dict[str, Any]:
        """Measures the grids of a sampler."""
        model = self.model
        known = grids.candidates(calls, schedule=model.schedule)
        found = self.searched(sampler, calls, seed)
        measure = lambda times: self.unseen(seed).distances(sampler, times)
        grids_of = {"chosen": found.times, "default": model.default_fn(calls), **known}
        errors = {name: measure(times) for name, times in grids_of.items()}
        best = min(known, key=lambda name: errors[name].mean())
        return {
            "chosen": found.chosen,
            "best": best,
            "times": found.times.tolist(),
            "error": [float(errors[name].mean()) for name in ("chosen", "default")]
            + [float(errors[best].mean())],
            "difference": mean(errors["chosen"] - errors[best]),
            "squared": float(np.sqrt(np.mean(errors["chosen"] ** 2)))
            / float(np.sqrt(np.mean(errors[best] ** 2))),
            "ratio": [
                ratio(errors["chosen"], errors[name]) for name in ("default", best)
            ],
        }

    def coefficients(self, sampler: Any, calls: int, seed: int) -> dict[str, Any]:
        """Measures optimised coefficients on the optimised grid of a sampler."""
        model, count = self.model, self.options.noises
        times = self.searched(sampler, calls, seed).times
        shape, schedule = (count, *model.shape), model.schedule
        found = samplers.optimize_coefficients(
            model.denoise_fn(count),
            samplers.prior(jax.random.key(seed), shape, schedule=schedule),
            times,
            sampler=sampler,
            schedule=schedule,
            reference_steps=self.options.reference_steps,
            seed=seed,
        )
        before, after = (
            self.unseen(seed).distances(each, times)
            for each in (sampler, found.sampler)
        )
        square = lambda errors: float(np.sqrt(np.mean(errors**2)))
        return {
            "chosen": found.chosen,
            "num_parameters": found.num_parameters,
            "times": times.tolist(),
            "error": [float(before.mean()), float(after.mean())],
            "difference": mean(after - before),
            "squared": square(after) / square(before),
            "ratio": ratio(after, before),
            "consistency": [*found.consistency_before, *found.consistency],
        }


def mean(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def ratio(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Ratio of means on the same noise, and its standard error."""
    value = one.mean() / other.mean()
    error = np.std(one - value * other, ddof=1) / np.sqrt(len(one)) / other.mean()
    return float(value), float(error)


def over_seeds(pairs: list[tuple[float, float]]) -> str:
    """Mean of values with errors, and the larger of noise and scatter of the seeds."""
    values, errors = np.array(pairs).T
    noise = np.sqrt(np.sum(errors**2)) / len(values)
    scatter = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{values.mean():.2f} +- {max(noise, scatter):.1g}"


def row(name: str, calls: int, every: list[dict[str, Any]]) -> str:
    """A line of the table: errors, ratios to default and best fixed grid."""
    chosen, default, best = np.mean([each["error"] for each in every], axis=0)
    to_default, to_best = ([each["ratio"][i] for each in every] for i in (0, 1))
    grids_seen = ", ".join(dict.fromkeys(each["best"] for each in every))
    kept = sum(each["chosen"] != "optimized" for each in every)
    worse = sum(each["difference"][0] > each["difference"][1] for each in every)
    squared = np.mean([each["squared"] for each in every])
    cells = [
        name,
        calls,
        f"{chosen:.3g}",
        f"{default:.3g}",
        f"{best:.3g} ({grids_seen})",
        over_seeds(to_default),
        over_seeds(to_best),
        f"{squared:.2f}",
        kept,
        worse,
    ]
    return f"| {' | '.join(map(str, cells))} |"


def coefficients_row(name: str, calls: int, every: list[dict[str, Any]]) -> str:
    """A line of the table of coefficients: errors, their ratio, consistency."""
    before, after = np.mean([each["error"] for each in every], axis=0)
    missed = np.mean([each["consistency"] for each in every], axis=0)
    constant, linear = (f"{missed[i]:.1g}, {missed[2 + i]:.1g}" for i in (0, 1))
    cells = [
        name,
        calls,
        round(np.mean([each["num_parameters"] for each in every])),
        f"{before:.2g}",
        f"{after:.2g}",
        over_seeds([each["ratio"] for each in every]),
        f"{np.mean([each['squared'] for each in every]):.2f}",
        constant,
        linear,
        sum(each["chosen"] != "optimized" for each in every),
        sum(each["difference"][0] > each["difference"][1] for each in every),
    ]
    return f"| {' | '.join(map(str, cells))} |"


HEADERS = {
    False: "| sampler | calls | error | default grid | best fixed grid | over default "
    "| over best fixed | the same, root mean square | kept fixed | worse |",
    True: "| sampler | calls | parameters | optimised grid | and coefficients | ratio "
    "| the same, root mean square | constant u_hat missed by, before and after "
    "| linear | kept | worse |",
}


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workdir", help="of a trained run; none: the mixture")
    add("--samplers", nargs="+", default=[*SAMPLERS], choices=[*SAMPLERS])
    add("--calls", type=int, nargs="+", default=(5, 8, 10))
    add("--seeds", type=int, default=3)
    add("--noises", type=int, default=1024, help="of a search")
    add("--unseen", type=int, help="of a measurement; by default twice as many")
    add("--reference_steps", type=int, default=128, help="of the fine solution")
    add("--tries", type=int, default=120, help="grids that a search tries")
    add("--coefficients", action="store_true", help="optimise coefficients, too")
    add("--out", type=pathlib.Path, help="JSON lines of every seed")
    return parser.parse_args()


def main() -> None:
    """Prints a table."""
    options = parse()
    models = [mixture(schedules.FlowMatching()), mixture(schedules.EDM())]
    if options.workdir:
        models = [trained(options.workdir)]
    for model in models:
        bench = Bench(model, options)
        measure_fn = bench.coefficients if options.coefficients else bench.one
        row_fn = coefficients_row if options.coefficients else row
        header = HEADERS[options.coefficients]
        print(f"\n{model.name}, {options.seeds} seeds, {options.noises} noises\n")
        print(header + "\n" + "|---" * (header.count("|") - 1) + "|")
        cases = [(name, calls) for name in options.samplers for calls in options.calls]
        every: dict[tuple[str, int], list] = {case: [] for case in cases}
        for seed in range(options.seeds):
            for name, calls in cases:
                one = measure_fn(SAMPLERS[name], calls, seed)
                every[name, calls].append(one)
                if options.out:
                    line = {"model": model.name, "sampler": name, "calls": calls}
                    with options.out.open("a") as file:
                        file.write(json.dumps(line | one) + "\n")
                if seed == options.seeds - 1:
                    print(row_fn(name, calls, every[name, calls]), flush=True)


if __name__ == "__main__":
    main()
