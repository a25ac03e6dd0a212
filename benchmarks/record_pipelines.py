"""Records what diffusers draws from a small network by published schedulers' configs.

Writes tests/data/pretrained/pipelines.npz, and the number of parameters of the
published networks, tests/data/pretrained/configs/parameters.json. Needs torch and
diffusers, which the tests do not.

    python benchmarks/record_pipelines.py             # writes the records again
    python benchmarks/record_pipelines.py --compare   # runs them, writes nothing
"""

import inspect
import json
import pathlib
import sys

import diffusers
import numpy as np
import torch
from diffusers.schedulers import scheduling_ddpm

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.helpers import pretrained_weights  # noqa: E402

CONFIGS = pretrained_weights.FOLDER / "configs"
NETWORK = dict(
    add_attention=False,
    block_out_channels=[4],
    down_block_types=["DownBlock2D"],
    in_channels=2,
    layers_per_block=1,
    mid_block_type=None,
    norm_num_groups=2,
    out_channels=2,
    sample_size=4,
    up_block_types=["UpBlock2D"],
)
NUM_STEPS = 6
CIFAR = "ddpm-cifar10-32/scheduler_config.json"
DIT = "DiT-XL-2-256/scheduler/scheduler_config.json"
SD3 = "stable-diffusion-3-medium/scheduler/scheduler_config.json"
SCHEDULERS = {  # the class, and the published config that it is made from
    "DDPM": ("DDPMScheduler", CIFAR),
    "DDPM small": ("DDPMScheduler", "ddpm-celebahq-256/scheduler_config.json"),
    "DDIM": ("DDIMScheduler", DIT),
    "DDIM clipped": ("DDIMScheduler", CIFAR),
    "DPM-Solver++": ("DPMSolverMultistepScheduler", DIT),
    "UniPC": ("UniPCMultistepScheduler", DIT),
    "Euler": ("EulerDiscreteScheduler", DIT),
    "Heun": ("HeunDiscreteScheduler", DIT),
    "flow Euler": ("FlowMatchEulerDiscreteScheduler", SD3),
    "EDM Euler": ("EDMEulerScheduler", None),
}


def network():
    """The network with the random weights, and their shapes."""
    net = diffusers.UNet2DModel(**NETWORK)
    state = net.state_dict()
    shapes = {name: list(array.shape) for name, array in state.items()}
    for name, array in pretrained_weights.random_state(shapes).items():
        state[name] = torch.from_numpy(array)
    net.load_state_dict(state)
    return net.eval(), shapes


def scheduler(name, file):
    """A scheduler and its config as it would save it."""
    config = json.loads((CONFIGS / file).read_text()) if file else {}
    made = getattr(diffusers, name).from_config(config)
    return made, json.loads(made.to_json_string())


def drawn(net, made, z):
    """Computes what the pipelines' loop has after each call, with recorded noise."""
    noise = iter(pretrained_weights.arrays(7, NUM_STEPS, *z.shape))
    scheduling_ddpm.randn_tensor = lambda *_, **__: torch.from_numpy(next(noise))
    made.set_timesteps(NUM_STEPS)
    states = []
    x = torch.from_numpy(z) * getattr(made, "init_noise_sigma", 1.0)
    for timestep in made.timesteps:
        scaled = x
        if hasattr(made, "scale_model_input"):
            scaled = made.scale_model_input(x, timestep)
        with torch.no_grad():
            value = net(scaled, timestep).sample
        x = made.step(value, timestep, x).prev_sample
        states.append(x.numpy())
    return np.stack(states)


def parameters():
    """`{folder of configs: number of parameters}`, without their memory."""
    found = {}
    for path in sorted(CONFIGS.rglob("config.json")):
        config = json.loads(path.read_text())
        name = config["_class_name"]
        if name == "Transformer2DModel":  # of files before 2024
            name = "DiTTransformer2DModel"
            known = inspect.signature(getattr(diffusers, name)).parameters
            config = {key: value for key, value in config.items() if key in known}
        with torch.device("meta"):
            net = getattr(diffusers, name).from_config(config)
        key = path.parent.relative_to(CONFIGS).as_posix()
        found[key] = sum(parameter.numel() for parameter in net.parameters())
    return found


def main():
    """Draws the samples and counts; writes the records, or compares them."""
    torch.set_num_threads(1)
    net, shapes = network()
    z = pretrained_weights.arrays(3, 2, 2, 4, 4)
    found = {"network/z": z, "network/shapes": json.dumps(shapes)}
    found["network/config"] = json.dumps(dict(NETWORK, _class_name="UNet2DModel"))
    for case, (name, file) in SCHEDULERS.items():
        made, config = scheduler(name, file)
        found[f"{case}/states"] = drawn(net, made, z)
        found[f"{case}/timesteps"] = made.timesteps.numpy()
        found[f"{case}/config"] = json.dumps(config)
    counts = parameters()
    path = pretrained_weights.FOLDER / "pipelines.npz"
    if "--compare" not in sys.argv:
        (CONFIGS / "parameters.json").write_text(json.dumps(counts, indent=2) + "\n")
        np.savez_compressed(path, **{key: np.asarray(v) for key, v in found.items()})
        print(f"{path}: {path.stat().st_size} bytes; {counts}")
        return
    assert counts == json.loads((CONFIGS / "parameters.json").read_text())
    with np.load(path) as file:
        for name in file.files:
            old = file[name]
            if old.dtype.kind == "f":
                largest = np.abs(old - found[name]).max() / np.abs(old).max()
                print(f"{name}: {largest:.1e} of the largest")


if __name__ == "__main__":
    main()
