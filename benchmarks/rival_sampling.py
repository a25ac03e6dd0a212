"""Samples the digits network in PyTorch, as diffusers does, in a process.

Started by `sampling.py` with the interpreter that it was given, which needs torch and
diffusers only, on the folder that `our_sampling.py` wrote; see `protocol.py` for what
it answers. The samples and the output of the network go to `theirs.npz`.
"""

import argparse
import json
import pathlib

import diffusers
import numpy as np
import protocol
import torch


def open_network(folder: pathlib.Path) -> torch.nn.Module:
    """Opens the network, and gives each normalisation the groups of ours."""
    net = diffusers.UNet2DModel.from_pretrained(folder).eval()
    groups = json.loads((folder / "groups.json").read_text())
    for module in net.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = groups[str(module.num_channels)]
    return net.to(memory_format=torch.channels_last)


class Sampler:
    """Samples by diffusers' Heun scheduler.

    Args:
      folder: of the network and its scheduler.
      inputs: arrays of `inputs.npz`.
      batch_size: samples at once.
    """

    def __init__(
        self, folder: pathlib.Path, inputs: dict[str, np.ndarray], batch_size: int
    ):
        self.net = open_network(folder)
        config = json.loads((folder / "scheduler_config.json").read_text())
        self.scheduler = diffusers.HeunDiscreteScheduler.from_config(config)
        self.timesteps = inputs["timesteps"].tolist()
        self.noise, self.z = (
            torch.from_numpy(inputs[name]).to(memory_format=torch.channels_last)
            for name in ("noise", "z")
        )
        self.label = torch.from_numpy(inputs["label"])
        self.step = torch.from_numpy(inputs["step"]).float()
        self.batch_size = batch_size

    @torch.inference_mode()
    def sample(self) -> torch.Tensor:
        """Samples once, a batch after another."""
        batches = (each.split(self.batch_size) for each in (self.noise, self.label))
        return torch.cat([self._batch(*each) for each in zip(*batches, strict=True)])

    @torch.inference_mode()
    def call(self) -> torch.Tensor:
        """Calls the network once on all of z."""
        return self.net(self.z, self.step, class_labels=self.label).sample

    def _batch(self, noise: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        scheduler = self.scheduler
        scheduler.set_timesteps(timesteps=self.timesteps)
        z = noise * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(z, t)
            output = self.net(seen, t.repeat(len(z)), class_labels=label).sample
            z = scheduler.step(output, t, z).prev_sample
        return z


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True, type=pathlib.Path)
    for name in ("threads", "calls", "batch_size"):
        parser.add_argument(f"--{name}", required=True, type=int)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    inputs = dict(np.load(args.folder / "inputs.npz"))
    sampler = Sampler(args.folder / "network", inputs, args.batch_size)
    if args.compile:
        sampler.net.compile()
    found = dict(samples=sampler.sample().numpy(), output=sampler.call().numpy())
    np.savez(args.folder / "theirs.npz", **found)
    facts = dict(
        versions=dict(torch=torch.__version__, diffusers=diffusers.__version__),
        parameters=sum(p.numel() for p in sampler.net.parameters()),
        num_calls=len(sampler.scheduler.timesteps),
    )
    calls = lambda: [sampler.call() for _ in range(args.calls)]
    protocol.serve(facts, dict(sampling=sampler.sample, calls=calls))


if __name__ == "__main__":
    main()
