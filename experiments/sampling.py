"""Drawing samples: the one path of the trainer and of the command line.

Sample i of seed s has keys of its own, so it is the same image whatever the batch size.
On a CPU that holds bit for bit, because the program always draws `CPU_WIDTH` samples at
once (measured to be as fast as more); elsewhere a batch size of one's own changes
roundings of floats, of the order of 1e-6.
"""

import functools
import pathlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import random, samplers
from experiments import build, checkpoints, devices, identity, model, pictures, step
from experiments.errors import UsageError, check_bound
from experiments.model import Model

CPU_WIDTH = 16
LARGEST_GRID = 200  # images in a picture; the .npz has them all

DrawFn = Callable[[Any, int, np.ndarray], np.ndarray]


def make_draw_fn(
    model: Model, section: Mapping[str, Any], *, guidance: float, batch_size: int
) -> DrawFn:
    """A compiled sampler.

    Args:
      model: of the run.
      section: `name`, `num_steps` and `grid` of the sampler.
      guidance: scale of classifier-free guidance; 1 conditional, 0 unconditional.
      batch_size: samples drawn at once, where the backend is not a CPU.

    Returns:
      `draw_fn(params, seed, labels) -> x`: floats [n, *event] for labels [n].

    Raises:
      UsageError: if sampler or grid are unknown.
    """
    schedule = model.objective.schedule
    sampler = build.sampler(section)
    times = build.grid(section, schedule)
    build.check_start(model.objective, times)
    width = CPU_WIDTH if jax.default_backend() == "cpu" else batch_size

    @functools.partial(jax.jit, compiler_options=devices.compiler_options())
    def program(params: Any, keys: jax.Array, labels: jax.Array, scale: Any) -> Any:
        scale = guidance if guidance in (0, 1) else scale
        denoise_fn = model.denoise_fn(params, labels, scale)
        prior_keys, noise_keys = random.split(keys)
        shape = (*labels.shape, *model.event_shape)
        z = samplers.prior(prior_keys, shape, schedule=schedule, t=times[0])
        return samplers.sample(
            noise_keys, denoise_fn, z, times, sampler=sampler, schedule=schedule
        ).x

    def draw_fn(params: Any, seed: int, labels: np.ndarray) -> np.ndarray:
        parts, stream = [], step.stream(seed, step.SAMPLE)
        for start in range(0, len(labels), width):
            number = np.arange(start, start + width)
            label = labels[np.minimum(number, len(labels) - 1)].astype(np.int32)
            keys = random.example_keys(stream, jnp.asarray(number, jnp.uint32))
            parts.append(np.asarray(program(params, keys, label, guidance)))
        return np.concatenate(parts)[: len(labels)]

    return draw_fn


def labels_in_turn(count: int, num_classes: int) -> np.ndarray:
    """The classes 0, 1, ... in turn, int32 [count]."""
    return np.arange(count, dtype=np.int32) % num_classes


def by_class(per_class: int, num_classes: int) -> np.ndarray:
    """`per_class` labels of each class, class after class: one class a row."""
    return np.repeat(np.arange(num_classes, dtype=np.int32), per_class)


class Request(NamedTuple):
    """What to draw from a run; None means what the run's config says.

    Fields:
      num_samples: how many.
      label: of all samples, or None for all classes in turn.
      seed: of the samples.
      batch_size: see `make_draw_fn`.
      guidance: scale, or None.
      weights: "ema" or "raw".
      step: of the checkpoint, or None for the newest.
      out: path of the files without suffix, or None for one in the workdir.
      sampler: entries of the section `sampler` that differ from the config.
    """

    num_samples: int = 100
    label: int | None = None
    seed: int = 0
    batch_size: int = 128
    guidance: float | None = None
    weights: str = "ema"
    step: int | None = None
    out: str | None = None
    sampler: Mapping[str, Any] = {}


def sample_run(workdir: str | pathlib.Path, request: Request) -> pathlib.Path:
    """Draws from a run's checkpoint and writes a picture and an `.npz`.

    The `.npz` holds `samples` (stored values: uint8 of `levels` levels [n, height,
    width, channels], or floats [n, features]), `labels` [n], and how they were drawn.

    Args:
      workdir: of the run.
      request: what to draw.

    Returns:
      The path of the `.npz`.

    Raises:
      UsageError: if there is no such checkpoint, or a setting does not fit it.
    """
    workdir = pathlib.Path(workdir)
    request, config, built, params = _load(workdir, request)
    labels = (
        labels_in_turn(request.num_samples, built.num_classes)
        if request.label is None
        else np.full(request.num_samples, request.label, np.int32)
    )
    draw_fn = make_draw_fn(
        built,
        request.sampler,
        guidance=request.guidance,
        batch_size=request.batch_size,
    )
    start = time.perf_counter()
    with jax.default_matmul_precision(config["matmul_precision"]):
        x = draw_fn(params, request.seed, labels)
    seconds = time.perf_counter() - start
    path = output_path(workdir, request)
    _write(path, x, labels, built, request)
    clamped = built.transform.clamped_fraction(x)
    print(
        f"drew {len(x):,} samples in {seconds:.1f} s, compilation included; "
        f"{clamped:.2%} of their values lay outside [-1, 1] and were clamped\n"
        f"{_summary(request)}\n{path}.npz and {path}.png"
    )
    return path.with_name(path.name + ".npz")


def _load(
    workdir: pathlib.Path, request: Request
) -> tuple[Request, Mapping[str, Any], Model, Any]:
    """The request completed by the run's config; config, model and weights."""
    with checkpoints.Checkpoints(workdir, read_only=True) as saved:
        number = _existing_step(saved, request.step)
        found = saved.identity(number)
        identity.check_format(found)
        config, built = found["config"], model.from_identity(found)
        rebuilt = checkpoints.plain_json(identity.make(config, built))
        identity.check_same(found, rebuilt, number)
        target = devices.abstract(jax.eval_shape(built.init, jax.random.key(0)))
        item = {"ema": "ema", "raw": "params"}[request.weights]
        params = saved.restore(number, {item: target})[item]
    if request.label is not None:
        inside = 0 <= request.label < built.num_classes
        bound = f"in 0..{built.num_classes - 1}, the classes of the data"
        check_bound("label", request.label, inside, bound)
    guidance = config["guidance"] if request.guidance is None else request.guidance
    completed = request._replace(
        step=number, guidance=guidance, sampler=config["sampler"] | request.sampler
    )
    return completed, config, built, params


def _existing_step(saved: checkpoints.Checkpoints, step: int | None) -> int:
    steps = saved.steps()
    if not steps:
        raise UsageError(
            f"{saved.directory} holds no complete checkpoint yet; wait for the first"
        )
    if step is not None and step not in steps:
        raise UsageError(f"step={step}: {saved.directory} holds the steps {steps}")
    return steps[-1] if step is None else step


def _summary(request: Request) -> str:
    """How the samples were drawn, on one line."""
    sampler = request.sampler
    return (
        f"{request.weights} weights of step {request.step:,}, {sampler['name']}, "
        f"{sampler['num_steps']} steps, grid {sampler['grid']}, guidance "
        f"{request.guidance:g}, seed {request.seed}"
    )


def output_path(workdir: pathlib.Path, request: Request) -> pathlib.Path:
    """Where the files of a complete request go, without suffix."""
    if request.out is not None:
        path = pathlib.Path(request.out)
        return path.with_suffix("") if path.suffix in (".npz", ".png") else path
    sampler = request.sampler
    name = (
        f"drawn_step{request.step:07d}_{request.weights}_{sampler['name']}"
        f"_{sampler['num_steps']}_{sampler['grid']}_guidance{request.guidance:g}"
        f"_label{'s' if request.label is None else request.label}"
        f"_seed{request.seed}_{request.num_samples}"
    )
    return workdir / "samples" / re.sub(r"[^\w.=]+", "-", name)


def _write(
    path: pathlib.Path,
    x: np.ndarray,
    labels: np.ndarray,
    built: Model,
    request: Request,
) -> None:
    """Writes `path.npz` and `path.png`."""
    stored = built.transform.to_stored(x)
    levels = built.transform.levels
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path.with_name(path.name + ".npz"),
        samples=stored,
        labels=labels,
        recipe=_summary(request),
        **({} if levels is None else {"levels": levels}),
    )
    shown = len(stored) if stored.ndim == 2 else LARGEST_GRID
    pictures.write_samples(
        path.with_name(path.name + ".png"),
        stored[:shown],
        labels[:shown],
        transform=built.transform,
        columns=10 if request.label is not None else built.num_classes,
    )
