"""Records the networks of EDM on random weights: tests/data/pretrained/edm.npz.

EDM's own code is in no package index and its licence is non-commercial. What runs here
are the modules of diffusers, put together as table 1 and appendix F of Karras et al.
2022 (arXiv 2206.00364) describe DDPM++, NCSN++ and ADM, and given random weights under
the names of NVIDIA's files. Needs torch and diffusers, which the tests do not.

    python benchmarks/record_edm.py             # writes the record again
    python benchmarks/record_edm.py --compare   # runs them, writes nothing
"""

import json
import math
import pathlib
import sys

import diffusers
import numpy as np
import torch
from diffusers.models import attention_processor, downsampling, resnet, upsampling

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.helpers import pretrained_weights  # noqa: E402

SIDE = 8
CASES = {
    "ddpmpp": dict(width=16, multiples=(1, 2), labels=5, augment=9),
    "ncsnpp": dict(width=16, multiples=(1, 2, 2), encoder="residual", noise=2),
    "skip": dict(
        width=32, multiples=(1, 2, 2), encoder="skip", decoder="skip", noise=2
    ),
    "adm": dict(width=32, multiples=(1, 4), labels=5, augment=9),
}
BLOCK = dict(
    norm0="norm1", conv0="conv1", affine="time_emb_proj", norm1="norm2", conv1="conv2"
)


class Residual(torch.nn.Module):
    """A level going down that is fed by a filtered convolution of the level before."""

    skip_conv = None  # by its name the network passes the second path on

    def __init__(self, block, features):
        super().__init__()
        self.block = block
        if block.resnet_down is not None:
            out = block.resnet_down.out_channels
            self.fir = downsampling.FirDownsample2D(features, out, use_conv=True)

    def forward(self, hidden_states, temb, skip_sample):
        block, h, maps = self.block, hidden_states, ()
        attentions = getattr(block, "attentions", [torch.nn.Identity()])
        for module, attention in zip(block.resnets, attentions, strict=True):
            h = attention(module(h, temb))
            maps += (h,)
        if block.resnet_down is not None:
            h = block.resnet_down(h, temb)
            h = (h + self.fir(skip_sample)) / math.sqrt(2)
            skip_sample = h
            maps += (h,)
        return h, maps, skip_sample


class Waves(torch.nn.Module):
    """The features of the time, with those of label and augmentation."""

    def __init__(self, waves):
        super().__init__()
        self.waves, self.more = waves, 0

    def forward(self, time):
        return self.waves(time) + self.more


def network(
    case,
    width,
    multiples,
    labels=0,
    encoder="standard",
    decoder="standard",
    noise=1,
    augment=0,
):
    """`UNet2DModel` with the attention at a side of 4 and a block a level."""
    adm, count = case == "adm", len(multiples)
    down = ["ResnetDownsampleBlock2D" if encoder == "standard" else "SkipDownBlock2D"]
    down, up = down * count, ["ResnetUpsampleBlock2D"] * count
    down[1] = "AttnDownBlock2D" if encoder == "standard" else "AttnSkipDownBlock2D"
    if decoder == "skip":
        up = ["SkipUpBlock2D"] * count
    up[-2] = "AttnSkipUpBlock2D" if decoder == "skip" else "AttnUpBlock2D"
    net = diffusers.UNet2DModel(
        attention_head_dim=64 if adm else None,
        attn_norm_num_groups=4,
        block_out_channels=[width * multiple for multiple in multiples],
        down_block_types=down,
        downsample_type="resnet",
        flip_sin_to_cos=adm,
        freq_shift=0 if adm else 1,
        layers_per_block=1,
        mid_block_scale_factor=1 if adm else math.sqrt(2),
        norm_eps=1e-5 if adm else 1e-6,
        norm_num_groups=4,
        num_class_embeds=labels if adm else None,
        resnet_time_scale_shift="scale_shift" if adm else "default",
        sample_size=SIDE,
        time_embedding_type="fourier" if noise == 2 else "positional",
        up_block_types=up,
        upsample_type="resnet",
    )
    net.time_proj = Waves(net.time_proj)
    if not adm:
        as_song(net)
    if encoder == "residual":
        features = [3, *(width * multiple for multiple in multiples[:-1])]
        blocks = [
            Residual(*pair) for pair in zip(net.down_blocks, features, strict=True)
        ]
        net.down_blocks = torch.nn.ModuleList(blocks)
    for module in net.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = min(32, module.num_channels // 4)
    return net


def as_song(net):
    """Sums over sqrt 2, projected shortcuts, attention after a level's last block."""
    fir = net.config.time_embedding_type == "fourier"
    for module in net.modules():
        if isinstance(module, resnet.ResnetBlock2D):
            module.output_scale_factor = math.sqrt(2)
            channels = module.in_channels
            if (module.up or module.down) and module.conv_shortcut is None:
                module.conv_shortcut = torch.nn.Conv2d(channels, channels, 1)
            if module.up and fir:
                module.upsample = upsampling.FirUpsample2D()
        if isinstance(module, attention_processor.Attention):
            module.rescale_output_factor = math.sqrt(2)
    for block in net.up_blocks:
        attentions = getattr(block, "attentions", [])
        for i in range(len(attentions) - 1):
            attentions[i] = torch.nn.Identity()


def modules(net, case, multiples):
    """`{name of a module of NVIDIA's files: module}`, and blocks with attention."""
    plain = {"map_layer0": net.time_embedding.linear_1}
    plain["map_layer1"] = net.time_embedding.linear_2
    plain[f"enc.{SIDE}x{SIDE}_conv"] = net.conv_in
    blocks, last = {}, len(multiples) - 1
    for level in range(last + 1):
        side = f"{SIDE >> level}x{SIDE >> level}"
        down, up = net.down_blocks[level], net.up_blocks[last - level]
        fir, down = getattr(down, "fir", None), getattr(down, "block", down)
        below, above = f"{SIDE >> level + 1}", f"{SIDE >> max(level - 1, 0)}"
        for part, each in (("enc", down), ("dec", up)):
            attentions = getattr(each, "attentions", [None] * 2)
            if len(attentions) == 1 and part == "dec":
                attentions = [None, attentions[0]]
            for i, block in enumerate(each.resnets):
                blocks[f"{part}.{side}_block{i}"] = (block, attentions[i])
        for part, each, other in (("down", down, below), ("up", up, above)):
            resized = (
                getattr(each, f"resnet_{part}", None)
                or (getattr(each, f"{part}samplers", None) or [None])[0]
            )
            if isinstance(resized, resnet.ResnetBlock2D):
                name = f"{'enc' if part == 'down' else 'dec'}.{other}x{other}_{part}"
                blocks[name] = (resized, None)
        if fir is not None:
            plain[f"enc.{below}x{below}_aux_residual"] = fir.Conv2d_0
        elif getattr(down, "skip_conv", None) is not None:
            plain[f"enc.{below}x{below}_aux_skip"] = down.skip_conv
        if getattr(up, "skip_conv", None) is not None:
            plain[f"dec.{side}_aux_norm"] = up.skip_norm
            plain[f"dec.{side}_aux_conv"] = up.skip_conv
    deepest = f"dec.{SIDE >> last}x{SIDE >> last}"
    for i, attention in enumerate((net.mid_block.attentions[0], None)):
        blocks[f"{deepest}_in{i}"] = (net.mid_block.resnets[i], attention)
    ends = [f"dec.{SIDE}x{SIDE}_aux_norm", f"dec.{SIDE}x{SIDE}_aux_conv"]
    ends = ["out_norm", "out_conv"] if case == "adm" else ends
    plain |= dict(zip(ends, (net.conv_norm_out, net.conv_out), strict=True))
    return plain, blocks


class Random:
    """Gives modules random weights by NVIDIA's names; keeps the shapes."""

    def __init__(self):
        self.shapes = {}

    def array(self, name, shape):
        self.shapes[name] = list(shape)
        return torch.from_numpy(pretrained_weights.random_state({name: shape})[name])

    def fill(self, name, module):
        for leaf, old in list(module.named_parameters()):
            getattr(module, leaf).data = self.array(f"{name}.{leaf}", old.shape)

    def fill_block(self, name, block, attention):
        for ours, theirs in BLOCK.items():
            self.fill(f"{name}.{ours}", getattr(block, theirs))
        if block.conv_shortcut is not None:
            self.fill(f"{name}.skip", block.conv_shortcut)
        if isinstance(attention, attention_processor.Attention):
            self.fill_attention(name, attention)

    def fill_attention(self, name, attention):
        """Query, key and value of a channel side by side, as 1 x 1 convolutions."""
        self.fill(f"{name}.norm2", attention.group_norm)
        count = attention.to_q.in_features
        whole = self.array(f"{name}.qkv.weight", (3 * count, count, 1, 1))
        bias = self.array(f"{name}.qkv.bias", (3 * count,)).reshape(count, 3)
        whole = whole.reshape(count, 3, count)
        for i, part in enumerate((attention.to_q, attention.to_k, attention.to_v)):
            part.weight.data, part.bias.data = whole[:, i].clone(), bias[:, i].clone()
        out = attention.to_out[0]
        weight = self.array(f"{name}.proj.weight", (count, count, 1, 1))
        out.weight.data = weight.reshape(count, count)
        out.bias.data = self.array(f"{name}.proj.bias", (count,))


def run(case, options):
    """One record: inputs, output and the gradient in z."""
    net, width = network(case, **options), options["width"]
    plain, blocks = modules(net, case, options["multiples"])
    random, noise = Random(), width * options.get("noise", 1)
    for name, module in plain.items():
        random.fill(name, module)
    for name, (block, attention) in blocks.items():
        random.fill_block(name, block, attention)
    if options.get("noise") == 2:
        net.time_proj.waves.weight.data = random.array("map_noise.freqs", (width,))
    z = pretrained_weights.arrays(0, 2, 3, SIDE, SIDE)
    # of networks with sinusoids of log time, diffusers takes the time itself
    time = np.array([-0.4, 0.7] if noise > width else [-1.2, 40.5], np.float32)
    found, given = dict(z=z, time=time), {}
    if options.get("augment"):
        found["augment"] = pretrained_weights.arrays(5, 2, options["augment"])
        matrix = random.array("map_augment.weight", (noise, options["augment"]))
        net.time_proj.more = torch.from_numpy(found["augment"]) @ matrix.T
    if options.get("labels"):
        found["label"] = np.array([3, 0])
        count = options["labels"]
        if case == "adm":
            matrix = random.array("map_label.weight", (4 * width, count))
            net.class_embedding.weight.data = matrix.T.clone()
            given["class_labels"] = torch.from_numpy(found["label"])
        else:
            matrix = random.array("map_label.weight", (noise, count))
            bias = random.array("map_label.bias", (noise,))
            rows = matrix.T[torch.from_numpy(found["label"])] * math.sqrt(count)
            net.time_proj.more = net.time_proj.more + rows + bias
    input_z = torch.from_numpy(z).requires_grad_()
    clock = np.exp(time) if noise > width else time
    output = net.eval()(input_z, torch.from_numpy(clock), return_dict=False, **given)[0]
    if noise > width:  # there diffusers divides by the time
        output = output * torch.from_numpy(clock)[:, None, None, None]
    numbers = torch.from_numpy(pretrained_weights.arrays(1, *output.shape))
    (gradient,) = torch.autograd.grad((output * numbers).sum(), input_z)
    found |= dict(output=output.detach().numpy(), gradient=gradient.numpy())
    return dict(found, shapes=json.dumps(random.shapes))


def main():
    """Runs every network; writes the record, or compares it."""
    torch.set_num_threads(1)
    found = {
        f"{case}/{name}": np.asarray(value)
        for case, options in CASES.items()
        for name, value in run(case, options).items()
    }
    path = pretrained_weights.FOLDER / "edm.npz"
    if "--compare" not in sys.argv:
        np.savez_compressed(path, **found)
        print(f"{path}: {path.stat().st_size} bytes")
        return
    with np.load(path) as file:
        for name in file.files:
            old = file[name]
            if old.dtype.kind == "f":
                largest = np.abs(old - found[name]).max() / np.abs(old).max()
                print(f"{name}: {largest:.1e} of the largest")


if __name__ == "__main__":
    main()
