"""Commands called in this process, through the application's own parser and errors.

A process of its own takes seconds to import what a mistake on the command line never
needs. What only a process shows (exit code of the shell, signals) is for
`tests/helpers/commands.py`.
"""

import atexit
import contextlib
import gc
import importlib
import io
import logging
import os
import sys
from unittest import mock

import jax
from absl import flags

from experiments import cli

CACHE = "jax_persistent_cache_min_compile_time_secs"


@contextlib.contextmanager
def _main(module):
    """Its `main`; flags that it defines are forgotten afterwards."""
    before = set(flags.FLAGS)
    values = flags.FLAGS.flag_values_dict()
    sys.modules.pop(module, None)
    try:
        yield importlib.import_module(module).main
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
        for name, value in values.items():
            flags.FLAGS[name].value = value
        sys.modules.pop(module, None)


@contextlib.contextmanager
def _settings():
    """What the start of a command changes in its process is put back."""
    minimum, hook = getattr(jax.config, CACHE), sys.unraisablehook
    handlers, filters = (
        logging.root.handlers[:],
        logging.getLogger("asyncio").filters[:],
    )
    # this process has its devices: where XLA_FLAGS say how many, a command sets nothing
    given = os.environ.get("XLA_FLAGS", "")
    number = f"--xla_force_host_platform_device_count={jax.device_count()}"
    try:
        with mock.patch.dict(os.environ, XLA_FLAGS=f"{given} {number}".strip()):
            yield
    finally:
        gc.unfreeze()
        atexit.unregister(gc.freeze)
        jax.config.update(CACHE, minimum)
        sys.unraisablehook = hook
        logging.root.handlers[:] = handlers
        logging.getLogger("asyncio").filters[:] = filters


def run(module, *arguments):
    """What `python -m module ...` leaves: (exit code, standard output, standard error).

    As `commands.run` returns it.
    """
    output, error = io.StringIO(), io.StringIO()
    argv = [importlib.util.find_spec(module).origin, *map(str, arguments)]
    with (
        _settings(),
        _main(module) as main,
        mock.patch.object(sys, "argv", argv),
        jax.numpy_dtype_promotion("standard"),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(error),
    ):
        try:
            cli.run(main)
        except SystemExit as end:
            code = end.code or 0
    return code, output.getvalue(), error.getvalue()
