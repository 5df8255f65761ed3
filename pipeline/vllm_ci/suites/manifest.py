"""The cases of every suite and their costs: ``manifest.json``.

The file is generated (``python -m doubles.manifest``). If a suite collects fewer cases than listed there, its verdict is
``errored``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources

from vllm_ci.suites.work import Round

FILE = "manifest.json"


@cache
def _document() -> Mapping[str, Mapping[str, Mapping[str, object]]]:
    found: Mapping[str, Mapping[str, Mapping[str, object]]] = json.loads(
        resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8")
    )
    return found


def promised(suite: str) -> dict[str, int]:
    """Number of cases of every test function of a suite, by ``suite/file::function``.

    Raises:
        KeyError: There is no such suite.
    """
    return {f"{suite}/{name}": int(str(entry["cases"])) for name, entry in _document()[suite].items()}


def rounds(function: str) -> tuple[Round, ...] | None:
    """Requests of a case of a function (``suite/file::function``); ``None`` for functions outside our suites."""
    suite, _, name = function.partition("/")
    entry = _document().get(suite, {}).get(name)
    if entry is None:
        return None
    listed = entry.get("rounds", [])
    assert isinstance(listed, list)
    return tuple(Round(times=each[0], streams=each[1], tokens=each[2], prompt_tokens=each[3]) for each in listed)


def function_of(case: str) -> str:
    """A case's name without its parameters."""
    path, separator, name = case.partition("::")
    return f"{path}{separator}{name.partition('[')[0]}"


def missing(expected: Mapping[str, int], cases: Iterable[str], deselected: Iterable[str] = ()) -> dict[str, int]:
    """Number of missing cases in a report, by function.

    Args:
        expected: Expected number of cases by function.
        cases: Names of the reported cases, including skipped ones.
        deselected: Names of the cases that the user deselected.
    """
    found = Counter(map(function_of, (*cases, *deselected)))
    return {name: count - found[name] for name, count in expected.items() if found[name] < count}
