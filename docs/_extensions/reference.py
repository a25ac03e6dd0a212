"""Sphinx extension: the directive `package`, a page of the API reference.

    .. package:: diffusionflow.schedules

gives the docstring of a package and, module by module, the docstrings of its modules
and what `__all__` exports from them.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import docstrings
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import diffusionflow
from diffusionflow import likelihood, samplers
from diffusionflow.networks.embedding import ConditionalNetwork

ROOT = diffusionflow.__name__
PROTOCOLS = (likelihood.Trace, samplers.Sampler, ConditionalNetwork)
SEPARATE = ("diffusionflow.networks", "diffusionflow.testing")  # imported by name
SHORT = {  # signatures are evaluated; these read better as they are written
    "Array | ndarray | bool | number | bool | int | float | complex": "ArrayLike",
    "Callable[[Array, Array], ~diffusionflow.predictions.Denoised]": "DenoiseFn",
}
_DOTTED = re.compile(r"~?((?:[A-Za-z_]\w*\.)+)(\w+)")


def packages() -> list[str]:
    """Full names of the modules that have a page of their own."""
    inside = [
        f"{ROOT}.{name}"
        for name in diffusionflow.__all__
        if inspect.ismodule(getattr(diffusionflow, name))
    ]
    return sorted([*inside, *SEPARATE])


def exports(module: ModuleType) -> list[str]:
    """Names that a module gives to its users."""
    own = [
        name
        for name, value in vars(module).items()
        if name[0] != "_" and getattr(value, "__module__", None) == module.__name__
    ]
    return list(getattr(module, "__all__", own))


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """Public modules of a package, in the order of their names."""
    for found in pkgutil.iter_modules(getattr(package, "__path__", ())):
        if not found.name.startswith("_"):
            yield importlib.import_module(f"{package.__name__}.{found.name}")


def is_exported(package: ModuleType, module: ModuleType) -> bool:
    """Whether users are given the module itself, such as `samplers.diffusions`."""
    values = (getattr(package, name) for name in exports(package))
    return any(value is module for value in values)


def parameters(value: Any) -> set[str]:
    """Names of the arguments of a function or class, which mean themselves."""
    try:
        return set(inspect.signature(value).parameters)
    except (TypeError, ValueError):  # it has no signature
        return set()


def resolver(
    module: ModuleType, value: Any = None, inside: str = ""
) -> docstrings.Resolve:
    """What a name in backticks means in a docstring of `module`.

    Args:
      module: a package with a page, or one of its modules.
      value: what has the docstring; None for the module itself.
      inside: a class of it, whose methods come first.
    """
    arguments = parameters(value)
    known = documented()
    package = ".".join(module.__name__.split(".")[:2])
    scopes = (f"{package}.{inside}." if inside else "", f"{package}.", f"{ROOT}.", "")

    def resolve(name: str) -> str | None:
        names = () if name in arguments else (scope + name for scope in scopes)
        return next((full for full in names if full in known), None)

    return resolve


_documented: set[str] = set()


def documented() -> set[str]:
    """Full names of everything that has an entry in the reference."""
    if not _documented:
        _documented.update(packages(), (f"{ROOT}.register", f"{ROOT}.static"))
        for name in packages():
            package = importlib.import_module(name)
            _documented.update(_names(package))
            for module in modules(package):
                if is_exported(package, module):
                    _documented.update(_names(module))
    return _documented


def _names(module: ModuleType) -> Iterator[str]:
    for name in exports(module):
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            yield f"{module.__name__}.{name}"
        for method, member in vars(value).items() if inspect.isclass(value) else ():
            if (
                inspect.isfunction(member)
                and method[0] != "_"
                and inspect.getdoc(member)
            ):
                yield f"{module.__name__}.{name}.{method}"


class Package(SphinxDirective):
    """The page of a package."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parses the page, which is written as reST."""
        package = importlib.import_module(self.arguments[0])
        text = "\n".join(page(package))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def page(package: ModuleType) -> Iterator[str]:
    """Lines of a page: the package, its modules, and their members."""
    yield from (f".. py:module:: {package.__name__}", "")
    yield from docstrings.to_rest(package.__doc__, resolver(package))
    names = [name for name in exports(package) if _is_documented(package, name)]
    yield from _summary(package, names)
    for module in modules(package):
        own = [
            name
            for name in names
            if getattr(package, name).__module__ == module.__name__
        ]
        names = [name for name in names if name not in own]
        yield from _module(package, module, own)
    if names:
        yield from _heading("Members") if len(list(modules(package))) else ()
        yield from _members(package, names)


def _summary(package: ModuleType, names: list[str]) -> Iterator[str]:
    """A table of the members, with the first paragraph of each docstring."""
    yield from (".. list-table::", "   :class: summary", "")
    for name in names:
        value = getattr(package, name)
        text = inspect.getdoc(value).split("\n\n")[0]
        first = " ".join(docstrings.inline(text, resolver(package, value)).split())
        yield f"   * - :py:obj:`{name} <{package.__name__}.{name}>`"
        yield f"     - {first}"
    yield ""


def _module(package: ModuleType, module: ModuleType, own: list[str]) -> Iterator[str]:
    """A section for a module that exports names or says more than a line."""
    short = module.__name__.removeprefix(f"{ROOT}.")
    holder = package
    if is_exported(package, module):
        holder = module
        own = [name for name in exports(module) if _is_documented(module, name)]
    if own or "\n\n" in module.__doc__:
        yield from _heading(short)
        yield from docstrings.to_rest(module.__doc__, resolver(module))
        yield from _members(holder, own)


def _is_documented(module: ModuleType, name: str) -> bool:
    value = getattr(module, name)
    return inspect.isclass(value) or inspect.isfunction(value)


def _heading(text: str) -> tuple[str, ...]:
    return text, "-" * len(text), ""


def _members(module: ModuleType, names: list[str]) -> Iterator[str]:
    for name in names:
        value = getattr(module, name)
        directive = "autoclass" if inspect.isclass(value) else "autofunction"
        yield from (f".. {directive}:: {module.__name__}.{name}", "")


def inherit() -> None:
    """Gives methods that are documented in a protocol alone its words."""
    words = {
        name: member.__doc__
        for protocol in PROTOCOLS
        for name, member in vars(protocol).items()
        if inspect.isfunction(member) and member.__doc__
    }
    for name in packages():
        for value in vars(importlib.import_module(name)).values():
            for base in inspect.getmro(value) if inspect.isclass(value) else ():
                for method, member in vars(base).items():
                    if inspect.isfunction(member) and not inspect.getdoc(member):
                        member.__doc__ = words.get(method)


def on_docstring(
    app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """Converts the docstring of a member."""
    del app, options
    module, _, own = name.rpartition(".")
    inside = own if what in ("class", "exception") else ""
    if what in ("method", "property", "attribute"):
        module, _, inside = module.rpartition(".")
    resolve = resolver(importlib.import_module(module), value, inside)
    lines[:] = docstrings.to_rest("\n".join(lines), resolve)


def on_signature(
    app: Sphinx, what: str, name: str, value: Any, options: Any, *parts: str | None
) -> tuple[str | None, ...]:
    """Shortens the annotations of a signature."""
    del app, what, name, value, options
    return tuple(part and shortened(part) for part in parts)


def shortened(text: str) -> str:
    """Writes the names of types as the sources do, with links to documented ones."""

    def short(found: re.Match) -> str:
        package = ".".join(found[1].split(".")[:2]).rstrip(".")
        full = f"{package}.{found[2]}"
        return f"~{full}" if full in documented() else found[2]

    text = _DOTTED.sub(short, text)
    for long, name in SHORT.items():
        text = text.replace(long, name)
    return text


def skip(
    app: Sphinx, what: str, name: str, value: Any, skipped: bool, options: Any
) -> bool | None:
    """Leaves out the fields of named tuples, which their class documents."""
    del app, what, name, skipped, options
    return True if type(value).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the extension."""
    inherit()
    app.setup_extension("sphinx.ext.autodoc")
    app.add_directive("package", Package)
    handlers: dict[str, Callable] = {
        "autodoc-process-docstring": on_docstring,
        "autodoc-process-signature": on_signature,
        "autodoc-skip-member": skip,
    }
    for event, handler in handlers.items():
        app.connect(event, handler)
    return dict(version="1", parallel_read_safe=True, parallel_write_safe=True)
