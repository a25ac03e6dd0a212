"""The digits by a transformer (DiT) instead of the U-Net; all else as in `digits.py`.

python -m experiments.train --config=configs/digits_dit.py --workdir=runs/digits_dit
"""

import ml_collections

from configs import digits


def get_config() -> ml_collections.ConfigDict:
    """The experiment: plain values."""
    config = digits.get_config()
    config.network = dict(
        name="dit",
        features=96,
        num_blocks=6,
        num_heads=4,
        patch_size=2,
        positions="sinusoidal",  # or "learned", "rotary", "none"
        expansion=4,  # hidden features of the MLP, as a multiple
        dropout=0.0,
        dtype="float32",
        remat="",
        scan=False,  # compiles one block and loops over it
    )
    config.optimizer.learning_rate = 1e-3
    return config
