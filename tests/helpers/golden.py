"""Reader of `tests/golden/data`: recorded outputs of other people's libraries.

`cases(kind, family)` lists the records; `Mixture(name)` is the data they were made on,
with its exact denoiser in NumPy float64. `tests/golden/data/README.md` says where the
records come from. Where the environment's DIFFUSIONFLOW_GOLDEN names a folder of the
same layout, its records are read in place of these, and nobody counts them.

A comparison knows a record by its library, its method and its `config`, never by its
name, so that it holds for any record of the same libraries.
"""

import dataclasses
import functools
import json
import os
import pathlib

import numpy as np
import pytest

SHIPPED = pathlib.Path(__file__).parents[1] / "golden" / "data"
NAMED = os.environ.get("DIFFUSIONFLOW_GOLDEN", "")
FOLDER = pathlib.Path(NAMED) if NAMED else SHIPPED


class Unknown(ValueError):
    """A record says something that its comparison does not know."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One record.

    Args:
      id: its name, unique in the family.
      family: the library, or the part of it, that made it; the name of the array file.
      kind: what was recorded: "sampler", "loss", "schedule", ...
      method: the recorder's name for what it ran.
      config: settings, under the recorder's own names.
      precision: of the run that was recorded.
      meta: all that the index says of it.
      replay: in words, how the arrays were made.
      a: the arrays by name.
    """

    id: str
    family: str
    kind: str
    method: str
    config: dict
    precision: str
    meta: dict
    replay: str
    a: dict

    def __str__(self) -> str:
        return self.id

    def of(self, library) -> bool:
        """Whether it is of a library, which may have several families."""
        return self.family == library or self.family.startswith(f"{library}_")

    def choose(self, name, options, default=None):
        """`options[config[name]]`, or that of the default where `config` is silent."""
        value = self.config.get(name, default)
        if isinstance(value, list | dict) or value not in options:
            raise self.unknown(f"{name}={value!r}", f"known are {list(options)}")
        return options[value]

    def unknown(self, what, why="") -> Unknown:
        """An error that says what is not known of this record."""
        return Unknown(
            f"{self.family} {self.id}: {what} is not known here"
            + (f"; {why}" if why else "")
            + f". Method {self.method!r}, config {self.config}"
        )


@functools.cache
def index():
    """The parsed `index.json`."""
    return json.loads((FOLDER / "index.json").read_text())


@functools.cache
def _arrays(family):
    with np.load(FOLDER / f"{family}.npz") as stored:
        return {name: stored[name] for name in stored.files}


def cases(kind=None, family=None):
    """Records of a kind and a family, in the order of the index; None for all."""
    return [
        _case(entry)
        for entry in index()["cases"]
        if kind in (None, entry["kind"]) and family in (None, entry["family"])
    ]


def each(kind, family, count):
    """A test of each record, and a check that none of the shipped was added or lost."""
    found = cases(kind, family)
    expect(len(found), count)
    return pytest.mark.parametrize("case", found, ids=str)


def expect(found, count):
    """Asserts a number of records, where they are the shipped ones."""
    assert NAMED or found == count, (found, count)


def marks(slow):
    """Of a record whose test is slow; whoever names a folder wants all of it."""
    return [pytest.mark.slow] if slow and not NAMED else []


def _case(entry):
    texts = index()["families"][entry["family"]]["replay_texts"]
    stored = _arrays(entry["family"])
    return Case(
        **{name: entry[name] for name in ("id", "family", "kind", "method", "config")},
        precision=entry.get("precision", "float64"),
        meta=entry,
        replay=texts[entry["replay"]],
        a={name: stored[f"{entry['id']}/{name}"] for name in entry["arrays"]},
    )


class Mixture:
    """`x ~ sum_k w_k N(mu_k, diag(s_k^2))`; fields `weights [K]`, `means`, `stds`."""

    def __init__(self, name, folder=FOLDER):
        stored = json.loads((folder / "mixtures.json").read_text())[name]
        self.weights, self.means, self.stds = (
            np.array(stored[part]) for part in ("weights", "means", "stds")
        )

    def denoised(self, z, alpha, sigma):
        """`(E[x | z], E[eps | z])`, `[batch, d]` each; levels scalar or `[batch]`."""
        alpha, sigma = (np.reshape(level, (-1, 1, 1)) for level in (alpha, sigma))
        total = (alpha * self.stds) ** 2 + sigma**2
        offset = np.asarray(z)[:, None] - alpha * self.means
        log_share = np.log(self.weights) - 0.5 * np.sum(
            offset**2 / total + np.log(total), axis=-1
        )
        share = np.exp(log_share - log_share.max(axis=1, keepdims=True))
        share = (share / share.sum(axis=1, keepdims=True))[..., None]
        x = self.means + alpha * self.stds**2 * offset / total
        return (share * x).sum(1), sigma[:, 0] * (share * offset / total).sum(1)
