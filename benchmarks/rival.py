"""Times the same network in PyTorch, as diffusers has it, in a process.

A U-Net is its `UNet2DModel`, a DiT its `DiTTransformer2DModel`, which embeds time and
label once in each block.

Started by `train_step.py` with the interpreter that it was given, which needs torch and
diffusers only; see `protocol.py` for what it answers.
"""

import argparse
import json
import math
import time
from typing import Any

import diffusers
import protocol
import torch

CLASSES = 10


def make_dit(case: dict[str, Any]) -> torch.nn.Module:
    """Makes a DiT with the same features, blocks, heads and patches."""
    network, (size, _, channels) = case["network"], case["shape"]
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=network["num_heads"],
        attention_head_dim=network["features"] // network["num_heads"],
        in_channels=channels,
        num_layers=network["num_blocks"],
        sample_size=size,
        patch_size=network["patch_size"],
        num_embeds_ada_norm=CLASSES,
    )


def make_unet(case: dict[str, Any]) -> torch.nn.Module:
    """Makes a U-Net with the same channels, blocks, attention and conditioning."""
    network, (size, _, image_channels) = case["network"], case["shape"]
    channels = [m * network["channels"] for m in network["multipliers"]]
    attends = [
        size // 2**level in network["attention_resolutions"]
        for level in range(len(channels))
    ]
    kind = lambda way: [f"{'Attn' if a else ''}{way}Block2D" for a in attends]
    return diffusers.UNet2DModel(
        sample_size=size,
        in_channels=image_channels,
        out_channels=image_channels,
        block_out_channels=tuple(channels),
        layers_per_block=network["num_blocks"],
        down_block_types=tuple(kind("Down")),
        up_block_types=tuple(kind("Up")[::-1]),
        attention_head_dim=channels[-1] // network["num_heads"],
        norm_num_groups=math.gcd(32, network["channels"] // 4),
        num_class_embeds=CLASSES + 1,
        resnet_time_scale_shift="scale_shift",
        dropout=network["dropout"],
    )


class Trainer:
    """Trains by flow matching with AdamW, clipping and an average, as in our step.

    Args:
      net: on its device.
      x: images in [-1, 1], [batch, channels, height, width].
      label: [batch].
      dtype: of the convolutions and products.
    """

    def __init__(
        self, net: torch.nn.Module, x: torch.Tensor, label: torch.Tensor, dtype: str
    ):
        self.net, self.x, self.label = net, x, label
        self.params = list(net.parameters())
        self.average = [p.detach().clone() for p in self.params]
        self.optimizer = torch.optim.AdamW(self.params, lr=1e-3, weight_decay=0.01)
        self.autocast = lambda: torch.autocast(
            x.device.type, torch.bfloat16, enabled=dtype == "bfloat16"
        )

    def step(self) -> None:
        """Makes one update, to its end."""
        t = torch.rand(len(self.x), device=self.x.device)
        eps = torch.randn_like(self.x)
        dropped = torch.rand_like(t) < 0.1
        label = torch.where(dropped, CLASSES, self.label)
        z = torch.lerp(self.x, eps, t[:, None, None, None])
        with self.autocast():
            u = self.net(z, 1000 * t, class_labels=label).sample
        loss = ((u.float() - (eps - self.x)) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.params, 1e-3)
        self._wait()

    def network(self) -> None:
        """Computes value and gradients of the mean square of the output."""
        t = torch.rand(len(self.x), device=self.x.device)
        with self.autocast():
            u = self.net(self.x, 1000 * t, class_labels=self.label).sample
        torch.autograd.grad((u.float() ** 2).mean(), self.params)
        self._wait()

    def _wait(self) -> None:
        if self.x.is_cuda:
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    case = json.loads(args.case)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    height, width, channels = case["shape"]
    make_net = {"unet": make_unet, "dit": make_dit}[case["network"]["name"]]
    net = make_net(case).to(device, memory_format=torch.channels_last)
    x = torch.rand(case["batch_size"], channels, height, width, device=device) * 2 - 1
    x = x.to(memory_format=torch.channels_last)
    label = torch.randint(CLASSES, (len(x),), device=device)
    net.train()
    if args.compile:
        net.compile()
    trainer = Trainer(net, x, label, args.dtype)
    start = time.perf_counter()
    trainer.step()
    facts = dict(
        device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
        versions=dict(torch=torch.__version__, diffusers=diffusers.__version__),
        parameters=sum(p.numel() for p in net.parameters()),
        first_step_seconds=time.perf_counter() - start,
        peak_device_bytes=(
            torch.cuda.max_memory_allocated() if device == "cuda" else None
        ),
    )
    protocol.serve(facts, dict(step=trainer.step, network=trainer.network))


if __name__ == "__main__":
    main()
