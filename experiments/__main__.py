"""The command `diffusionflow`: trains, samples, evaluates, compares and explains.

    diffusionflow train --config=digits --workdir=runs/digits

Each command is also `python -m experiments.NAME`.
"""

import difflib
import importlib.metadata
import runpy
import sys
from typing import NoReturn

COMMANDS = {
    "train": "trains a model, or resumes its training",
    "distill": "distils a run into a model of few steps",
    "sample": "draws samples from a run",
    "encode": "encodes a data set into latents of an autoencoder, to train on",
    "grid": "computes the sampling grid of a run, a sampler and a budget",
    "export": "writes the weights of a run as safetensors, for readers elsewhere",
    "pairs": "draws pairs of noise and sample to train on: reflow, one step",
    "evaluate": "evaluates a run: held-out loss, likelihood, sample quality",
    "compare": "compares evaluated runs, with intervals, as a page",
    "explain": "describes a config's objective, and equivalent recipes",
    "explore": "writes a page with sliders over schedules and samplers",
    "figures": "draws the figures of the documentation",
    "study": "trains, evaluates and compares several recipes with several seeds",
}


def usage() -> str:
    """Formats all commands, a line each."""
    listed = "\n".join(f"  {name:9} {text}" for name, text in COMMANDS.items())
    return (
        f"usage: diffusionflow COMMAND [--flag=value ...]\n\n{listed}\n\n"
        "diffusionflow COMMAND --help shows the flags of a command"
    )


def main() -> NoReturn:
    """Runs a command."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0)
    if name == "--version":
        print(importlib.metadata.version("diffusionflow"))
        sys.exit(0)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(COMMANDS)
        print(f"error: no command {name!r}: {hint}known: {known}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
