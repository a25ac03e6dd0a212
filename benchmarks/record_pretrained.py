"""Records networks of diffusers on random weights: tests/data/pretrained/.

Needs torch, diffusers and safetensors, which the tests do not. Configs are the
published ones with fewer channels, and what else the options allow.

    python benchmarks/record_pretrained.py             # writes the records again
    python benchmarks/record_pretrained.py --compare   # runs them, writes nothing
"""

import json
import pathlib
import sys

import diffusers
import numpy as np
import torch

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.helpers import pretrained_weights  # noqa: E402

UNETS = {
    "ddpm": dict(  # google/ddpm-cifar10-32
        act_fn="silu",
        attention_head_dim=None,
        block_out_channels=[8, 16, 16],
        center_input_sample=False,
        down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        in_channels=3,
        layers_per_block=2,
        mid_block_scale_factor=1,
        norm_eps=1e-6,
        norm_num_groups=4,
        out_channels=3,
        sample_size=8,
        time_embedding_type="positional",
        up_block_types=["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    ),
    "ldm": dict(  # CompVis/ldm-celebahq-256
        attention_head_dim=4,
        block_out_channels=[8, 16],
        down_block_types=["DownBlock2D", "AttnDownBlock2D"],
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=8,
        up_block_types=["AttnUpBlock2D", "UpBlock2D"],
    ),
    "ncsnpp": dict(  # google/ncsnpp-ffhq-1024
        attention_head_dim=None,
        block_out_channels=[32, 32, 32],
        down_block_types=["SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"],
        layers_per_block=1,
        mid_block_scale_factor=1.4142135623730951,
        norm_num_groups=None,
        norm_eps=1e-6,
        sample_size=8,
        time_embedding_type="fourier",
        up_block_types=["SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"],
    ),
    "classes": dict(  # openai/diffusers-cd_imagenet64_l2
        attention_head_dim=4,
        attn_norm_num_groups=2,
        block_out_channels=[8, 12, 12],
        down_block_types=["ResnetDownsampleBlock2D", *["AttnDownBlock2D"] * 2],
        downsample_type="resnet",
        in_channels=1,
        layers_per_block=1,
        norm_num_groups=4,
        num_class_embeds=10,
        out_channels=2,
        resnet_time_scale_shift="scale_shift",
        sample_size=8,
        up_block_types=[*["AttnUpBlock2D"] * 2, "ResnetUpsampleBlock2D"],
        upsample_type="resnet",
    ),
    "timestep": dict(
        act_fn="gelu",
        add_attention=False,
        block_out_channels=[6, 12],
        center_input_sample=True,
        class_embed_type="timestep",
        down_block_types=["UNetResAttnDownBlock2D", "DownBlock2D"],
        layers_per_block=1,
        attention_head_dim=3,
        norm_num_groups=3,
        resnet_time_scale_shift="scale_shift",
        time_embedding_dim=20,
        up_block_types=["UpBlock2D", "AttnUpBlock2D"],
    ),
    "learned": dict(
        act_fn="mish",
        block_out_channels=[8, 8],
        class_embed_type="identity",
        down_block_types=["DownBlock2D", "DownBlock2D"],
        layers_per_block=1,
        mid_block_type=None,
        norm_num_groups=4,
        num_train_timesteps=1000,
        time_embedding_type="learned",
        up_block_types=["UpBlock2D", "UpBlock2D"],
    ),
}
LABELS = dict(
    classes=np.array([3, 9]),
    timestep=np.array([5, 700]),
    learned=pretrained_weights.arrays(2, 2, 32),
)


def filled(net):
    """Gives a network the random weights; returns their shapes."""
    state = net.state_dict()
    shapes = {name: list(array.shape) for name, array in state.items()}
    for name, array in pretrained_weights.random_state(shapes).items():
        state[name] = torch.from_numpy(array)
    net.load_state_dict(state)
    net.eval()
    return shapes


def ran(net, z, *arguments, **options):
    """The output, and the gradient in z of its product with random numbers."""
    z = torch.from_numpy(z).requires_grad_()
    output = net(z, *arguments, **options, return_dict=False)[0]
    with_numbers = torch.from_numpy(pretrained_weights.arrays(1, *output.shape))
    (gradient,) = torch.autograd.grad((output * with_numbers).sum(), z)
    return dict(output=output.detach().numpy(), gradient=gradient.numpy())


def unet(case, config):
    """One record of `UNet2DModel`."""
    net = diffusers.UNet2DModel(**config)
    shapes = filled(net)
    z = pretrained_weights.arrays(0, 2, config.get("in_channels", 3), 8, 8)
    fourier = config.get("time_embedding_type") == "fourier"
    time = np.array([0.05, 30.0], np.float32) if fourier else np.array([7, 981])
    label = LABELS.get(case)
    options = {} if label is None else dict(class_labels=torch.from_numpy(label))
    found = dict(z=z, time=time, **ran(net, z, torch.from_numpy(time), **options))
    if label is not None:
        found["label"] = label
    config = dict(config, _class_name="UNet2DModel")
    return dict(found, config=json.dumps(config), shapes=json.dumps(shapes))


FAMILIES = dict(unet2d=(unet, UNETS))


def pipeline(write):
    """A folder as diffusers writes it, if asked, and what its schedulers draw."""
    config = dict(UNETS["ldm"], block_out_channels=[4, 8], norm_num_groups=2)
    net = diffusers.UNet2DModel(**config)
    filled(net)
    scheduler = diffusers.DDIMScheduler(
        clip_sample=False, timestep_spacing="trailing", beta_schedule="scaled_linear"
    )
    whole = diffusers.DDIMPipeline(unet=net, scheduler=scheduler)
    if write:
        whole.save_pretrained(pretrained_weights.FOLDER / "pipeline")
    z = pretrained_weights.arrays(3, 2, 3, 8, 8)
    found = dict(z=z)
    names = ("DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler")
    for name in names:
        made = getattr(diffusers, name).from_config(scheduler.config)
        made.set_timesteps(8)
        x = torch.from_numpy(z) * made.init_noise_sigma
        for timestep in made.timesteps:
            with torch.no_grad():
                value = net(made.scale_model_input(x, timestep), timestep).sample
            x = made.step(value, timestep, x).prev_sample
        found[name] = x.numpy()
        found[f"{name}_timesteps"] = made.timesteps.numpy()
    return {f"samples/{name}": value for name, value in found.items()}


def compared(family, new):
    """Prints the largest difference between a new run and the record."""
    with np.load(pretrained_weights.FOLDER / f"{family}.npz") as file:
        assert set(file.files) == set(new), set(file.files) ^ set(new)
        for name in file.files:
            old = file[name]
            if old.dtype.kind == "f":
                largest = np.abs(old - new[name]).max() / np.abs(old).max()
                print(f"{family} {name}: {largest:.1e} of the largest")


def main():
    """Runs every network; writes the records, or compares them."""
    torch.set_num_threads(1)
    pretrained_weights.FOLDER.mkdir(exist_ok=True)
    files = {}
    for family, (record, configs) in FAMILIES.items():
        files[family] = {
            f"{case}/{name}": np.asarray(value)
            for case, config in configs.items()
            for name, value in record(case, config).items()
        }
    compare = "--compare" in sys.argv
    files["pipeline_samples"] = pipeline(write=not compare)
    for family, arrays in files.items():
        if compare:
            compared(family, arrays)
        else:
            path = pretrained_weights.FOLDER / f"{family}.npz"
            np.savez_compressed(path, **arrays)
            print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
