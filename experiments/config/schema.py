"""The entries of a config: one table of names, types, defaults, bounds and meanings.

`--help`, `docs/config.md`, the messages of mistakes and what may change on a resume are
read from `TABLE`. The further entries of `data` and `network` are arguments of what
these name.
"""

import contextlib
import numbers
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, get_args, get_origin

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from experiments.runtime.errors import (
    UsageError,
    check_name,
    nearest,
    require,
    shown,
)

REQUIRED = object()
MATMUL_PRECISIONS = ("default", "high", "highest", "bfloat16", "float32")
RANKING_METRICS = ("test_loss_ema", "test_loss_raw", "loss")  # the lower, the better


class Bound(NamedTuple):
    """What holds for a value, how it is said after "must be", and the names if any."""

    holds: Callable[[Any], bool]
    words: str
    names: tuple[str, ...] = ()


class Entry(NamedTuple):
    """One entry of a config.

    Fields:
      name: dotted.
      type: one of `WORDS`.
      help: what it is, in half a sentence.
      default: what is meant where a config does not have it, or `REQUIRED`.
      bound: of its values, or None.
      resumable: whether it may change when a run is resumed: no trained number depends
        on it, but for the last bits on `fused_attention`, `cpu_devices`, `sharding`
        and, without dropout and method, `optimizer.accumulate`.
    """

    name: str
    type: Any
    help: str
    default: Any = REQUIRED
    bound: Bound | None = None
    resumable: bool = False


def _between(low: int, high: int) -> Bound:
    """Makes a bound `low <= value <= high`; any value above `high` was mistyped."""
    return Bound(
        lambda value: low <= value <= high, f"at least {low} and at most {high:,}"
    )


def _most(high: int) -> Bound:
    """Makes an upper bound alone; the lower one is checked with other entries."""
    return Bound(lambda value: value <= high, f"at most {high:,}")


def _one_of(*names: str) -> Bound:
    return Bound(lambda value: value in names, f"one of {', '.join(names)}", names)


STEPS = 10**9
MOST = {"data": 2**32, "network": 2**20}  # of numbers in the open sections
POSITIVE = Bound(lambda value: 0 < value < float("inf"), "positive and finite")
FINITE = Bound(lambda value: abs(value) < float("inf"), "finite")
UNIT = Bound(lambda value: 0 <= value <= 1, "in [0, 1]")

TABLE = (
    Entry(
        "seed",
        int,
        "of all random numbers of the run",
        0,
        Bound(lambda value: 0 <= value < 2**32, "in [0, 2**32)"),
    ),
    Entry("num_steps", int, "optimizer steps in all", REQUIRED, _between(1, STEPS)),
    Entry(
        "batch_size",
        int,
        "examples of a step, over all devices",
        REQUIRED,
        _most(2**20),
    ),
    Entry("data.name", str, "data set; the further entries of data are its arguments"),
    Entry(
        "data.workers",
        int,
        "processes that read and augment training examples; 0 reads in threads of the "
        "run itself",
        0,
        _between(0, 256),
        resumable=True,
    ),
    Entry("objective.schedule", str, "noise schedule"),
    Entry("objective.kind", str, "prediction type of the network"),
    Entry("objective.weighting", str, "weighting of the squared error"),
    Entry("objective.times", str, "time (noise-level) distribution of the objective"),
    Entry(
        "objective.proposal",
        str,
        "distribution that times are sampled from; empty: from times",
        "",
    ),
    Entry(
        "objective.coupling",
        str,
        "how noise is paired with the examples of a batch; empty: independently",
        "",
    ),
    Entry(
        "sigma_data",
        float,
        "root mean square of the data, for the scale of the network's input",
        REQUIRED,
        POSITIVE,
    ),
    Entry(
        "label_dropout",
        float,
        "probability that a condition is dropped, for classifier-free guidance",
        0.0,
        UNIT,
    ),
    Entry(
        "distillation.method",
        str,
        "method for few-step models, such as meanflow; empty: the objective alone",
        "",
    ),
    Entry(
        "distillation.teacher",
        str,
        "directory of the run that is distilled; a new run starts from its weights",
        "",
    ),
    Entry(
        "distillation.weights",
        str,
        "which of its weights",
        "ema",
        _one_of("ema", "raw"),
    ),
    Entry(
        "distillation.guidance",
        float,
        "classifier-free guidance scale of the teacher, or without one of meanflow",
        1.0,
        FINITE,
    ),
    Entry("network.name", str, "network; the other entries of network are its fields"),
    Entry(
        "optimizer.name",
        str,
        "optimizer of optax, such as adamw(b2=0.99), or module:function",
        "adamw",
    ),
    Entry("optimizer.learning_rate", float, "its peak", REQUIRED, POSITIVE),
    Entry("optimizer.warmup_steps", int, "steps of linear warm-up", 0, _most(STEPS)),
    Entry(
        "optimizer.schedule",
        str,
        "learning rate after the warm-up: constant, cosine, or one of optax",
        "constant",
    ),
    Entry(
        "optimizer.clip_norm",
        float,
        "largest global gradient norm; 0: no clipping",
        0.0,
        Bound(lambda value: 0 <= value < float("inf"), "at least 0 and finite"),
    ),
    Entry(
        "optimizer.accumulate",
        int,
        "parts of a batch that are computed one after another",
        1,
        _between(1, 2**20),
        resumable=True,
    ),
    Entry(
        "optimizer.nonfinite_limit",
        int,
        "steps in a row that are not finite, which end the run",
        10,
        _between(1, STEPS),
    ),
    Entry(
        "ema.limit", float, "final decay of the average of the weights", 0.999, FINITE
    ),
    Entry(
        "ema.warmup", float, "its warm-up, see diffusionflow.ema.decay", 10.0, FINITE
    ),
    Entry(
        "ema.sigma_rel",
        tuple[float, ...],
        "relative widths of the power-function averages that are stored",
        (),
        Bound(
            lambda widths: all(0 < each < float("inf") for each in widths),
            "positive and finite each",
        ),
    ),
    Entry(
        "ema.store_every",
        int,
        "steps between stored averages; 0: never",
        0,
        _between(0, STEPS),
        resumable=True,
    ),
    Entry(
        "matmul_precision",
        str,
        "of products on an accelerator",
        "default",
        _one_of(*MATMUL_PRECISIONS),
    ),
    Entry(
        "fused_attention",
        bool,
        "whether training uses cuDNN's attention, where network and device have it",
        True,
        resumable=True,
    ),
    Entry(
        "cpu_devices",
        int,
        "on a CPU: devices that share a batch",
        1,
        _between(1, 256),
        resumable=True,
    ),
    Entry("sharding.fsdp", int, "devices that share parameters", 1, _most(2**16), True),
    Entry(
        "sharding.least_size",
        int,
        "elements from which a leaf is sharded",
        2**14,
        _between(1, 2**40),
        resumable=True,
    ),
    Entry(
        "log.every",
        int,
        "steps between rows of metrics",
        100,
        _between(1, STEPS),
        resumable=True,
    ),
    Entry("log.logsnr_min", float, "lower end of the losses by log-SNR", -10.0, FINITE),
    Entry("log.logsnr_max", float, "their upper end", 10.0, FINITE),
    Entry(
        "log.num_bins", int, "bins of the losses by log-SNR", 10, _between(1, 10_000)
    ),
    Entry(
        "eval.every",
        int,
        "steps between held-out losses; 0: never",
        1_000,
        _between(0, STEPS),
        resumable=True,
    ),
    Entry(
        "eval.draws",
        int,
        "times and noises that each held-out example gets",
        4,
        _between(1, 10_000),
        resumable=True,
    ),
    Entry("sampler.name", str, "sampler", "ddim", resumable=True),
    Entry("sampler.num_steps", int, "its steps", 25, _between(1, 10**6), True),
    Entry(
        "sampler.grid", str, "sampling grid (timestep schedule)", "uniform", None, True
    ),
    Entry("guidance", float, "classifier-free guidance scale", 1.0, FINITE, True),
    Entry(
        "samples.every",
        int,
        "steps between pictures of samples; 0: never",
        1_000,
        _between(0, STEPS),
        resumable=True,
    ),
    Entry("samples.per_class", int, "samples in them", 10, _between(1, 10_000), True),
    Entry(
        "checkpoint.every",
        int,
        "steps between checkpoints; 0: at the end alone",
        1_000,
        _between(0, STEPS),
        resumable=True,
    ),
    Entry("checkpoint.keep", int, "newest that are kept", 3, _between(1, 10**6), True),
    Entry(
        "checkpoint.keep_best",
        int,
        "those of the lowest metric that are kept as well",
        1,
        _between(0, 10**6),
        resumable=True,
    ),
    Entry(
        "checkpoint.metric",
        str,
        "by which checkpoints are ranked",
        RANKING_METRICS[0],
        _one_of(*RANKING_METRICS),
        resumable=True,
    ),
    Entry(
        "callbacks",
        tuple[str, ...],
        "functions module:function that are called with every row of metrics",
        (),
        resumable=True,
    ),
)
BY_NAME = {entry.name: entry for entry in TABLE}
SECTIONS = tuple(dict.fromkeys(name.partition(".")[0] for name in BY_NAME))
OPEN = ("data", "network")
OPTIONAL = ("objective.proposal", "objective.coupling")
# A resume takes another value with `--accept_change`, and records it.
ACCEPTABLE = (
    "data",
    "num_steps",
    "batch_size",
    "optimizer.learning_rate",
    "optimizer.warmup_steps",
    "optimizer.schedule",
    "optimizer.accumulate",
)
WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "True or False",
    tuple[int, ...]: "a tuple of whole numbers",
    tuple[float, ...]: "a tuple of numbers",
    tuple[str, ...]: "a tuple of strings",
}


def settle(config: ConfigDict) -> None:
    """Gives every entry of a config its type, and those that it lacks their default.

    A whole number may be written as a float, a number as an integer, a tuple as a list.
    What is None is left to `check_complete`.

    Raises:
      UsageError: an entry is unknown or missing, or its value is of another type.
    """
    _check_acyclic("config", config, ())
    _check_names("config", config, SECTIONS)
    add_defaults(config)
    for section in SECTIONS:
        if section not in config:
            raise UsageError(
                f"config: no entry {section!r}; {nearest(section, config)}"
            )
        if section not in BY_NAME:
            known = _inner(section)
            _check_section(f"config.{section}", value(config, section), known)
    for name, section, key, wanted in _entries(config):
        found = value(section, key)
        if found is None or wanted is None:
            continue
        given = typed(name, found, wanted)
        if type(given) is not type(found) or given != found:
            with section.unlocked():
                del section[key]  # or what replaces a float becomes one
                section[key] = given


def _check_acyclic(where: str, section: Any, above: tuple[int, ...]) -> None:
    """Refuses a section, list or tuple that contains itself."""
    if id(section) in above:
        raise UsageError(f"{where}: contains itself; give the values it should have")
    above = (*above, id(section))
    if hasattr(section, "keys"):
        for key in section:
            _check_acyclic(f"{where}.{key}", value(section, key), above)
    elif isinstance(section, (list, tuple)):
        for each in section:
            _check_acyclic(where, each, above)


def check_complete(config: ConfigDict) -> None:
    """Raises a `UsageError` where an entry that needs a value has none."""
    for name, section, key, wanted in _entries(config):
        with contextlib.suppress(RequiredValueError):
            if section[key] is not None or wanted is None or name in OPTIONAL:
                continue
        raise UsageError(f"{name} has no value: give it with --config.{name}=VALUE")


def check_bounds(config: ConfigDict) -> None:
    """Raises a `UsageError` where a value is out of the bound of its entry."""
    for entry in TABLE:
        if entry.bound is not None:
            found = _value_at(config, entry.name)
            if entry.bound.names:
                check_name(entry.name, found, entry.bound.names)
            require(entry.name, found, entry.bound.holds(found), entry.bound.words)
    for name, section, key, wanted in _entries(config):
        if wanted is None:
            _check_numbers(name, value(section, key))


def _check_numbers(name: str, found: Any) -> None:
    """Refuses a number of an open section that no machine could meet."""
    most = MOST[name.partition(".")[0]]
    for each in found if isinstance(found, (list, tuple)) else (found,):
        number = isinstance(each, numbers.Real) and not isinstance(each, bool)
        bound = f"finite, and at most {most:,} in size"
        require(name, found, not number or abs(each) <= most, bound)


def value(section: Mapping[str, Any], key: str) -> Any:
    """Returns the value of an entry; None, too, where it is required and not set."""
    try:
        return section[key]
    except RequiredValueError:
        return None


def type_of(name: str) -> Any:
    """Returns the type of an entry, by its dotted name; None if not in the table."""
    return BY_NAME[name].type if name in BY_NAME else None


def is_resumable(name: str) -> bool:
    """Returns whether an entry or section, by dotted name, may change on a resume."""
    inside = [entry for entry in TABLE if f"{entry.name}.".startswith(f"{name}.")]
    return bool(inside) and all(entry.resumable for entry in inside)


def data_arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of a section `data` on which the examples depend."""
    return {key: section[key] for key in section if not is_resumable(f"data.{key}")}


def is_acceptable(name: str) -> bool:
    """Returns whether `--accept_change` may name an entry (dotted) or its section."""
    return any(f"{name}.".startswith(f"{each}.") for each in ACCEPTABLE)


def typed(name: str, value: Any, wanted: Any) -> Any:
    """Converts the value of an entry to one of the types of `WORDS`.

    Raises:
      UsageError: it is none.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    with contextlib.suppress(OverflowError):
        if wanted is float and number:
            return float(value)
        if wanted is int and number and float(value).is_integer():
            return int(value)
    if wanted in (str, bool) and isinstance(value, wanted):
        return value
    if get_origin(wanted) is tuple and isinstance(value, (list, tuple)):
        return tuple(typed(name, item, get_args(wanted)[0]) for item in value)
    raise UsageError(f"{name}={shown(value)}: must be {WORDS[wanted]}")


def described() -> list[tuple[str, str, str, str, str]]:
    """Lists the rows of the table in words: name, type, default, bound, meaning."""
    return [
        (
            entry.name,
            WORDS[entry.type].removeprefix("a "),
            "" if entry.default is REQUIRED else repr(entry.default),
            entry.bound.words if entry.bound else "",
            entry.help,
        )
        for entry in TABLE
    ]


def _inner(section: str) -> list[str]:
    prefix = f"{section}."
    return [name.removeprefix(prefix) for name in BY_NAME if name.startswith(prefix)]


def add_defaults(config: ConfigDict) -> None:
    """Gives a config the entries that it lacks and that have a default."""
    for entry in TABLE:
        section, _, key = entry.name.rpartition(".")
        missing = section in OPEN and section not in config
        if entry.default is REQUIRED or missing:
            continue
        with config.unlocked():
            if section and section not in config:
                config[section] = {}
            place = config[section] if section else config
            if hasattr(place, "keys") and key not in place:
                place[key] = entry.default


def _entries(config: ConfigDict) -> Iterator[tuple[str, ConfigDict, str, Any]]:
    """Yields every entry: its dotted name, its section, its key there, and its type."""
    for name in SECTIONS:
        if name in BY_NAME:
            yield name, config, name, BY_NAME[name].type
        else:
            for inner in config[name]:
                dotted = f"{name}.{inner}"
                yield dotted, config[name], inner, type_of(dotted)


def _check_section(where: str, section: Any, known: list[str]) -> None:
    if not hasattr(section, "keys"):
        raise UsageError(f"{where}={section!r}: must have entries: {', '.join(known)}")
    if where.removeprefix("config.") not in OPEN:
        _check_names(where, section, known)
    for name in known:
        if name not in section:
            raise UsageError(f"{where}: no entry {name!r}; {nearest(name, section)}")


def _check_names(where: str, section: Mapping[str, Any], known: Any) -> None:
    for name in section:
        check_name(where, name, known)


def _value_at(config: Mapping[str, Any], name: str) -> Any:
    for key in name.split("."):
        config = config[key]
    return config
