"""The suites are tested: each defect is named by the case that is there for it, and nothing legal is held against a server."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import pytest

from doubles import suiterun, table
from doubles.defects import DEFECTS
from doubles.legal import OF_STREAMS, VARIATIONS
from doubles.manifest import recorded
from doubles.server import Double
from vllm_ci.suites.manifest import rounds

# What the cut of a stream can touch; timing and disconnects are the same for all of them.
TOUCHED = (
    *("streaming/test_structure.py", "streaming/test_sameness.py", "streaming/test_text.py", "streaming/test_pieces.py"),
    *("integration/test_sdk.py", "streaming/test_many.py::test_concurrent_streams_answer_their_own_question"),
)


def trouble(found: suiterun.SuiteRun) -> str:
    """What did not pass, for a message."""
    return "\n".join(
        f"{status} {name}: {found.messages.get(name)}" for name, status in found.statuses.items() if name in found.messages
    )


# A busy machine can hide what a defect does to the course of time; no number of tries makes a right server fail.
_TRIES = 3


def busy(found: suiterun.SuiteRun, missed: set[str]) -> bool:
    """Whether all cases that missed a defect were inconclusive because this machine had no processor time."""
    said = {
        name.partition("[")[0]: message for name, message in found.messages.items() if found.statuses[name] == "inconclusive"
    }
    return bool(missed) and all("the machine was busy" in said.get(name.partition("[")[0], "") for name in missed)


class Unhurried(Double):
    """So slow that streams can be told from bursts."""

    token_s = 0.0012


_DELIVERY = "streaming/test_delivery.py"


def timed(name: str, cases: Iterable[str]) -> Any:
    """A parameter whose test measures the course of time, if one of the cases does."""
    return pytest.param(name, marks=pytest.mark.timing if any(case.startswith(_DELIVERY) for case in cases) else ())


_STREAMING = tuple(f"streaming/{file.name}" for file in sorted((suiterun.SUITES / "streaming").glob("test_*.py")))


@pytest.mark.parametrize("cases", [timed(name, [name]) for name in (*_STREAMING, "integration", "security")])
def test_the_correct_server_passes(cases: str) -> None:
    found = suiterun.run(Unhurried, [cases], key=cases == "security", patient=True)
    assert not found.with_status("failed", "errored", "inconclusive"), trouble(found)
    assert "passed" in found.statuses.values()


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_legal_variation_passes(name: str) -> None:
    cases = TOUCHED if VARIATIONS[name] in OF_STREAMS else [*TOUCHED, "integration"]
    found = suiterun.run(VARIATIONS[name], cases, patient=True)
    assert not found.with_status("failed", "errored", "inconclusive"), trouble(found)


@pytest.mark.parametrize("name", [timed(name, defect.named) for name, defect in DEFECTS.items()])
def test_a_defect_is_named(name: str) -> None:
    defect = DEFECTS[name]
    for _ in range(_TRIES):
        found = suiterun.run(defect.make, defect.runs, key=defect.key, causes=False)
        missed = set(defect.named) - found.with_status("failed")
        if not missed:
            break
    if busy(found, missed):
        pytest.skip(f"this machine had no processor time to tell: {found.messages}")
    assert not missed, f"{defect.what} That is not named by {sorted(missed)}, but: {trouble(found) or found.output[-2000:]}"
    # Where everything fails, nothing is named.
    assert defect.alone or found.with_status("passed"), trouble(found)


def _sized(case: str) -> bool:
    """Whether a case asks for less where time is short."""
    path, _, name = case.partition("[")[0].partition("::")
    module = importlib.import_module(f"vllm_ci.suites.{path.removesuffix('.py').replace('/', '.')}")
    return any(mark.name == "sized" for mark in getattr(getattr(module, name), "pytestmark", ()))


_HARDLY_ANY_TIME_S = 0.001


@pytest.mark.parametrize(
    "name", [timed(name, defect.named) for name, defect in DEFECTS.items() if any(map(_sized, defect.named))]
)
def test_a_defect_is_named_by_the_smallest_cases_too(name: str) -> None:
    defect = DEFECTS[name]
    sized = {case for case in defect.named if _sized(case)}
    for _ in range(_TRIES):
        found = suiterun.run(defect.make, sorted(sized), key=defect.key, budget_s=_HARDLY_ANY_TIME_S, causes=False)
        missed = sized - found.with_status("failed")
        if not missed:
            break
    if busy(found, missed):
        pytest.skip(f"this machine had no processor time to tell: {found.messages}")
    assert not missed, f"{defect.what} At their least size that is not named by {sorted(missed)}: {trouble(found)}"


@pytest.mark.parametrize("suite", ["integration", pytest.param("streaming", marks=pytest.mark.timing)])
def test_the_correct_server_passes_at_the_smallest_sizes(suite: str) -> None:
    found = suiterun.run(Unhurried, [suite], budget_s=_HARDLY_ANY_TIME_S, patient=True)
    assert not found.with_status("failed", "errored", "inconclusive"), trouble(found)
    left_out = {name for name, message in found.messages.items() if "left out for time" in message}
    assert left_out, "nothing was left out"
    assert len(left_out) < len(found.statuses) / 10


def test_a_double_says_that_it_is_one() -> None:
    found = suiterun.run(Double, ["integration/test_models.py"])
    server = found.facts["server"]
    assert isinstance(server, dict)
    assert server["double"] is True


def test_the_catalogue_covers_every_suite() -> None:
    suites = [defect.suite for defect in DEFECTS.values()]
    assert len(DEFECTS) >= 40
    assert {suite for suite in suites if suites.count(suite) >= 10} == set(table.SUITES)


def test_the_cases_that_defects_name_exist() -> None:
    cases = {case for suite in table.SUITES for case in table.cases_of(suite)}
    named = {case.partition("[")[0] for defect in DEFECTS.values() for case in defect.named}
    assert named <= cases, f"no such cases: {sorted(named - cases)}"


@pytest.mark.parametrize("suite", ["integration", "streaming"])
def test_the_costs_in_the_manifest_are_those_of_the_cases(suite: str) -> None:
    # What a client that hangs up has caused until the server notices depends on the machine, and so does how many streams a
    # verdict on timing needs.
    found = {
        f"{suite}/{name}": sum(each[0] * each[1] * each[2] for each in entry["rounds"])
        for name, entry in recorded(suite, without=("test_disconnect.py", "test_delivery.py")).items()
    }
    kept = {name: sum(each.times * each.streams * each.tokens for each in rounds(name) or ()) for name in found}
    off = {name: (kept[name], tokens) for name, tokens in found.items() if abs(kept[name] - tokens) > 40 + 0.3 * tokens}
    assert not off, f"tokens in the manifest and as recorded: {off}; run: PYTHONPATH=pipeline:tests python -m doubles.manifest"


def test_the_table_in_the_documentation_is_current() -> None:
    expected = table.rendered(table.consequences())
    assert table.DOCUMENT.read_text(encoding="utf-8") == expected, "run: PYTHONPATH=pipeline:tests python -m doubles.table"
