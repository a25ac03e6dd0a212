"""Checksum manifests of directories: `checkpointing/integrity.py`."""

import hashlib
import json
import os
import re
import shutil

import pytest

from experiments.checkpointing import integrity

FILES = {"a/b/data": bytes(range(256)) * 9, "a/metadata": b"{}", "empty": b""}


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "7"
    for name, content in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    integrity.write(path, "7")
    return path


def test_a_manifest_holds_name_sizes_and_checksums(directory):
    manifest = json.loads((directory / "CHECKSUMS.json").read_text())
    assert manifest == {
        "format": 1,
        "name": "7",
        "files": {
            name: {
                "size": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            for name, content in sorted(FILES.items())
        },
    }
    assert integrity.find_corruption(
        directory
    ) is None and integrity.has_only_listed_files(directory)
    assert {path.name for path in directory.iterdir()} == {
        "a",
        "empty",
        "CHECKSUMS.json",
    }


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def replace_by_directory(path):
    path.unlink()
    path.mkdir()


def edit(path, edit_fn):
    manifest = json.loads(path.read_text())
    edit_fn(manifest["files"])
    path.write_text(json.dumps(manifest))


CORRUPTION = {
    "one bit": (flip, "a/b/data", "a/b/data was altered"),
    "truncation": (cut, "a/b/data", "a/b/data has 2303 bytes, not 2304"),
    "a longer file": (lambda p: p.write_bytes(b"x"), "empty", "empty has 1 bytes"),
    "a lost file": (lambda p: p.unlink(), "a/metadata", "a/metadata is missing"),
    "a lost empty file": (lambda p: p.unlink(), "empty", "empty is missing"),
    "a lost folder": (shutil.rmtree, "a", "a/b/data is missing"),
    "no file": (replace_by_directory, "empty", "empty is missing"),
    "no manifest": (
        lambda p: p.unlink(),
        "CHECKSUMS.json",
        "no CHECKSUMS.json.*interrupted copy",
    ),
    "half a manifest": (cut, "CHECKSUMS.json", "CHECKSUMS.json cannot be read"),
    "an empty manifest": (
        lambda p: p.write_text(""),
        "CHECKSUMS.json",
        "cannot be read",
    ),
    "a deep manifest": (
        lambda p: p.write_text("[" * 200_000),
        "CHECKSUMS.json",
        "cannot be read",
    ),
    "a pipe for a manifest": (
        lambda p: [p.unlink(), os.mkfifo(p)],
        "CHECKSUMS.json",
        "cannot be read",
    ),
    "a pipe for a file": (
        lambda p: [p.unlink(), os.mkfifo(p)],
        "empty",
        "empty is missing",
    ),
    "a manifest of no file": (
        lambda p: edit(p, lambda files: files.clear()),
        "CHECKSUMS.json",
        "holds a/b/data, which its CHECKSUMS.json does not list",
    ),
    "a manifest of one file less": (
        lambda p: edit(p, lambda files: files.pop("empty")),
        "CHECKSUMS.json",
        "holds empty, which its CHECKSUMS.json does not list",
    ),
    "another list": (lambda p: p.write_text("[]"), "CHECKSUMS.json", "cannot be read"),
}


@pytest.mark.parametrize("name", CORRUPTION)
def test_corruption_is_named(directory, name):
    corrupt_fn, where, message = CORRUPTION[name]
    corrupt_fn(directory / where)
    assert re.search(message, integrity.find_corruption(directory))


def test_every_bit_counts(directory):
    """Of files and manifest: no flip passes, unless it changes what JSON ignores."""
    for path in (directory / "a/metadata", directory / "CHECKSUMS.json"):
        before = path.read_bytes()
        for place in range(0, len(before), 5):
            content = bytearray(before)
            content[place] ^= 1 << place % 8
            path.write_bytes(content)
            if path.name != "CHECKSUMS.json" or _listed(content) != _listed(before):
                assert integrity.find_corruption(directory) is not None, (path, place)
        path.write_bytes(before)
    assert integrity.find_corruption(directory) is None


def _listed(content):
    """What of a manifest matters; None where it cannot be read."""
    try:
        manifest = json.loads(content)
        return manifest["name"], {
            name: (entry["size"], entry["sha256"])
            for name, entry in manifest["files"].items()
        }
    except (ValueError, KeyError, TypeError):
        return None


def test_a_copy_under_another_name_is_not_what_it_says(directory):
    copy = directory.with_name("8")
    shutil.copytree(directory, copy)
    assert integrity.find_corruption(copy) == "it was saved under the name 7"
    assert not integrity.has_only_listed_files(copy)


def test_the_files_must_be_those_of_the_manifest(directory):
    (directory / "a" / "notes.txt").write_text("mine")
    said = "it holds a/notes.txt, which its CHECKSUMS.json does not list"
    assert integrity.find_corruption(directory) == said
    assert not integrity.has_only_listed_files(directory)
