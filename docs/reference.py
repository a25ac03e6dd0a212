"""Writes the reference of the API from the docstrings, one page a module.

    python docs/reference.py site/api

It takes pdoc, which reads what is imported and so shows decorated classes, fields and
jaxtyped names as they are, and needs no server, theme or configuration.
"""

import inspect
import pathlib
import sys

import pdoc

import diffusionflow
from diffusionflow import likelihood, networks, predictions, samplers, schedules
from diffusionflow import testing as own
from diffusionflow.networks.embedding import ConditionalNetwork

PACKAGES = [value for value in vars(diffusionflow).values() if inspect.ismodule(value)]
PROTOCOLS = (
    likelihood.Trace,
    samplers.Sampler,
    schedules.Schedule,
    predictions.Denoiser,
    ConditionalNetwork,
)


def inherit() -> None:
    """Gives methods that are documented in a protocol alone its words."""
    words = {
        name: member.__doc__
        for protocol in PROTOCOLS
        for name, member in vars(protocol).items()
        if inspect.isfunction(member) and member.__doc__
    }
    for package in PACKAGES:
        for value in vars(package).values():
            for base in inspect.getmro(value) if inspect.isclass(value) else ():
                for name, member in vars(base).items():
                    if inspect.isfunction(member) and not member.__doc__:
                        member.__doc__ = words.get(name)


def as_attributes() -> None:
    """Calls the section `Fields:` by the name that pdoc makes a list of."""
    for package in PACKAGES:
        for value in vars(package).values():
            if inspect.isclass(value) and "\n    Fields:" in (value.__doc__ or ""):
                value.__doc__ = value.__doc__.replace("    Fields:", "    Attributes:")


def main(directory: str) -> None:
    """Writes the pages of every public module into a directory."""
    inherit()
    as_attributes()
    pdoc.render.configure(docformat="google", footer_text="diffusionflow")
    pages = diffusionflow.__name__, networks.__name__, own.__name__
    pdoc.pdoc(*pages, output_directory=pathlib.Path(directory))


if __name__ == "__main__":
    main(*sys.argv[1:])
