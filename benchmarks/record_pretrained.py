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


def slopes(net, z, *arguments, **options):
    """Computes two numbers for the gradient of the same product in each parameter.

    They are its size and its part along the parameter, by the parameter's name.
    """
    output = net(torch.from_numpy(z), *arguments, **options, return_dict=False)[0]
    with_numbers = torch.from_numpy(pretrained_weights.arrays(1, *output.shape))
    named = {name: each for name, each in net.named_parameters() if each.requires_grad}
    loss = (output * with_numbers).sum()
    gradients = torch.autograd.grad(loss, list(named.values()))
    found = {}
    for (name, each), gradient in zip(named.items(), gradients, strict=True):
        along = (gradient * each.detach()).sum() / each.detach().norm()
        found[name] = [float(f"{float(one):.7g}") for one in (gradient.norm(), along)]
    return json.dumps(found)


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
    found["slopes"] = slopes(net, z, torch.from_numpy(time), **options)
    if label is not None:
        found["label"] = label
    config = dict(config, _class_name="UNet2DModel")
    return dict(found, config=json.dumps(config), shapes=json.dumps(shapes))


DITS = {
    "dit": dict(  # facebook/DiT-XL-2-256
        activation_fn="gelu-approximate",
        attention_bias=True,
        attention_head_dim=6,
        in_channels=4,
        norm_elementwise_affine=False,
        norm_type="ada_norm_zero",
        num_attention_heads=2,
        num_embeds_ada_norm=10,
        num_layers=2,
        out_channels=8,
        patch_size=2,
        sample_size=8,
    ),
    "options": dict(
        activation_fn="gelu",
        attention_bias=False,
        attention_head_dim=8,
        in_channels=3,
        norm_elementwise_affine=True,
        norm_eps=1e-3,
        num_attention_heads=1,
        num_embeds_ada_norm=10,
        num_layers=1,
        patch_size=4,
        sample_size=8,
    ),
}


def dit(case, config):
    """One record of `DiTTransformer2DModel`."""
    net = diffusers.DiTTransformer2DModel(**config)
    shapes = filled(net)
    config = dict(config, _class_name="DiTTransformer2DModel")
    found = dit_run(net, config["in_channels"], np.array([7, 981]))
    inputs = (torch.from_numpy(found[name]) for name in ("time", "label"))
    return dict(
        found,
        slopes=slopes(net, found["z"], *inputs),
        config=json.dumps(config),
        shapes=json.dumps(shapes),
    )


def dit_run(net, channels, time):
    """Inputs and outputs of a network, one label being the null label."""
    z, label = pretrained_weights.arrays(0, 2, channels, 8, 8), np.array([3, 10])
    found = ran(net, z, torch.from_numpy(time), torch.from_numpy(label))
    return dict(found, z=z, time=time, label=label)


def authors_shapes(width, layers):
    """Names and shapes of the checkpoints of DiT's authors."""
    sizes = {
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
        "final_layer.linear": (4 * 8, width),
    }
    for i in range(layers):
        sizes |= {
            f"blocks.{i}.attn.qkv": (3 * width, width),
            f"blocks.{i}.attn.proj": (width, width),
            f"blocks.{i}.mlp.fc1": (4 * width, width),
            f"blocks.{i}.mlp.fc2": (width, 4 * width),
            f"blocks.{i}.adaLN_modulation.1": (6 * width, width),
        }
    shapes = {"y_embedder.embedding_table.weight": (11, width)}
    sizes["x_embedder.proj"] = (width, 4, 2, 2)
    for name, shape in sizes.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def copy_authors(net, state):
    """Copies the authors' arrays into the network of diffusers, module by module."""
    tensor = lambda name: torch.from_numpy(state[name])
    pairs = {
        net.pos_embed.proj: "x_embedder.proj",
        net.proj_out_1: "final_layer.adaLN_modulation.1",
        net.proj_out_2: "final_layer.linear",
    }
    for i, block in enumerate(net.transformer_blocks):
        emb, attention = block.norm1.emb, block.attn1
        emb.time_proj.downscale_freq_shift = 0
        pairs |= {
            emb.timestep_embedder.linear_1: "t_embedder.mlp.0",
            emb.timestep_embedder.linear_2: "t_embedder.mlp.2",
            block.norm1.linear: f"blocks.{i}.adaLN_modulation.1",
            attention.to_out[0]: f"blocks.{i}.attn.proj",
            block.ff.net[0].proj: f"blocks.{i}.mlp.fc1",
            block.ff.net[2]: f"blocks.{i}.mlp.fc2",
        }
        table = emb.class_embedder.embedding_table
        table.weight.data = tensor("y_embedder.embedding_table.weight")
        for leaf in ("weight", "bias"):
            parts = tensor(f"blocks.{i}.attn.qkv.{leaf}").chunk(3)
            maps = (attention.to_q, attention.to_k, attention.to_v)
            for module, part in zip(maps, parts, strict=True):
                getattr(module, leaf).data = part.clone()
    for module, name in pairs.items():
        for leaf in ("weight", "bias"):
            getattr(module, leaf).data = tensor(f"{name}.{leaf}")


def authors(case, config):
    """The network of DiT's authors by that of diffusers, given the same weights.

    Theirs has one embedding for all blocks, and sinusoids without diffusers' shift.
    """
    net = diffusers.DiTTransformer2DModel(**config)
    width = config["num_attention_heads"] * config["attention_head_dim"]
    shapes = authors_shapes(width, config["num_layers"])
    copy_authors(net, pretrained_weights.random_state(shapes))
    time = np.array([0.25, 0.9], np.float32) if case == "sit" else np.array([7, 981])
    return dict(
        dit_run(net.eval(), 4, time),
        places=net.pos_embed.pos_embed.numpy(),
        shapes=json.dumps(shapes),
    )


AUTOENCODERS = {
    "sd": dict(  # stabilityai/sd-vae-ft-ema
        act_fn="silu",
        block_out_channels=[4, 8],
        down_block_types=["DownEncoderBlock2D"] * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=16,
        up_block_types=["UpDecoderBlock2D"] * 2,
    ),
    "sd3": dict(  # stabilityai/stable-diffusion-3-medium
        block_out_channels=[4, 4, 8],
        down_block_types=["DownEncoderBlock2D"] * 3,
        force_upcast=True,
        in_channels=1,
        latent_channels=6,
        mid_block_add_attention=False,
        norm_num_groups=4,
        out_channels=1,
        sample_size=16,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        up_block_types=["UpDecoderBlock2D"] * 3,
        use_post_quant_conv=False,
        use_quant_conv=False,
    ),
}


def gradient_of(fn, x):
    """Computes the gradient in x of the product of `fn(x)` with random numbers."""
    x = torch.from_numpy(x).requires_grad_()
    output = fn(x)
    with_numbers = torch.from_numpy(pretrained_weights.arrays(1, *output.shape))
    return torch.autograd.grad((output * with_numbers).sum(), x)[0].numpy()


def autoencoder(case, config):
    """One record of `AutoencoderKL`: moments, images, and their gradients.

    Of sd3 moments and images again by tiles.
    """
    net = diffusers.AutoencoderKL(**config)
    shapes = filled(net)
    channels = config.get("in_channels", 3)
    side = dict(sd=8, sd3=24)[case]
    x = pretrained_weights.arrays(0, 2, channels, side, side)
    inner = side // 2 ** (len(config["block_out_channels"]) - 1)
    z = pretrained_weights.arrays(1, 2, config["latent_channels"], inner, inner)
    found = dict(x=x, z=z)
    encode = lambda x: net.encode(x).latent_dist.mean
    found["mean_gradient"] = gradient_of(encode, x)
    found["image_gradient"] = gradient_of(lambda z: net.decode(z).sample, z)
    for tiles in (False, True)[: 1 + (case == "sd3")]:
        net.use_tiling = tiles
        suffix = "_tiled" if tiles else ""
        with torch.no_grad():
            posterior = net.encode(torch.from_numpy(x)).latent_dist
            image = net.decode(torch.from_numpy(z)).sample
        found[f"mean{suffix}"] = posterior.mean.numpy()
        found[f"std{suffix}"] = posterior.std.numpy()
        found[f"image{suffix}"] = image.numpy()
    config = dict(config, _class_name="AutoencoderKL")
    return dict(found, config=json.dumps(config), shapes=json.dumps(shapes))


FAMILIES = dict(
    autoencoder=(autoencoder, AUTOENCODERS),
    unet2d=(unet, UNETS),
    dit=(dit, DITS),
    dit_authors=(authors, dict(dit=DITS["dit"], sit=DITS["dit"])),
)


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
