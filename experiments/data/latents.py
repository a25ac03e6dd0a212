"""Latents of an autoencoder, from moments in a folder or in an `.npz`.

A folder is one that `diffusionflow encode` wrote, see `latent_folder`. An `.npz` has
`mean`, and `std` or `logvar` = 2 log std, [n, *event] each, in the place of the values
of `npz_files`; its other entries are those, but for a mask. A latent is
z = scale (mean + std eps - shift), as the VAE of diffusers has it with its
`scaling_factor` and `shift_factor`.
"""

import functools
import inspect
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.data import array_checks, latent_folder, npz_entries
from experiments.data.base import DataSet, Examples
from experiments.data.npz_entries import DEFAULTS, Names, naming_file
from experiments.data.npz_files import data_set
from experiments.data.regular_file import check_other

Scales = float | tuple[float, ...]


def latents(
    *,
    path: str,
    test_path: str | None = None,
    labels: str = "labels",
    conditions: str | tuple[str, ...] = "conditions",
    map_labels: bool = False,
    scale: Scales = 1.0,
    shift: Scales = 0.0,
    channels_first: bool = False,
    channels_last: bool = False,
    mean_only: bool = False,
) -> DataSet:
    """Reads latents of an autoencoder: a folder or `.npz` of their moments [n, *event].

    z = scale (mean + std eps - shift), with eps fresh for each (seed, epoch, example)
    in training and fixed for a held-out example.

    Args:
      path: of the folder of `diffusionflow encode`, which knows all else but
        `mean_only`, or of the file.
      test_path: of another one with the held-out examples.
      labels: name of the array of labels.
      conditions: name, or names, of the vectors.
      map_labels: makes classes of whatever labels there are; see `class_labels`.
      scale: positive, one number or one for each channel; the usual choice gives z a
        standard deviation of 1.
      shift: one number or one for each channel; the usual choice gives z a mean of 0.
      channels_first: moves the first axis of an event to its end.
      channels_last: says that the last axis is that of the channels.
      mean_only: takes the mean in place of a sample, eps = 0.

    Raises:
      ValueError: if a file is missing or broken, or a value is out of bounds.
    """
    if pathlib.Path(path).is_dir():
        own: dict[str, Any] = dict(
            test_path=test_path, labels=labels, conditions=conditions
        )
        own |= dict(map_labels=map_labels, scale=scale, shift=shift)
        own |= dict(channels_first=channels_first, channels_last=channels_last)
        _check_left_out(path, own)
        return latent_folder.read(pathlib.Path(path), mean_only=mean_only)
    if test_path is not None:
        check_other(path, test_path)
    scales, shifts = _numbers("scale", scale), _numbers("shift", shift)
    if (scales <= 0).any():
        raise ValueError(f"scale={scale}: must be positive")
    names = Names(labels, conditions, mask="")
    axes = dict(first=channels_first, last=channels_last)

    def read(path: str) -> Examples:
        with naming_file(path):
            arrays = npz_entries.read_npz(path)
            npz_entries.check_names(names, "mean", "std", "logvar")
            if DEFAULTS.mask in arrays:
                raise ValueError("latents take no mask; remove this entry")
            mean, std = (
                array_checks.channels_last(name, moments, **axes)
                for name, moments in _moments(arrays).items()
            )
            for name, numbers in (("scale", scales), ("shift", shifts)):
                if len(numbers) not in (1, mean.shape[-1]):
                    raise ValueError(
                        f"{name} of {len(numbers)} numbers: must be one, or "
                        f"{mean.shape[-1]}, one for each channel"
                    )
            with np.errstate(over="ignore"):
                scaled = np.stack([mean - shifts, std], axis=1) * scales
            stored = array_checks.finite("scaled moments", scaled)
            found = npz_entries.examples(arrays, names, stored)
        npz_entries.say_unused(path, arrays, names, "mean", "std", "logvar")
        return found

    augment_fn = functools.partial(latent_folder.drawn, mean_only=mean_only)
    parts = data_set(read(path), path, test_path, read, augment_fn, map_labels)
    fixed = [
        augment_fn(np.random.RandomState([number]), row)
        for number, row in enumerate(parts.test.values)
    ]
    return parts._replace(test=parts.test._replace(values=np.stack(fixed)))


def _check_left_out(path: str, given: dict[str, Any]) -> None:
    """Raises a ValueError unless arguments of a folder have their defaults."""
    parameters = inspect.signature(latents).parameters
    wrong = [name for name in given if given[name] != parameters[name].default]
    if wrong:
        raise ValueError(
            f"{path} is a folder of diffusionflow encode, which has its own "
            f"{', '.join(wrong)}; leave that out"
        )


def _numbers(name: str, value: Scales) -> np.ndarray:
    """Converts one finite number or several to float32 [k]."""
    several = value if isinstance(value, Sequence) else (value,)
    number = lambda each: isinstance(each, (int, float)) and not isinstance(each, bool)
    good = [*map(number, several)]
    if isinstance(value, str) or not several or not all(good):
        raise ValueError(f"{name}={value!r}: must be a number, or one for each channel")
    return array_checks.finite(name, np.array(several))


def _moments(arrays: npz_entries.Arrays) -> dict[str, np.ndarray]:
    """Reads means and deviations, float32 [n, *event], by the names of their arrays."""
    if ("std" in arrays) == ("logvar" in arrays):
        raise ValueError("must have 'mean', and either 'std' or 'logvar'")
    spread = "std" if "std" in arrays else "logvar"
    found = {}
    for name in ("mean", spread):
        values = npz_entries.array(arrays, name)
        if values.dtype.kind != "f":
            raise ValueError(
                f"{name} of type {values.dtype}: must be floats, as an autoencoder "
                "gives them"
            )
        found[name] = array_checks.finite(name, values)
    mean, std = found.values()
    if mean.ndim < 2 or not mean.size or mean.shape != std.shape:
        raise ValueError(
            f"mean has shape {mean.shape}, its deviation {std.shape}: both must be "
            "[n, *event], such as [n, height, width, channels]"
        )
    if spread == "logvar":
        with np.errstate(over="ignore"):
            found[spread] = array_checks.finite("exp(logvar / 2)", np.exp(std / 2))
    elif (std < 0).any():
        raise ValueError(f"std: {int((std < 0).sum()):,} values are negative")
    return found
