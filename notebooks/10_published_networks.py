# %% [markdown]
# # A published network, in any sampler
#
# A folder that diffusers wrote holds a network, its weights and the config of a
# scheduler. One line opens it; then it is a denoiser like any other, and the config
# says which grid and which method its authors sample with. Here such a folder is
# written on the spot, with random weights, and ten samplers take it; where torch and
# diffusers are installed, its own schedulers run on the same noise.
#
# Source: `docs/howto/pretrained.md`; `tests/networks/test_pretrained_pipelines.py`
# compares with the published configs.

# %%
import importlib.util
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from diffusionflow import interop, samplers
from diffusionflow.networks.pretrained import UNet2D
from experiments.visualization.notebook_display import Table

BLOCKS = dict(
    in_channels=3,
    out_channels=3,
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    mid_block_type=None,
    block_out_channels=(8,),
    layers_per_block=1,
    norm_num_groups=4,
    add_attention=False,
)

# %% [markdown]
# ## The folder
#
# Three files, as `save_pretrained` of diffusers leaves them. With a folder of your own,
# begin at `interop.load`; `hf://google/ddpm-cifar10-32` is one as well, where
# huggingface_hub is installed and there is a network.

# %%
network = UNet2D(**BLOCKS)
image, label = jnp.zeros((1, 8, 8, 3)), None
shapes = jax.eval_shape(network.init, jax.random.key(0), image, jnp.zeros(1), label)
leaves = jax.tree_util.tree_leaves_with_path(shapes["params"])
rng = np.random.default_rng(0)
state = {
    ".".join(key.key for key in path): rng.normal(0, 0.15, leaf.shape).astype("float32")
    for path, leaf in leaves
}
folder = pathlib.Path(tempfile.mkdtemp())
save_file(state, folder / "diffusion_pytorch_model.safetensors")
config = dict(BLOCKS, _class_name="UNet2DModel", sample_size=8)
(folder / "config.json").write_text(json.dumps(config))
scheduler = dict(_class_name="DDIMScheduler", clip_sample=False)
(folder / "scheduler_config.json").write_text(json.dumps(scheduler))

model = interop.load(folder)
count = sum(array.size for array in state.values())
Table(
    {
        "the model": ["predicts", "schedule", "shape", "parameters", "grid(4)"],
        "": [
            str(model.kind),
            f"{len(model.schedule.alphas_cumprod)} levels of a linear beta",
            str(model.shape),
            f"{count:,}",
            " ".join(f"{t:.3f}" for t in model.grid(4)),
        ],
    }
)

# %% [markdown]
# DDIM's config says "leading" timesteps, so the grid begins at level 751 of 1,000, not
# at the noise, and ends at the data: the quirk comes with the config.
#
# ## Ten samplers
#
# The same noise, 30 network calls each (NFE), and the distance to the samples of 400
# Heun steps, root mean square, in units of their spread. The weights are random, so the
# samples mean nothing; the ODE and its solvers do not mind.

# %%
TEN = {
    "DDIM": samplers.ddim(),
    "Euler, v": samplers.Euler("v"),
    "Heun": samplers.Heun("eps"),
    "midpoint (DPM-2)": samplers.Midpoint("eps"),
    "Adams-Bashforth 3 (DEIS)": samplers.AdamsBashforth(3, "eps"),
    "DPM-Solver++ 2M": samplers.DPMSolver(2),
    "DPM-Solver++ 3M": samplers.DPMSolver(3),
    "DPM-Solver++ 2S": samplers.DPMSolver2S(),
    "UniPC 2": samplers.UniPC(2),
    "Runge-Kutta 3, eps": samplers.RungeKutta("heun3", "eps"),
}

# %%
z = jax.random.normal(jax.random.key(1), (8, *model.shape))


@jax.jit
def run(denoise_fn, z, rows, sampler):
    key = jax.random.key(0)  # of no effect: none of the ten draws noise
    return samplers.run(key, denoise_fn, z, rows, sampler=sampler)


def sample(sampler, num_steps):
    times = np.append(np.linspace(1.0, 0.02, num_steps), 0.0)
    rows = samplers.plan(sampler, times, schedule=model.schedule)
    return run(model.denoise_fn, z, rows, sampler)


exact = sample(samplers.Heun("eps"), 400).x
calls = {
    "Heun": 2,
    "midpoint (DPM-2)": 2,
    "DPM-Solver++ 2S": 2,
    "Runge-Kutta 3, eps": 3,
}
found = {
    name: sample(sampler, 30 // calls.get(name, 1)) for name, sampler in TEN.items()
}
distance = [float(jnp.std(each.x - exact) / jnp.std(exact)) for each in found.values()]
assert max(distance) < 0.1
nfe = [int(each.nfe) for each in found.values()]
Table({"sampler": [*found], "NFE": nfe, "distance": [f"{d:.1e}" for d in distance]})

# %% [markdown]
# `denoise_fn` carries the weights as data: the ten share nothing but the network, and
# another network of the same shapes is not compiled again.
#
# ## Ten schedulers
#
# `model.sample` follows the config of a scheduler, step for step: its timesteps, its
# method, its clipping. Where torch and diffusers are installed, the scheduler's own
# loop runs on the same noise, and the column says how far the two samples are apart.

# %%
TIMESTEPS, STEPS = {"num_train_timesteps": 1000}, 10
SCHEDULERS = {
    "DDIMScheduler": dict(clip_sample=True),
    "DDIMScheduler, trailing": dict(clip_sample=False, timestep_spacing="trailing"),
    "DPMSolverMultistepScheduler": dict(solver_order=2),
    "DPMSolverMultistepScheduler, order 3": dict(solver_order=3),
    "UniPCMultistepScheduler": dict(solver_order=2),
    "DEISMultistepScheduler": dict(solver_order=2),
    "EulerDiscreteScheduler": dict(),
    "EulerDiscreteScheduler, Karras": dict(use_karras_sigmas=True),
    "HeunDiscreteScheduler": dict(),
    "LMSDiscreteScheduler": dict(),
}


def of_library(name, settings):
    """Samples by the config of a scheduler."""
    scheduler = dict(TIMESTEPS, **settings, _class_name=name)
    model = interop.load(folder, scheduler=scheduler)
    return np.asarray(model.sample(jax.random.key(0), z, STEPS).x)


# %%
installed = all(importlib.util.find_spec(name) for name in ("torch", "diffusers"))


def of_diffusers(name, settings):
    """The same with the loop of diffusers' pipelines; channels first there."""
    import diffusers
    import torch

    network = diffusers.UNet2DModel(**{**BLOCKS, "sample_size": 8})
    network.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    scheduler = getattr(diffusers, name)(**TIMESTEPS, **settings)
    scheduler.set_timesteps(STEPS)
    x = torch.from_numpy(np.moveaxis(np.asarray(z), -1, 1).copy())
    x = x * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        with torch.no_grad():
            scaled = scheduler.scale_model_input(x, timestep)
            eps = network(scaled, timestep).sample
        x = scheduler.step(eps, timestep, x).prev_sample
    return np.moveaxis(x.numpy(), 1, -1)


# %%
found = {}
for title, settings in SCHEDULERS.items():
    name = title.split(",")[0]
    ours = of_library(name, settings)
    apart = "diffusers is not installed"
    if installed:
        theirs = of_diffusers(name, settings)
        difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
        assert difference < 2e-5
        apart = f"{difference:.0e}"
    found[title] = apart
Table({"scheduler": [*found], "largest difference": [*found.values()]})

# %% [markdown]
# Differences are parts of the largest value of a sample: float32, summed in another
# order.
#
# ## Now change
#
# - the folder: one of your own, or `hf://owner/name`
# - the sampler: any of `docs/samplers.md`; a stochastic one needs a key
# - what is done with the model: `model.denoise_fn` goes into `likelihood`, `guidance`,
#   `inverse` and `distillation` as it is; `docs/howto/pretrained.md` goes on
