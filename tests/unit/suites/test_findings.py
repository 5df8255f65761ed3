from __future__ import annotations

import datetime as dt

import pytest

from vllm_ci.domain.stage import AcceptedFinding
from vllm_ci.suites import leaks
from vllm_ci.suites.findings import Finding, FindingPolicy

TODAY = dt.date(2026, 11, 21)
HIGH = Finding(id="open-route:POST /x", severity="high", message="is open")
LOW = Finding(id="open-route:GET /docs", severity="low", message="tells too much")


def accepted(finding: Finding, until: dt.date) -> AcceptedFinding:
    return AcceptedFinding(id=finding.id, reason="known", until=until)


def test_a_finding_fails_from_its_severity_on() -> None:
    judgement = FindingPolicy(today=TODAY).judge([HIGH, LOW])
    assert judgement.failing == (HIGH,)
    assert judgement.minor == (LOW,)
    assert FindingPolicy(today=TODAY, fail_on="low").judge([LOW]).failing == (LOW,)
    assert FindingPolicy(today=TODAY, fail_on="critical").judge([HIGH]).failing == ()


def test_acceptance_ends_with_its_day() -> None:
    last_day = FindingPolicy(accepted=[accepted(HIGH, TODAY)], today=TODAY).judge([HIGH])
    assert last_day.accepted == (HIGH,)
    assert last_day.failing == ()
    after = FindingPolicy(accepted=[accepted(HIGH, TODAY - dt.timedelta(days=1))], today=TODAY).judge([HIGH])
    assert after.failing == after.expired == (HIGH,)
    assert "has expired" in str(after)


def test_acceptance_is_for_one_id_only() -> None:
    other = Finding(id="open-route:POST /y", severity="high", message="is open")
    judgement = FindingPolicy(accepted=[accepted(HIGH, TODAY)], today=TODAY).judge([HIGH, other])
    assert judgement.failing == (other,)


def test_a_severity_is_one_of_four() -> None:
    with pytest.raises(ValueError, match="not a severity"):
        Finding(id="x", severity="bad", message="")


def test_a_secret_in_a_log_is_reported_by_its_name_and_line_not_by_its_value() -> None:
    (found,) = leaks.in_log("one\ntwo s3cret", secrets={"the API key": "s3cret", "none": ""}, prompts=[])
    assert found.severity == "critical"
    assert "line 2" in str(found)
    assert "s3cret" not in str(found)


def test_prompts_and_forged_lines_in_a_log_are_told_apart() -> None:
    def ids(log: str) -> list[str]:
        return [finding.id for finding in leaks.in_log(log, secrets={}, prompts=["canary-1"])]

    assert ids("all quiet") == []
    assert ids("got 'canary-1'") == ["prompt-in-log"]
    assert ids("model " + leaks.forged("canary-1")) == ["log-injection"]
    assert ids("model " + repr(leaks.forged("canary-1"))) == []
