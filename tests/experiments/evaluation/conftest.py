"""Runs and their evaluations, made once."""

import json

import jax
import pytest

from experiments.evaluation.evaluate import evaluate_run
from experiments.training import initial_weights, loop
from tests.helpers import tiny
from tests.helpers.tiny_evaluation import REQUEST


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    config = tiny.config(eval__every=0, samples__every=0, checkpoint__every=10)
    with jax.numpy_dtype_promotion("standard"):
        loop.train_and_evaluate(config, workdir)
    return workdir


@pytest.fixture(scope="session")
def evaluated(workdir):
    return json.loads(evaluate_run(workdir, REQUEST).read_text())


@pytest.fixture(scope="session")
def retrained(workdir, tmp_path_factory):
    """A run with the same identity, from other weights."""
    other = tmp_path_factory.mktemp("retrained")
    config = tiny.config(eval__every=0, samples__every=0, checkpoint__every=10)
    with jax.numpy_dtype_promotion("standard"):
        loop.train_and_evaluate(config, other, source=initial_weights.Source(workdir))
    return other
