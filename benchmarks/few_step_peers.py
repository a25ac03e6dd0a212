"""Couplings and samplers of few steps, here and in other libraries, at exact laws.

    pip install torch torchcfm POT diffusers 'ott-jax[neural]'
    python -m benchmarks.few_step_peers

What is not installed is left out, by name. No network is trained: samplers are given
the exact map of the data, in the form that each asks for, so that all of an error is
the sampler's. The data are N(0, 1/4) and a mixture of three normal laws.

The noises are zero-mean, of unit variance and orthogonal over the draws, so that on
N(0, 1/4), where every sampler here is linear, the standard deviation of the samples is
exact to the rounding of each library. The first has the quantiles of a normal law.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import special
from scipy.optimize import linear_sum_assignment

from diffusionflow import couplings, distillation, grids, samplers, schedules

PACKAGES = {  # and what is used of each
    "torchcfm": "torchcfm.optimal_transport",
    "POT": "ot",
    "ott-jax": "ott.neural.data.ot_dataloader",
    "diffusers": "diffusers",
}
CALLS = (1, 2, 4)
WIDER = 1.1  # factor on what the first call gives, where a map is wrong


# --- couplings ----------------------------------------------------------------

Pair = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def our_pairs(coupling: Any) -> Pair:
    """A coupling of this library, jitted."""
    pair = jax.jit(coupling)

    def run(x: np.ndarray, eps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number = np.random.randint(2**31)
        pairs = pair(jax.random.key(number), x, eps)
        return np.asarray(pairs.x), np.asarray(pairs.eps)

    return run


def torchcfm_pairs(method: str, replace: bool) -> Pair:
    """torchcfm's sampler of a plan."""
    torch = importlib.import_module("torch")
    module = importlib.import_module("torchcfm.optimal_transport")
    plan = module.OTPlanSampler(method)

    def run(x: np.ndarray, eps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        given = torch.tensor(eps), torch.tensor(x)
        with warnings.catch_warnings(action="ignore"):
            drawn = plan.sample_plan(*given, replace=replace)
        return drawn[1].numpy(), drawn[0].numpy()

    return run


def pot_pairs(x: np.ndarray, eps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """POT's exact plan; of as many points it is a permutation."""
    ot = importlib.import_module("ot")
    plan = ot.emd([], [], ot.dist(x, eps))
    return x, eps[plan.argmax(1)]


def ott_pairs(relative: str | None) -> Pair:
    """OTT's loader: a Sinkhorn plan, pairs of which are drawn with replacement."""
    module = importlib.import_module("ott.neural.data.ot_dataloader")
    loader = module.LinearOTDataloader(
        jax.random.key(0),
        [],
        epsilon=0.05 if relative else None,
        relative_epsilon=relative,
    )

    def run(x: np.ndarray, eps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        loader.dataset = [(eps, x)]
        loader.rng = jax.random.key(np.random.randint(2**31))
        eps, x = next(iter(loader))
        return np.asarray(x), np.asarray(eps)

    return run


def pairings(group: int) -> Iterator[tuple[str, str, Callable[[], Pair]]]:
    """(name, package that it needs, function that makes it)."""
    ours = {
        "Assignment": couplings.Assignment(group=group),
        "Sinkhorn": couplings.Sinkhorn(group=group),
    }
    for name, coupling in ours.items():
        yield f"ours: `{name}`", "", lambda coupling=coupling: our_pairs(coupling)
    for method, replace in (("exact", True), ("exact", False), ("sinkhorn", True)):
        name = f'torchcfm `OTPlanSampler("{method}")`'
        name += "" if replace else ", `replace=False`"
        make = lambda method=method, replace=replace: torchcfm_pairs(method, replace)
        yield name, "torchcfm", make
    yield "POT `emd`", "POT", lambda: pot_pairs
    for relative in (None, "mean"):
        name = "OTT `LinearOTDataloader`"
        name += ", `epsilon=0.05, relative_epsilon='mean'`" if relative else ""
        yield name, "ott-jax", lambda relative=relative: ott_pairs(relative)


def coupling_row(pair: Pair, group: int, batches: int) -> list[str]:
    """Noise that is used, how far its mean moves, and costs over the least."""
    used, cost, least, moved = [], {}, {}, []
    for features in (2, 64):
        cost[features], least[features] = [], []
        for _ in range(batches):
            x, eps = np.random.standard_normal((2, group, features)).astype("f4")
            best = ((x[:, None] - eps) ** 2).sum(-1)
            least[features].append(best[linear_sum_assignment(best)].mean())
            paired = pair(x, eps)
            cost[features].append(((paired[0] - paired[1]) ** 2).sum(-1).mean())
            used.append(len(np.unique(paired[1], axis=0)) / group)
            moved.append(abs(paired[1].mean() - eps.mean()) * np.sqrt(eps.size))
    ratio = [np.mean(cost[key]) / np.mean(least[key]) for key in cost]
    shown = [f"{np.mean(used):.1%}", f"{np.mean(moved):.2f}"]
    return [*shown, *(f"{each:.3f}" for each in ratio)]


def noise_of_a_class(pair_fn: Any, batches: int, group: int) -> float:
    """E[eps | y = 1] of data x = y = -1 or 1: 0 where the law given y is normal."""
    means = []
    for number in range(batches):
        y = np.random.randint(2, size=group)
        x = (2.0 * y - 1)[:, None].astype("f4")
        eps = np.random.standard_normal((group, 1)).astype("f4")
        eps, y = pair_fn(jax.random.key(number), x, eps, y)
        means.append(np.asarray(eps)[np.asarray(y) == 1].mean())
    return float(np.mean(means))


def torchcfm_with_labels(key: Any, x: Any, eps: Any, y: Any) -> tuple[Any, Any]:
    """torchcfm's pairs of labelled data: the labels go with x."""
    del key
    torch = importlib.import_module("torch")
    module = importlib.import_module("torchcfm.optimal_transport")
    given = (torch.tensor(each) for each in (eps, x))
    eps, _, _, y = module.OTPlanSampler("exact").sample_plan_with_labels(
        *given, y1=torch.tensor(y)
    )
    return eps, y


def classes(group: int) -> Iterator[tuple[str, str, Any]]:
    """(name, package that it needs, `(key, x, eps, y) -> (eps, y)`)."""
    pair = jax.jit(couplings.Assignment(group=group))
    yield "ours: `Assignment`, labels given", "", lambda *a: (pair(*a).eps, a[-1])
    yield "ours: `Assignment`, without", "", lambda *a: (pair(*a[:-1]).eps, a[-1])
    yield "torchcfm `sample_plan_with_labels`", "torchcfm", torchcfm_with_labels


# --- laws ---------------------------------------------------------------------

Level = tuple[float, float]  # alpha, sigma


class Law(NamedTuple):
    """A mixture of normal laws in one dimension: its marginals and exact flow map."""

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    def _spread(self, z: np.ndarray, level: Level) -> np.ndarray:
        alpha, sigma = level
        std = np.sqrt(alpha**2 * self.variances + sigma**2)
        return (np.asarray(z)[..., None] - alpha * self.means) / std

    def quantile(self, normal: np.ndarray, level: Level) -> np.ndarray:
        """z at the probabilities of a standard normal law."""
        alpha, sigma = level
        std = np.sqrt(alpha**2 * self.variances + sigma**2)
        ends = [alpha * self.means - 9 * std, alpha * self.means + 9 * std]
        grid = np.linspace(np.min(ends), np.max(ends), 200_001)
        below = special.ndtr(self._spread(grid, level)) @ self.weights
        rising = np.flatnonzero(np.diff(below, prepend=-1) > 1e-14)
        return np.interp(special.ndtr(normal), below[rising], grid[rising])

    def flow_map(self, z: np.ndarray, start: Level, end: Level) -> np.ndarray:
        """The exact flow from one level to another: quantiles go to quantiles."""
        z = np.asarray(z, np.float64)
        normal = self._spread(z, start)
        if len(self.weights) == 1:
            alpha, sigma = end
            std = np.sqrt(alpha**2 * self.variances + sigma**2)
            return alpha * self.means[0] + std[0] * normal[..., 0]
        below = special.ndtr(normal) @ self.weights
        return self.quantile(special.ndtri(below), end)


GAUSSIAN = Law(np.ones(1), np.zeros(1), np.full(1, 0.25))
MIXTURE = Law(
    np.array([0.3, 0.5, 0.2]),
    np.array([-2.0, 0.5, 3.0]),
    np.array([0.04, 0.25, 0.01]),
)
DATA = (1.0, 0.0)


class Noises:
    """Draws of noise, orthogonal to one another, and a map that may be too wide."""

    def __init__(self, law: Law, columns: np.ndarray, factor: float = 1.0):
        self.law, self.columns, self.factor, self.count = law, columns, factor, 0

    def draw(self) -> np.ndarray:
        """The next noise."""
        self.count += 1
        return self.columns[:, self.count - 1]

    def flow_map(self, z: Any, start: Level, end: Level) -> np.ndarray:
        """The exact map; the first call is wrong by the factor."""
        found = self.law.flow_map(np.asarray(z), start, end)
        factor, self.factor = self.factor, 1.0
        return factor * found


def orthogonal(count: int) -> np.ndarray:
    """Noises of as many draws, `[count, 6]`; the first has the quantiles."""
    drawn = np.random.standard_normal((count, 6))
    drawn[:, 0] = special.ndtri((np.random.permutation(count) + 0.5) / count)
    drawn -= drawn.mean(0)
    basis, rise = np.linalg.qr(drawn)
    return basis * np.sign(np.diag(rise)) * np.sqrt(count)


# --- samplers -----------------------------------------------------------------

Sample = Callable[[Noises, int], Any]


def our_sampler(schedule: schedules.Schedule, gamma: float) -> Sample:
    """`samplers.FlowMap` on a uniform grid."""

    def run(noises: Noises, calls: int) -> Any:
        level = lambda t: (float(schedule.alpha(t)), float(schedule.sigma(t)))
        settings: Any = dict(kind="u", schedule=schedule)

        def net(z: Any, t: Any, s: Any) -> Any:
            z_s = noises.flow_map(z, level(t), level(s))
            return distillation.inverse_jump(z_s, z=z, t=t, s=s, **settings)

        sampler = samplers.FlowMap(gamma)
        rows = samplers.plan(sampler, grids.uniform(calls), schedule=schedule)
        denoise_fn = distillation.flow_map(net, **settings)
        z = noises.draw()
        for i in range(calls):
            row = {name: values[i] for name, values in rows.items()}
            draws = noises.draw()[None] if i + 1 < calls else 0 * z[None]
            z = sampler.step(z, row, draws, denoise_fn)
        return z

    return run


@contextlib.contextmanager
def given_noise(name: str, noises: Noises) -> Iterator[Any]:
    """A module of diffusers' schedulers that takes its noise from `noises`."""
    torch = importlib.import_module("torch")
    module = importlib.import_module(f"diffusers.schedulers.scheduling_{name}")
    own = module.randn_tensor

    def draw(shape: Any, **settings: Any) -> Any:
        del shape, settings
        found = noises.draw() if noises.count < 6 else 0 * noises.columns[:, 0]
        return torch.tensor(found)

    module.randn_tensor = draw
    try:
        yield module
    finally:
        module.randn_tensor = own


def lcm(noises: Noises, calls: int) -> Any:
    """LCM: the consistency function, and noise again."""
    with given_noise("lcm", noises) as module:
        own = module.LCMScheduler(prediction_type="sample", clip_sample=False)
        own.set_timesteps(calls)
        z = _tensor(noises.draw())
        for t in own.timesteps:
            start = _variance_preserving(own, t)
            x = _tensor(noises.flow_map(z, start, DATA))
            skip, out = own.get_scalings_for_boundary_condition_discrete(t)
            z = own.step((x - skip * z) / out, t, z).prev_sample
    return z


def tcd(noises: Noises, calls: int) -> Any:
    """TCD: a jump to an earlier time than the next, and noise; eta of its default."""
    with given_noise("tcd", noises) as module:
        own = module.TCDScheduler(prediction_type="sample", clip_sample=False)
        own.set_timesteps(calls)
        z = _tensor(noises.draw())
        later = [*own.timesteps[1:].tolist(), 0]
        for t, following in zip(own.timesteps, later, strict=True):
            alpha, sigma = _variance_preserving(own, t)
            alpha_s, sigma_s = _variance_preserving(own, int(0.7 * following))
            z_s = noises.flow_map(z, (alpha, sigma), (alpha_s, sigma_s))
            ratio = sigma_s / sigma
            x = (_tensor(z_s) - ratio * z) / (alpha_s - ratio * alpha)
            z = own.step(x, t, z).prev_sample
    return z


def consistency(clip: bool) -> Sample:
    """The sampler of consistency models, sigma from 80 to 0.002."""

    def run(noises: Noises, calls: int) -> Any:
        with given_noise("consistency_models", noises) as module:
            own = module.CMStochasticIterativeScheduler(clip_denoised=clip)
            own.set_timesteps(calls)
            z = own.init_noise_sigma * _tensor(noises.draw())
            for i, t in enumerate(own.timesteps):
                own.scale_model_input(z, t)
                sigma = own.sigmas[i].double()
                least = own.config.sigma_min
                x = _tensor(noises.flow_map(z, (1.0, float(sigma)), (1.0, least)))
                skip, out = own.get_scalings_for_boundary_condition(sigma)
                z = own.step((x - skip * z) / out, t, z).prev_sample
        return z

    return run


def flow_match_lcm(noises: Noises, calls: int) -> Any:
    """Consistency sampling on flow matching, at the times of its default."""
    with given_noise("flow_match_lcm", noises) as module:
        own = module.FlowMatchLCMScheduler()
        own.set_timesteps(calls)
        z = _tensor(noises.draw())
        for i, t in enumerate(own.timesteps):
            sigma = float(own.sigmas[i])
            x = _tensor(noises.flow_map(z, (1 - sigma, sigma), DATA))
            z = own.step((z - x) / sigma, t, z).prev_sample
    return z


def scm(noises: Noises, calls: int) -> Any:
    """TrigFlow's consistency sampling, at the times of its default."""
    with given_noise("scm", noises) as module:
        own = module.SCMScheduler()
        middle = 1.3 if calls == 2 else None
        own.set_timesteps(calls, intermediate_timesteps=middle)
        z = own.config.sigma_data * _tensor(noises.draw())
        for t in own.timesteps[:-1].double():
            level = float(t.cos()), float(t.sin()) * own.config.sigma_data
            x = _tensor(noises.flow_map(z, level, DATA))
            z = own.step((t.cos() * z - x) / t.sin(), t.float(), z).prev_sample
    return z


def flow_map_euler(noises: Noises, calls: int) -> Any:
    """Jumps of an average velocity."""
    name = "diffusers.schedulers.scheduling_flow_map_euler_discrete"
    own = importlib.import_module(name).FlowMapEulerDiscreteScheduler()
    own.set_timesteps(calls)
    z = _tensor(noises.draw())
    for i, time in enumerate(own.timesteps):
        t, s = float(own.sigmas[i]), float(own.sigmas[i + 1])
        z_s = _tensor(noises.flow_map(z, (1 - t, t), (1 - s, s)))
        z = own.step((z - z_s) / (t - s), time, z).prev_sample
    return z


def _tensor(values: np.ndarray) -> Any:
    return importlib.import_module("torch").tensor(np.asarray(values, np.float64))


def _variance_preserving(own: Any, t: Any) -> Level:
    squared = float(own.alphas_cumprod[t])
    return np.sqrt(squared), np.sqrt(1 - squared)


SAMPLERS: dict[str, tuple[str, Sample]] = {
    "ours: `FlowMap(gamma=0)`, flow matching": (
        "",
        our_sampler(schedules.FlowMatching(), 0.0),
    ),
    "ours: `FlowMap(gamma=1)`, flow matching": (
        "",
        our_sampler(schedules.FlowMatching(), 1.0),
    ),
    "ours: `FlowMap(gamma=1)`, cosine": ("", our_sampler(schedules.Cosine(), 1.0)),
    "`FlowMapEulerDiscreteScheduler`": ("diffusers", flow_map_euler),
    "`FlowMatchLCMScheduler`": ("diffusers", flow_match_lcm),
    "`LCMScheduler`": ("diffusers", lcm),
    "`TCDScheduler`, `eta=0.3`": ("diffusers", tcd),
    "`SCMScheduler`": ("diffusers", scm),
    "`CMStochasticIterativeScheduler`, `clip_denoised=False`": (
        "diffusers",
        consistency(False),
    ),
    "the same, `clip_denoised=True`, its default": ("diffusers", consistency(True)),
}


def sampler_row(sample: Sample, columns: np.ndarray) -> list[str]:
    """Errors of the law after each number of calls."""
    with jax.enable_x64(True):
        draw = lambda law, calls, factor=1.0: np.asarray(
            sample(Noises(law, columns, factor), calls), np.float64
        )
        std = [draw(GAUSSIAN, n).std() / 0.5 - 1 for n in CALLS]
        wide = [draw(GAUSSIAN, n, WIDER).std() / 0.5 - 1 for n in CALLS]
        drawn = [draw(MIXTURE, n) for n in CALLS]
    distance = [to_mixture(each) for each in drawn]
    return [
        *(f"{each:+.3%}" for each in std),
        *(f"{each:+.2%}" for each in wide[1:]),
        *(f"{each:.3f}" for each in distance),
    ]


def to_mixture(x: np.ndarray) -> float:
    """Wasserstein-2 distance of samples to the mixture."""
    normal = special.ndtri((np.arange(len(x)) + 0.5) / len(x))
    exact = MIXTURE.quantile(normal, DATA)
    return float(np.sqrt(np.mean((np.sort(x) - exact) ** 2)))


def one_time_for_all() -> str:
    """What FlowMapEuler makes of a time per example."""
    torch = importlib.import_module("torch")
    name = "diffusers.schedulers.scheduling_flow_map_euler_discrete"
    own = importlib.import_module(name).FlowMapEulerDiscreteScheduler()
    t, s = torch.tensor([1000.0, 250.0]), torch.tensor([500.0, 0.0])
    moved = own.step(torch.ones(2), t, torch.ones(2), s).prev_sample
    return (
        f"FlowMapEuler with times (1, 0.25) to (0.5, 0), z = 1 and u = 1: "
        f"{moved.tolist()}; exact [0.5, 0.75]"
    )


# --- output -------------------------------------------------------------------


def installed() -> set[str]:
    """The packages that can be used; says which ones, and which not."""
    found, versions, missing = {""}, [f"jax {jax.__version__}"], []
    for name, module in PACKAGES.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            missing.append(f"left out: {name}: {error}")
            continue
        found.add(name)
        versions.append(f"{name} {importlib.metadata.version(name)}")
    print(", ".join(versions), *missing, sep="\n", end="\n\n", flush=True)
    return found


def table(head: list[str], rows: Iterator[list[str]]) -> None:
    """Prints Markdown, a row as it comes."""
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--draws", type=int, default=50_000)
    args = parser.parse_args()
    there = installed()
    np.random.seed(0)
    head = ["pairs", "noise used", "mean moved", "cost, d = 2", "cost, d = 64"]
    table(
        head,
        (
            [name, *coupling_row(make(), args.group, args.batches)]
            for name, package, make in pairings(args.group)
            if package in there
        ),
    )
    table(
        ["labelled pairs, x = y", "E[eps given y = 1]"],
        (
            [name, f"{noise_of_a_class(pair_fn, args.batches, args.group):.3f}"]
            for name, package, pair_fn in classes(args.group)
            if package in there
        ),
    )
    columns = orthogonal(args.draws)
    head = ["sampler", *(f"std, {n}" for n in CALLS)]
    head += [*(f"wide, {n}" for n in CALLS[1:]), *(f"W2, {n}" for n in CALLS)]
    table(
        head,
        (
            [name, *sampler_row(sample, columns)]
            for name, (package, sample) in SAMPLERS.items()
            if package in there
        ),
    )
    exact = MIXTURE.quantile(np.random.standard_normal(args.draws), DATA)
    print(f"W2 of as many draws of the mixture: {to_mixture(exact):.3f}")
    if "diffusers" in there:
        print(one_time_for_all())


if __name__ == "__main__":
    main()
