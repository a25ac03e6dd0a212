"""Every number of a config has bounds, and what is out of them is one line at once."""

import numbers

import pytest

from experiments.config import overrides, parsing, registry, schema
from experiments.runtime.errors import UsageError
from tests.helpers import tiny

NUMBERS = [entry for entry in schema.TABLE if entry.type in (int, float)]
WHOLE = [entry for entry in NUMBERS if entry.type is int]
OPEN = ("network.features", "network.num_blocks", "data.size")


def checked(config, given=()):
    """Does what a command does before anything is built."""
    overrides.apply(config, given)
    schema.settle(config)
    schema.check_bounds(config)


def refused(name, value):
    """The message of a config with this value."""
    config = tiny.config()
    *section, key = name.split(".")
    with config.ignore_type():
        (config[section[0]] if section else config)[key] = value
    with pytest.raises(UsageError) as found:
        checked(config)
    return str(found.value)


def test_the_tiny_config_is_inside():
    schema.check_bounds(tiny.config())


@pytest.mark.parametrize("entry", WHOLE, ids=lambda entry: entry.name)
def test_a_whole_number_that_no_machine_could_meet_is_refused(entry):
    message = refused(entry.name, 10**14)
    assert message.startswith(f"{entry.name}=100000000000000: must be ")
    assert "at most" in message or entry.name == "seed"


@pytest.mark.parametrize("entry", NUMBERS, ids=lambda entry: entry.name)
@pytest.mark.parametrize("value", [float("inf"), float("nan")], ids=str)
def test_what_is_not_finite_is_refused(entry, value):
    assert refused(entry.name, value).startswith(f"{entry.name}={value}: must be ")


@pytest.mark.parametrize("name", OPEN)
@pytest.mark.parametrize("value", [10**14, float("nan")], ids=str)
def test_numbers_of_open_sections_have_bounds_too(name, value):
    assert refused(name, value).startswith(f"{name}={value}: must be ")


def test_the_values_of_the_table_are_inside_its_bounds():
    for entry in schema.TABLE:
        if entry.bound is not None and entry.default is not schema.REQUIRED:
            assert entry.bound.holds(entry.default), entry.name
    assert all(isinstance(each, numbers.Integral) for each in schema.MOST.values())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("num_steps", "1e9999999", r"num_steps=1e9999999: must be below 10\*\*18"),
        ("num_steps", "-" * 5000, "must be a whole number"),
        ("ema.sigma_rel", "-" * 5000, "must be a number"),
        ("sigma_data", "1e9999999", "sigma_data=inf: must be positive and finite"),
        ("network.features", "9" * 5000, r"must be below 10\*\*18"),
    ],
)
def test_a_text_that_is_no_number_of_the_entry_ends_at_once(name, text, message):
    config = tiny.config()
    with pytest.raises(UsageError, match=message) as found:
        checked(config, [(f"config.{name}", text)])
    assert len(str(found.value)) < 300


@pytest.mark.parametrize(
    "text",
    ["cosine(logsnr_min={[]:1})", "-" * 5000, "(" * 5000, "\udcff", "cosine(\udcff)"],
    ids=["unhashable", "signs", "brackets", "bytes", "bytes inside"],
)
def test_a_text_that_is_no_call_is_one_short_line(text):
    with pytest.raises(UsageError) as found:
        parsing.parse("objective.schedule", text, registry.SCHEDULES)
    message = str(found.value)
    assert message.startswith("objective.schedule") and "\n" not in message
    assert len(message) < 400


def test_a_section_that_contains_itself_is_refused():
    config = tiny.config()
    with config.unlocked():
        config.data.noise = config.data
    with pytest.raises(UsageError, match=r"^config\.data\.noise: contains itself"):
        schema.settle(config)


def test_the_names_of_other_libraries_suggest_ours():
    for name, ours in (("dpmpp_2m", "dpm_solver"), ("euler_a", "ddpm")):
        with pytest.raises(UsageError, match=f"did you mean '{ours}'"):
            parsing.takes("sampler.name", name, registry.SAMPLERS)
