"""What a config determines, built once: `training/trainer.py`."""

import contextlib

import numpy as np
import pytest

from experiments import data
from experiments.config import registry
from experiments.training import loop
from experiments.training.trainer import Trainer
from tests.helpers import tiny

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture
def levels(monkeypatch):
    """Vectors of grey levels 100 to 255 in place of the moons, 1,024 to train.

    That is what the root mean square is taken of, so each counts once, and their mean
    is not zero.
    """
    stored = np.random.RandomState(0).randint(100, 256, (1152, 2), np.uint8)
    dataset = data.split(stored, np.arange(1152) % 2, levels=256)
    monkeypatch.setitem(registry.DATASETS, "moons", lambda size: dataset)
    x = 2 * (dataset.train.values / 255) - 1
    assert x.shape == (1024, 2)
    return np.sqrt(np.mean(x**2))


def config(sigma_data):
    return tiny.config(
        num_steps=1,
        optimizer__warmup_steps=0,
        sigma_data=float(sigma_data),
        eval__every=0,
        samples__every=0,
        checkpoint__every=0,
    )


def test_the_root_mean_square_is_that_of_the_examples(levels):
    """Whatever the config's value is."""
    for sigma_data in (0.1, 3.0):
        found = Trainer(config(sigma_data)).root_mean_square()
        np.testing.assert_allclose(found, levels, rtol=1e-6)


@pytest.mark.parametrize(("factor", "warns"), [(0.75, True), (1.15, False)])
def test_a_run_warns_where_sigma_data_is_a_fifth_off(
    levels, factor, warns, tmp_path, capsys
):
    given = factor * levels
    loop.train_and_evaluate(config(given), tmp_path)
    printed = capsys.readouterr().out
    assert "data        1,024 examples, 128 held out, classes: 2; " in printed
    assert f"sigma_data {given:.3g}, measured {levels:.3g}" in printed
    assert (f"warning: sigma_data={given:g}, but" in printed) == warns
    assert (f"a root mean square of {levels:.3g}" in printed) == warns


def test_the_workers_of_a_config_read_the_same_batches():
    found = []
    for workers in (0, 1):
        trainer = Trainer(tiny.config(data__workers=workers))
        with contextlib.closing(trainer.batches(3)) as batches:
            found.append(next(batches))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
