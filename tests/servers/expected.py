"""What is known of a server, written down by hand in ``expected/ROW.yaml``, and how a run differs from it.

A file says the verdict, the findings that are facts about the server, each with the reason and what proves it (a raw request,
or its documentation), which capabilities it has and lacks, and how many cases must have been judged. A finding is named by its
id, or by its case where the case has no ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from servers.observed import Found, Observed

FOLDER = Path(__file__).parent / "expected"
_NAMED = 3
_ENDS = ("server-died:", "server-hangs:", "harm:")  # after such a finding the rest of a stage may not be run


class Finding(pydantic.BaseModel, extra="forbid", frozen=True):
    """A fact about the server that fails a case.

    Attributes:
        id: Id of the finding, or name of the case.
        reason: What it means.
        proof: A raw request and its answer, or where the documentation says so.
        sometimes: Why it may be missing from a run (it depends on speed or load); empty: it is always there.
    """

    id: str
    reason: str = pydantic.Field(min_length=10)
    proof: str = pydantic.Field(min_length=10)
    sometimes: str = ""


class Expected(pydantic.BaseModel, extra="forbid", frozen=True):
    """A row's file, with what the row that it is ``like`` says.

    Attributes:
        about: What the server is and how it is set up, for the page.
        verdict: Verdict of the run.
        findings: All findings that fail a case, and no others.
        present: Capabilities that must be found.
        absent: Capabilities that must not be found, with the reason.
        judged: Least number of cases that passed or failed, by suite.
    """

    about: str
    verdict: str
    findings: tuple[Finding, ...] = ()
    present: frozenset[str] = frozenset()
    absent: Mapping[str, str] = {}
    judged: Mapping[str, int]


def load(row: str) -> Expected:
    """The expectations of a row.

    A file may say that the row is ``like`` another one: then it says only what differs, adds findings, and names those of the
    other row that it is ``without``.
    """
    return Expected.model_validate(_fields(row))


def _fields(row: str) -> dict[str, Any]:
    own: dict[str, Any] = yaml.safe_load((FOLDER / f"{row}.yaml").read_text(encoding="utf-8"))
    other, without = own.pop("like", None), set(own.pop("without", ()))
    if other is None:
        return own
    base = _fields(other)
    inherited = [finding for finding in base.get("findings", ()) if finding["id"] not in without]
    unknown = without - {finding["id"] for finding in base.get("findings", ())}
    if unknown:
        raise ValueError(f"{row}.yaml is without {sorted(unknown)}, which {other}.yaml does not have")
    return {**base, **own, "findings": [*inherited, *own.get("findings", ())]}


def differences(expected: Expected, observed: Observed) -> list[str]:
    """One line for each difference; empty if the run is as expected."""
    known = {finding.id: finding for finding in expected.findings}
    lines = []
    if observed.verdict != expected.verdict:
        lines.append(f"verdict: expected {expected.verdict}, got {observed.verdict}")
    seen = {found.id for found in observed.findings}
    ended = any(name.startswith(_ENDS) for name in seen & known.keys())
    lines += _new(
        [found for found in observed.findings if found.id not in known and not (ended and found.not_run) and not found.busy]
    )
    lines += [
        f"gone: {name}: {finding.reason.strip()}"
        for name, finding in known.items()
        if name not in seen and not finding.sometimes
    ]
    lines += _capabilities(expected, observed.facts)
    for suite, least in expected.judged.items():
        judged = observed.judged.get(suite, 0)
        if judged < least:
            lines.append(f"{suite}: {judged} cases were judged, at least {least} were expected")
    return lines


def _new(findings: Sequence[Found]) -> list[str]:
    """One line for each finding; those that many cases share are one line."""
    alike: dict[tuple[str, str], list[str]] = {}
    for found in findings:
        alike.setdefault((found.status, found.message), []).append(found.id)
    return [
        f"new:  {', '.join(ids[:_NAMED])}{f' and {len(ids) - _NAMED} more' if ids[_NAMED:] else ''} ({status}): {message}"
        for (status, message), ids in alike.items()
    ]


def _capabilities(expected: Expected, facts: Mapping[str, Any]) -> list[str]:
    found, absent = set(facts.get("capabilities", ())), facts.get("absent", {})
    missing = sorted(expected.present - found)
    lines = [f"capability {name}: expected, but: {absent.get(name, 'the report does not mention it')}" for name in missing]
    unexpected = sorted(found & expected.absent.keys())
    return [*lines, *(f"capability {name}: found, but it has none: {expected.absent[name]}" for name in unexpected)]
