"""Runs on data as they come: trained, resumed, evaluated, pictured, drawn from."""

import json
import shutil

import numpy as np
import pytest

from experiments.checkpointing.restore import Request
from experiments.evaluation import evaluate, likelihoods, sample_quality
from experiments.runtime.errors import UsageError
from experiments.sampling.generate import sample_run
from experiments.training import loop
from experiments.training.trainer import Trainer
from tests.helpers import arrays
from tests.helpers.trees import same

pytestmark = pytest.mark.usefixtures("standard_promotion")

SHORT = dict(
    num_steps=2,
    log__every=1,
    eval__every=2,
    samples__every=2,
    samples__per_class=3,
    checkpoint__every=1,
)


def values(*shape):
    return np.random.RandomState(0).standard_normal((45, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("stored", "pictured"),
    [
        (values(6, 2), True),
        ((40 * values(2, 4, 4, 1) + 128).clip(0, 255).astype(np.uint8), True),
        (values(1), False),
    ],
    ids=["series", "video", "number"],
)
def test_a_run_is_resumed_bit_for_bit_and_drawn_from(
    tmp_path, monkeypatch, capsys, stored, pictured
):
    config = arrays.config(
        monkeypatch, tmp_path / "a.npz", dict(values=stored), **SHORT
    )
    expected = loop.train_and_evaluate(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert ("no picture of samples of shape [1]" in printed) == (not pictured)
    assert "ignores" not in printed and "classes: 0" in printed
    assert len([*(tmp_path / "run" / "samples").iterdir()]) == 2 * pictured
    part = tmp_path / "part" / "checkpoints"
    part.mkdir(parents=True)
    shutil.copytree(tmp_path / "run" / "checkpoints" / "1", part / "1")
    assert same(loop.train_and_evaluate(config, tmp_path / "part"), expected)
    path = sample_run(tmp_path / "run", Request(num_samples=5, guidance=2.0))
    with np.load(path) as file:
        assert file["samples"].shape == (5, *stored.shape[1:])
        assert file["samples"].dtype == stored.dtype and not file["labels"].any()
    assert path.with_suffix(".png").exists() == pictured
    with pytest.raises(UsageError, match="label=0: must be left out: the data have no"):
        sample_run(tmp_path / "run", Request(label=0))


def test_a_run_on_series_is_evaluated(tmp_path, monkeypatch):
    config = arrays.config(
        monkeypatch,
        tmp_path / "a.npz",
        dict(values=values(6, 2)),
        **SHORT | dict(samples__every=0),
    )
    loop.train_and_evaluate(config, tmp_path / "run")
    request = evaluate.Request(
        batch_size=5,
        likelihood=likelihoods.Settings(num_times=2, ode_steps=2, num_probes=2),
        samples=sample_quality.Settings((), num_samples=40, num_resamples=39),
    )
    found = json.loads(evaluate.evaluate_run(tmp_path / "run", request).read_text())
    assert found["likelihood"]["unit"] == "nats per dimension"
    assert found["likelihood"]["count"] == 5
    assert len(found["samples"][0]["metrics"]) == 3
    assert found["identity"]["data"]["event_shape"] == [6, 2]


def test_the_held_out_loss_is_of_the_validation_file(tmp_path, monkeypatch):
    """The loss of a file is what it is as the held-out part of any training file."""
    np.savez(tmp_path / "test.npz", values=values(3))
    section = dict(test_path=str(tmp_path / "test.npz"))
    found = []
    for name, scale in (("a.npz", 1), ("b.npz", 2)):
        config = arrays.config(
            monkeypatch, tmp_path / name, dict(values=scale * values(3)), data=section
        )
        trainer = Trainer(config)
        found.append(trainer.evaluate(trainer.init().params))
        assert len(trainer.dataset.test.labels) == 45
    assert found[0] == found[1]
