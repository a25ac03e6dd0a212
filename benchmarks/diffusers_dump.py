"""Runs schedulers of diffusers and writes their timesteps, sigmas and samples.

    PATH/TO/python benchmarks/diffusers_dump.py CASES.json OUT.npz

Needs torch and diffusers and nothing of this repository: `diffusers_schedulers.py`
calls it. A case is a config with `class`, `num_steps` and, where they differ from the
defaults, `set_timesteps` and `step` with keywords of those functions. The network is
`0.3 tanh(z) + time / 4000`.
"""

import json
import pathlib
import sys
import warnings

import numpy as np


def network(z, time):
    """The same as in `diffusers_schedulers.py`."""
    return 0.3 * np.tanh(z) + time / 4000


def run(case, noise, draws):
    """`(timesteps, sigmas, sample)`; the noise that it draws is taken from `draws`."""
    import diffusers
    import torch

    settings = {key: case[key] for key in case if not key.startswith("_")}
    kind = getattr(diffusers, settings.pop("class"))
    given = settings.pop("set_timesteps", {})
    step = settings.pop("step", {})
    num_steps = settings.pop("num_steps")
    scheduler = kind.from_config(settings)
    scheduler.set_timesteps(num_steps, **given)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    source = iter(draws)
    fresh = lambda *args, **kwargs: torch.tensor(next(source))
    module = sys.modules[kind.__module__]
    module.randn_tensor = fresh
    z = torch.tensor(noise) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    for time in scheduler.timesteps:
        scaled = z
        if hasattr(scheduler, "scale_model_input"):
            scaled = scheduler.scale_model_input(z, time)
        output = torch.tensor(network(scaled.numpy(), float(time)))
        z = scheduler.step(output.float(), time, z, **step).prev_sample
    sigmas = getattr(scheduler, "sigmas", np.zeros(0))
    return np.asarray(scheduler.timesteps), np.asarray(sigmas), z.numpy()


def main(cases_path, out_path):
    warnings.simplefilter("ignore")
    stored = json.loads(pathlib.Path(cases_path).read_text())
    noise = np.random.default_rng(0).normal(size=(2, 2, 4, 4)).astype(np.float32)
    draws = np.random.default_rng(1).normal(size=(200, *noise.shape))
    found = {"noise": noise, "draws": draws.astype(np.float32)}
    for number, case in enumerate(stored):
        try:
            arrays = run(case, noise, draws.astype(np.float32))
        except Exception as error:
            found[f"{number}/error"] = np.array(f"{type(error).__name__}: {error}")
            continue
        for name, array in zip(("timesteps", "sigmas", "sample"), arrays, strict=True):
            found[f"{number}/{name}"] = array
    np.savez(out_path, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
