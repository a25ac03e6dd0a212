"""The directory of checkpoints: `checkpointing/step_directories.py`."""

import json
import os
import shutil

import pytest

from experiments.checkpointing import integrity, step_directories
from experiments.checkpointing.manager import Checkpoints
from experiments.checkpointing.retention import Keep
from experiments.runtime.errors import UsageError


def make(directory, step, loss=None):
    """A step as it is saved, as far as this module looks."""
    path = directory / str(step)
    (path / "scores").mkdir(parents=True)
    scores = {} if loss is None else {"test_loss_ema": loss}
    (path / "scores" / "metadata").write_text(json.dumps(scores))
    (path / "data").write_text(f"of step {step}")
    integrity.write(path, str(step))
    return path


@pytest.fixture
def directory(tmp_path):
    for step in (9, 10, 8):
        make(tmp_path, step)
    return tmp_path


def contents(directory):
    return {
        path.relative_to(directory): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


def test_steps_are_numbers(directory):
    (directory / "11").write_text("a file")
    (directory / "12.unchecked.orbax-checkpoint-tmp").mkdir()
    (directory / "12-copy").mkdir()
    assert step_directories.steps(directory) == [8, 9, 10]


@pytest.mark.parametrize("name", ["12", "12.unchecked.orbax-checkpoint-tmp"])
@pytest.mark.parametrize(
    "make_fn",
    [
        lambda path: path.write_text("mine"),
        lambda path: path.symlink_to("nowhere"),
        os.mkfifo,
    ],
    ids=["file", "dangling link", "pipe"],
)
def test_what_is_no_directory_is_not_removed_and_said_before_a_save(
    directory, name, make_fn
):
    """Orbax would remove the file, and wait for the pipe."""
    make_fn(directory / name)
    before = sorted(path.name for path in directory.iterdir())
    with pytest.raises(UsageError, match=f"{name} is no directory.*move it") as error:
        Checkpoints(directory.parent, directory=directory.name)
    assert len(str(error.value).splitlines()) == 1
    step_directories.sweep(directory)
    assert sorted(path.name for path in directory.iterdir()) == before
    assert step_directories.steps(directory) == [8, 9, 10]


def test_a_file_that_comes_during_a_run_is_not_removed(tmp_path):
    with Checkpoints(tmp_path, items=()) as saved:
        (saved.directory / "7").write_text("mine")
        with pytest.raises(UsageError, match="7 is no directory"):
            saved.save(7, {}, {})
    assert (tmp_path / "checkpoints" / "7").read_text() == "mine"


def test_scores_that_never_end_are_not_waited_for(directory, capfd):
    path = make(directory, 5, 0.1) / "scores" / "metadata"
    path.unlink()
    os.mkfifo(path)
    step_directories.retain(directory, Keep(newest=1), {})
    assert "5 is corrupted: scores/metadata is missing" in capfd.readouterr().err


def test_the_newest_intact_step_is_used_silently(directory, capfd):
    before = contents(directory)
    assert step_directories.newest(directory, rename=True) == 10
    assert contents(directory) == before
    assert capfd.readouterr() == ("", "")


def test_corrupted_steps_are_quarantined_with_all_their_files(directory, capfd):
    (directory / "10" / "data").write_text("of step 1!")
    (directory / "9" / "CHECKSUMS.json").unlink()
    (directory / "corrupted-9").mkdir()  # of an earlier time
    before = contents(directory)
    assert step_directories.newest(directory, rename=True) == 8
    assert step_directories.steps(directory) == [8]
    text = capfd.readouterr().err.splitlines()
    assert text[0] == (
        f"warning: checkpoint {directory / '10'} is corrupted: data was altered: its "
        "checksum differs; it was quarantined as corrupted-10, and step 8 is used"
    )
    assert "no CHECKSUMS.json" in text[1] and "quarantined as corrupted-9-2" in text[1]
    assert len(text) == 2
    moved = {"corrupted-10": "10", "corrupted-9-2": "9"}
    after = {
        type(path)(moved.get(path.parts[0], path.parts[0]), *path.parts[1:]): content
        for path, content in contents(directory).items()
    }
    assert after == before


def test_reading_renames_nothing(directory, capfd):
    (directory / "10" / "data").unlink()
    before = contents(directory)
    assert step_directories.newest(directory, rename=False) == 9
    assert contents(directory) == before
    assert "it was skipped, and step 9 is used" in capfd.readouterr().err
    with pytest.raises(
        UsageError, match=r"10 is corrupted: data is missing.*\[8, 9, 10"
    ):
        step_directories.check(directory, 10)
    step_directories.check(directory, 9)


def test_corruption_of_every_step_is_an_error_each_time(directory, capfd):
    for step in (8, 9, 10):
        (directory / str(step) / "CHECKSUMS.json").unlink()
    before = contents(directory)
    for rename in (True, True, False):
        with pytest.raises(
            UsageError, match="none|no checkpoint in .* is intact"
        ) as why:
            step_directories.newest(directory, rename=rename)
        assert len(str(why.value).splitlines()) == 1
        assert all(
            f"step {step}: it has no CHECKSUMS" in str(why.value) for step in (8, 10)
        )
    assert contents(directory) == before


def test_no_checkpoint_is_no_corruption(tmp_path):
    assert step_directories.newest(tmp_path, rename=True) is None


def test_only_intact_superseded_steps_without_foreign_files_are_removed(directory):
    make(directory, 1, loss=0.1)
    make(directory, 2, loss=float("nan"))
    make(directory, 3, loss=0.2)
    (make(directory, 4) / "notes.txt").write_text("mine")
    (make(directory, 5) / "CHECKSUMS.json").unlink()
    (make(directory, 6) / "data").unlink()
    (directory / "7").mkdir()
    (directory / "corrupted-2").mkdir()
    (directory / "2024").mkdir()  # someone's folder that looks like a step
    (directory / "best").mkdir()
    step_directories.retain(directory, Keep(newest=2, best=1), {})
    assert step_directories.steps(directory) == [1, 4, 5, 6, 7, 9, 10, 2024]
    left = {path.name for path in directory.iterdir()} - {"corrupted-2", "best"}
    assert left == {str(step) for step in step_directories.steps(directory)}


def alter(path):
    (path / "data").write_text((path / "data").read_text().upper())


def test_a_corrupted_checkpoint_is_quarantined_and_none_removed_in_its_place(
    tmp_path, capfd
):
    for step, loss in ((5, 0.1), (8, 0.2), (10, 0.3), (15, 0.4)):
        make(tmp_path, step, loss)
    alter(tmp_path / "5")  # the best
    step_directories.retain(tmp_path, Keep(newest=1, best=1), {})
    assert step_directories.steps(tmp_path) == [8, 15]
    assert (tmp_path / "corrupted-5" / "data").read_text() == "OF STEP 5"
    assert "5 is corrupted: data was altered" in capfd.readouterr().err
    make(tmp_path, 20)
    alter(tmp_path / "20")  # the newest
    step_directories.retain(tmp_path, Keep(newest=1), {})
    assert (
        step_directories.steps(tmp_path) == [15]
        and (tmp_path / "corrupted-20").is_dir()
    )


def test_scores_that_cannot_be_read_end_nothing(directory):
    (make(directory, 5, 0.1) / "scores" / "metadata").write_text("{")
    step_directories.retain(directory, Keep(newest=1), {})
    assert step_directories.steps(directory) == [10]
    assert (directory / "corrupted-5").is_dir()


def test_a_ranking_metric_that_came_later_is_used(directory):
    step_directories.retain(
        directory, Keep(newest=1, best=1), {8: {"test_loss_ema": 0.5}}
    )
    assert step_directories.steps(directory) == [8, 10]


def test_links_are_left_alone(tmp_path):
    for step in (5, 10):
        make(tmp_path / "elsewhere", step)
        (tmp_path / str(step)).symlink_to(tmp_path / "elsewhere" / str(step))
    (tmp_path / step_directories.temporary("3", "removed")).symlink_to(
        tmp_path / "elsewhere"
    )
    before = contents(tmp_path)
    step_directories.sweep(tmp_path)
    step_directories.retain(tmp_path, Keep(newest=1), {})
    assert contents(tmp_path) == before
    assert step_directories.newest(tmp_path, rename=True) == 10


def test_a_reader_looks_again_where_a_run_went_on(tmp_path, monkeypatch):
    """The run saves step 20 and removes 10 while 10 is being read."""
    make(tmp_path, 10)
    fault = integrity.find_corruption

    def slow(path):
        if path.name == "10":
            make(tmp_path, 20)
            shutil.rmtree(path)
        return fault(path)

    monkeypatch.setattr(integrity, "find_corruption", slow)
    assert step_directories.newest(tmp_path, rename=False) == 20


def test_what_was_never_finished_is_swept_and_nothing_else(directory):
    mine = [
        "11.orbax-checkpoint-tmp-mine",
        "best.orbax-checkpoint-tmp",
        "11.old.orbax-checkpoint-tmp",
        "corrupted-11",
    ]
    unfinished = [
        "11.orbax-checkpoint-tmp",
        "12.unchecked.orbax-checkpoint-tmp",
        "13.unchecked.orbax-checkpoint-tmp.orbax-checkpoint-tmp",
        step_directories.temporary("14", "removed"),
    ]
    for name in (*mine, *unfinished):
        (directory / name / "folder").mkdir(parents=True)
    step_directories.sweep(directory)
    assert {path.name for path in directory.iterdir()} == {*mine, "8", "9", "10"}
