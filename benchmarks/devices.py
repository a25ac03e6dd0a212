"""Published peak numbers of devices, for bounds; nothing here was measured.

Sources: data sheets of NVIDIA (A100 80 GB SXM, H100 SXM, H200 SXM; rates without
sparsity) and the pages of Cloud TPU (v5e, v5p, v6e). float32 products run at JAX's
default precision: TF32 on a GPU, one pass of bfloat16 on a TPU.
"""

from typing import NamedTuple

from diffusionflow.networks.platform import Target


class Device(NamedTuple):
    """Peaks of one device.

    Fields:
      target: what programs are lowered for.
      half: flops a second in bfloat16.
      single: flops a second in float32, at the default precision.
      bandwidth: bytes a second of its memory.
      memory: bytes.
      link: bytes a second that it sends to devices of its node, or of its pod.
    """

    target: Target
    half: float
    single: float
    bandwidth: float
    memory: float
    link: float


DEVICES = {
    "a100": Device(Target("cuda", 128), 312e12, 156e12, 2.04e12, 80e9, 300e9),
    "h100": Device(Target("cuda", 256), 989e12, 494e12, 3.35e12, 80e9, 450e9),
    "h200": Device(Target("cuda", 256), 989e12, 494e12, 4.8e12, 141e9, 450e9),
    "v5e": Device(Target("tpu"), 197e12, 197e12, 0.819e12, 16e9, 200e9),
    "v5p": Device(Target("tpu"), 459e12, 459e12, 2.765e12, 95e9, 600e9),
    "v6e": Device(Target("tpu"), 918e12, 918e12, 1.64e12, 32e9, 448e9),
}
