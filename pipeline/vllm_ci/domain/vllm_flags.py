"""Reading vLLM's own flags and variables, as far as it must be known what the user has decided."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_SHORT = {"-tp": "tensor-parallel-size", "-pp": "pipeline-parallel-size"}
_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)")


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the user decided.

    Attributes:
        flags: Names without dashes, with hyphens (``max-model-len``), to values; an empty value for a flag without one.
        env: Names of environment variables that are set to something.
        values: Their values, as far as they are known (secrets are not).
    """

    flags: Mapping[str, str]
    env: frozenset[str]
    values: Mapping[str, str]

    def number(self, flag: str) -> int | None:
        """Value of a flag as vLLM reads it (``8k`` is 8000, ``8K`` is 8192); ``None`` when absent, ``auto`` or no number."""
        found = _NUMBER.fullmatch(self.flags.get(flag, ""))
        return int(float(found[1]) * _UNITS.get(found[2], 1)) if found else None


def said(args: Sequence[str], env: Mapping[str, str], secrets: Iterable[str] = ()) -> Said:
    """Read the arguments of a server and its environment.

    Args:
        args: vLLM's flags: ``--name value``, ``--name=value``, underscores as well as hyphens. The last of a name counts.
        env: Environment variables; an empty value counts as not set, as it does for vLLM.
        secrets: Variables handed through by name: ``NAME`` or ``NAME=OTHER``.
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
