"""The form of every message: the value, what it must be, the way out; in plain words.

The page `docs/messages.md` lists them all.
"""

import importlib
import pathlib
import re
import sys

import pytest

DOCS = pathlib.Path(__file__).parents[2] / "docs"
MOST = 300  # characters, without values
TERMS = re.compile(  # of the implementation
    r"\b(pytree|jit internals|[Tt]racers?|DynamicJaxpr\w*|vmap|dataclass|__\w+__|lax"
    r"|eval_shape|[Oo]rbax|grain|TensorStore|shard_map|XLA|isinstance|NamedTuple|ndarray"
    r"|kwargs?|ConfigDict|malformed node)\b"
)
PLACE_OR_WAY = re.compile(
    r"must|may|;|: |need|choose|takes? |give |did you|cannot|without|missing"
)
FRAGMENTS = {  # reasons, which the caller puts behind the name of the file
    "experiments/data/image_decoding.py",
    "experiments/data/image_rows.py",
    "experiments/data/npz_entries.py",
    "experiments/data/regular_file.py",
}
NAMED = {  # where the term is what the reader wrote
    "diffusionflow/weightings/base.py": "__call__",  # a class of the reader's own
    "experiments/config/overrides.py": "ConfigDict",  # what a config file returns
}


@pytest.fixture(scope="module")
def found():
    sys.path.insert(0, str(DOCS / "_extensions"))
    yield list(importlib.import_module("messages").messages())
    sys.path.remove(str(DOCS / "_extensions"))


@pytest.mark.ci
def test_the_messages_are_found(found):
    """Of each kind; a message of several parts is one."""
    kinds = [each.kind for each in found]
    assert {kind: kinds.count(kind) > 20 for kind in set(kinds)} == {
        "error": True, "bound": True, "help": True, "line": True,
    }  # fmt: skip
    (one,) = [each for each in found if each.plain.startswith("--coordinator={...}")]
    assert one.error == "UsageError" and one.plain.endswith("a port in [1, 65535]")


def test_messages_are_short(found):
    long = [(each.module, each.line) for each in found if len(each.plain) > MOST]
    assert long == []


def test_messages_have_no_terms_of_the_implementation(found):
    wrong = []
    for each in found:
        terms = {match[0] for match in TERMS.finditer(each.plain)}
        if terms - {NAMED.get(each.module)}:
            wrong.append((each.module, each.line, terms))
    assert wrong == []


def test_errors_of_values_say_what_must_be_or_the_way_out(found):
    wrong = [
        (each.module, each.line, each.plain)
        for each in found
        if each.error in ("ValueError", "UsageError")
        and not PLACE_OR_WAY.search(each.plain)
        and each.module not in FRAGMENTS
    ]
    assert wrong == []


def test_bounds_are_words_behind_must_be(found):
    for each in found:
        if each.kind == "bound" and not each.plain.startswith("{...}"):
            assert not each.plain.startswith("must"), (each.module, each.line)


def test_the_help_of_a_flag_is_a_sentence(found):
    for each in found:
        if each.kind == "help":
            text = each.plain.strip()
            assert text.endswith((".", "}")) and not text.startswith("Of "), text
