"""Compares runs: which is better, by how much, and whether that is significant."""

import pathlib
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.comparison import grouping, quantities, report, tables
from experiments.comparison.run_record import Group
from experiments.runtime import files, own_files
from experiments.runtime.errors import UsageError
from experiments.visualization import html_page

COMMAND = "compare"
WIDTH = 110  # of the table where no terminal says


def compare_runs(
    arguments: Sequence[str], *, out: str = "compare.html", seed: int = 0
) -> str:
    """Compares runs, prints a summary table and the conclusions, writes the page.

    Args:
      arguments: directories of runs, the reference first; see `grouping.gather`.
      out: path of the page, `.html` in a directory that exists; empty for none.
      seed: of the bootstrap; the same inputs give the same page.

    Returns:
      The page; empty if none is asked for.

    Raises:
      UsageError: the runs cannot be compared at all, or the page cannot be written.
    """
    if out:
        own_files.check_file("out", out, ".html", COMMAND)
        _check_plotly()
    gathered = grouping.gather(arguments)
    compared = quantities.collect(gathered, seed)
    _print(gathered, compared)
    if not out:
        return ""
    first, *others = (group.name for group in gathered)
    mark = own_files.mark(COMMAND)
    title = f"{first} against {', '.join(others)}"
    text = html_page.render(title, report.build_report(gathered, compared), mark)
    with files.atomic_write(pathlib.Path(out)) as temporary:
        temporary.write_text(text)
    print(out, flush=True)
    return text


def _check_plotly() -> None:
    """Raises `UsageError` before any work if plotly is missing."""
    try:
        html_page.plotly_js()
    except UsageError as error:
        way = "--out= (empty) prints the table without it"
        raise UsageError(f"{error}; {way}") from error


def _print(gathered: Sequence[Group], compared: quantities.Quantities) -> None:
    """Prints the summary section to the terminal."""
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, width=WIDTH)
    plain = tables.summary(gathered, compared)
    table = Table()
    for name in plain.head:
        table.add_column(Text(name), overflow="fold")
    for row in plain.rows:
        table.add_row(*map(Text, row))
    console.print(table)
    words = {"refused": "not compared: ", "note": "note: "}
    for block in (
        report.objectives(gathered),
        *report.headlines(compared),
        report.exclusions(compared),
        report.notes(gathered, compared),
    ):
        for line in block.lines:
            text = words.get(block.kind, "") + line
            console.print(text, markup=False, soft_wrap=True)
