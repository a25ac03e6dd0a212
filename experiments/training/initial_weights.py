"""The weights that a new run starts from: of another run, or of files."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flax import traverse_util

from diffusionflow.interop import folders, hub
from diffusionflow.interop.parameters import check_numbers
from diffusionflow.interop.weights import check_weights
from diffusionflow.networks.embedding import INTERVAL
from experiments.checkpointing import manager, metadata
from experiments.checkpointing.manager import WEIGHTS, Checkpoints
from experiments.config import published
from experiments.config.model import Model
from experiments.runtime import distributed, pytrees
from experiments.runtime.errors import UsageError, naming
from experiments.training import weight_files


class Source(NamedTuple):
    """The weights from which a new run starts.

    Fields:
      path: of a run, or one of its checkpoints; of a folder that `diffusionflow export`
        wrote or in the layout of diffusers, or of a file of weights; or
        `hf://owner/name[@revision][/path]` of such a folder or file on the hub.
      weights: "ema" or "raw", of a run.
    """

    path: str | pathlib.Path
    weights: str = "ema"


class NewRun(NamedTuple):
    """What the weights are for.

    Fields:
      model: of the run.
      identity: of the run.
      target: its parameters, as shapes on devices.
      fresh: its parameters before the first step, of which a network of one time lacks
        the map of a second one.
    """

    model: Model
    identity: Mapping[str, Any]
    target: Any
    fresh: Any

    @property
    def config(self) -> Mapping[str, Any]:
        """Of the run."""
        return self.identity["config"]


class Run(NamedTuple):
    """A run and the step of its checkpoint; None for the newest."""

    workdir: pathlib.Path
    step: int | None


def located(source: Source) -> Run | pathlib.Path:
    """Finds the run of a source, or the path of its files; nothing large is read.

    Raises:
      UsageError: there is neither.
    """
    path, found = pathlib.Path(source.path), _place(source)
    if found is None:
        raise UsageError(
            f"--init_from={path}: no checkpoints in {path}, and it is no folder of "
            f"weights with config.json, nor a file {', '.join(weight_files.KINDS)}; "
            "give one of these"
        )
    return found


def _place(source: Source) -> Run | pathlib.Path | None:
    path = pathlib.Path(source.path)
    if _on_hub(source):
        with naming("--init_from"):
            return hub.local_path(source.path, folders.PARTS)
    if path.parent.name == manager.DIRECTORY and path.name.isdecimal():
        return Run(path.parent.parent, int(path.name))
    if (path / manager.DIRECTORY).is_dir():
        return Run(path, None)
    configs = [path / "config.json", path / "model_index.json"]
    in_folder = any(each.is_file() for each in configs)
    unsaved = (path / "environment.json").is_file()  # a run without a checkpoint
    of_file = path.is_file() and path.suffix in weight_files.KINDS
    return path if of_file or (in_folder and not unsaved) else None


def _on_hub(source: Source) -> bool:
    return str(source.path).startswith("hf:")


def check(source: Source, workdir: str | pathlib.Path) -> None:
    """Raises a `UsageError` where a run that is new has nothing to start from.

    A run that is resumed needs its source no more.
    """
    if not (pathlib.Path(workdir) / manager.DIRECTORY).is_dir():
        located(source)


def origin(source: Source, recorded: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns what a run records of its source, besides step and digest of the weights.

    Args:
      source: of its weights.
      recorded: what a run has recorded, which says whether a source that is gone was
        one of files.
    """
    if _on_hub(source):
        return {"files": str(source.path)}
    found = _place(source)
    gone = found is None and "files" in (recorded or {})
    if gone or isinstance(found, pathlib.Path):
        return {"files": str(pathlib.Path(source.path).absolute())}
    run = found or Run(pathlib.Path(source.path), None)
    recorded = {"workdir": str(run.workdir.absolute()), "weights": source.weights}
    return recorded if run.step is None else recorded | {"step": run.step}


def read(new: NewRun, source: Source) -> tuple[Any, dict[str, Any]]:
    """Reads the weights of a source, and what is recorded of them.

    Args:
      new: the run.
      source: of its weights.

    Raises:
      UsageError: the weights are not exactly those of the run's network, which it
        lists, or they cannot be read.
    """
    found = located(source)
    if isinstance(found, Run):
        return _of_run(new, found, source)
    params = _of_files(new, found)
    return params, origin(source) | {"digest": pytrees.digest(params)}


def _of_run(new: NewRun, run: Run, source: Source) -> tuple[Any, dict[str, Any]]:
    item, target = WEIGHTS[source.weights], new.target
    with Checkpoints(run.workdir, read_only=True) as saved:
        step = saved.newest() if run.step is None else run.step
        if step is None:
            raise UsageError(
                f"--init_from: {saved.directory} holds no checkpoint yet: wait until "
                "that run has saved one, or name another"
            )
        if step not in saved.steps():
            steps = saved.steps()
            raise UsageError(f"--init_from: {saved.directory} holds the steps {steps}")
        saved.check(step)
        there = saved.identity(step)
        metadata.check_format(there)
        own = pytrees.named_leaves(saved.abstract(step, item))
        added = _new_intervals(own, pytrees.named_leaves(target))
        if new.config["distillation"]["teacher"]:
            _check_teacher(there, new.identity, saved.directory)
        wanted = pytrees.named_leaves(_without(target, added))
        _check(own, wanted, f"--init_from={run.workdir}")
        _report(_differences(there, new.identity), saved.directory, added)
        params = saved.restore(step, {item: _without(target, added)})[item]
        recorded = {"step": step, "digest": saved.digest(step, item)}
    return _completed(params, new.fresh, added), origin(source) | recorded


def _check(there: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Refuses arrays that are not exactly those of the run's network."""
    shapes = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
    with naming(where):
        check_weights(there, shapes, "this run's network")


def _of_files(new: NewRun, path: pathlib.Path) -> Any:
    """Reads the parameters in a folder or file, by names joined with dots."""
    flat = traverse_util.flatten_dict(new.target)
    wanted = {".".join(name): leaf for name, leaf in flat.items()}
    where = f"--init_from={path}"
    with naming(where):
        module, _ = published.unwrapped(new.model.net)
        state, said = weight_files.read(path, module)
    added = _new_intervals(state, wanted)
    _check(state, {name: wanted[name] for name in wanted if name not in added}, where)
    with naming(where):
        for name, array in state.items():
            check_numbers(name, array)
    weight_files.check_function(said, new.model.net, where)
    _report(weight_files.differences(said, new.model), path, added)
    own = traverse_util.flatten_dict(new.fresh)
    return traverse_util.unflatten_dict(
        {
            name: own[name] if ".".join(name) in added else state.pop(".".join(name))
            for name in flat
        }
    )


# in what a student may differ from its teacher; its other weights mean the same
STUDENTS = (
    "objective.weighting",
    "objective.times",
    "objective.proposal",
    "network.two_times",
    "network.dropout",
    "network.dtype",
)


def _check_teacher(
    there: Mapping[str, Any], here: Mapping[str, Any], directory: pathlib.Path
) -> None:
    """Refuses a teacher whose predictions are of another kind than the student's."""
    lines = _differences(there, here)
    wrong = [line for line in lines if line.partition(":")[0] not in STUDENTS]
    if wrong:
        listed = "\n  ".join(wrong)
        raise UsageError(
            f"distillation.teacher: the network in {directory} is of another kind than "
            f"the student's:\n  {listed}\nchoose the student's as the teacher's, as "
            "experiments.distill does"
        )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Lists in what the meaning of a run's weights differs, a line per entry."""
    names = ("conventions", "objective", "network", "data")
    one, other = ({name: found[name] for name in names} for found in (there, here))
    one["sigma_data"] = there["config"]["sigma_data"]
    other["sigma_data"] = here["config"]["sigma_data"]
    return metadata.diff(one, other)


def _new_intervals(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Lists the maps of a second time in `here`, where `there` is of one time.

    They add nothing at equal times, which is all that `there` was trained on.
    """
    lacking = here.keys() - there.keys()
    return sorted(
        name for name in lacking if INTERVAL in name.replace("/", ".").split(".")
    )


def _without(params: Any, paths: Sequence[str]) -> Any:
    """Removes the leaves of `paths` from parameters, nested dicts."""
    if not paths:
        return params
    flat = traverse_util.flatten_dict(params, sep="/")
    kept = {path: leaf for path, leaf in flat.items() if path not in paths}
    return traverse_util.unflatten_dict(kept, sep="/")


def _completed(params: Any, fresh: Any, paths: Sequence[str]) -> Any:
    """Returns `params` with the leaves of `fresh` at `paths`."""
    if not paths:
        return params
    flat = traverse_util.flatten_dict(params, sep="/")
    other = traverse_util.flatten_dict(fresh, sep="/")
    added = {path: other[path] for path in paths}
    return traverse_util.unflatten_dict(flat | added, sep="/")


def _report(lines: list[str], where: pathlib.Path, added: Sequence[str]) -> None:
    """Prints in what the weights' meaning differs, and refuses other conventions.

    Args:
      lines: a difference each.
      where: the weights are.
      added: names of the leaves that they lack.
    """
    if any(line.startswith("conventions") for line in lines):
        raise UsageError("\n  ".join([f"--init_from: {where}:", *lines]))
    lines = lines + [f"no {name}, which keeps its fresh value" for name in added]
    if lines and distributed.is_first():
        listed = "\n  ".join(lines)
        print(f"note: the weights of {where} had\n  {listed}", flush=True)
