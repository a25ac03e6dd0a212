"""Which entries a config has. `data` and `network` are judged by what they name."""

from collections.abc import Mapping
from typing import Any

from experiments.errors import UsageError, check_name, nearest

ENTRIES = {
    "seed": None,
    "num_steps": None,
    "batch_size": None,
    "data": None,
    "objective": ("schedule", "kind", "weighting", "times", "proposal"),
    "sigma_data": None,
    "label_dropout": None,
    "network": None,
    "optimizer": (
        "learning_rate",
        "warmup_steps",
        "schedule",
        "b1",
        "b2",
        "weight_decay",
        "clip_norm",
        "accumulate",
        "nonfinite_limit",
    ),
    "ema": ("limit", "warmup", "sigma_rel", "store_every"),
    "matmul_precision": None,
    "cpu_devices": None,
    "sharding": ("fsdp", "least_size"),
    "log": ("every", "logsnr_min", "logsnr_max", "num_bins"),
    "eval": ("every", "draws"),
    "sampler": ("name", "num_steps", "grid"),
    "guidance": None,
    "samples": ("every", "per_class"),
    "checkpoint": ("every", "keep", "keep_best", "metric"),
}


def check_entries(config: Mapping[str, Any]) -> None:
    """Raises a `UsageError` where an entry is unknown or missing."""
    _check("config", config, ENTRIES)
    for name, known in ENTRIES.items():
        if known is not None:
            _check(f"config.{name}", config[name], known)


def _check(where: str, section: Mapping[str, Any], known: Any) -> None:
    for name in section:
        check_name(where, name, known)
    for name in known:
        if name not in section:
            raise UsageError(f"{where}: no entry {name!r}; {nearest(name, section)}")
