"""Measures the overhead of diffusers' schedulers over their network calls.

Started by `samplers.py` with the interpreter that it was given, which needs torch and
diffusers only.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import diffusers
import torch
from rival import CLASSES, make_unet

NUM_STEPS = 20


def schedulers() -> dict[str, object]:
    """Makes schedulers that run on one network of any output."""
    multistep = diffusers.DPMSolverMultistepScheduler
    return {
        "DDIMScheduler": diffusers.DDIMScheduler(),
        "DDPMScheduler": diffusers.DDPMScheduler(),
        "DPMSolverMultistepScheduler": multistep(),
        "UniPCMultistepScheduler": diffusers.UniPCMultistepScheduler(),
        "FlowMatchEuler": diffusers.FlowMatchEulerDiscreteScheduler(),
    }


@torch.no_grad()
def sample(scheduler: object, net_fn: Callable, z: torch.Tensor) -> torch.Tensor:
    """Samples in `NUM_STEPS` calls."""
    scheduler.set_timesteps(NUM_STEPS)
    for t in scheduler.timesteps:
        z = scheduler.step(net_fn(z, t), t, z).prev_sample
    return z


@torch.no_grad()
def network(net_fn: Callable, z: torch.Tensor) -> torch.Tensor:
    """Makes as many calls and nothing between them."""
    for t in range(NUM_STEPS):
        z = net_fn(z, torch.tensor(float(t)))
    return z


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    args = parser.parse_args()
    case = json.loads(args.case)
    net = make_unet(case).eval().to(memory_format=torch.channels_last)
    height, width, channels = case["shape"]
    z = torch.randn(case["batch_size"], channels, height, width)
    z = z.to(memory_format=torch.channels_last)
    label = torch.randint(CLASSES, (len(z),))
    net_fn = lambda z, t: net(z, t.float(), class_labels=label).sample
    print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
    for name, scheduler in schedulers().items():
        seconds = {"step": [], "network": []}
        for number in range(args.rounds + 1):
            for which, program in (
                ("step", lambda s=scheduler: sample(s, net_fn, z)),
                ("network", lambda: network(net_fn, z)),
            ):
                start = time.perf_counter()
                program()
                if number:
                    seconds[which].append((time.perf_counter() - start) / NUM_STEPS)
        step, alone = (statistics.median(seconds[which]) for which in seconds)
        print(f"  {name:28s}{1e3 * step:8.2f}{step / alone:8.3f}")


if __name__ == "__main__":
    main()
