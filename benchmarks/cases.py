"""Defines the networks that are timed: event shape, batch size and entries of a config.

`digits`, `cifar10` and `imagenet64` are those of the configs of that name, `dit_b` has
the size of DiT-B/2 and `dit_xl` that of DiT-XL/2, `dit_3b` 3 billion parameters;
`small32`, `small64` and `dit_tiny` have a size for a CPU. All are in float32 with
nothing computed twice, unless it is asked for. The blocks of `dit_xl` and `dit_3b` are
looped over.
"""

from types import ModuleType
from typing import Any

from configs import cifar10, digits, imagenet64


def _of(config: ModuleType, shape: list[int], batch_size: int) -> dict[str, Any]:
    network = config.get_config().network.to_dict()
    kept = {key: network[key] for key in network if key not in ("dtype", "remat")}
    return dict(shape=shape, batch_size=batch_size, network=kept)


CASES = {
    "digits": _of(digits, [8, 8, 1], 128),
    "small32": dict(
        shape=[32, 32, 3],
        batch_size=16,
        network=dict(
            name="unet",
            channels=64,
            multipliers=[1, 2, 2, 2],
            num_blocks=1,
            attention_resolutions=[16],
            num_heads=4,
            dropout=0.0,
        ),
    ),
    "small64": dict(
        shape=[64, 64, 3],
        batch_size=8,
        network=dict(
            name="unet",
            channels=64,
            multipliers=[1, 2, 3, 4],
            num_blocks=1,
            attention_resolutions=[16, 8],
            num_heads=4,
            dropout=0.0,
        ),
    ),
    "cifar10": _of(cifar10, [32, 32, 3], 128),
    "imagenet64": _of(imagenet64, [64, 64, 3], 64),
    "dit_tiny": dict(
        shape=[32, 32, 3],
        batch_size=16,
        network=dict(
            name="dit", features=192, num_blocks=12, num_heads=3, patch_size=4
        ),
    ),
    "dit_b": dict(
        shape=[32, 32, 4],
        batch_size=64,
        network=dict(
            name="dit", features=768, num_blocks=12, num_heads=12, patch_size=2
        ),
    ),
    "dit_xl": dict(
        shape=[32, 32, 4],
        batch_size=32,
        network=dict(
            name="dit",
            features=1152,
            num_blocks=28,
            num_heads=16,
            patch_size=2,
            scan=True,
        ),
    ),
    "dit_3b": dict(
        shape=[32, 32, 4],
        batch_size=32,
        network=dict(
            name="dit",
            features=2048,
            num_blocks=40,
            num_heads=16,
            patch_size=2,
            scan=True,
        ),
    ),
}
