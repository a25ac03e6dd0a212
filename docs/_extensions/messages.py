"""Sphinx extension: every message of the project, read from its syntax trees.

```{project-messages}
```
"""

import ast
import itertools
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ("diffusionflow", "experiments")
SAID = {"warn", "warning", "print", "say", "_say", "announced", "PartProgress"}
BOUNDS = {"check_bound", "require"}


class Message(NamedTuple):
    """A message.

    Fields:
      kind: "error", "bound" (the words after "must be"), "help" of a flag, or "line".
      error: name of the class of an error, else empty.
      module: file, from the root.
      line: number in it.
      text: of the message, with the expressions in its braces.
    """

    kind: str
    error: str
    module: str
    line: int
    text: str

    @property
    def plain(self) -> str:
        """The text with `{...}` in place of each expression."""
        return re.sub(r"\x00[^\x01]*\x01", "{...}", self.text)


def messages() -> Iterator[Message]:
    """Collects the messages, by module and line."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = path.relative_to(ROOT).as_posix()
            for node in ast.walk(ast.parse(path.read_text())):
                yield from _of_node(node, module)


def _of_node(node: ast.AST, module: str) -> Iterator[Message]:
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        kind, call = "error", node.exc
    elif isinstance(node, ast.Call):
        kind, call = _kind(_name(node)), node
    else:
        return
    for argument in call.args[:1] if kind == "error" else call.args:
        text = _text(argument)
        if kind and text and (" " in text or kind == "error"):
            error = _name(call) if kind == "error" else ""
            yield Message(kind, error, module, call.lineno, text)


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _kind(name: str) -> str:
    if name in BOUNDS:
        return "bound"
    if name.startswith(("DEFINE_", "define_")):
        return "help"
    return "line" if name in SAID else ""


def _text(node: ast.AST) -> str:
    """The text of a string, expressions between the characters 0 and 1."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.FormattedValue):
        return f"\0{ast.unparse(node.value)}\1"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return ""


def lines() -> Iterator[str]:
    """Formats lines of Markdown: a heading and a list for each module."""
    for module, inside in itertools.groupby(messages(), lambda each: each.module):
        yield from (f"## {module}", "")
        for each in sorted(inside, key=lambda each: each.line):
            shown = " ".join(each.plain.split()).replace("`", "'")
            yield f"- {each.error or each.kind}: `{shown}`"
        yield ""


class ProjectMessages(SphinxDirective):
    """All messages."""

    def run(self) -> list[nodes.Node]:
        """Parses the lists, which are written as Markdown."""
        return self.parse_text_to_nodes("\n".join(lines()), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the extension."""
    app.add_directive("project-messages", ProjectMessages)
    return dict(version="1", parallel_read_safe=True, parallel_write_safe=True)
