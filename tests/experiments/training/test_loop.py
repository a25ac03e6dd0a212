"""The training loop, in this process on eight devices: `training/loop.py`."""

import contextlib
import functools
import json
import os
import re
import shutil
import signal

import jax
import pytest

from experiments.checkpointing.manager import Checkpoints, MismatchError
from experiments.config import registry
from experiments.data import toy2d
from experiments.runtime import environment, progress
from experiments.runtime.errors import Diverged, UsageError
from experiments.runtime.signals import Stopped
from experiments.training import actions, loop, metrics_log, trainer
from tests.helpers import tiny
from tests.helpers.trees import same

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Ten steps, a checkpoint after each: the workdir, the state, the batches."""
    workdir = tmp_path_factory.mktemp("straight")
    seen = []
    with jax.numpy_dtype_promotion("standard"):
        state = loop.train_and_evaluate(
            tiny.config(checkpoint__every=1, checkpoint__keep=10),
            workdir,
            hook=lambda number, batch, state: seen.append((number, batch)),
        )
    return workdir, state, seen


@pytest.mark.ci
def test_a_run_leaves_everything(straight, capsys):
    workdir, state, _ = straight
    assert int(state.step) == 10
    found = {path.name for path in workdir.iterdir()}
    assert found >= {
        "checkpoints",
        "metrics.jsonl",
        "tensorboard",
        "config.json",
        "environment.json",
        "loss.png",
        "samples",
    }
    names = sorted(path.name for path in (workdir / "samples").iterdir())
    assert names == ["step0000010_ema.png", "step0000010_raw.png"]
    config = json.loads((workdir / "config.json").read_text())
    assert config["network"]["name"] == "residual_mlp"
    recorded = json.loads((workdir / "environment.json").read_text())
    assert recorded["backend"] == "cpu"
    times = metrics_log.read(workdir / metrics_log.WALL_CLOCK)
    assert {row["machine"] for row in times} == {environment.machine(recorded)}


def test_rows_come_when_they_are_due(straight):
    rows = metrics_log.read(straight[0] / "metrics.jsonl")
    assert [row["step"] for row in rows] == [4, 5, 8, 10]
    assert ["loss" in row for row in rows] == [True, False, True, True]
    assert ["test_loss_ema" in row for row in rows] == [False, True, False, True]
    assert [sum(row["examples_by_logsnr"]) for row in rows if "loss" in row] == [
        4 * 16,
        4 * 16,
        2 * 16,
    ]


@pytest.mark.parametrize(
    "k", [3, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 4, 7, 9))]
)
def test_resuming_at_k_is_bit_for_bit_the_same(straight, tmp_path, monkeypatch, k):
    """Of 294 examples a step takes 16; log and evaluation fall between the k.

    Evaluations and pictures are announced where they are due: it starts a thread.
    """
    announced = []

    def announce(what, *unused, **settings):
        announced.append(what)
        return contextlib.nullcontext()

    monkeypatch.setattr(progress, "announced", announce)
    source, expected, seen = straight
    (tmp_path / "checkpoints").mkdir()
    shutil.copytree(source / "checkpoints" / str(k), tmp_path / "checkpoints" / str(k))
    shutil.copy(source / "metrics.jsonl", tmp_path)
    again = []
    state = loop.train_and_evaluate(
        tiny.config(),
        tmp_path,
        hook=lambda number, batch, state: again.append((number, batch)),
    )
    assert same(state, expected)
    assert [number for number, _ in again] == list(range(k + 1, 11))
    assert same(again, seen[k:])
    written = (tmp_path / "metrics.jsonl").read_bytes()
    assert written == (source / "metrics.jsonl").read_bytes()
    rows = metrics_log.read(tmp_path / "metrics.jsonl")
    evaluated = [row for row in rows if row["step"] > k and "test_loss_raw" in row]
    assert announced.count("evaluating") == len(evaluated) > 0
    assert announced.count("sampling") == 1  # after the last step


@pytest.mark.slow
def test_an_adaptive_proposal_is_resumed_bit_for_bit(tmp_path):
    config = tiny.config(
        objective__proposal="adaptive(uniform, num_bins=6)", checkpoint__every=5
    )
    expected = loop.train_and_evaluate(config, tmp_path / "straight")
    assert float(expected.moments.count.sum()) > 0
    part = tmp_path / "part" / "checkpoints"
    part.mkdir(parents=True)
    shutil.copytree(tmp_path / "straight" / "checkpoints" / "5", part / "5")
    state = loop.train_and_evaluate(config, tmp_path / "part")
    assert same(state, expected)
    assert jax.tree.structure(state) == jax.tree.structure(expected)


@pytest.mark.ci
def test_a_finished_run_is_left_as_it_is(straight, capsys):
    workdir, expected, _ = straight
    before = (workdir / "metrics.jsonl").read_bytes()
    state = loop.train_and_evaluate(tiny.config(), workdir)
    assert same(state, expected)
    assert (workdir / "metrics.jsonl").read_bytes() == before
    text = capsys.readouterr().out
    assert "resuming at step 10 of 10" in text
    last = text.splitlines()[-1]
    assert re.match(r"done: step 10, loss \d.\d+, test loss raw \d.\d+", last)
    assert str(workdir) in last


@pytest.mark.ci
def test_seeing_saving_and_sampling_change_nothing(straight, tmp_path):
    quiet = tiny.config(eval__every=0, samples__every=0, checkpoint__every=0)
    state = loop.train_and_evaluate(quiet, tmp_path)
    assert same(state, straight[1])
    assert not any((tmp_path / "checkpoints").iterdir())


def test_another_run_is_not_resumed(straight):
    changed = tiny.config(optimizer__learning_rate=0.5, objective__times="logit_normal")
    with pytest.raises(UsageError) as error:
        loop.train_and_evaluate(changed, straight[0])
    text = str(error.value)
    assert "the checkpoint of step 10 belongs to another run" in text
    assert "config.optimizer.learning_rate: 0.001 in the checkpoint, 0.5 now" in text
    assert "config.objective.times: 'uniform' in the checkpoint" in text
    assert "choose another --workdir" in text


@pytest.mark.ci
def test_what_the_numbers_do_not_depend_on_may_change(straight, tmp_path):
    shutil.copytree(straight[0], tmp_path, dirs_exist_ok=True)
    changed = tiny.config(sampler__name="ddpm", guidance=2.0, eval__draws=1)
    assert same(loop.train_and_evaluate(changed, tmp_path), straight[1])


@pytest.mark.slow
def test_a_constant_rate_can_be_trained_on(tmp_path):
    constant = dict(optimizer__schedule="constant", num_steps=5)
    loop.train_and_evaluate(tiny.config(**constant), tmp_path)
    state = loop.train_and_evaluate(
        tiny.config(**constant | {"num_steps": 6}), tmp_path
    )
    assert int(state.step) == 6


def test_a_checkpoint_of_another_shape_is_refused(straight, tmp_path, monkeypatch):
    """As after a change of the code: the identity agrees, the arrays do not."""
    monkeypatch.setattr(loop.resume.metadata, "check_compatible", lambda *args: None)
    changed = tiny.config(network__features=8)
    with pytest.raises(MismatchError, match=r"step 10 .*: params, .* has shape .*16"):
        loop.train_and_evaluate(changed, straight[0])


@pytest.mark.ci
def test_the_step_compiles_once(straight, tmp_path, monkeypatch):
    made = []

    class Watched(trainer.Trainer):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(loop, "Trainer", Watched)
    (tmp_path / "checkpoints").mkdir()
    shutil.copytree(straight[0] / "checkpoints" / "6", tmp_path / "checkpoints" / "6")
    loop.train_and_evaluate(tiny.config(), tmp_path)
    assert made[0].step_fn._cache_size() == 1
    assert made[0].eval_fn._cache_size() == 1


class Signalled(trainer.Trainer):
    """A trainer that is sent `number` at the `call`-th call of a method, from 1 on."""

    method, call, number = "", 0, 0

    def __init__(self, *given):
        super().__init__(*given)
        self.calls = 0
        if self.method:
            setattr(self, self.method, self.signalled(getattr(self, self.method)))

    def signalled(self, function):
        def call(*args, **settings):
            self.calls += 1
            if self.calls == self.call:
                os.kill(os.getpid(), self.number)
            return function(*args, **settings)

        return call


STOPS = (  # method, call, signal, step that is saved
    ("eval_fn", 4, signal.SIGTERM, 5),  # in the evaluation of the averaged weights
    ("step_fn", 2, signal.SIGINT, 7),  # in the middle of a step: it is finished
    ("sample_fn", 2, signal.SIGTERM, 10),  # between two pictures
)


@pytest.mark.slow
def test_a_run_stopped_in_evaluation_training_and_drawing_is_the_same(
    straight, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "Trainer", Signalled)
    for method, call, number, step in STOPS:
        monkeypatch.setattr(Signalled, "method", method)
        monkeypatch.setattr(Signalled, "call", call)
        monkeypatch.setattr(Signalled, "number", number)
        before = signal.getsignal(number)
        with pytest.raises(Stopped) as stopped:
            loop.train_and_evaluate(tiny.config(), tmp_path)
        assert stopped.value.code == 128 + number
        assert f"step {step} of 10 is saved in" in stopped.value.kept
        assert signal.getsignal(number) is before
        with Checkpoints(tmp_path, read_only=True) as saved:
            assert saved.newest() == step
        logged = [row["step"] for row in metrics_log.read(tmp_path / "metrics.jsonl")]
        assert logged == {5: [4], 7: [4, 5], 10: [4, 5, 8, 10]}[step]
    pictures = tmp_path / "samples"
    assert [path.name for path in pictures.iterdir()] == ["step0000010_raw.png"]
    monkeypatch.setattr(Signalled, "method", "")
    assert same(loop.train_and_evaluate(tiny.config(), tmp_path), straight[1])
    for name in ("metrics.jsonl", "samples/step0000010_ema.png"):
        assert (tmp_path / name).read_bytes() == (straight[0] / name).read_bytes()


@pytest.mark.ci
def test_a_stop_saves_nothing_where_saves_are_never_due(tmp_path, monkeypatch):
    hook = lambda number, *unused: os.kill(os.getpid(), signal.SIGTERM)
    config = tiny.config(checkpoint__every=0, eval__every=0)
    with pytest.raises(Stopped) as stopped:
        loop.train_and_evaluate(config, tmp_path, hook=hook)
    assert "nothing was saved, as checkpoint.every=0 says" in stopped.value.kept
    assert not any((tmp_path / "checkpoints").iterdir())


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_as_well_as_the_newest(tmp_path, monkeypatch):
    losses = iter([3.0, 3.0, 1.0, 1.0, float("nan"), float("nan"), 2.0, 2.0])
    evaluate = lambda *args: {"loss": next(losses)}
    monkeypatch.setattr(trainer.Trainer, "evaluate", evaluate)
    config = tiny.config(
        num_steps=8,
        eval__every=2,
        checkpoint__every=2,
        checkpoint__keep=1,
        checkpoint__keep_best=1,
        samples__every=0,
    )
    loop.train_and_evaluate(config, tmp_path)
    with Checkpoints(tmp_path, read_only=True) as saved:
        assert saved.steps() == [4, 8]


@pytest.mark.slow
def test_a_stop_in_the_evaluation_of_the_best_loses_it_no_rank(tmp_path, monkeypatch):
    config = tiny.config(
        num_steps=6,
        eval__every=2,
        checkpoint__every=2,
        checkpoint__keep=1,
        checkpoint__keep_best=1,
        samples__every=0,
    )
    losses = {2: 1.0, 4: 3.0, 6: 2.0}
    stops = iter([True])

    def row(self, number, state):
        del state
        if number % 2:
            return {}
        if number == 2 and next(stops, False):
            raise Stopped(signal.SIGTERM)
        return {"test_loss_ema": losses[number]}

    monkeypatch.setattr(actions.TrainLoop, "_test_row", row)
    with pytest.raises(Stopped):
        loop.train_and_evaluate(config, tmp_path)
    loop.train_and_evaluate(config, tmp_path)
    with Checkpoints(tmp_path, read_only=True) as saved:
        assert saved.steps() == [2, 6]


@pytest.mark.ci
def test_two_runs_do_not_share_a_workdir(tmp_path):
    def again(number, *unused):
        if number == 3:
            with pytest.raises(UsageError, match="is training in .*choose another"):
                loop.train_and_evaluate(tiny.config(), tmp_path)

    config = tiny.config(num_steps=4, eval__every=0, samples__every=0)
    loop.train_and_evaluate(config, tmp_path, hook=again)
    loop.train_and_evaluate(config, tmp_path)


def test_other_examples_are_refused(straight, monkeypatch):
    @functools.wraps(toy2d.moons)
    def moons(**arguments):
        return toy2d.moons(**arguments)._replace(digest="0123")

    monkeypatch.setitem(registry.DATASETS, "moons", moons)
    with pytest.raises(UsageError, match="examples.digest: '' in the .*, '0123' now"):
        loop.train_and_evaluate(tiny.config(), straight[0])


@pytest.mark.ci
def test_a_run_resumes_from_the_checkpoint_before_a_corrupted_one(
    straight, tmp_path, capfd
):
    for step in (5, 9):
        source = straight[0] / "checkpoints" / str(step)
        shutil.copytree(source, tmp_path / "checkpoints" / str(step))
    data = max((tmp_path / "checkpoints" / "9" / "params" / "d").iterdir())
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    assert same(loop.train_and_evaluate(tiny.config(), tmp_path), straight[1])
    output, error = capfd.readouterr()
    assert "resuming at step 5 of 10" in output
    assert re.search("warning: .*9 is corrupted: params/d/.* was altered", error)
    assert (tmp_path / "checkpoints" / "corrupted-9" / "identity").is_dir()


@pytest.mark.ci
def test_rows_are_on_disk_before_the_checkpoint_of_later_steps(tmp_path, monkeypatch):
    events, save, fsync = [], Checkpoints.save, os.fsync

    def saving(self, *args):
        events.append("save")
        save(self, *args)

    def syncing(number):
        if os.readlink(f"/proc/self/fd/{number}").endswith(metrics_log.FILE_NAME):
            events.append(len(metrics_log.read(tmp_path / metrics_log.FILE_NAME)))
        fsync(number)

    monkeypatch.setattr(Checkpoints, "save", saving)
    monkeypatch.setattr(os, "fsync", syncing)
    config = tiny.config(log__every=2, eval__every=0, samples__every=0)
    loop.train_and_evaluate(config, tmp_path)
    assert events == [2, "save", 5, "save"]  # after steps 5 and 10


@pytest.mark.slow
def test_rows_that_were_lost_are_reported(straight, tmp_path, capsys):
    source, rows = straight[0] / "checkpoints", straight[0] / metrics_log.FILE_NAME
    shutil.copytree(source / "9", tmp_path / "checkpoints" / "9")
    lines = rows.read_text().splitlines(keepends=True)
    (tmp_path / metrics_log.FILE_NAME).write_text(lines[0])
    loop.train_and_evaluate(tiny.config(), tmp_path)
    assert re.search("warning: .* lacks the row of step 8:", capsys.readouterr().out)
    loop.train_and_evaluate(tiny.config(), straight[0])
    assert "lacks" not in capsys.readouterr().out


def test_the_summary_says_how_many_steps_counted_and_of_which_a_number_is():
    rows = [
        {"step": 4, "loss": 1.5, "test_loss_ema": None},
        {"step": 8, "loss": None, "test_loss_ema": None, "skipped_steps": 4},
    ]
    assert loop.summary(rows, 8) == "step 8, of which 4 counted, loss 1.5000 at step 4"
    rows[1] = {"step": 8, "loss": 1.25, "test_loss_ema": 2.0}
    said = loop.summary(rows, 8)
    assert said.startswith("step 8, loss 1.2500, test loss ema 2.0000")
    assert " at " not in said and "counted" not in said


def test_a_run_whose_last_steps_made_no_update_does_not_end_well(tmp_path):
    rows = [{"step": 8, "loss": None, "skipped_steps": 3}]
    (tmp_path / "metrics.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(Diverged, match="none of the last 3 steps was finite, up to"):
        loop._conclude(tmp_path, 8)
