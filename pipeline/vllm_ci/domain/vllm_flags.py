"""Parses vLLM's flags and variables, to find out which settings the user has chosen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_SHORT = {"-tp": "tensor-parallel-size", "-pp": "pipeline-parallel-size"}
_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)")


@dataclass(frozen=True, kw_only=True)
class Said:
    """Settings that the user chose.

    Attributes:
        flags: Name without leading dashes (``max-model-len``) to value; empty value for a flag without one.
        env: Names of the environment variables that are not empty.
        values: Their values, except those of secrets.
    """

    flags: Mapping[str, str]
    env: frozenset[str]
    values: Mapping[str, str]

    def number(self, flag: str) -> int | None:
        """Value of a flag as vLLM parses it (``8k`` is 8000, ``8K`` is 8192); ``None`` if not set or not a number."""
        found = _NUMBER.fullmatch(self.flags.get(flag, ""))
        return int(float(found[1]) * _UNITS.get(found[2], 1)) if found else None


def said(args: Sequence[str], env: Mapping[str, str], secrets: Iterable[str] = ()) -> Said:
    """Parse the arguments of a server and its environment.

    Args:
        args: vLLM's flags: ``--name value`` or ``--name=value``, with underscores or hyphens; the last value of a flag applies.
        env: Environment variables; an empty value is the same as not set, as in vLLM.
        secrets: Variables that are passed on by name: ``NAME`` or ``NAME=OTHER``.
    """
    flags: dict[str, str] = {}
    last = ""
    for argument in args:
        if argument in _SHORT or (argument.startswith("--") and len(argument) > 2):
            name, separator, value = argument.partition("=")
            last = _SHORT.get(name, name[2:].replace("_", "-"))
            flags[last] = value
            last = "" if separator else last
        elif last:
            flags[last], last = argument, ""
    known = {name: value for name, value in env.items() if value}
    return Said(flags=flags, env=frozenset({*known, *(name.partition("=")[0] for name in secrets)}), values=known)
