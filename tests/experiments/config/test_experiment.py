"""What a config describes, but for data and network: `config/experiment.py`."""

import functools

import pytest

from configs import digits
from experiments.config import experiment, optimizers, registry
from experiments.runtime.errors import UsageError
from experiments.training.trainer import Trainer
from tests.helpers import tiny

BUILT = {
    "flow_matching": registry.SCHEDULES,
    "mse": registry.WEIGHTINGS,
    "logit_normal": registry.TIMES,
    "ddim": registry.SAMPLERS,
    "quadratic": registry.GRIDS,
    "moons": registry.DATASETS,
    "residual_mlp": registry.NETWORKS,
    "assignment": registry.COUPLINGS,
}
SECTION = {"store_every": 1, "limit": 0.999, "warmup": 10.0}


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((0.1, 0.5), r"ema: sigma_rel=0.5: must be in \(0, 1 / sqrt\(12\)"),
        ((0.1, 0.1), r"ema.sigma_rel=\(0.1, 0.1\): must be distinct"),
    ],
)
def test_widths_of_averages_are_validated(widths, message):
    with pytest.raises(UsageError, match=message):
        experiment.gammas(SECTION | {"sigma_rel": widths})
    gammas = experiment.gammas(SECTION | {"sigma_rel": widths[:1]})
    assert gammas == pytest.approx([6.94], abs=0.005)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_steps", 0, "num_steps=0: must be at least 1"),
        ("seed", -1, r"seed=-1: must be in \[0, 2\*\*32\)"),
        ("batch_size", 0, "batch_size=0: must be a positive multiple of the 8 devices"),
        ("batch_size", 12, "batch_size=12: must be a positive multiple of the 8"),
        ("label_dropout", 1.5, r"label_dropout=1.5: must be in \[0, 1\]"),
        ("matmul_precision", "hihgest", "did you mean 'highest'"),
        ("sigma_data", 0.0, "sigma_data=0.0: must be positive"),
        ("ema.limit", 1.0, r"ema: limit=1.0: must be in \[0, 1\)"),
        ("ema.sigma_rel", (0.1,), r"store_every=0: must be positive if .*\(0.1,\)"),
        ("ema.store_every", 5, r"store_every=5: must be positive if .*\(\)"),
        ("ema.store_every", -1, "ema.store_every=-1: must be at least 0"),
        (
            "sampler.name",
            "dimm",
            "sampler.name: unknown name 'dimm'; did you mean 'ddim",
        ),
        ("sampler.grid", "unifrm", "sampler.grid: unknown name 'unifrm'; did you mean"),
        ("sampler.num_steps", 0, "sampler.num_steps=0: must be at least 1"),
        ("objective.times", "lognormal", "did you mean 'logit_normal'"),
        ("optimizer.schedule", "cosin", "did you mean 'cosine'"),
        ("checkpoint.keep", 0, "checkpoint.keep=0: must be at least 1"),
        ("checkpoint.keep_best", -1, "checkpoint.keep_best=-1: must be at least 0"),
        ("checkpoint.metric", "tst_loss_ema", "did you mean 'test_loss_ema'"),
        ("eval.every", -1, "eval.every=-1: must be at least 0"),
        ("log.every", 0, "log.every=0: must be at least 1"),
    ],
)
def test_a_config_is_checked_before_data_are_read(key, value, message):
    config = digits.get_config()
    experiment.from_config(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UsageError, match=message):
        experiment.from_config(config)


def test_each_object_is_built_once(monkeypatch):
    calls = []
    for name, known in BUILT.items():
        monkeypatch.setitem(known, name, counted(known[name], name, calls))
    rate = counted(optimizers.learning_rate, "rate", calls)
    monkeypatch.setattr(optimizers, "learning_rate", rate)
    config = tiny.config(
        objective__coupling="assignment(group=2)",
        objective__times="logit_normal",
        sampler__grid="quadratic",
    )
    Trainer(experiment.from_config(config))
    assert sorted(calls) == sorted([*BUILT, "rate"])


def counted(fn, name, calls):
    @functools.wraps(fn)
    def wrapped(*args, **settings):
        calls.append(name)
        return fn(*args, **settings)

    return wrapped
