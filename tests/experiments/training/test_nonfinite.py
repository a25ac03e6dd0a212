"""Steps that are not finite: `training/nonfinite.py`, and what becomes of them.

The networks here have one or two parameters, so that compiling costs next to nothing;
what is poisoned is one example of one batch.
"""

import functools
import json
import os
import re
import shutil
import signal
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.checkpointing.manager import Checkpoints
from experiments.config import registry
from experiments.data import Examples, toy2d
from experiments.runtime import exit_codes, rng
from experiments.runtime.errors import Diverged
from experiments.training import loop, metrics_log, nonfinite, running_metrics, step
from experiments.training.trainer import Trainer
from tests.helpers import tiny

pytestmark = pytest.mark.usefixtures("standard_promotion")
KEY = rng.stream(0, rng.TRAIN)
BATCH = 8


class Line(NamedTuple):
    """A network of two numbers; the derivative of a root is infinite at zero."""

    root: bool = False

    def init(self, key, z, time, label, *, train):
        return {"params": {"scale": jnp.ones(()), "shift": jnp.zeros(())}}

    def apply(self, variables, z, time, label, *, train, rngs):
        params = variables["params"]
        shift = jnp.sqrt(params["shift"]) if self.root else params["shift"]
        return params["scale"] * z + shift


def same(first, second):
    """Whether two pytrees are equal bit for bit."""
    equal = lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes()
    return all(jax.tree.leaves(jax.tree.map(equal, first, second)))


@pytest.fixture(scope="module")
def recipe():
    config = tiny.config(
        batch_size=BATCH, objective__proposal="adaptive(uniform, num_bins=4)"
    )
    found = Trainer(config).recipe
    return found._replace(model=found.model._replace(net=Line()))


def batch(poisoned=None):
    values = np.random.RandomState(0).standard_normal((BATCH, 2)).astype(np.float32)
    if poisoned is not None:
        values[poisoned] = np.nan
    return Examples(values, np.zeros(BATCH, np.int32))


def run(recipe, poisoned):
    """The states before, between and after steps, of which some are poisoned."""
    train = jax.jit(functools.partial(step.train_step, recipe=recipe))
    states = [step.init(KEY, recipe)]
    for place in poisoned:
        states.append(train(states[-1], batch(place), KEY)[0])
    assert train._cache_size() == 1
    return jax.device_get(states)


@pytest.mark.ci
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(recipe):
    before, good, bad, again = run(recipe, [None, 3, None])
    for name in ("params", "opt_state", "ema", "moments", "sums"):
        assert same(getattr(good, name), getattr(bad, name)), name
        assert not same(getattr(before, name), getattr(good, name)), name
        assert not same(getattr(bad, name), getattr(again, name)), name
    assert [int(state.step) for state in (before, good, bad, again)] == [0, 1, 2, 3]
    seen = bad.faults
    assert [int(n) for n in (seen.count, seen.in_row, seen.recent)] == [1, 1, 1]
    assert int(seen.first) == 2
    assert seen.examples.tolist() == [place == 3 for place in range(BATCH)]
    assert seen.leaves.tolist() == [True, True]
    assert [int(n) for n in again.faults[:4]] == [1, 0, 1, 2]
    assert int(again.sums.steps) == 2  # of the average of the loss
    assert int(again.opt_state[1][0].count) == 2
    rate = 1 - 2 / 11  # decay of the second update, not of the third step
    expected = good.ema["scale"] + rate * (again.params["scale"] - good.ema["scale"])
    np.testing.assert_allclose(again.ema["scale"], expected, rtol=1e-6)


@pytest.mark.ci
def test_the_times_reported_are_those_of_the_step(recipe):
    _, after = run(recipe, [3])
    draw = jax.jit(functools.partial(step.loss_and_gradients, recipe=recipe))
    (_, drawn), _ = draw(step.init(KEY, recipe), batch(), KEY)
    np.testing.assert_array_equal(after.faults.t, drawn.t)
    row = nonfinite.row(after.faults, after.params)
    assert row == {
        "skipped_steps": 1,
        "skipped_first": 1,
        "skipped_times": [float(drawn.t[3])],
        "skipped_leaves": ["scale", "shift"],
    }
    text = nonfinite.warning(row, 1)
    assert f"step 1 is not finite at t = {float(drawn.t[3]):.6g}, " in text
    assert "gradient of scale, shift;" in text and "\n" not in text


def test_a_gradient_alone_may_not_be_finite(recipe):
    recipe = recipe._replace(model=recipe.model._replace(net=Line(root=True)))
    before, after = run(recipe, [None])
    assert same(before.params, after.params)
    row = nonfinite.row(after.faults, after.params)
    assert row["skipped_leaves"] == ["shift"]
    assert row["skipped_times"] == after.faults.t.tolist()  # no example is known
    text = nonfinite.warning(row, 5)
    assert f"and {BATCH - nonfinite.SHOWN} more, gradient of shift;" in text
    assert "in all: 5" in text


def test_after_the_limit_nothing_moves_any_more(recipe):
    states = run(
        recipe._replace(nonfinite_limit=2, log_every=100), [None, 0, 1, None, None]
    )
    assert [int(state.faults.in_row) for state in states] == [0, 0, 1, 2, 2, 2]
    assert not states[2].faults.stopped(2) and states[3].faults.stopped(2)
    for state in states[4:]:
        assert same(state._replace(step=states[3].step), states[3])
    assert [int(state.step) for state in states] == [0, 1, 2, 3, 4, 5]


def test_the_first_of_each_logged_interval_is_reported(recipe):
    states = run(recipe._replace(log_every=2), [0, 1, 2, None])
    firsts = [int(state.faults.first) for state in states]
    assert firsts == [0, 1, 1, 3, 3]
    assert [int(state.faults.recent) for state in states] == [0, 1, 2, 1, 1]
    assert states[3].faults.examples.tolist().index(True) == 2
    assert np.isnan(running_metrics.averages(states[2].sums)["loss"])  # of no step


def test_leaves_that_are_not_finite_are_named_by_their_paths():
    tree = {"a": [jnp.ones(2), jnp.array([1.0, jnp.inf])], "b": {"c": jnp.array(3)}}
    assert nonfinite.not_finite(tree) == ["a/1"]


def poison(monkeypatch, rows):
    """Makes training examples NaN when they are drawn, those at `rows` of an epoch."""

    @functools.wraps(toy2d.moons)
    def moons(**arguments):
        found = toy2d.moons(**arguments)
        order = np.random.RandomState([0, 0]).permutation(len(found.train.labels))
        bad = {values.tobytes() for values in found.train.values[order[rows]]}

        def draw(rng, values):
            return values * np.nan if values.tobytes() in bad else values

        return found._replace(augment_fn=draw)

    monkeypatch.setitem(registry.DATASETS, "moons", moons)


@pytest.mark.slow
def test_a_run_goes_on_and_reports(monkeypatch, tmp_path, capsys):
    poison(monkeypatch, [5 * 16 + 3])  # of 16 a step
    state = loop.train_and_evaluate(tiny.config(), tmp_path / "straight")
    warnings = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("warning: step")
    ]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: step 6 is not finite at t = 0.")
    assert "Conditioning_0/label/embedding, " in warnings[0]
    rows = metrics_log.read(tmp_path / "straight" / "metrics.jsonl")
    skipped = [row for row in rows if "skipped_steps" in row]
    assert [row["step"] for row in skipped] == [8]
    assert skipped[0]["skipped_steps"] == 1 and skipped[0]["skipped_first"] == 6
    assert len(skipped[0]["skipped_times"]) == 1
    assert "in/kernel" in skipped[0]["skipped_leaves"]
    assert np.isfinite(skipped[0]["loss"])
    assert not nonfinite.not_finite(state)
    assert int(state.faults.count) == 1
    part = tmp_path / "part"  # the same when it is resumed between fault and log
    (part / "checkpoints").mkdir(parents=True)
    shutil.copytree(
        tmp_path / "straight" / "checkpoints" / "5", part / "checkpoints" / "5"
    )
    shutil.copy(tmp_path / "straight" / "metrics.jsonl", part)
    assert same(loop.train_and_evaluate(tiny.config(), part), state)
    logs = [
        (path / "metrics.jsonl").read_bytes() for path in (part, tmp_path / "straight")
    ]
    assert logs[0] == logs[1]


@pytest.mark.ci
def test_too_many_in_a_row_end_the_run(monkeypatch, tmp_path, capsys):
    poison(monkeypatch, slice(None))
    with pytest.raises(SystemExit) as ended, exit_codes.usage_errors():
        loop.train_and_evaluate(tiny.config(eval__every=0), tmp_path)
    assert ended.value.code == Diverged.code == 3
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(r"error: 3 steps in a row .* at step 4; .*: none\.", error)
    with Checkpoints(tmp_path, read_only=True) as saved:
        assert saved.steps() == []
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert row["step"] == 4 and row["skipped_steps"] == 3 and row["loss"] is None


@pytest.mark.ci
def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    """Its step was sound: the rate is more than a float32 can hold."""
    config = tiny.config(
        optimizer__learning_rate=1e39,
        optimizer__warmup_steps=0,
        checkpoint__every=1,
        ema__sigma_rel=(0.1,),
        ema__store_every=1,
    )
    with pytest.raises(Diverged, match=r"step 1 .* not finite in .*params.*not saved"):
        loop.train_and_evaluate(config, tmp_path)
    with Checkpoints(tmp_path, read_only=True) as saved:
        assert saved.steps() == []
    assert not any((tmp_path / "averages").iterdir())


@pytest.mark.ci
def test_a_stop_does_not_save_a_run_that_no_longer_moves(monkeypatch, tmp_path):
    """It would take the place of the last one that can go on."""
    poison(monkeypatch, slice(None))
    stop = lambda number, *unused: number == 3 and os.kill(os.getpid(), signal.SIGTERM)
    config = tiny.config(eval__every=0, log__every=10, checkpoint__every=10)
    with pytest.raises(Diverged, match="3 steps in a row"):
        loop.train_and_evaluate(config, tmp_path, hook=stop)
    with Checkpoints(tmp_path, read_only=True) as saved:
        assert saved.steps() == []
