"""Users' own parts: `package.module:Name` wherever a config names something.

A module is looked for in the current directory, among the installed packages, and for a
checkpoint also where it was when the run began, or in the copy that the run keeps in
`WORKDIR/modules`. Its digest is part of the checkpoint, so that a module that has
changed since is noticed.
"""

import hashlib
import importlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from experiments.runtime import files
from experiments.runtime.errors import UsageError, nearest

REFERENCE = re.compile(r"(?<![\w.])([A-Za-z_]\w*(?:\.\w+)*):([A-Za-z_]\w*)")
STRING = re.compile(r"'[^']*'|\"[^\"]*\"")
ENTRIES = (
    "objective",
    "distillation.method",
    "sampler.name",
    "sampler.grid",
    "network.name",
    "data.name",
    "optimizer.name",
    "optimizer.schedule",
    "callbacks",
)
FOLDER = "modules"
MOST_BYTES = 2**20  # of a package of which a run keeps a copy


def references(text: str) -> list[tuple[str, str]]:
    """Finds `(module, name)` of each `module:name` in a text, outside of strings."""
    return REFERENCE.findall(STRING.sub("", text))


def resolve(where: str, module: str, name: str) -> Any:
    """Imports `module` and returns its attribute `name`.

    Args:
      where: config entry, for errors.
      module: dotted.
      name: of a class or a function.

    Raises:
      UsageError: there is no such module or name, or the module cannot be imported.
    """
    _import_from_here()
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UsageError(f"{where}: {module}:{name}: {error}") from error
        raise UsageError(
            f"{where}: no module {module!r} for {module}:{name}, neither in the "
            "current directory nor installed; start from its directory, or add that to "
            "PYTHONPATH"
        ) from error
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"{where}: {module} cannot be imported: {reason}") from error
    if not hasattr(found, name):
        public = [
            key
            for key, each in vars(found).items()
            if getattr(each, "__module__", None) == module and key[0] != "_"
        ]
        raise UsageError(
            f"{where}: module {module!r} has no {name!r}; {nearest(name, public)}"
        )
    return getattr(found, name)


def modules(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Finds the modules that a config names, with their paths and digests.

    Args:
      config: valid, so that each can be imported.

    Returns:
      `{top: {"path": ..., "digest": ...}}`, by the name of the top-level module or
      package.
    """
    texts = []
    for name in ENTRIES:
        found: Any = config
        for key in name.split("."):
            found = found.get(key, {})
        values = found.values() if hasattr(found, "values") else (found,)
        for value in values:
            texts += [value] if isinstance(value, str) else list(value or ())
    tops = {
        module.partition(".")[0] for text in texts for module, _ in references(text)
    }
    return {top: _described(top) for top in sorted(tops)}


def digest_of(module: str) -> str:
    """Computes the digest of the sources of an imported module's top-level package."""
    return _described(module.partition(".")[0])["digest"]


def _described(top: str) -> dict[str, str]:
    root = _root(top)
    if root is None:
        return {"path": "", "digest": ""}
    return {"path": str(root), "digest": digest(root)}


def _root(top: str) -> pathlib.Path | None:
    """Finds the file of a module, or the directory of a package."""
    module = importlib.import_module(top)
    file = getattr(module, "__file__", None)
    if file is not None and pathlib.Path(file).name != "__init__.py":
        return pathlib.Path(file).resolve()
    folders = list(getattr(module, "__path__", []))
    return pathlib.Path(folders[0]).resolve() if folders else None


def digest(root: pathlib.Path) -> str:
    """Computes SHA-256 of a file, or of a directory's Python files with their names."""
    total = hashlib.sha256()
    for path in _files(root):
        total.update(str(path.relative_to(root.parent)).encode() + b"\0")
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def _files(root: pathlib.Path) -> list[pathlib.Path]:
    return sorted(root.rglob("*.py")) if root.is_dir() else [root]


def keep_copies(described: Mapping[str, Mapping[str, str]], workdir: Any) -> None:
    """Copies the sources of a run's modules to `workdir/modules/DIGEST/`.

    Args:
      described: of `modules`.
      workdir: of the run. Packages above 1 MiB are not copied.
    """
    folder = pathlib.Path(workdir) / FOLDER
    for facts in described.values():
        root = pathlib.Path(facts["path"])
        files = _files(root) if facts["digest"] else []
        if not files or sum(path.stat().st_size for path in files) > MOST_BYTES:
            continue
        for path in files:
            copy = folder / facts["digest"] / path.relative_to(root.parent)
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    if described:
        (folder / "index.json").write_text(json.dumps(described, indent=2) + "\n")


def search(workdir: Any) -> None:
    """Makes the modules of a run in `workdir`, if there is one, importable."""
    index = pathlib.Path(workdir) / FOLDER / "index.json"
    if os.path.exists(index):  # no error for a path that cannot be
        try:
            _add_paths(files.read_json(index), workdir)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{index} is corrupted: {error!r}; restore it from a backup, or move "
                "it away where the modules of the run can be imported"
            ) from error


def find_again(described: Mapping[str, Mapping[str, str]], workdir: Any) -> None:
    """Makes the modules of a checkpoint importable, and says which have changed.

    Args:
      described: as the checkpoint carries it.
      workdir: of the run, with its copies.

    Raises:
      UsageError: a module cannot be found.
    """
    _add_paths(described, workdir)
    for top, facts in described.items():
        if importlib.util.find_spec(top) is None:
            raise UsageError(
                f"the checkpoint needs the module {top!r}, which was {facts['path']} "
                "when the run began; start where it can be imported"
            )
        if (now := _described(top))["digest"] != facts["digest"]:
            print(
                f"warning: module {top!r} ({now['path']}) has changed since the "
                f"checkpoint was written; what it was then is in "
                f"{_kept(facts, workdir)}",
                file=sys.stderr,
                flush=True,
            )


def _kept(facts: Mapping[str, str], workdir: Any) -> pathlib.Path:
    return pathlib.Path(workdir).resolve() / FOLDER / facts["digest"]


def _add_paths(described: Mapping[str, Mapping[str, str]], workdir: Any) -> None:
    """Appends to `sys.path` where modules are found that the path does not find."""
    _import_from_here()
    for top, facts in described.items():
        for folder in (pathlib.Path(facts["path"]).parent, _kept(facts, workdir)):
            if folder.is_dir() and importlib.util.find_spec(top) is None:
                sys.path.append(str(folder))
                importlib.invalidate_caches()


def _import_from_here() -> None:
    """Adds the current directory to `sys.path`, as `python -m` does."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
