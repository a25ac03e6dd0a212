"""The types of a config's entries: `config/schema.py`."""

import ml_collections
import numpy as np
import pytest
from ml_collections import config_dict

from experiments.config import build, experiment, schema
from experiments.runtime.errors import UsageError
from tests.helpers import tiny


def changed(**entries):
    """The tiny config with values of any type; keys like `log__every=2`."""
    config = tiny.config()
    with config.ignore_type():
        for name, value in entries.items():
            *section, key = name.split("__")
            place = config[section[0]] if section else config
            del place[key]  # or ml_collections makes a float of an integer
            place[key] = value
    return config


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("num_steps", 1e1, 10),
        ("num_steps", np.int64(10), 10),
        ("log__every", 4.0, 4),
        ("optimizer__learning_rate", 1, 1.0),
        ("optimizer__learning_rate", np.float64(0.5), 0.5),
        ("ema__sigma_rel", [], ()),
        ("ema__sigma_rel", [0.05, 1], (0.05, 1.0)),
    ],
)
@pytest.mark.parametrize("locked", [False, True])
def test_a_value_is_given_the_type_of_its_entry(name, written, meant, locked):
    """So what is written otherwise is the same run, to the byte."""
    config = changed(**{name: written})
    if locked:
        config.lock()
    schema.settle(config)
    assert repr(config.to_dict()) == repr(changed(**{name: meant}).to_dict())
    assert config.is_locked == locked


def test_a_config_is_settled_before_a_run_has_an_identity():
    config = changed(num_steps=1e1, batch_size=16.0, guidance=2)
    experiment.from_config(config)
    found = config.num_steps, config.batch_size, config.guidance
    assert repr(found) == "(10, 16, 2.0)"


def test_an_entry_that_refers_to_another_one_is_settled_too():
    config = changed(num_steps=1e2)
    with config.ignore_type():
        config.optimizer.warmup_steps = config.get_ref("num_steps") // 10
    schema.settle(config)
    assert repr((config.num_steps, config.optimizer.warmup_steps)) == "(100, 10)"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_steps", 1.5, "num_steps=1.5: must be a whole number"),
        ("num_steps", float("inf"), "num_steps=inf: must be a whole number"),
        ("num_steps", True, "num_steps=True: must be a whole number"),
        ("num_steps", dict(a=1), "num_steps=a: 1: must be a whole number"),
        ("seed", 10**400, "must be a whole number"),
        ("sigma_data", "1", "sigma_data='1': must be a number"),
        ("optimizer__learning_rate", "1e-3", "learning_rate='1e-3': must be a number"),
        ("ema__sigma_rel", 0.1, "ema.sigma_rel=0.1: must be a tuple of numbers"),
        ("ema__sigma_rel", ["a"], "ema.sigma_rel='a': must be a number"),
        ("sampler__name", 3, "sampler.name=3: must be a string"),
        ("data__name", 3, "data.name=3: must be a string"),
        ("optimizer", None, "config.optimizer=None: must have entries: name, learning"),
        ("data", "moons", "config.data='moons': must have entries: name"),
        ("data", dict(size=3), "config.data: no entry 'name'; known: size"),
        ("network__features", "16", "network.features='16': must be a whole number"),
        ("network__features", None, "network.features=None: must be a whole number"),
        ("network__dropout", None, "network.dropout=None: must be a number"),
        ("data__noise", "0", "data.noise='0': must be a number"),
    ],
)
def test_a_value_of_another_type_is_named_with_what_it_should_be(name, value, message):
    config = tiny.config()
    config.data.noise = 0.1
    with config.ignore_type():
        *section, key = name.split("__")
        place = config[section[0]] if section else config
        place[key] = value

    def built():
        experiment.from_config(config)
        build.dataset(config.data)
        build.network(config.network, 2)

    with pytest.raises(UsageError, match=message) as found:
        built()
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "nothing",
    [None, config_dict.placeholder(int), config_dict.required_placeholder(int)],
    ids=["None", "placeholder", "required"],
)
@pytest.mark.parametrize("name", ["num_steps", "log__every", "sampler__name"])
def test_an_entry_without_a_value_says_how_to_give_one(name, nothing):
    config = changed(**{name: nothing})
    schema.settle(config)
    flag = f"--config.{name.replace('__', '.')}=VALUE"
    with pytest.raises(UsageError, match=f"has no value: give it with {flag}"):
        experiment.from_config(config)


def test_what_a_section_requires_is_asked_for_and_what_it_may_lack_is_not():
    config = changed(objective__proposal=None)
    config.data.noise = config_dict.placeholder(float)
    schema.settle(config)
    schema.check_complete(config)
    config.data = ml_collections.ConfigDict(dict(name="npz"))
    config.data.path = config_dict.required_placeholder(str)
    with pytest.raises(UsageError, match="give it with --config.data.path=VALUE"):
        schema.check_complete(config)


def test_every_entry_of_a_config_has_a_type():
    config = tiny.config()
    for name, section, key, wanted in schema._entries(config):
        if name.partition(".")[0] not in schema.OPEN:
            assert schema.typed(name, section[key], wanted) == section[key]
