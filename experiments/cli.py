"""Parses the flags of a command and starts JAX.

A mistake of the user ends the program with one line on standard error, the nearest
valid name in it, and exit code 2.
"""

import atexit
import functools
import gc
import inspect
import os
import pathlib
import resource
import socket
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jaxlib
from absl import app, flags, logging
from ml_collections import ConfigDict

from experiments.config import overrides, schema
from experiments.runtime import allocator, distributed, exit_codes, sharding
from experiments.runtime.errors import UsageError, check_name
from experiments.runtime.finite_flags import define_number as define_number

PATHS = (  # flags, never empty
    *("autoencoder", "config", "data", "init_from", "study", "teacher", "workdir"),
    *("conditions", "pairs", "reference", "init_image", "mask", "interpolate"),
)
FILES = 256  # open at a time: data, checkpoints and compiled programs

_BACKEND = flags.DEFINE_enum(
    "require_backend",
    None,
    ["cpu", "gpu", "tpu"],
    "Device that JAX must run on; the command ends at once if it is another one.",
)
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    'Directory of compiled programs, "off" for none; by default a directory for this '
    "host in the user's cache, or JAX_COMPILATION_CACHE_DIR.",
)


LONGEST_FLAG = 200  # letters; absl compares an unknown one with all others


class ConfigFlag:
    """The config of `--config`, with the entries that the command line overrides.

    Fields:
      value: the config; None until the command line is parsed.
      make_fn: gives it before the overrides, when the other flags are parsed.
      complete_fn: `(config, names that were overridden)`, called after them.
    """

    value: ConfigDict | None = None
    make_fn: Callable[[], ConfigDict]
    complete_fn: Callable[[ConfigDict, set[str]], None]


_CONFIG = ConfigFlag()


def define_config(
    make_fn: Callable[[], ConfigDict] | None = None,
    complete_fn: Callable[[ConfigDict, set[str]], None] = lambda config, given: None,
) -> ConfigFlag:
    """Defines `--config=FILE`, `--config.a.b=value` per entry, `--print_config`.

    Args:
      make_fn: gives the config in the place of `--config=FILE`, which there is not
        then; called when the other flags are parsed.
      complete_fn: `(config, names)`; sets what follows from the entries of these names,
        which the command line overrides.
    """
    flags.DEFINE_bool(
        "print_config", False, "Print every entry as the flag that sets it, and stop."
    )
    if make_fn is None:
        flags.DEFINE_string(
            "config",
            None,
            "Config file, or the name of a shipped one; --config.a.b=1 overrides an "
            "entry.",
            required=True,
        )
        make_fn = lambda: overrides.load_config(flags.FLAGS["config"].value)
    _CONFIG.make_fn, _CONFIG.complete_fn = make_fn, complete_fn
    return _CONFIG


def _has_config() -> bool:
    """Returns whether the command called `define_config`."""
    return "print_config" in flags.FLAGS


def require_unless_printed(name: str) -> None:
    """Requires a flag unless `--print_config` stops the command before it is used."""
    flags.register_validator(
        name,
        lambda value: value is not None or flags.FLAGS["print_config"].value,
        message=f"Flag --{name} must have a value other than None.",
    )


def define_count(
    name: str, default: int | None, help_text: str, most: int, *, least: int = 1
) -> flags.FlagHolder:
    """Defines a flag of a whole number from `least` to `most`."""
    return flags.DEFINE_integer(
        name, default, help_text, lower_bound=least, upper_bound=most
    )


def define_accept_change() -> Callable[[], list[str]]:
    """Defines `--accept_change`; returns what gives its names, or a `UsageError`."""
    known = ", ".join(schema.ACCEPTABLE)
    flags.DEFINE_list(
        "accept_change",
        [],
        "Entries that a resume takes as they are now, separated by commas, and records "
        f"in the history of the run: {known}.",
    )

    def names() -> list[str]:
        given = flags.FLAGS["accept_change"].value
        for name in given:
            check_name("--accept_change", name, schema.ACCEPTABLE)
        return given

    return names


def refuse_empty(name: str) -> None:
    """Refuses an empty path of a flag that is none of `PATHS` for every command."""
    flags.register_validator(
        name,
        lambda path: path != "",
        message="is empty: give a path (is a variable of the shell unset?)",
    )


def define_output(name: str, help_text: str) -> flags.FlagHolder:
    """Defines a flag of the path of a result, which may not be empty."""
    holder = flags.DEFINE_string(name, None, help_text)
    refuse_empty(name)
    return holder


def define_file(name: str, default: str | None, help_text: str) -> flags.FlagHolder:
    """Defines a flag of a file that is read, which is looked for at once."""
    holder = flags.DEFINE_string(name, default, help_text)
    flags.register_validator(
        name,
        lambda path: not path or os.path.isfile(path),
        message="there is no such file; give the path of one",
    )
    return holder


def run(main: Callable[..., None], *, takes: str | None = None) -> NoReturn:
    """Parses the flags, starts JAX, and calls `main`; never returns.

    Args:
      main: called without arguments, or with the list of those that are no flags.
      takes: what these are, in words; None where there must be none.
    """

    def started(argv: list[str]) -> None:
        with exit_codes.usage_errors():
            if takes is not None and len(argv) < 2:
                raise UsageError(f"{takes} are missing; --help shows an example")
            if takes is None and len(argv) > 1:
                raise UsageError(
                    f"unexpected argument {argv[1]!r}; flags look like --name=value, "
                    "entries of the config like --config.a.b=value"
                )
            if "print_config" in flags.FLAGS and flags.FLAGS["print_config"].value:
                print("\n".join(overrides.as_flags(_CONFIG.value)))
                return
            start_jax()
            if takes is not None:
                main(argv[1:])
            else:
                main()

    flags.FLAGS.set_gnu_getopt(takes is not None)  # flags after arguments too
    warnings.formatwarning = _one_line
    atexit.register(gc.freeze)  # or Python searches all objects before it ends: 0.5 s
    exit_codes.hide_failed_writes()
    with exit_codes.closed_pipe():
        parse = functools.partial(_parse, module=main.__module__)
        app.run(started, flags_parser=parse)


def _one_line(message: Warning | str, *place: Any, **more: Any) -> str:
    """Formats a Python warning as the commands print theirs."""
    del place, more
    return f"warning: {message}\n"


def _parse(argv: list[str], module: str) -> list[str]:
    """Parses flags and config and returns the arguments that are no flags.

    A mistake ends the program with one line, where absl would print the whole help.

    Args:
      argv: of the command line.
      module: of the command; its docstring and flags are the help.
    """
    if "--help" in argv or "-h" in argv:
        _print_help(module)
        sys.exit(0)
    with exit_codes.usage_errors():
        _check_words(argv[1:])
        given: list[Any] = []
        if _has_config():
            after = "config" if "config" in flags.FLAGS else None
            argv, given = overrides.split(overrides.with_values(argv), after)
        try:
            rest = flags.FLAGS(argv)
        except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
            raise UsageError(" ".join(str(error).split())) from error
        _check_paths()
        if _has_config():
            _CONFIG.value = _CONFIG.make_fn()
            schema.add_defaults(_CONFIG.value)
            overrides.apply(_CONFIG.value, given)
            _CONFIG.complete_fn(_CONFIG.value, overrides.names(given))
            schema.settle(_CONFIG.value)
    if flags.FLAGS["verbosity"].using_default_value:
        # or app.run makes it INFO
        flags.FLAGS.verbosity = logging.WARNING  # type: ignore[assignment]
    return rest


def _check_words(words: list[str]) -> None:
    """Refuses words that neither the parser nor the output can take."""
    for word in words:
        flag, _, value = word.partition("=")
        if not word.isascii() and word.encode(errors="replace").decode() != word:
            raise UsageError(f"{word!a}: is no UTF-8; rename what it names")
        if flag.startswith("-") and len(flag) > LONGEST_FLAG:
            raise UsageError(f"unknown flag {flag[:40]}...; --help lists the flags")
        if value == "~" or value.startswith("~/"):
            raise UsageError(
                f"{word}: a shell does not replace ~ after an =, and a folder of that "
                f"name would be made; write {flag}=$HOME{value[1:]}"
            )


def _print_help(module: str) -> None:
    """Prints docstring, flags, entries of a config, and names of samplers and grids."""
    print(inspect.cleandoc(sys.modules[module].__doc__ or ""), "\n")
    own = sys.argv[0] if module == "__main__" else module
    for each in (own, __name__, distributed.__name__):
        if listed := flags.FLAGS.module_help(each):
            print(listed)
    if _has_config():
        print(_entries_help())
    if _has_config() or {"sampler", "sampler.name"} & set(flags.FLAGS):
        from experiments.config import registry  # slow to import

        print(f"\nsamplers: {', '.join(registry.SAMPLERS)}")
        print(f"grids: {', '.join(registry.GRIDS)}")


def _check_paths() -> None:
    """Refuses an empty path, as of a variable of the shell that is not set."""
    for name in PATHS:
        if name in flags.FLAGS and flags.FLAGS[name].value == "":
            raise UsageError(
                f"--{name}= is empty: give a path (is a variable of the shell unset?)"
            )


def _check_descriptors() -> None:
    """Raises the number of open files to what is allowed, and refuses too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FILES:
        soft = FILES if hard < 0 else min(FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if 0 <= soft < FILES:
        raise UsageError(
            f"only {soft} files may be open at a time: at least {FILES} are needed; "
            f"ulimit -n {FILES} allows them"
        )


def _entries_help() -> str:
    """Formats the entries of a config, a line each."""
    lines = ["entries of a config, each --config.NAME=VALUE:"]
    for name, kind, default, bound, meaning in schema.described():
        facts = [kind, *([bound] if bound else [])]
        facts += [f"default {default}"] if default else []
        lines.append(f"  {name}: {meaning} ({'; '.join(facts)})")
    return "\n".join(lines)


def start_jax() -> None:
    """Sets what must be set before the first array, and checks the backend."""
    _check_descriptors()
    devices = 1
    if _has_config():
        config = _CONFIG.value
        schema.check_complete(config)
        schema.check_bounds(config)
        config.lock()
        devices = config.cpu_devices
        sharding.split_cpu(devices)
    allocator.keep_freed_memory(devices, steps=_has_config())
    distributed.join()
    directory = cache_directory()
    jax.config.update("jax_compilation_cache_dir", directory and str(directory))
    if directory is not None:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    wanted = _BACKEND.value
    if wanted is not None and jax.default_backend() != wanted:
        raise UsageError(
            f"--require_backend={wanted}: JAX {jax.__version__} found only "
            f"{jax.default_backend()!r}; install jax for that device, for an NVIDIA "
            "GPU with: pip install 'jax[cuda12]'"
        )


def cache_directory() -> pathlib.Path | None:
    """Returns the directory of compiled programs; None for none.

    By default it is named by host and jaxlib, because programs of another machine or
    version can crash.
    """
    if _CACHE.value is not None:
        return None if _CACHE.value == "off" else pathlib.Path(_CACHE.value)
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    name = f"{socket.gethostname()}-jaxlib{jaxlib.__version__}"
    return pathlib.Path(home) / "diffusionflow" / "compiled" / name
