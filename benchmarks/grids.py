"""Measures the error of samplers on sampling grids, at about the same NFE each.

    python -m benchmarks.grids

A mixture in one dimension with its exact denoiser: the Wasserstein-2 distance of the
samples to the data, in float64, as in `benchmarks/samplers.py`. DDIM and the solvers in
x, eps and u see a grid of log-SNRs and not the schedule, so that a row stands for the
schedule that spaces its uniform times so, too. A seed is not needed: starts are
quantiles, so there is no sampling error.
"""

import argparse

import numpy as np

from diffusionflow import grids, samplers, schedules
from diffusionflow._numeric import in_float64
from experiments.analysis import sampler_error

FLOW = schedules.FlowMatching()


def of_levels(schedule: schedules.Schedule, count: int) -> np.ndarray:
    """Computes times of flow matching with a schedule's log-SNRs at uniform times."""
    change = lambda schedule, t: FLOW.inverse_logsnr(schedule.logsnr(t))
    return in_float64(change, schedule, grids.uniform(count))


GRIDS = {
    "uniform: flow matching": grids.uniform,
    "uniform on the cosine schedule": lambda n: of_levels(schedules.Cosine(), n),
    "shifted, k = 1/3": lambda n: grids.shifted(n, k=1 / 3),
    "shifted, k = 3": lambda n: grids.shifted(n, k=3.0),
    "quadratic": grids.quadratic,
    "Karras, rho = 7": lambda n: grids.karras(n - 1, schedule=FLOW),
    "log-SNR in [-10, 10]": lambda n: grids.logsnr_uniform(n - 1, schedule=FLOW),
}
SAMPLERS = {  # and the NFE of a step
    "ddim": (samplers.ddim(), 1),
    "heun('u')": (samplers.Heun("u"), 2),
    "adams_bashforth(2, 'u')": (samplers.AdamsBashforth(2, "u"), 1),
    "dpm_solver(2)": (samplers.DPMSolver(2), 1),
    "unipc(2)": (samplers.UniPC(2), 1),
}


def main() -> None:
    """Prints a table for each NFE."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, nargs="+", default=(10, 20))
    data = sampler_error.mixture()
    for calls in parser.parse_args().calls:
        names = "".join(f" {name} |" for name in SAMPLERS)
        print(f"| {calls} calls |{names}\n" + "|---" * (len(SAMPLERS) + 1) + "|")
        for name, grid_fn in GRIDS.items():
            cells = ""
            for sampler, each in SAMPLERS.values():
                (point,) = sampler_error.errors_against_nfe(
                    sampler, data, num_steps=(calls // each,), grid_fn=grid_fn
                )
                cells += f" {point.error:.2g} ({point.nfe}) |"
            print(f"| {name} |{cells}", flush=True)


if __name__ == "__main__":
    main()
