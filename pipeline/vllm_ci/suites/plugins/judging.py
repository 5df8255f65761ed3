"""Plugin for security findings: options for the policy, and the fixture that applies it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vllm_ci.domain.stage import SEVERITIES, AcceptedFinding
from vllm_ci.suites.findings import Finding, FindingPolicy

_POLICY = pytest.StashKey[FindingPolicy]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for findings."""
    group = parser.getgroup("vllm-ci")
    group.addoption(
        "--vllm-accept",
        metavar="FILE",
        default="",
        help="accepted findings: a YAML or JSON file (or the JSON itself), a list of {id, reason, until}",
    )
    group.addoption("--vllm-fail-on", choices=SEVERITIES, default="medium", help="lowest severity that fails (medium)")


def pytest_configure(config: pytest.Config) -> None:
    """Read the policy at the start, so that an unreadable list is an error."""
    today = dt.datetime.now(dt.UTC).date()
    accepted = _accepted(config.option.vllm_accept)
    config.stash[_POLICY] = FindingPolicy(accepted=accepted, fail_on=config.option.vllm_fail_on, today=today)


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Callable[[Iterable[Finding]], None]:
    """A function that fails the case if there are findings that are not accepted, and records all findings in the report."""

    def decide(findings: Iterable[Finding]) -> None:
        found = tuple(findings)
        judgement = request.config.stash[_POLICY].judge(found)
        request.node.user_properties += [
            ("findings", [{"id": each.id, "severity": each.severity, "message": each.message} for each in found]),
            ("accepted", [each.id for each in judgement.accepted]),
        ]
        assert not judgement.failing, str(judgement)

    return decide


def _accepted(given: str) -> list[AcceptedFinding]:
    if not given:
        return []
    try:
        entries = (
            json.loads(given) if given.lstrip().startswith("[") else yaml.safe_load(Path(given).read_text(encoding="utf-8"))
        )
        return [_entry(entry) for entry in entries or []]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise pytest.UsageError(f"--vllm-accept: {given[:80]} is not a list of {{id, reason, until}}: {error!r}") from error


def _entry(entry: dict[str, Any]) -> AcceptedFinding:
    until = entry["until"]
    day = until if isinstance(until, dt.date) else dt.date.fromisoformat(str(until))
    return AcceptedFinding(id=str(entry["id"]), reason=str(entry["reason"]), until=day)
