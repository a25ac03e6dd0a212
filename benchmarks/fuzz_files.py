"""Files for the fuzzer: right ones of every format that is read, and wrong ones."""

import functools
import json
import os
import pathlib
import random
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from experiments.checkpointing import manager
from experiments.comparison import read_run
from experiments.config import build, distilled, external
from experiments.data.cifar import CIFAR_TRAIN
from experiments.evaluation import results
from experiments.runtime.errors import UsageError
from experiments.training import metrics_log

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "tests" / "data" / "checkpoint" / "checkpoints"
CONFIG_FILES = (
    "",
    "def get_config():\n    return None\n",
    "def get_config():\n    raise KeyError('x')\n",
    "def get_config():\n    return get_config()\n",
    "import nosuch\n",
    "import sys\nsys.exit(0)\n",
    "get_config = 3\n",
    "def get_config(a, b):\n    return {}\n",
    "def get_config():\n    return {'num_steps': 1}\n",
    "from ml_collections import ConfigDict\n"
    "def get_config():\n"
    "    config = ConfigDict(dict(data=dict(name='moons')))\n"
    "    config.data.data = config\n"
    "    return config\n",
    "from ml_collections import ConfigDict\n"
    "def get_config():\n"
    "    config = ConfigDict({})\n"
    "    config.seed = config\n"
    "    return config\n",
)
LETTERS = "()[]{}=,.:'\"-+*e0159 nax_\\\n\x00\xe9\u202e"


def mutated_text(rng: random.Random, text: str) -> str:
    """A text with some letters removed, inserted, doubled or exchanged."""
    letters = list(text)
    for _ in range(rng.randint(1, 3)):
        place = rng.randint(0, len(letters))
        kind = rng.randrange(4)
        if kind == 0:
            del letters[place : place + rng.randint(1, 3)]
        elif kind == 1:
            letters[place:place] = rng.choice(LETTERS) * rng.choice((1, 1, 1, 400))
        elif kind == 2:
            letters[place:place] = letters[place : place + rng.randint(1, 9)]
        else:
            letters[place : place + 1] = rng.choice(LETTERS)
    return "".join(letters)


def mutated(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Bytes with a part cut, altered, removed, doubled or replaced; and in words."""
    size = max(len(content), 1)
    start = rng.randrange(size)
    stop = min(size, start + rng.choice((1, 8, 100, size)))
    kind = rng.choice(("cut", "flip", "remove", "double", "zero", "noise", "append"))
    part = content[start:stop]
    changes: dict[str, Callable[[], bytes]] = {
        "cut": lambda: content[:start],
        "flip": lambda: (
            content[:start]
            + bytes(byte ^ 1 << rng.randrange(8) for byte in content[start : start + 1])
            + content[start + 1 :]
        ),
        "remove": lambda: content[:start] + content[stop:],
        "double": lambda: content[:stop] + part + content[stop:],
        "zero": lambda: content[:start] + bytes(len(part)) + content[stop:],
        "noise": lambda: content[:start] + rng.randbytes(len(part)) + content[stop:],
        "append": lambda: content + rng.randbytes(50),
    }
    return changes[kind](), f"{kind} {start}:{stop} of {size}"


def make_no_file(rng: random.Random, path: pathlib.Path) -> str:
    """Puts something where a file was that is none, or nothing; says what."""
    path.unlink(missing_ok=True)
    kind = rng.choice(
        ("nothing", "pipe", "directory", "dangling link", "loop", "empty")
    )
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "empty":
        path.touch()
    return kind


def _pictures(folder: pathlib.Path, suffix: str) -> dict[str, Any]:
    images = np.random.RandomState(0).randint(0, 256, (18, 8, 8, 3), np.uint8)
    for number, image in enumerate(images):
        place = folder / "data" / str(number % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:02d}.{suffix}")
    return dict(name="folder", path=str(folder / "data"))


def _arrays(folder: pathlib.Path, name: str, **arrays: np.ndarray) -> dict[str, Any]:
    np.savez(folder / "data.npz", **arrays)
    return dict(name=name, path=str(folder / "data.npz"))


def _npz(folder: pathlib.Path) -> dict[str, Any]:
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (36, 4, 4, 3), np.uint8)
    return _arrays(folder, "npz", images=images, labels=np.arange(36) % 3)


def _latents(folder: pathlib.Path) -> dict[str, Any]:
    mean = np.random.RandomState(0).normal(size=(36, 4, 4, 4)).astype(np.float32)
    return _arrays(folder, "latents", mean=mean, std=np.ones_like(mean))


@functools.cache
def _cifar_bytes() -> bytes:
    rng = np.random.RandomState(0)
    records = rng.randint(0, 256, (10_000, 3_073), np.uint8)
    records[:, 0] %= 10
    return records.tobytes()


def _cifar(folder: pathlib.Path) -> dict[str, Any]:
    (folder / "data").mkdir()
    for name in (*CIFAR_TRAIN, "test_batch.bin"):
        (folder / "data" / name).write_bytes(_cifar_bytes())
    return dict(name="cifar10", path=str(folder / "data"))


MAKERS: tuple[tuple[Callable[[pathlib.Path], dict[str, Any]], bool], ...] = (
    *((functools.partial(_pictures, suffix=end), False) for end in ("jpg", "webp")),
    *((functools.partial(_pictures, suffix=end), False) for end in ("bmp", "gif")),
    (functools.partial(_pictures, suffix="tiff"), False),
    *((functools.partial(_pictures, suffix="png"), True) for _ in range(3)),
    *((_npz, True) for _ in range(4)),
    *((_latents, True) for _ in range(2)),
    (_cifar, False),
)  # with whether the format has checksums


def _opened(section: dict[str, Any]) -> list[np.ndarray]:
    """The first examples of a data set, and its labels."""
    dataset = build.dataset(section)
    found = []
    for part in (dataset.train, dataset.test):
        count = min(8, len(part.labels))
        values, labels, *_ = part.gather(np.arange(count))
        found += [values, labels, np.asarray(part.labels)]
    return found


def data_file(rng: random.Random, folder: pathlib.Path) -> str:
    """Opens a data set of which a file was changed, or its options."""
    make_fn, has_checksums = rng.choice(MAKERS)
    section = make_fn(folder)
    before = _opened(section) if has_checksums else None
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    if rng.random() < 0.15:
        what = make_no_file(rng, path)
        before = None
    else:
        content, what = mutated(rng, path.read_bytes())
        path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _opened(section)
    except UsageError:
        return "refused"
    finite = [array for array in found if np.issubdtype(array.dtype, np.floating)]
    assert all(np.isfinite(array).all() for array in finite), f"{what}: not finite"
    for one, other in zip(before or [], found, strict=False):
        assert np.array_equal(one, other), f"accepted: {path.name}: {what}"
    return "accepted"


RECORDS = {
    "metrics.jsonl": '{"step": 4, "loss": 1.5}\n{"step": 8, "loss": 1.25}\n',
    "wall_clock.jsonl": '{"step": 4, "examples_per_second": 100.0}\n',
    "environment.json": '{"platform": "cpu", "devices": ["cpu"]}\n',
    "modules/index.json": '{"mine": {"path": "mine.py", "digest": "0123"}}\n',
}


@functools.cache
def _weights() -> dict[str, str]:
    """Digests of the weights of the checkpoint that is kept for tests."""
    with manager.Checkpoints(CHECKPOINT.parent, read_only=True) as saved:
        return {
            name: saved.digest(saved.steps()[0], name) for name in ("params", "ema")
        }


def _write_evaluation(
    folder: pathlib.Path, identity: dict[str, Any], digests: dict[str, str]
) -> None:
    """The files of an evaluation of the checkpoint, which is read."""
    settings = {"step": 4, "weights": "ema", "parameters": digests["ema"]}
    entries: dict[str, Any] = {name: [] for name in results.ENTRIES}
    entries |= {"settings": settings, "identity": identity, "left_out": {}}
    entries |= {"likelihood": None}
    results.write(folder / "eval.json", entries, {"bound": np.zeros(4)})


def run_file(rng: random.Random, folder: pathlib.Path) -> str:
    """Reads the checkpoint and the records of a run of which a file was changed."""
    expected = _weights()
    shutil.copytree(CHECKPOINT, folder / "checkpoints")
    config = json.loads((CHECKPOINT / "4" / "identity" / "metadata").read_text())
    (folder / "config.json").write_text(json.dumps(config["config"]))
    for name, text in RECORDS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    _write_evaluation(folder, config, expected)
    inside = sorted(p for p in (folder / "checkpoints").rglob("*") if p.is_file())
    names = ("config.json", "eval.json", "eval.npz", *RECORDS)
    records = [folder / name for name in names]
    path = rng.choice(inside if rng.random() < 0.6 else records)
    if rng.random() < 0.2:
        what = make_no_file(rng, path)
    elif path.suffix in (".json", ".jsonl") and rng.random() < 0.5:
        what = rng.choice(
            ("[" * 200_000, "null", "[]", "{}", "3", '"a"', "1e9999", "-")
        )
        path.write_text(what + rng.choice(("", "\n")))
    else:
        content, what = mutated(rng, path.read_bytes())
        path.write_bytes(content)
    outcome = "accepted"
    for read_fn in (_read_checkpoint, _read_config, _read_modules, _read_records):
        try:
            read_fn(folder, expected)
        except UsageError:
            outcome = "refused"
    return outcome


def _read_checkpoint(folder: pathlib.Path, expected: dict[str, str]) -> None:
    with manager.Checkpoints(folder, read_only=True) as saved:
        step = saved.newest()
        if step is None:
            return
        json.dumps([saved.identity(step), saved.scores(step)])
        for name, digest in expected.items():
            assert saved.digest(step, name) == digest, f"accepted: other {name}"


def _read_config(folder: pathlib.Path, unused: Any) -> None:
    distilled.read_config(folder, "teacher")


def _read_modules(folder: pathlib.Path, unused: Any) -> None:
    external.search(folder)


def _read_records(folder: pathlib.Path, unused: Any) -> None:
    for name in (metrics_log.FILE_NAME, metrics_log.WALL_CLOCK):
        if (folder / name).exists():
            metrics_log.read(folder / name)
    read_run.read(folder)
