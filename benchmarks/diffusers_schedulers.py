"""Compares `interop.DiffusersScheduler` with diffusers, scheduler by scheduler.

    python -m benchmarks.diffusers_schedulers --torch_python=PATH/TO/python

Every class on every spacing and grid of levels it has, every prediction type, clipping
and thresholds, at several numbers of steps; the interpreter needs torch and diffusers.
Compared are the timesteps, and the samples from the same noise and the same noise in
the steps, in float32. Prints a table of classes with the largest deviations,
and each configuration that one of the two refuses.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import interop, random
from diffusionflow.interop.diffusers.options import CLASSES

SPACINGS = ("leading", "trailing", "linspace")
GRIDS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
STABLE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def variants(name):
    """Settings of a class, one change at a time."""
    known = CLASSES[name]
    yield {}
    for spacing in SPACINGS if "timestep_spacing" in known else ():
        for offset in (0, 1) if spacing == "leading" else (0,):
            yield dict(STABLE, timestep_spacing=spacing, steps_offset=offset)
    for grid in GRIDS:
        if grid in known:
            yield {grid: True}
    changes = [
        ("prediction_type", "v_prediction"),
        ("prediction_type", "sample"),
        ("clip_sample", True),
        ("clip_sample", False),
        ("thresholding", True),
        ("rescale_betas_zero_snr", True),
        ("final_sigmas_type", "sigma_min"),
        ("interpolation_type", "log_linear"),
        ("set_alpha_to_one", False),
        ("solver_order", 1),
        ("solver_order", 3),
        ("solver_type", "heun"),
        ("solver_type", "bh1"),
        ("algorithm_type", "sde-dpmsolver++"),
        ("predict_x0", False),
        ("lower_order_final", False),
        ("euler_at_final", True),
        ("use_lu_lambdas", True),
        ("lambda_min_clipped", -5.1),
        ("variance_type", "fixed_large"),
        ("sigma_schedule", "exponential"),
        ("shift", 3.0),
        ("shift_terminal", 0.1),
        ("stochastic_sampling", True),
        ("beta_schedule", "squaredcos_cap_v2"),
    ]
    for entry, value in changes:
        if entry in known:
            more = {"prediction_type": "v_prediction"} if "snr" in entry else {}
            if entry == "thresholding":
                more = {"sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.8}
                more |= {"clip_sample": False} if "clip_sample" in known else {}
            yield {entry: value, **more}
    if "use_flow_sigmas" in known:
        flow = dict(use_flow_sigmas=True, prediction_type="flow_prediction")
        yield dict(flow, flow_shift=3.0)
        if "use_dynamic_shifting" in known:
            yield dict(flow, use_dynamic_shifting=True, set_timesteps={"mu": 0.9})
    elif "use_dynamic_shifting" in known:
        for kind in ("exponential", "linear"):
            yield dict(
                use_dynamic_shifting=True,
                time_shift_type=kind,
                set_timesteps={"mu": 0.9},
            )
    if name in ("DDIMScheduler", "TCDScheduler"):
        yield dict(step={"eta": 0.7})
    if name == "PNDMScheduler":
        yield dict(skip_prk_steps=True)
        yield dict(STABLE, skip_prk_steps=True, steps_offset=1)
    if name == "SASolverScheduler":
        yield dict(algorithm_type="noise_prediction")
        yield dict(predictor_order=3, corrector_order=4)
        yield dict(predictor_order=1, corrector_order=1)


def cases(classes, counts):
    """Every variant of every class whose steps are shipped, at several step counts."""
    return [
        {"class": name, **variant, "num_steps": count}
        for name in classes
        for variant in variants(name)
        for count in counts
    ]


def ours(case, noise, draws):
    """`(timesteps, sample)`; channels are last inside."""
    settings = dict(case)
    name, count = settings.pop("class"), settings.pop("num_steps")
    mu = settings.pop("set_timesteps", {}).get("mu")
    eta = settings.pop("step", {}).get("eta")
    config = {**settings, "_class_name": name}
    scheduler = interop.DiffusersScheduler(config, mu=mu, eta=eta)
    steps = scheduler.steps(count)
    schedule = scheduler.convention.schedule
    alpha = float(np.asarray(schedule.alpha(steps.s[-1])))
    last = lambda a: jnp.asarray(np.moveaxis(a, 1, -1))
    used = draws[: len(steps.t), None]
    source = random.Recorded(jnp.asarray(np.moveaxis(used, 3, -1)))
    draw = jax.jit(
        lambda z: scheduler.sample(jax.random.key(0), network, z, count, draws=source).x
    )
    x = np.moveaxis(np.asarray(draw(last(noise))), -1, 1)
    return steps.timesteps, x / (alpha if name in SCALED else 1.0)


SCALED = tuple(
    name
    for name in CLASSES
    if name.endswith("DiscreteScheduler") and "Flow" not in name
)


def network(z, time):
    """The same as in `diffusers_dump.py`."""
    return 0.3 * jnp.tanh(z) + time / 4000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", required=True, help="with torch, diffusers")
    parser.add_argument("--num_steps", type=int, nargs="+", default=[4, 7, 20])
    parser.add_argument("--classes", nargs="+", default=list(CLASSES))
    args = parser.parse_args()
    listed = cases(args.classes, args.num_steps)
    with tempfile.TemporaryDirectory() as folder:
        path, out = (pathlib.Path(folder) / name for name in ("cases.json", "out.npz"))
        path.write_text(json.dumps(listed))
        script = pathlib.Path(__file__).with_name("diffusers_dump.py")
        subprocess.run([args.torch_python, script, path, out], check=True)
        theirs = dict(np.load(out))
    table, refused = collections.defaultdict(list), []
    for number, case in enumerate(listed):
        if number % 25 == 0:
            print(f"{number} of {len(listed)}", file=sys.stderr, flush=True)
        error = theirs.get(f"{number}/error")
        try:
            timesteps, x = ours(case, theirs["noise"], theirs["draws"])
        except ValueError as reason:
            refused.append((case, str(reason), None if error is None else str(error)))
            continue
        if error is not None:
            refused.append((case, None, str(error)))
            continue
        sample, there = (theirs[f"{number}/{key}"] for key in ("sample", "timesteps"))
        if not np.isfinite(sample).all():
            refused.append((case, None, "samples that are not finite"))
            continue
        gaps = np.abs(timesteps[:, None] - there[None].astype(float)).min(axis=1)
        off = np.abs(x - sample).max() / max(1, np.abs(sample).max())
        table[case["class"]].append((off, case, gaps.max()))
    report(table, refused)


def report(table, refused):
    print("| class | configurations | sample off by at most |\n|---|---|---|")
    for name, rows in table.items():
        print(f"| `{name}` | {len(rows)} | {max(row[0] for row in rows):.1e} |")
    for rows in table.values():
        for off, case, gap in rows:
            if not (off < 1e-3 and gap < 0.1):
                print(f"off by {off:.1e}, a timestep by {gap:.2g}: {case}")
    for case, ours_says, theirs_says in refused:
        print(f"refused: {case}\n  here: {ours_says}\n  there: {theirs_says}")


if __name__ == "__main__":
    main()
