"""Measures error against NFE for every sampler, and what a sampler's step costs.

    python benchmarks/samplers.py --workdir=runs/digits --torch_python=PATH/TO/python

Three measurements:

- On a mixture in one dimension with its exact denoiser: the Wasserstein-2 distance of
  the samples to the data. Starts are quantiles of the prior, so that a deterministic
  sampler has the error of its discretisation alone; a stochastic one has the sampling
  error of as many independent draws from the data (20 times) as well.
- On a trained run: the root mean square distance, in pixels of [-1, 1], to the limit of
  the same sample. The seeds are paired: the limit of a deterministic sampler is the
  probability-flow ODE from the same start, that of a stochastic one is itself with many
  more steps along the same Brownian path. `restart` has no such path.
- Time of a step over time of its network calls, in rounds that alternate, compared with
  diffusers' schedulers on a network of the same shape where `--torch_python` names an
  interpreter with torch and diffusers; and time of a step whose network is one sine.
"""

import argparse
import functools
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from diffusionflow import (  # noqa: E402
    grids,
    predictions,
    random,
    samplers,
    schedules,
)
from experiments.analysis import sampler_error  # noqa: E402
from experiments.analysis.sampler_error import NUM_STARTS, NUM_STEPS, Point  # noqa: E402
from experiments.checkpointing import restore  # noqa: E402
from experiments.checkpointing.loaded import Request  # noqa: E402
from experiments.config import parsing, registry  # noqa: E402
from experiments.runtime import allocator, sharding  # noqa: E402
from experiments.sampling import conditions  # noqa: E402

SAMPLERS = (
    "ddim",
    "heun('dz_dt')",
    "heun('eps')",
    "rk4('dz_dt')",
    "adams_bashforth(2, 'u')",
    "adams_bashforth(3, 'u')",
    "dpm_solver(2)",
    "dpm_solver(3)",
    "dpm_solver(3, third='reference')",
    "dpm_solver_2s",
    "unipc(2)",
    "unipc(3)",
    "runge_kutta('heun3', 'u')",
    "adams_bashforth(4, 'eps', 'step')",
    "pndm",
    "pndm(4, 'heun')",
    "dpm_solver(2, 'eps', 'taylor')",
    "dpm_solver_2s('eps')",
    "dpm_solver_singlestep(3)",
    "dpm_solver_singlestep(3, 'eps', 'midpoint')",
    "reverse_diffusion(0.0)",
    "ddpm",
    "churn(0.2)",
    "edm(20.0)",
    "sde_dpm_solver(2)",
    "sde_dpm_solver(3)",
    "euler_maruyama",
    "stochastic_heun",
    "edm(20.0, second='midpoint')",
    "ddim_eta(0.5)",
    "ddim_eta(0.5, 'scale')",
    "ancestral_2s",
    "ancestral_2s('eps')",
    "sde_dpm_solver_2s",
    "sde_dpm_solver_singlestep(2)",
    "sde_dpm_solver_singlestep(3, 'eps', 'midpoint', noise='ancestral')",
    "sa_solver",
    "restart",
    "langevin",
    "overshoot",
    "reverse_diffusion",
    "refresh",
)
WITHOUT_PATH = ("restart",)  # draws noise again at levels that it has left
NUM_STEPS_TRAINED = (5, 10, 20, 40)  # each is a compilation of the network
PARTS = ("mixture", "trained", "time")
LIMIT_STEPS = 400


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--samplers", nargs="+", default=SAMPLERS, help="as in a config")
    add("--workdir", help="of a trained run; none: the mixture alone")
    add("--parts", nargs="+", default=PARTS, choices=PARTS)
    add("--num_images", type=int, default=32)
    add("--torch_python", help="interpreter with torch and diffusers")
    add("--rounds", type=int, default=7, help="alternations with the network alone")
    add("--out", type=pathlib.Path, default=pathlib.Path("samplers"), help="of files")
    return parser.parse_args()


def on_mixture(text: str) -> list[Point]:
    """Computes Wasserstein-2 distances at each of `NUM_STEPS`, in float64."""
    return sampler_error.errors_against_nfe(sampler_of(text), sampler_error.mixture())


def sampling_error(repeats: int = 20) -> tuple[float, float]:
    """Computes the least and largest W2 distance of draws from the data to the data."""
    data = sampler_error.mixture()
    exact = sampler_error.quantiles(data, NUM_STARTS)
    distances = []
    for key in jax.random.split(jax.random.key(1), repeats):
        sampled = np.sort(np.asarray(data.sample(key, (NUM_STARTS,))))
        distances.append(float(np.sqrt(np.mean((sampled - exact) ** 2))))
    return min(distances), max(distances)


def sampler_of(text: str) -> Any:
    """Makes a sampler, written as in a config."""
    return parsing.parse("--samplers", text, registry.SAMPLERS)


class Trained:
    """A trained run's denoiser, its starts and labels.

    Args:
      workdir: of the run.
      count: images, a multiple of their classes for as many of each.
    """

    def __init__(self, workdir: str, count: int):
        loaded = restore.load(pathlib.Path(workdir), Request())
        self.model, self.params = loaded.model, loaded.params
        self.schedule = self.model.objective.schedule
        self.labels = conditions.labels_in_turn(count, self.model.num_classes)
        prior, self.keys = random.split(random.example_keys(0, np.arange(count)))
        shape = (count, *self.model.event_shape)
        self.z = samplers.prior(prior, shape, schedule=self.schedule)
        self.options = dict(compiler_options=sharding.compiler_options())

    @functools.cached_property
    def run_fn(self) -> Callable[..., Any]:
        """Compiles `samplers.run` with the run's denoiser."""

        @functools.partial(jax.jit, **self.options)
        def run(params, z, keys, rows, sampler, noise):
            denoise_fn = self.model.denoise_fn(params, jnp.asarray(self.labels), 1)
            return samplers.run(keys, denoise_fn, z, rows, sampler=sampler, noise=noise)

        return run

    def samples(self, sampler: Any, count: int) -> Any:
        """Samples in `count` uniform steps, on one Brownian path."""
        times = grids.uniform(count)
        rows = samplers.plan(sampler, times, schedule=self.schedule)
        path = random.Brownian(times)
        return self.run_fn(self.params, self.z, self.keys, rows, sampler, path)

    @functools.cached_property
    def flow_end(self) -> np.ndarray:
        """Computes the end of the probability-flow ODE."""
        return np.asarray(self.samples(sampler_of("heun('dz_dt')"), LIMIT_STEPS).x)

    def points(self, text: str) -> list[Point]:
        """Computes distances to the limit at each of `NUM_STEPS_TRAINED`."""
        sampler = sampler_of(text)
        limit = self.flow_end
        if not is_deterministic(text):
            limit = np.asarray(self.samples(sampler, LIMIT_STEPS).x)
        errors = []
        for count in NUM_STEPS_TRAINED:
            result = self.samples(sampler, count)
            gap = np.asarray(result.x) - limit
            errors.append(Point(int(result.nfe), float(np.sqrt(np.mean(gap**2)))))
        self.run_fn.clear_cache()  # Linux maps 65,530 pieces of programs at most
        return errors

    def overhead(self, text: str, rounds: int, count: int = 20) -> tuple[float, float]:
        """Measures median seconds of a step, and of its network calls alone."""
        sampler = sampler_of(text)
        rows = samplers.plan(sampler, grids.uniform(count), schedule=self.schedule)
        arguments = self.params, self.z, self.keys, rows, sampler, random.Independent()
        calls = int(self.run_fn(*arguments).nfe)
        label = jnp.asarray(self.labels)

        @functools.partial(jax.jit, **self.options)
        def network(params, z):  # the same calls, and nothing between them
            denoise_fn = self.model.denoise_fn(params, label, 1)
            call = lambda z, t: (denoise_fn(z, t).x, None)
            return jax.lax.scan(call, z, jnp.linspace(0.9, 0.1, calls))[0]

        programs = {
            "step": lambda: self.run_fn(*arguments).x,
            "network": lambda: network(self.params, self.z),
        }
        seconds = {name: [] for name in programs}
        for number in range(rounds + 1):
            for name, program in programs.items():
                start = time.perf_counter()
                jax.block_until_ready(program())
                if number:  # the first compiles
                    seconds[name].append(time.perf_counter() - start)
        self.run_fn.clear_cache()
        return tuple(statistics.median(seconds[name]) / count for name in programs)


def arithmetic(text: str, shape: tuple[int, ...], rounds: int) -> float:
    """Measures median seconds of a step whose network is one sine, noise included."""
    flow, count, sampler = schedules.FlowMatching(), 200, sampler_of(text)
    denoise_fn = predictions.denoiser(lambda z, t: jnp.sin(z), kind="u", schedule=flow)
    rows = samplers.plan(sampler, grids.uniform(count), schedule=flow)
    keys = random.example_keys(0, np.arange(shape[0]))

    @functools.partial(jax.jit, compiler_options=sharding.compiler_options())
    def run(z, rows):
        return samplers.run(keys, denoise_fn, z, rows, sampler=sampler).x

    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(run(jnp.ones(shape), rows))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]) / count


@functools.cache
def is_deterministic(text: str) -> bool:
    """Returns whether no noise enters a sample."""
    coefficients = samplers.coefficients(
        sampler_of(text), grids.uniform(4), schedule=schedules.FlowMatching(), kind="v"
    )
    return not np.any(coefficients.c)


def has_path(text: str) -> bool:
    """Returns whether one Brownian path has the noise of every number of steps."""
    return text.partition("(")[0] not in WITHOUT_PATH


def draw(results: Mapping[str, Mapping[str, list[Point]]], path: pathlib.Path) -> None:
    """Draws a column per problem, deterministic samplers over stochastic ones."""
    figure = Figure(figsize=(6.4 * len(results), 13.0), layout="constrained")
    names = list(dict.fromkeys(text for lines in results.values() for text in lines))
    rows = figure.subfigures(2, 1)
    for part, wanted in zip(rows, ("deterministic", "stochastic"), strict=True):
        panels = part.subplots(1, len(results), squeeze=False, sharey="col")[0]
        shown = [t for t in names if is_deterministic(t) == (wanted == "deterministic")]
        for axes, (problem, lines) in zip(panels, results.items(), strict=True):
            for number, text in enumerate(shown):
                if text not in lines:
                    continue
                nfe, error = zip(*lines[text], strict=True)
                style = STYLES[number // len(COLORS)]
                color = COLORS[number % len(COLORS)]
                axes.loglog(
                    nfe, error, style, color=color, markersize=3, lw=1, label=text
                )
            axes.set(title=f"{problem}: {wanted}", xlabel="NFE", ylabel="error")
            low, high = axes.get_xlim()
            ticks = [each for each in NFE_TICKS if low <= each <= high]
            axes.set_xticks(ticks, [str(each) for each in ticks])
            axes.set_xticks([], minor=True)
            axes.grid(alpha=0.3)
        named = panels[0].get_legend_handles_labels()
        part.legend(*named, loc="outside lower center", fontsize=7, ncols=4)
    figure.savefig(path, dpi=100)


NFE_TICKS = (5, 10, 20, 40, 80, 160, 320)
COLORS = colormaps["tab10"].colors
STYLES = ("-o", "--s", ":^")


def table(
    names: Sequence[str], points_fn: Callable[[str], list[Point]], steps: Sequence[int]
) -> dict[str, list[Point]]:
    """Prints errors by number of steps as they come, with the NFE in brackets."""
    print(f"  {'steps':68s}" + "".join(f"{number:>16d}" for number in steps))
    lines = {}
    for text in names:
        lines[text] = points_fn(text)
        cells = (f"{error:.2e} ({nfe})" for nfe, error in lines[text])
        print(f"  {text:68s}" + "".join(f"{cell:>16s}" for cell in cells), flush=True)
    return lines


def rival(python: str, trained: Trained, rounds: int) -> None:
    """Prints what diffusers' schedulers cost a step, in a process of their own."""
    net = trained.model.net
    case = dict(
        shape=list(trained.model.event_shape),
        batch_size=len(trained.labels),
        network=dict(
            channels=net.channels,
            multipliers=list(net.multipliers),
            num_blocks=net.num_blocks,
            attention_resolutions=list(net.attention_resolutions),
            num_heads=net.num_heads,
            dropout=0.0,
        ),
    )
    script = str(ROOT / "benchmarks" / "rival_samplers.py")
    command = [python, script, f"--case={json.dumps(case)}", f"--rounds={rounds}"]
    subprocess.run(command, check=True)


def main() -> None:
    args = parse()
    allocator.keep_freed_memory(steps=False)  # as the command does
    results = {}
    if "mixture" in args.parts:
        low, high = sampling_error()
        print(f"mixture, W2 to the data; draws from it: {low:.2e} to {high:.2e}")
        name = "mixture, Wasserstein-2"
        results[name] = table(args.samplers, on_mixture, NUM_STEPS)
    trained = Trained(args.workdir, args.num_images) if args.workdir else None
    if trained and "trained" in args.parts:
        print(f"{args.workdir}, {args.num_images} images, rms to the limit")
        name = "trained run, rms to the limit"
        names = [text for text in args.samplers if has_path(text)]
        if left := set(args.samplers) - set(names):
            print(f"  left out, no Brownian path fits: {', '.join(sorted(left))}")
        results[name] = table(names, trained.points, NUM_STEPS_TRAINED)
    if trained and "time" in args.parts:
        print("a step, ms; over its network calls alone; with a sine for network, ms")
        for text in args.samplers:
            step, network = trained.overhead(text, args.rounds)
            bare = arithmetic(text, trained.z.shape, 3 * args.rounds)
            columns = f"{1e3 * step:8.2f}{step / network:8.3f}{1e3 * bare:8.3f}"
            print(f"  {text:34s}{columns}", flush=True)
        if args.torch_python:
            rival(args.torch_python, trained, args.rounds)
    if results:
        draw(results, args.out.with_suffix(".png"))
        args.out.with_suffix(".json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
