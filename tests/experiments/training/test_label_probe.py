"""Whether a network looks at its labels: `training/label_probe.py`."""

import jax
import numpy as np
import pytest

from experiments.config import experiment
from experiments.training import label_probe, loop
from experiments.training.trainer import Trainer
from tests.helpers import tiny

pytestmark = pytest.mark.usefixtures("standard_promotion")


def trainer_with(monkeypatch, **changes):
    """A trainer of the smallest config whose network differs by `changes`."""
    original = experiment.Experiment.model

    def changed(described, dataset):
        built = original(described, dataset)
        return built._replace(net=built.net.clone(**changes))

    monkeypatch.setattr(experiment.Experiment, "model", changed)
    return Trainer(tiny.config())


@pytest.mark.ci
def test_a_network_that_reads_labels_passes_though_its_output_is_zero_at_first():
    trainer = Trainer(tiny.config())
    params = trainer.init().params
    effect = trainer.condition_effects(params)["labels"]
    assert effect > 0.01 and label_probe.warning(effect) is None
    assert all(not leaf.is_deleted() for leaf in jax.tree.leaves(params))


@pytest.mark.ci
def test_without_lifting_the_zero_output_would_hide_it(monkeypatch):
    monkeypatch.setattr(label_probe, "lifted", lambda params: params)
    trainer = Trainer(tiny.config())
    assert trainer.condition_effects(trainer.init().params) == {"labels": 0}


@pytest.mark.slow
def test_a_network_that_ignores_labels_is_a_warning_of_one_line(
    monkeypatch, tmp_path, capsys
):
    trainer = trainer_with(monkeypatch, num_classes=0)
    assert trainer.condition_effects(trainer.init().params) == {"labels": 0}
    monkeypatch.setattr(loop, "Trainer", lambda *_: trainer)
    loop.train_and_evaluate(
        tiny.config(num_steps=1, optimizer__warmup_steps=0), tmp_path
    )
    lines = capsys.readouterr().out.splitlines()
    warnings = [
        line for line in lines if line.startswith("warning: the network ignores")
    ]
    assert len(warnings) == 1


@pytest.mark.parametrize("shape", [(64, 48), (3, 3, 8, 16)])
def test_zero_matrices_are_filled_and_others_left(shape):
    fan_in = np.prod(shape[:-1])
    kernel = np.zeros(shape, np.float32)
    params = dict(zero=kernel, one=kernel + 1, bias=np.zeros(5, np.float32))
    found = jax.jit(label_probe.lifted)(params)
    np.testing.assert_array_equal(found["one"], 1)
    np.testing.assert_array_equal(found["bias"], 0)
    numbers = np.asarray(found["zero"], np.float64).reshape(fan_in, -1)
    assert np.var(numbers) * fan_in == pytest.approx(1, rel=0.15)
    assert abs(np.mean(numbers)) < 4 * np.sqrt(1 / fan_in / numbers.size)
    values = np.linalg.svd(numbers, compute_uv=False)
    assert values[-1] > 0.01 * values[0]  # of full rank


def test_the_effect_is_the_largest_relative_change():
    table = np.array([1.0, 3.0, 2.0])  # of labels 0, 1 and the null label 2
    scale = np.array([1.0, 10.0, 1.0])
    effect = label_probe.label_effect(
        lambda label: scale * table[label], np.arange(3), 2
    )
    assert effect == pytest.approx(2)
    assert label_probe.warning(effect) is None and "ignores" in label_probe.warning(0.0)


@pytest.mark.parametrize("size", [0.0, 1e-3, 1e3])
def test_a_vector_is_changed_by_its_own_size(size):
    """|v + s| / |v| - 1 of entries s, and by 1 from zeros."""
    vectors = np.full((3, 2), size, np.float32)
    effect = label_probe.vector_effect(
        lambda v: 1 + v.sum(1, dtype=np.float64), vectors
    )
    step = size or 1.0
    assert effect == pytest.approx(2 * step / (1 + 2 * size), rel=1e-5)
    warnings = label_probe.warning(0.0, "conditions")
    assert "ignores its conditions" in warnings and "read `vector`" in warnings
