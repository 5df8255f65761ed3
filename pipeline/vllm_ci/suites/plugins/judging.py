"""Plugin for security findings: options for the policy, and the fixture that applies it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from vllm_ci.domain.stage import SEVERITIES, Accepted, AcceptedFinding, AcceptedKnown
from vllm_ci.suites.findings import Finding, FindingPolicy
from vllm_ci.suites.known.catalogue import catalogue, vllm_version
from vllm_ci.suites.plugins.stash import FACTS

_POLICY = pytest.StashKey[FindingPolicy]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for findings."""
    group = parser.getgroup("vllm-ci")
    group.addoption(
        "--vllm-accept",
        metavar="FILE",
        default="",
        help="accepted findings: YAML or JSON file, or the JSON itself: a list of {id, reason, until} or {known: vllm, until}",
    )
    group.addoption("--vllm-fail-on", choices=SEVERITIES, default="medium", help="lowest severity that fails (medium)")


def pytest_configure(config: pytest.Config) -> None:
    """Read the policy at the start, so that an unreadable list is an error."""
    today = dt.datetime.now(dt.UTC).date()
    accepted = _accepted(config.option.vllm_accept)
    fail_on = config.option.vllm_fail_on
    config.stash[_POLICY] = FindingPolicy(accepted=accepted, fail_on=fail_on, today=today, known=catalogue())


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Callable[[Iterable[Finding]], None]:
    """A function that fails the case if there are findings that are not accepted, and records all findings in the report."""

    def decide(findings: Iterable[Finding]) -> None:
        policy = replace(request.config.stash[_POLICY], version=_version(request.config))
        judgement = policy.judge(findings)
        request.node.user_properties += [
            ("findings", [each.properties for each in judgement.found]),
            ("accepted", [each.id for each in judgement.accepted]),
        ]
        assert not judgement.failing, str(judgement)

    return decide


def _version(config: pytest.Config) -> str:
    """Version of the server, once it was probed; empty if it does not say that it is vLLM."""
    server = config.stash[FACTS].get("server")
    return vllm_version(server) if isinstance(server, dict) else ""


def _accepted(given: str) -> list[Accepted]:
    if not given:
        return []
    try:
        entries = (
            json.loads(given) if given.lstrip().startswith("[") else yaml.safe_load(Path(given).read_text(encoding="utf-8"))
        )
        return [_entry(entry) for entry in entries or []]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        expected = "{id, reason, until} and {known: vllm, until}"
        raise pytest.UsageError(f"--vllm-accept: {given[:80]} is not a list of {expected}: {error!r}") from error


def _entry(entry: dict[str, Any]) -> Accepted:
    until = entry["until"]
    day = until if isinstance(until, dt.date) else dt.date.fromisoformat(str(until))
    if "known" not in entry:
        return AcceptedFinding(id=str(entry["id"]), reason=str(entry["reason"]), until=day)
    if entry["known"] != "vllm" or "id" in entry:
        raise ValueError(f"an entry has either id or known: vllm, not {entry}")
    return AcceptedKnown(
        known="vllm", reason=str(entry.get("reason") or ""), up_to=str(entry.get("up_to") or "high"), until=day
    )
