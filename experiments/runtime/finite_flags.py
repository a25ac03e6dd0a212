"""Flags of the command line that are finite numbers."""

import math
from typing import Any

from absl import flags

flags.disclaim_key_flags()  # they are those of the module that defines them


class _Finite(flags.FloatParser):
    """Parses a number that is finite."""

    syntactic_help = "a finite number"

    def convert(self, argument: Any) -> float:
        value = super().convert(argument)
        if not math.isfinite(value):
            raise ValueError("must be a finite number")
        return value


def define_number(name: str, default: float | None, help_text: str) -> flags.FlagHolder:
    """Defines a flag of a finite number."""
    return flags.DEFINE(
        _Finite(), name, default, help_text, serializer=flags.ArgumentSerializer()
    )
