"""Which checkpoints stay: `checkpointing/retention.py`."""

import math

import pytest

from experiments.checkpointing.retention import Keep, removable

LOSS = {1: 0.5, 2: 0.3, 3: 0.4, 4: 0.3, 5: 0.9}


def scores(losses, name="test_loss_ema"):
    return {step: {name: loss} for step, loss in losses.items()}


@pytest.mark.parametrize(
    ("keep", "removed"),
    [
        (Keep(1), [1, 2, 3, 4]),
        (Keep(2), [1, 2, 3]),
        (Keep(9), []),
        (Keep(1, best=1), [1, 2, 3]),  # of equals the newer
        (Keep(1, best=2), [1, 3]),
        (Keep(1, best=3), [1]),
        (Keep(2, best=1), [1, 2, 3]),  # the best is one of the newest
        (Keep(1, best=9), []),
        (Keep(1, best=2, metric="loss"), [1, 2, 3, 4]),  # none has it
    ],
)
def test_the_newest_and_the_best_stay(keep, removed):
    assert removable(scores(LOSS), keep) == removed


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
def test_what_is_not_finite_is_the_worst(bad):
    losses = LOSS | {2: bad, 4: bad}
    assert removable(scores(losses), Keep(1, best=2)) == [2, 4]  # 3 and 1 are best
    assert removable(scores(losses), Keep(1, best=4)) == [2]  # all finite ones, then 4


def test_a_step_without_the_metric_is_not_among_the_best():
    losses = scores(LOSS) | {2: {}, 4: {"loss": 0.0}}
    assert removable(losses, Keep(1, best=9)) == [2, 4]


def test_nothing_is_removed_of_nothing():
    assert removable({}, Keep(1, best=1)) == []
