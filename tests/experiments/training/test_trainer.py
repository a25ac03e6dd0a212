"""What a config determines, built once: `training/trainer.py`."""

import contextlib
import os
import signal

import jax
import numpy as np
import pytest

from experiments import data
from experiments.config import registry
from experiments.data import read_ahead
from experiments.data.worker_pool import WorkerPool
from experiments.runtime.signals import Stopped
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


@pytest.mark.ci
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


@pytest.fixture
def processes(monkeypatch):
    """Of the data workers that were started, a list for each pool."""
    started = []

    class Noted(WorkerPool):
        def __init__(self, batches, count):
            super().__init__(batches, count)
            started.append([worker._process for worker in self._workers])

    monkeypatch.setattr(read_ahead, "WorkerPool", Noted)
    return started


@pytest.mark.parametrize("workers", [0, 2])
def test_a_config_says_how_many_processes_read(processes, workers):
    trainer = Trainer(tiny.config(data__workers=workers))
    with contextlib.closing(trainer.batches(3)) as batches:
        found = next(batches)
    assert [len(each) for each in processes] == ([workers] if workers else [])
    for one, other in zip(found, trainer._numbered_batches()[3], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_the_weights_are_the_same_for_other_workers_after_a_stop(
    processes, monkeypatch, tmp_path, capsys
):
    """Of augmented examples; and no process is left after a stop, nor at the end."""

    def dataset(size):
        made = data.split(np.ones((size, 2), np.float32), np.arange(size) % 2, None)
        return made._replace(augment_fn=lambda rng, row: row + np.float32(rng.rand()))

    def stop(number, *unused):
        if number == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setitem(registry.DATASETS, "moons", dataset)
    train = lambda workers, name, **options: loop.train_and_evaluate(
        tiny.config(data__workers=workers), tmp_path / name, **options
    )
    straight = train(0, "straight")
    assert "processes read the data" not in capsys.readouterr().out
    with pytest.raises(Stopped):
        train(2, "stopped", hook=stop)
    assert "2 processes read the data (data.workers)" in capsys.readouterr().out
    resumed = train(1, "stopped")
    jax.tree.map(
        np.testing.assert_array_equal,
        straight.checkpoint_items(),
        resumed.checkpoint_items(),
    )
    assert [len(each) for each in processes] == [2, 1]
    assert all(each.poll() is not None for pool in processes for each in pool)
