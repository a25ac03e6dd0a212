"""The networks that are timed: shape of an image, batch size and entries of a config.

Sizes: `digits` is that of `configs/digits.py`, `cifar10` that of DDPM++, `imagenet64`
that of ADM at 64 x 64, `dit_b` that of DiT-B/2.
"""

UNET = dict(name="unet", dropout=0.0, num_heads=4)
CASES = {
    "digits": dict(
        shape=[8, 8, 1],
        batch_size=128,
        network=UNET
        | dict(channels=32, multipliers=[1, 2], num_blocks=1, attention_resolutions=[]),
    ),
    "small32": dict(
        shape=[32, 32, 3],
        batch_size=16,
        network=UNET
        | dict(
            channels=64,
            multipliers=[1, 2, 2, 2],
            num_blocks=1,
            attention_resolutions=[16],
        ),
    ),
    "cifar10": dict(
        shape=[32, 32, 3],
        batch_size=128,
        network=UNET
        | dict(
            channels=128,
            multipliers=[2, 2, 2],
            num_blocks=4,
            attention_resolutions=[16],
            dropout=0.1,
        ),
    ),
    "imagenet64": dict(
        shape=[64, 64, 3],
        batch_size=64,
        network=UNET
        | dict(
            channels=192,
            multipliers=[1, 2, 3, 4],
            num_blocks=3,
            attention_resolutions=[32, 16, 8],
            dropout=0.1,
        ),
    ),
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
}
