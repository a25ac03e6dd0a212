"""What may differ between a checkpoint and a run: `checkpointing/metadata.py`."""

import copy

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.checkpointing import metadata
from experiments.runtime.errors import UsageError
from experiments.training.trainer import Trainer
from tests.helpers import tiny


def identity_of(**examples):
    """The part of an identity that identifies the examples."""
    return {"examples": {"num_train": 8, "num_test": 1, "digest": "a"} | examples}


@pytest.mark.parametrize(
    ("saved", "current", "entry"),
    [
        (identity_of(), identity_of(contents="c"), None),
        (identity_of(), identity_of(digest="b", contents="c"), "digest"),
        (identity_of(), identity_of(num_train=9, contents="c"), "num_train"),
        (identity_of(contents="c"), identity_of(digest="b", contents="c"), None),
        (identity_of(contents="c"), identity_of(contents="d"), "contents"),
        (identity_of(), identity_of(digest="b"), "digest"),
        (identity_of(), identity_of(), None),
        (identity_of(), identity_of(class_names=["a", "b"]), None),
        (
            identity_of(class_names=["a", "b"]),
            identity_of(class_names=["b", "a"]),
            "class_names",
        ),
        (identity_of(), identity_of(skipped={"count": 1}), "skipped.count"),
    ],
)
def test_examples_are_compared_by_what_both_sides_know(saved, current, entry):
    """A checkpoint from before has no digest of contents; the older one counts then."""
    for one, other in ((saved, current), (current, saved)):
        lines = metadata.diff(one, other)
        assert [line.partition(":")[0] for line in lines] == (
            [f"examples.{entry}"] if entry else []
        )


def test_the_names_of_many_classes_are_shown_in_short():
    one, other = ([f"{more}{n}" for n in range(1000)] for more in ("a", "b"))
    (line,) = metadata.diff(
        identity_of(class_names=one), identity_of(class_names=other)
    )
    assert line == (
        "examples.class_names: ['a0', 'a1', ... 'a999'] (1,000) in the checkpoint, "
        "['b0', 'b1', ... 'b999'] (1,000) now"
    )


@pytest.fixture(scope="module")
def identities():
    """Of runs that differ in the fields of the network, by these."""
    every = {}, dict(max_frequency=16.0), dict(two_times=True)
    with jax.numpy_dtype_promotion("standard"):
        found = []
        for fields in every:
            config = tiny.config()
            config.network.update(fields)
            found.append(Trainer(config).identity)
    return dict(zip(["plain", "max_frequency", "two_times"], found, strict=True))


def test_a_checkpoint_from_before_a_field_of_networks_is_of_the_same_run(identities):
    """What it did then is what the field's default says now, and no other value is."""
    plain, before = identities["plain"], copy.deepcopy(identities["plain"])
    for name in "max_frequency", "two_times":
        assert name in before["network"]
        del before["network"][name]
    for one, other in ((before, plain), (plain, before)):
        metadata.check_compatible(one, other, 1)
    said = "network.max_frequency: 1000.0 in the checkpoint, 16.0 now"
    assert said in metadata.diff(before, identities["max_frequency"])
    said = "network.two_times: False in the checkpoint, True now"
    assert said in metadata.diff(before, identities["two_times"])


def test_a_run_does_not_go_on_with_another_top_frequency(identities):
    plain, other = identities["plain"], identities["max_frequency"]
    said = r"another run:\n.*network\.max_frequency: 16\.0 in the checkpoint, 1000\.0"
    with pytest.raises(UsageError, match="(?s)" + said):
        metadata.check_compatible(other, plain, 1)


def test_an_entry_that_a_checkpoint_lacks_has_its_default():
    """As one that was added since; an entry without a default is missing."""
    old = {"config": {"objective": {}, "ema": {}}}
    new = {"config": {"objective": {"coupling": ""}, "ema": {"sigma_rel": []}}}
    assert metadata.diff(old, new) == metadata.diff(new, old) == []
    other = {"config": {"objective": {"coupling": "sinkhorn"}}}
    expected = "config.objective.coupling: '' in the checkpoint, 'sinkhorn' now"
    assert metadata.diff(old, other) == [expected]
    required = {"config": {"objective": {"kind": "u"}}}
    assert metadata.diff(old, required)[0].startswith(
        "config.objective.kind: 'nothing'"
    )


RUN = {
    "config": {
        "num_steps": 10,
        "batch_size": 16,
        "data": {"name": "moons", "size": 330},
        "network": {"features": 16},
        "optimizer": {"schedule": "cosine", "learning_rate": 1e-3, "accumulate": 1},
        "log": {"every": 4},
    },
    "examples": {"num_train": 294},
    "network": {"dropout": 0.0},
}


def changed(**entries):
    """`RUN` with other values, by dotted names with `__` for a dot."""
    run = copy.deepcopy(RUN)
    for name, value in entries.items():
        *path, last = name.split("__")
        place = run
        for key in path:
            place = place.setdefault(key, {})
        place[last] = value
    return run


ACCEPTABLE = {
    "batch_size": dict(config__batch_size=32),
    "num_steps": dict(config__num_steps=20),
    "data": dict(config__data__size=440, examples__num_train=392),
    "optimizer.learning_rate": dict(config__optimizer__learning_rate=1e-4),
    "optimizer.schedule": dict(config__optimizer__schedule="constant"),
    "optimizer.accumulate": dict(config__optimizer__accumulate=2, network__dropout=0.1),
}


@pytest.mark.parametrize("name", ACCEPTABLE)
def test_a_change_is_refused_with_the_flag_that_accepts_it(name):
    current = changed(**ACCEPTABLE[name])
    before = changed(network__dropout=current["network"]["dropout"])
    with pytest.raises(UsageError) as error:
        metadata.check_compatible(before, current, 8)
    said = str(error.value)
    assert f" with --accept_change={name}, " in said
    assert ("--init_from" in said) == (name == "num_steps")
    accepted = metadata.check_compatible(before, current, 8, [name])
    rows = metadata.history(before, current, 8, accepted)
    entries = metadata.entries
    names = dict(entries(current).items() - entries(before).items())
    assert [row["entry"] for row in rows] == sorted(names)
    assert all(
        (row["step"], row["old"], row["new"])
        == (8, entries(before)[row["entry"]], entries(current)[row["entry"]])
        for row in rows
    )
    # averages of before are of this run; those of a later start without the change not
    metadata.check_compatible(before, current | {"history": rows}, 4)
    with pytest.raises(UsageError):
        metadata.check_compatible(current | {"history": rows}, before, 9)
    assert metadata.trained_history({"history": rows}) == rows


def test_flags_that_are_given_already_stay_in_the_advice():
    current = changed(config__batch_size=32, config__num_steps=20)
    with pytest.raises(UsageError, match="--accept_change=num_steps,batch_size"):
        metadata.check_compatible(RUN, current, 8, ["num_steps"])


def test_what_no_flag_accepts_is_not_advised():
    current = changed(config__network__features=8, config__batch_size=32)
    with pytest.raises(UsageError, match="train on with batch_size from"):
        metadata.check_compatible(RUN, current, 8)
    current = changed(config__network__features=8)
    with pytest.raises(UsageError) as error:
        metadata.check_compatible(RUN, current, 8, ["data", "batch_size"])
    assert "--accept_change" not in str(error.value)
    progressive = dict(config__distillation__method="progressive")
    with pytest.raises(UsageError) as error:
        metadata.check_compatible(
            changed(**progressive), changed(**progressive, config__num_steps=20), 8
        )
    assert "--accept_change" not in str(error.value)


def test_what_changes_no_number_may_change():
    for entries in (
        dict(config__log__every=5),
        dict(config__optimizer__accumulate=2),
    ):
        assert metadata.check_compatible(RUN, changed(**entries), 8) == []
    current = changed(config__log__every=5)
    rows = metadata.history(RUN, current, 8, [])
    assert rows == [dict(step=8, entry="config.log.every", old=4, new=5)]
    assert metadata.trained_history({"history": rows}) == []


@pytest.mark.usefixtures("standard_promotion")
def test_a_run_on_files_goes_on_if_they_moved_and_not_with_other_pixels(tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (18, 4, 4, 3), np.uint8)
    (tmp_path / "here").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "here" / f"{number:02d}.bmp")

    def current(folder):
        config = tiny.config()
        config.data = dict(name="folder", path=str(tmp_path / folder))
        config.network = dict(name="dit", features=16, num_blocks=1, num_heads=2)
        return Trainer(config).identity

    saved = current("here")
    assert saved["examples"].keys() >= {"digest", "contents"}
    (tmp_path / "here").rename(tmp_path / "there")
    metadata.check_compatible(saved, current("there"), 1)
    Image.fromarray(255 - images[3]).save(tmp_path / "there" / "03.bmp")
    with pytest.raises(UsageError, match=r"examples\.contents: .* in the checkpoint"):
        metadata.check_compatible(saved, current("there"), 1)
