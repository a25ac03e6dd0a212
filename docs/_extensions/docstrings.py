"""Converts this project's docstrings, Markdown with Google's sections, to reST.

They are written to be read in an editor: `code` in single backticks, tables with bars,
formulas as indented blocks, and the sections Args, Returns, Raises, Fields and Example.
"""

import inspect
import re
from collections.abc import Callable, Iterator

SECTIONS = ("Args", "Fields", "Returns", "Raises", "Example")
_HEADING = re.compile(rf"({'|'.join(SECTIONS)}):(?: (.*))?$")
_ENTRY = re.compile(r"(\*{0,2}[\w, *]+): (.*)$")
_CODE = re.compile(r"`([^`]+)`")
_NAME = re.compile(r"[A-Za-z]\w*(?:\.\w+)*$")

Resolve = Callable[[str], str | None]
Block = list[str]


def to_rest(text: str, resolve: Resolve) -> list[str]:
    """Converts a docstring to the lines of a reST document.

    Args:
      text: the docstring, indented as in the source.
      resolve: the full name of an object by the name in backticks; None where there is
        no such object, and the name stays code.

    Returns:
      Lines.

    Example:
      >>> to_rest("Adds `x`, see `add`.", {"add": "package.add"}.get)
      ['Adds ``x``, see :py:obj:`add <package.add>`.', '']
    """
    lines = []
    for heading, block in _sections(inspect.cleandoc(text).splitlines()):
        match heading:
            case None:
                lines += _body(block, resolve)
            case "Args":
                lines += _fields(block, "param {}", resolve)
            case "Raises":
                lines += _fields(block, "raises {}", resolve)
            case "Fields":
                lines += [":Fields:", *_indented(_entries(block, resolve))]
            case "Returns":
                lines += [":returns:", *_indented(_body(block, resolve))]
            case "Example":
                lines += [".. rubric:: Example", "", *_body(block, resolve)]
        lines.append("")
    return lines


def _sections(lines: Block) -> Iterator[tuple[str | None, Block]]:
    """Splits a docstring into `(name of the section or None, lines without indent)`."""
    heading, block = None, []
    for line in lines:
        found = _HEADING.match(line)
        ends = heading and line and not line.startswith(" ")
        if found or ends:
            yield heading, inspect.cleandoc("\n".join(["", *block])).splitlines()
            heading, block = (found[1], []) if found else (None, [])
        if found and found[2]:  # words after the colon
            block += ["  " + found[2], ""]
        elif not found:
            block.append(line)
    yield heading, inspect.cleandoc("\n".join(["", *block])).splitlines()


def _fields(block: Block, label: str, resolve: Resolve) -> Iterator[str]:
    """A reST field for each `name: text` of a section."""
    for name, text in _named(block):
        body = _body(text, resolve)
        yield f":{label.format(name.replace('*', ''))}: {body[0]}"
        yield from _indented(body[1:])


def _entries(block: Block, resolve: Resolve) -> Iterator[str]:
    """A list item for each `name: text` of a section."""
    for name, text in _named(block):
        first, *more = _body(text, resolve)
        yield f"- **{name}**: {first}"
        yield from (f"  {line}" for line in more)


def _named(block: Block) -> Iterator[tuple[str, Block]]:
    """Splits a section into `(name, lines)`; continuation lines are indented."""
    entries = []
    for line in block:
        found = _ENTRY.match(line)
        if found:
            entries.append((found[1], [found[2]]))
        elif entries:
            entries[-1][1].append(line[2:])
    return iter(entries)


def _body(block: Block, resolve: Resolve) -> Block:
    """Paragraphs, lists, tables, formulas and doctests."""
    lines = []
    for paragraph in _paragraphs(block):
        if paragraph[0].startswith("|"):
            lines += _table(paragraph, resolve)
        elif paragraph[0].startswith("    "):  # a formula or code
            lines += [".. code-block:: none", "", *paragraph]
        elif paragraph[0].lstrip().startswith(">>>"):
            lines += paragraph
        else:
            lines += inline("\n".join(paragraph), resolve).splitlines()
        lines.append("")
    return lines[:-1] or [""]


def _paragraphs(block: Block) -> Iterator[Block]:
    """Splits lines at blank ones, and where a table or a doctest begins."""
    found = []
    for line in block:
        begins = any(
            line.lstrip().startswith(mark) and not found[0].lstrip().startswith(mark)
            for mark in ("|", ">>>")
            if found
        )
        if found and (not line.strip() or begins):
            yield found
            found = []
        if line.strip():
            found.append(line.rstrip())
    if found:
        yield found


def _table(rows: Block, resolve: Resolve) -> Iterator[str]:
    """A table with bars, its second row dashes, as a reST list table."""
    yield from (".. list-table::", "   :header-rows: 1", "")
    for row in (rows[0], *rows[2:]):
        for place, cell in enumerate(row.strip().strip("|").split("|")):
            mark = "-" if place else "* -"
            yield f"   {mark:>3} {inline(cell.strip(), resolve)}"
    yield ""


def inline(text: str, resolve: Resolve) -> str:
    """Converts code in single backticks, with links where an object has the name.

    Args:
      text: a paragraph.
      resolve: as in `to_rest`.
    """
    pieces, end = [], 0
    for found in _CODE.finditer(text):
        pieces.append(_plain(text[end : found.start()]))
        pieces.append(_code(" ".join(found[1].split()), resolve))
        end = found.end()
        if text[end : end + 1].isalnum():
            pieces.append("\\ ")
    return "".join([*pieces, _plain(text[end:])])


def _code(code: str, resolve: Resolve) -> str:
    full = resolve(code) if _NAME.match(code) else None
    return f":py:obj:`{code} <{full}>`" if full else f"``{code}``"


def _plain(text: str) -> str:
    """Escapes what is markup in reST alone; `**bold**` is the same in both."""
    text = re.sub(r"(?<!\*)\*(?!\*)", r"\\*", text)
    return re.sub(r"\||(?<=\w)_(?!\w)", r"\\\g<0>", text)


def _indented(lines: Iterator[str] | Block) -> Iterator[str]:
    yield from (f"   {line}" if line else "" for line in lines)
