"""Opens exported networks in diffusers, and compares outputs, samples and files.

    python -m benchmarks.exported_networks --torch_python=PATH/TO/python

A U-Net and a DiT of this library, and the published architectures UNet2D and
DiTTransformer2D, with random weights, are written as `diffusionflow export
--format=diffusers` writes them. The interpreter, with torch and diffusers, opens each
folder, computes its output at five timesteps, samples by DDIM in 20 and in 1,000
steps, and saves it again. Printed are the largest deviations from ours, relative to the
largest number, and whether the file that was saved again has the same arrays bit for
bit. Of networks of this library ours are the predictions and samples on the
flow-matching schedule.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import types

import numpy as np

STEPS = (20, 1000)
BATCH = 5
SHAPE = (8, 8, 3)


def run_there(folder, arrays):
    """Computes what diffusers makes of a folder, in the interpreter with torch."""
    import diffusers
    import torch

    config = json.loads((folder / "config.json").read_text())
    net = getattr(diffusers, config["_class_name"]).from_pretrained(folder).eval()
    net.save_pretrained(folder / "again")
    scheduler = json.loads((folder / "scheduler_config.json").read_text())
    trailing = dict(timestep_spacing="trailing")
    scheduler = diffusers.DDIMScheduler.from_config(scheduler, **trailing)
    z, time, label, noise = (
        torch.from_numpy(arrays[name]) for name in ("z", "time", "label", "noise")
    )
    labels = None if config.get("num_class_embeds", 1) is None else label
    found = {}
    with torch.no_grad():
        found["output"] = net(z, time, class_labels=labels).sample.numpy()
        for num_steps in STEPS:
            scheduler.set_timesteps(num_steps)
            x = noise
            for t in scheduler.timesteps:
                output = net(x, t.repeat(BATCH), labels).sample
                x = scheduler.step(output, t, x).prev_sample
            found[f"{num_steps} steps"] = x.numpy()
    return found


def cases():
    """Returns `{name: (network of a run, schedule, kind)}` on images of 8 x 8."""
    from diffusionflow import schedules
    from diffusionflow.networks import DiT, UNet
    from diffusionflow.networks.pretrained import DiTTransformer2D, UNet2D
    from experiments.config.published import PublishedNetwork

    flow, chain = schedules.FlowMatching(), schedules.Discrete.linear_betas()
    own = dict(num_classes=3, max_frequency=10_000.0)
    unet = UNet(channels=128, time_features=128, attention_resolutions=(4,), **own)
    unet2d = UNet2D(
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        num_class_embeds=4,
    )
    dit2d = DiTTransformer2D(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=3,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=3,
    )
    return {
        "unet": (unet, flow, "x"),
        "dit": (DiT(features=128, num_blocks=4, num_heads=4, **own), flow, "x"),
        "unet2d": (PublishedNetwork(unet2d, "diffusers", 3), chain, "eps"),
        "dit_transformer2d": (PublishedNetwork(dit2d, "diffusers", 3), chain, "eps"),
    }


def random_params(net, event_shape):
    """Draws every parameter."""
    import jax
    import jax.numpy as jnp

    inputs = jnp.zeros((1, *event_shape)), jnp.zeros(1), jnp.zeros(1, int)
    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.RandomState(0)

    def random(leaf):
        width = max(leaf.shape)
        scale = 0.3 if leaf.ndim < 2 else (width / np.prod(leaf.shape)) ** 0.5
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree.map(random, shapes)


def ours(net, schedule, kind, params, arrays):
    """Computes outputs and samples of the network as a run calls it."""
    import jax
    import jax.numpy as jnp

    from diffusionflow import predictions, samplers

    z, noise = (np.moveaxis(arrays[name], 1, -1) for name in ("z", "noise"))
    label = jnp.asarray(arrays["label"])
    apply = lambda z, time: net.apply(
        {"params": params}, z, jnp.broadcast_to(time, (BATCH,)), label
    )
    if hasattr(net, "calling"):
        objective = types.SimpleNamespace(schedule=schedule, kind=kind)
        predict_fn = net.calling(objective, 1.0).predict_fn(apply)
    else:
        predict_fn = predictions.precondition(apply, schedule=schedule)
    count, first = levels(net)
    t = (arrays["time"] + first) / count
    scale = np.asarray(schedule.z_std(t), np.float32)[:, None, None, None]
    run = jax.jit(lambda z, t: predict_fn(z, t))
    found = {"output": run(z * scale, jnp.asarray(t, jnp.float32))}
    for num_steps in STEPS:
        steps = count - 1 - np.arange(num_steps) * (count // num_steps)
        times = np.append((steps + first) / count, 0.0)
        found[f"{num_steps} steps"] = samplers.sample(
            jax.random.key(0),  # of no effect
            predictions.denoiser(predict_fn, kind=kind, schedule=schedule),
            jnp.asarray(noise * np.float32(schedule.z_std(times[0]))),
            times,
            sampler=samplers.ddim(),
            schedule=schedule,
        ).x
    return {name: np.moveaxis(array, -1, 1) for name, array in found.items()}


def levels(net):
    """Returns the number of timesteps, and what a timestep lacks to number times t."""
    return (1000, 1) if hasattr(net, "calling") else (10_000, 0)


def inputs_of(net):
    """Draws what the networks are given, in the layout of torch."""
    z, noise = np.random.RandomState(1).standard_normal((2, BATCH, *SHAPE))
    last = levels(net)[0]
    time = np.array([1, last // 200, last // 20, last // 2, last - 1])
    z, noise = (np.moveaxis(each, -1, 1).astype(np.float32) for each in (z, noise))
    return dict(z=z, noise=noise, time=time, label=np.array([0, 1, 2, 3, 0]))


def compared(torch_python, net, schedule, kind):
    """Computes the relative deviations, and whether the bits are the same."""
    from diffusionflow.interop import own, read_weights
    from experiments.checkpointing import diffusers_format

    arrays, params = inputs_of(net), random_params(net, SHAPE)
    objective = types.SimpleNamespace(schedule=schedule, kind=kind)
    model = types.SimpleNamespace(
        net=net, objective=objective, event_shape=SHAPE, sigma_data=1.0
    )
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place) / "out"
        plan = diffusers_format.plan(model)
        more = {"scheduler_config.json": plan.scheduler}
        moved = diffusers_format.params(model, plan.network, params)
        own.write_folder(folder, plan.config, moved, more)
        np.savez(folder / "inputs.npz", **arrays)
        subprocess.run([torch_python, __file__, "--folder", folder], check=True)
        theirs = dict(np.load(folder / "outputs.npz"))
        first, again = read_weights(folder), read_weights(folder / "again")
    same = first.keys() == again.keys() and all(
        np.array_equal(first[each], again[each]) for each in first
    )
    mine = ours(net, schedule, kind, params, arrays)
    deviations = [
        np.abs(mine[each] - theirs[each]).max() / np.abs(theirs[each]).max()
        for each in mine
    ]
    return deviations, same


def main():
    """Prints a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", required=True, help="with torch, diffusers")
    args = parser.parse_args()
    steps = " | ".join(f"{num_steps:,} steps" for num_steps in STEPS)
    print(f"relative deviation of\n\n| network | output | {steps} | saved again |")
    print("|---|---|---|---|---|")
    for name, case in cases().items():
        deviations, same = compared(args.torch_python, *case)
        numbers = " | ".join(f"{each:.1e}" for each in deviations)
        said = "the same bits" if same else "different"
        print(f"| `{name}` | {numbers} | {said} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--folder"]:
        where = pathlib.Path(sys.argv[2])
        found = run_there(where, dict(np.load(where / "inputs.npz")))
        np.savez(where / "outputs.npz", **found)
    else:
        main()
