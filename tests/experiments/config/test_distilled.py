"""The config of a student: `config/distilled.py`, and methods against configs."""

import json
import re

import pytest
from ml_collections import FrozenConfigDict

from experiments.config import build, distilled, experiment, external, registry, schema
from experiments.config.methods import Method
from experiments.runtime.errors import UsageError
from tests.helpers import tiny

PAIRS = ("reflow", "one_step")


def teacher(**overrides):
    config = tiny.config(**overrides)
    schema.settle(config)
    return config


def student(method, config=None, **settings):
    if method.partition("(")[0] in PAIRS:
        settings.setdefault("pairs", "pairs.npz")
    config = teacher() if config is None else config
    return distilled.student(config, method=method, teacher="runs/t", **settings)


@pytest.mark.parametrize("method", registry.METHODS)
def test_the_config_of_a_student_is_valid(method):
    config = student(method)
    config.network.max_frequency = 16.0
    experiment.from_config(config)
    built = build.method(config.distillation)
    assert isinstance(built, Method)
    assert config.network.get("two_times", False) == built.two_times
    assert config.num_steps % built.num_stages == 0
    assert config.optimizer.learning_rate == teacher().optimizer.learning_rate / 2
    assert (config.data.name == "pairs") == (method in PAIRS)
    assert (config.eval.every > 0) == built.diagonal
    kept = {**teacher().objective, "coupling": config.objective.coupling}
    assert config.objective.to_dict() == kept


def test_the_teachers_config_is_left_as_it_is():
    config = teacher()
    before = config.to_dict()
    student("meanflow", config)
    assert config.to_dict() == before


def test_the_student_of_every_stage_is_kept():
    config = student("progressive(first=8)", teacher(num_steps=100))
    assert (config.num_steps, config.checkpoint.every) == (99, 33)
    assert config.checkpoint.keep >= 3


def test_with_another_number_of_steps_the_students_of_all_stages_are_kept():
    config = student("progressive(first=8)", teacher(num_steps=300))
    assert (config.optimizer.warmup_steps, config.log.every) == (2, 4)
    config.num_steps = 9
    distilled.fit_stages(config, {"num_steps"})
    experiment.from_config(config)
    assert (config.checkpoint.every, config.checkpoint.keep) == (3, 3)
    assert (config.optimizer.warmup_steps, config.log.every) == (0, 3)
    config.update_from_flattened_dict({"num_steps": 60, "checkpoint.every": 5})
    distilled.fit_stages(config, {"num_steps", "checkpoint.every"})
    assert (config.checkpoint.every, config.checkpoint.keep) == (5, 12)
    config.checkpoint.every = 8
    with pytest.raises(UsageError, match="checkpoint.every=8: must divide 20, .*=60"):
        experiment.from_config(config)


def test_a_network_that_cannot_be_differentiated_is_refused_without_the_data():
    config = student("meanflow", teacher())
    config.data = dict(name="npz", path="none.npz")
    config.network.max_frequency = 1000.0
    message = "max_frequency=1000: must be at most 64.*max_frequency=16, a teacher too"
    with pytest.raises(UsageError, match=message):
        experiment.from_config(config)


def test_a_run_has_its_config(tmp_path):
    """With the tuples that JSON has as lists, which a frozen config refuses."""
    config = teacher()
    config.network = dict(name="unet", multipliers=(1, 2), attention_resolutions=())
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    found = distilled.read_config(tmp_path, "teacher")
    assert found.to_dict() == config.to_dict()
    made = distilled.student(found, method="progressive", teacher="runs/t")
    assert made.network.multipliers == (1, 2)
    FrozenConfigDict(made)
    with pytest.raises(UsageError, match="--teacher=.*no config of a run.*workdir of"):
        distilled.read_config(tmp_path / "none", "teacher")
    for text in ("[]", "3", '{"a.b": 1}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UsageError, match="no config of a run in"):
            distilled.read_config(tmp_path, "teacher")


WRONG = {
    "method": (dict(method="meanflo"), "unknown name 'meanflo'; did you mean 'meanf"),
    "no pairs": (dict(method="reflow", pairs=None), "needs --pairs=FILE, which exp"),
    "pairs": (dict(method="meanflow", pairs="a.npz"), "learns from the data themsel"),
    "empty": (dict(method=""), "--method: is empty; such as progressive"),
    "argument": (dict(method="progressive(first=12)"), "first=12.*must be last=1 t"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_named_with_the_way_out(name):
    settings, message = WRONG[name]
    with pytest.raises(UsageError, match=message):
        student(**settings)


ENTRIES = {
    "proposal": (dict(objective__proposal="uniform"), "objective.proposal: must be"),
    "teacher": (dict(distillation__teacher=""), "distillation.teacher=''.*must be the"),
    "guidance": (
        dict(distillation__method="lagrangian", distillation__guidance=2.0),
        "distillation.guidance=2.0: must be 1 with .*experiments.pairs --guidance",
    ),
    "own guidance": (
        dict(distillation__method="meanflow", distillation__guidance=2.0)
        | dict(distillation__teacher="", label_dropout=0.0),
        "label_dropout=0.0: must be positive with distillation.guidance=2 and no teac",
    ),
    "stages": (dict(num_steps=7), "num_steps=7: must be a multiple of 5, the stages"),
    "one time": (
        dict(distillation__method="lagrangian", network__two_times=False),
        "network.two_times=False: must be True",
    ),
    "frequency": (
        dict(distillation__method="meanflow", network__max_frequency=1000.0),
        "network.max_frequency=1000: must be at most 64.*8 to 16 do well",
    ),
    "no method": (dict(distillation__method=""), "distillation.teacher='runs/t'.*"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_method_is_checked_against_the_rest_of_the_config(name):
    changes, message = ENTRIES[name]
    config = student("progressive")
    config.network.update(two_times=True, max_frequency=16.0)
    flat = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict(flat)
    method, net = build.method(config.distillation), build.network(config.network, 2)
    with pytest.raises(UsageError, match=re.compile(message, re.S)):
        experiment.check_method(config, method, net)


def test_guidance_needs_labels_or_vectors():
    config = student("progressive", guidance=2.0)
    method, net = build.method(config.distillation), build.network(config.network, 0)
    with pytest.raises(UsageError, match="guidance=2.0: must be 1: the data have nei"):
        experiment.check_method(config, method, net)


def test_a_method_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_method.py").write_text(
        "import diffusionflow\n"
        "from experiments.config.methods import pairs\n\n\n"
        "@diffusionflow.register\n"
        "class Mine(pairs.Reflow):\n"
        "    weight: float = 1.0\n\n\n"
        "class Other:\n"
        "    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    built = build.method({"method": "own_method:Mine(weight=2.0)"})
    assert built.weight == 2.0
    config = student("meanflow")
    config.distillation.method = "own_method:Mine()"
    assert list(external.modules(config)) == ["own_method"]
    with pytest.raises(UsageError, match="must be an instance of experiments.config"):
        build.method({"method": "own_method:Other()"})
