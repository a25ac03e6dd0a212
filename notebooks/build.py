"""Executes the notebooks and writes `notebooks/*.ipynb` with their outputs.

    python notebooks/build.py --name 02_straight_or_curved

`notebooks/NAME.py`, in the percent format, is the source. `NAME.ipynb` is made from it
by execution and never edited: it has the script's cells and their outputs. The same
script and outputs give the same file. Without `--name` all notebooks are executed.
"""

import argparse
import os
import pathlib
import resource
import tempfile
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

ROOT = pathlib.Path(__file__).resolve().parent.parent
DIRECTORY = ROOT / "notebooks"
TIMEOUT = 1800  # seconds of a cell, on a machine that does other work as well
VERSION = 4, 5  # of the format of .ipynb


def scripts() -> dict[str, pathlib.Path]:
    """Names, such as `04_samplers`, to scripts, in order."""
    return {path.stem: path for path in sorted(DIRECTORY.glob("[0-9]*.py"))}


def read_script(path: pathlib.Path) -> Any:
    """A notebook without outputs, whose cells are numbered."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.nbformat, notebook.nbformat_minor = VERSION
    kernel = dict(display_name="Python 3", language="python", name="python3")
    notebook.metadata = nbformat.from_dict(dict(kernelspec=kernel))
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02}", nbformat.NotebookNode()
    return notebook


def cells(notebook: Any) -> list[tuple[str, str]]:
    """Type and source of each cell."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def execute(path: pathlib.Path) -> tuple[Any, float]:
    """Runs a script's cells in a fresh kernel on the CPU, from the root.

    Args:
      path: of the script.

    Returns:
      The notebook with its outputs, and the seconds of CPU time that it took.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell raised; the message shows it.
    """
    notebook, before = read_script(path), _seconds_of_children()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:  # or two kernels share their sockets
        client = NotebookClient(
            notebook,
            config=Config(KernelManager=dict(transport="ipc", ip=f"{folder}/kernel")),
            timeout=TIMEOUT,
            record_timing=False,
            resources=dict(metadata=dict(path=str(ROOT))),
        )
        client.execute(env=environment)
    kernel = notebook.metadata.kernelspec  # the kernel adds its version of Python
    notebook.metadata = nbformat.from_dict(dict(kernelspec=kernel))
    return notebook, _seconds_of_children() - before


def _seconds_of_children() -> float:
    """CPU time of the processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write(path: pathlib.Path) -> float:
    """Executes a script and writes its notebook next to it.

    Args:
      path: of the script.

    Returns:
      The seconds of CPU time that it took.
    """
    notebook, seconds = execute(path)
    nbformat.write(notebook, path.with_suffix(".ipynb"))
    return seconds


def main() -> None:
    """Executes the notebooks that are named on the command line, or all."""
    parser = argparse.ArgumentParser(description="Executes notebooks.")
    known = scripts()
    parser.add_argument("--name", action="append", choices=[*known], metavar="NAME")
    for name in parser.parse_args().name or known:
        print(f"{name}: {write(known[name]):.0f} s of CPU time", flush=True)


if __name__ == "__main__":
    main()
