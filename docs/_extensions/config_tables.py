"""Sphinx extension: tables of the entries of a config and of the names in them.

    ```{config-entries}
    ```

    ```{config-names} SAMPLERS
    ```

Both are read from the application, so that a new entry or name is in the page.
"""

from collections.abc import Iterator
from typing import Any

import reference
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from experiments.config import registry, schema


def entries() -> Iterator[str]:
    """Formats lines of Markdown: a heading and a table for each section of a config."""
    rows = schema.described()
    for title, inside in _sections(rows):
        yield from (f"### {title}", "")
        yield "| `--config.` | meaning | value |"
        yield "|---|---|---|"
        for name, kind, default, bound, meaning in inside:
            kind = f"{kind}, {bound}" if bound else kind
            shown = f"default `{default}`" if default else "required"
            mark = " †" if schema.is_resumable(name) else ""
            mark += " ‡" if schema.is_acceptable(name) else ""
            yield f"| `{name}`{mark} | {meaning} | {kind}; {shown} |"
        yield ""


def _sections(rows: list[tuple[str, ...]]) -> Iterator[tuple[str, list]]:
    """Groups the entries of the config itself, and those of each section."""
    yield "The run", [row for row in rows if "." not in row[0]]
    for section in schema.SECTIONS:
        inside = [row for row in rows if row[0].startswith(f"{section}.")]
        if inside:
            yield section, inside


def names(registry_name: str) -> str:
    """Formats the names of a registry of the application, in a line of Markdown."""
    known = getattr(registry, registry_name)
    return ", ".join(_linked(name, value) for name, value in known.items())


def _linked(name: str, value: Any) -> str:
    """Formats a name, with a link where what it names is in the reference."""
    package = ".".join(value.__module__.split(".")[:2])
    for place in (package, value.__module__):
        full = f"{place}.{value.__qualname__}"
        if full in reference.documented():
            return f"{{py:obj}}`{name} <{full}>`"
    return f"`{name}`"


class ConfigEntries(SphinxDirective):
    """The entries of a config."""

    def run(self) -> list[nodes.Node]:
        """Parses the tables, which are written as Markdown."""
        text = "\n".join(entries())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class ConfigNames(SphinxDirective):
    """The names of a registry."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parses the line, which is written as Markdown."""
        return self.parse_text_to_nodes(names(self.arguments[0]))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the extension."""
    app.add_directive("config-entries", ConfigEntries)
    app.add_directive("config-names", ConfigNames)
    return dict(version="1", parallel_read_safe=True, parallel_write_safe=True)
