"""From a run to pairs of its model, a run on these, and the comparison of both."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments.checkpointing.loaded import Request
from experiments.comparison import read_run
from experiments.config import build
from experiments.evaluation import evaluate, likelihoods, sample_quality
from experiments.evaluation.evaluate import evaluate_run
from experiments.runtime.errors import UsageError
from experiments.sampling.pairs import write_pairs
from experiments.sampling.sample_run import sample_run
from experiments.training import initial_weights, loop
from experiments.training.trainer import Trainer
from tests.helpers import tiny

EVALUATION = evaluate.Request(
    batch_size=16,
    likelihood=likelihoods.Settings(num_times=2, ode_steps=2, num_probes=1),
    samples=sample_quality.Settings(("ddim@2",), num_samples=40, num_resamples=39),
)


def config(**overrides):
    settings = dict(num_steps=6, samples__every=0, checkpoint__every=6, eval__every=6)
    return tiny.config(**settings | overrides)


def train(config, workdir, **settings):
    with jax.numpy_dtype_promotion("standard"):
        loop.train_and_evaluate(config, workdir, **settings)
    return workdir


def evaluated(workdir):
    return json.loads(evaluate_run(workdir, EVALUATION).read_text())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def bytes_of(root):
    """A file of vectors of levels, with classes."""
    values = np.random.RandomState(0).randint(0, 256, (180, 3)).astype(np.uint8)
    np.savez(root / "bytes.npz", values=values, labels=np.arange(180) % 3)
    return str(root / "bytes.npz")


@pytest.fixture(scope="module")
def teacher(root, bytes_of):
    return train(config(data=dict(name="npz", path=bytes_of)), root / "teacher")


@pytest.fixture(scope="module")
def path(root, teacher):
    request = Request(num_samples=90, out=str(root / "pairs"))
    return str(write_pairs(teacher, request))


@pytest.fixture(scope="module")
def student(root, teacher, path):
    own = config(data=dict(name="pairs", path=path), label_dropout=0.0)
    return train(own, root / "student", source=initial_weights.Source(teacher))


@pytest.mark.slow
def test_a_student_trains_on_floats_and_draws_the_levels_of_its_teacher(student, path):
    dataset = build.dataset(dict(name="pairs", path=path))
    assert dataset.transform.levels == 256 and dataset.num_classes == 3
    rounded = dataset.transform.to_float(
        dataset.transform.to_stored(dataset.train.values)
    )
    assert np.abs(rounded - dataset.train.values).max() > 1e-4
    with np.load(sample_run(student, Request(num_samples=6))) as file:
        assert file["samples"].dtype == np.uint8 and file["levels"] == 256
        assert file["labels"].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.ci
def test_pairs_are_not_coupled_again(path):
    data = dict(name="pairs", path=path)
    with pytest.raises(UsageError, match="objective.coupling: the data are pairs"):
        Trainer(config(data=data, objective__coupling="independent"))


@pytest.mark.slow
def test_both_are_compared_with_the_data_of_the_teacher(teacher, student):
    """The same held-out examples, the same reference: `compare` takes them as one."""
    there, here = evaluated(teacher), evaluated(student)
    for found in (there, here):
        assert found["likelihood"]["count"] == 18
        assert (
            "'num_train': 162" in found["held_out_baseline"][0]["recipe"]["reference"]
        )
    assert here["held_out_baseline"] == there["held_out_baseline"]
    records = read_run.read(teacher), read_run.read(student)
    assert records[0].examples == records[1].examples
    assert records[1].identity["examples"]["num_train"] == 81


@pytest.mark.ci
def test_pairs_of_a_student_stand_for_the_same_data(student, root, bytes_of):
    request = Request(num_samples=30, out=str(root / "again"))
    with np.load(write_pairs(student, request)) as file:
        original = json.loads(str(file["original"]))
    assert original["data"] == {"name": "npz", "path": bytes_of}
    assert original["examples"]["num_train"] == 162


@pytest.mark.slow
def test_data_that_moved_are_named_and_other_data_are_refused(
    root, student, bytes_of, path, tmp_path
):
    copy = shutil.copytree(student, tmp_path / "student")
    moved = str(tmp_path / "moved.npz")
    shutil.move(bytes_of, moved)
    try:
        with pytest.raises(UsageError, match="no readable .npz file"):
            evaluated(copy)
        data = dict(name="pairs", path=path, original=f"npz(path={moved!r})")
        own = config(data=data, label_dropout=0.0, num_steps=8)
        own.optimizer.schedule = "constant"
        with pytest.raises(UsageError, match="optimizer.schedule") as caught:
            train(own, copy, source=initial_weights.Source(root / "teacher"))
        assert "original" not in str(caught.value)  # it may move between two parts
        moved_run = train(
            config(data=data),
            tmp_path / "b",
            source=initial_weights.Source(root / "teacher"),
        )
        assert evaluated(moved_run)["likelihood"]["count"] == 18
        values = np.random.RandomState(1).randint(0, 256, (180, 3)).astype(np.uint8)
        np.savez(moved, values=values, labels=np.arange(180) % 3)
        with pytest.raises(UsageError, match="by config.data.original"):
            evaluate_run(moved_run, EVALUATION._replace(num_examples=5))
    finally:
        shutil.move(moved, bytes_of)
