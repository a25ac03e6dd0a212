"""Reference curves, and the note of a run that leaves one."""

import copy
import importlib
import json

import numpy as np
import pytest

from experiments.training import loop, metrics_log, reference_curves
from experiments.training.trainer import Trainer
from tests.helpers import tiny

NAMES = sorted(path.stem for path in reference_curves.DIRECTORY.glob("*.json"))


def test_a_band_by_hand():
    """Logarithms 0, 2 and 1, 1: deviations sqrt(2) and 0, root mean square 1."""
    values = np.exp([[0.0, 1.0], [2.0, 1.0]])
    middle, low, high = map(np.log, reference_curves.band(values))
    reach = 4 * np.sqrt(1.5) * np.array([np.sqrt(2), 1])
    np.testing.assert_allclose(middle, 1)
    np.testing.assert_allclose(high - middle, reach)
    np.testing.assert_allclose(middle - low, reach)


def test_a_further_seed_lies_in_the_band_and_another_level_does_not():
    """Thirty steps, three seeds, 300 times: few runs leave it by chance."""
    rng, left = np.random.default_rng(0), 0
    for _ in range(300):
        values = np.exp(0.05 * rng.standard_normal((4, 30)))
        _, low, high = reference_curves.band(values[:3])
        left += np.any((values[3] < low) | (values[3] > high))
        assert np.median(high) < 1.4
    assert left <= 6


@pytest.mark.parametrize("values", [np.ones((1, 3)), np.array([[1.0], [0.0]])])
def test_no_band_of_one_seed_or_of_zero(values):
    with pytest.raises(ValueError, match="at least 2 seeds and positive"):
        reference_curves.band(values)


RUNS = [
    [
        {"step": 1, "loss": a},
        {"step": 2, "test_loss_ema": 3.0},
        {"step": 3, "loss": a / 2},
    ]
    for a in (1.0, 1.1, 0.9)
]


def test_a_curve_takes_the_steps_of_all_runs():
    runs = [*RUNS[:2], RUNS[2][:2]]
    made = reference_curves.make({"config": {}, "versions": {}}, [0, 1, 2], runs)
    assert made["metrics"]["loss"]["steps"] == [1]
    assert made["metrics"]["test_loss_ema"]["middle"] == [3.0]
    assert made["identity"] == {"config": {}}
    assert json.loads(json.dumps(made)) == made


def test_one_note_where_a_run_leaves_its_band():
    watch = reference_curves.Watch("x.json", reference_curves.make({}, [0, 1, 2], RUNS))
    assert watch.note(1, {"loss": 1.0, "grad_norm": 5.0}) is None
    assert watch.note(2, {"loss": 9.0}) is None  # no such step in the curve
    note = watch.note(3, {"loss": 9.0})
    assert note.startswith("note: loss 9.0000 at step 3 is outside 0.")
    assert "seeds 0, 1, 2" in note and note.endswith("(configs/curves/x.json)")
    assert watch.note(3, {"loss": 9.0}) is None  # reported once
    below = reference_curves.Watch("x.json", reference_curves.make({}, [0, 1, 2], RUNS))
    assert below.note(3, {"loss": 0.01}) is not None
    undefined = reference_curves.Watch(
        "x.json", reference_curves.make({}, [0, 1, 2], RUNS)
    )
    assert undefined.note(3, {"loss": float("nan")}) is not None


@pytest.fixture(scope="module")
def identity():
    return Trainer(tiny.config()).identity


def test_a_run_is_watched_for_its_settings_whatever_its_seed(identity, tmp_path):
    curve = reference_curves.make(identity, [0, 1, 2], RUNS)
    (tmp_path / "tiny.json").write_text(json.dumps(curve))
    other = copy.deepcopy(identity)
    other["config"]["seed"] = 7
    other["config"]["sampler"]["num_steps"] = 9
    assert reference_curves.watch(other, tmp_path).note(1, {"loss": 9.0}) is not None
    begun = other | {"init_from": {"workdir": "elsewhere", "weights": "ema"}}
    assert reference_curves.watch(begun, tmp_path).note(1, {"loss": 9.0}) is None
    other["config"]["optimizer"]["learning_rate"] = 0.5
    assert reference_curves.watch(other, tmp_path).note(1, {"loss": 9.0}) is None


@pytest.mark.slow
def test_the_loop_says_it(identity, tmp_path, monkeypatch, capsys, standard_promotion):
    rows = [[{"step": 4, "loss": loss}] for loss in (0.01, 0.011, 0.012)]
    curve = reference_curves.make(identity, [0, 1, 2], rows)
    watch = lambda current: reference_curves.Watch("tiny.json", curve)
    monkeypatch.setattr(reference_curves, "watch", watch)
    loop.train_and_evaluate(tiny.config(samples__every=0), tmp_path)
    text = capsys.readouterr().out
    assert text.count("note: loss") == 1 and "at step 4" in text
    names = {
        name for row in metrics_log.read(tmp_path / "metrics.jsonl") for name in row
    }
    assert {f"test_eps_mse_{weights}" for weights in ("raw", "ema")} <= names


@pytest.mark.ci
@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_curve_is_that_of_its_config(name):
    """And its own middle lies in its band."""
    config = importlib.import_module(f"configs.{name}").get_config()
    curve = json.loads((reference_curves.DIRECTORY / f"{name}.json").read_text())
    watch = reference_curves.watch(Trainer(config).identity)
    assert watch.name == f"{name}.json" and len(curve["seeds"]) >= 3
    for metric, table in curve["metrics"].items():
        for step, low, middle, high in zip(
            *(table[part] for part in ("steps", "low", "middle", "high")), strict=True
        ):
            assert low < middle < high
            assert watch.note(step, {metric: middle}) is None
    assert watch.note(step, {metric: 2 * high}) is not None


def test_configs_whose_data_are_at_hand_have_a_curve():
    """But the study, which trains several recipes and compares them itself.

    And few-step models, whose samples count (`benchmarks/few_steps.py`).
    """
    at_hand = set()
    for path in reference_curves.DIRECTORY.parent.glob("*.py"):
        config = importlib.import_module(f"configs.{path.stem}").get_config()
        few_steps = "distillation" in config
        if "path" not in config.data and path.stem != "study" and not few_steps:
            at_hand.add(path.stem)
    assert at_hand == set(NAMES)
