"""What is said of a policy before any image is asked."""

from __future__ import annotations

import dataclasses
from datetime import date
from pathlib import Path

import pytest

from registries.evidence import NOW
from registries.releases import STAGING, world_in
from vllm_ci.domain.report import Verdict
from vllm_ci.evidence.osv import Severity
from vllm_ci.release.policy import Accepted, Policy, ScanRule
from vllm_ci.release.remarks import remarks

EXPIRED = ScanRule(max_age_days=7, fail_on=Severity.HIGH, accept=(Accepted(id="CVE-1", reason="r", until=date(2026, 1, 1)),))


def said(folder: Path, channel: str, **policies: Policy) -> tuple[str, ...]:
    return remarks(world_in(folder).with_policies(**policies).setup, channel, now=NOW)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"approvals": ("anna",)}, "can never pass: the image has to be signed by anna"),
        ({"signers": ("anna",)}, "can never pass: only evidence signed by anna counts"),
        ({"after": "nowhere"}, "can never pass: it waits for channel nowhere"),
        ({"tests": {"unit": ()}}, "can never pass: stage unit has no accepted verdict"),
        ({"tests": {}}, "refuses little: no stage has to pass"),
        ({"tests": {"unit": tuple(Verdict)}}, "refuses little: every verdict of stage unit"),
        ({"tests": {"unit": (Verdict.PASSED, Verdict.FAILED)}}, "refuses little: stage unit may fail"),
        ({"tests": {"unit": (Verdict.PASSED, Verdict.ERRORED)}}, "refuses little: stage unit may end without"),
        ({"pull_requests": True}, "refuses little: anyone who can open a pull request"),
        ({"pull_requests": True, "approvals": ("ci",), "refs": ("main",)}, "a pull request has no ref"),
        ({"scan": EXPIRED}, "CVE-1 was accepted until 2026-01-01"),
    ],
)
def test_what_is_odd_is_said(change: dict[str, object], words: str, tmp_path: Path) -> None:
    [remark] = said(tmp_path, "staging", staging=dataclasses.replace(STAGING, **change))  # type: ignore[arg-type]
    assert remark.startswith(words)


def test_nothing_is_said_of_a_usual_policy(tmp_path: Path) -> None:
    assert said(tmp_path, "staging") == ()
    assert said(tmp_path, "production") == ()


def test_a_channel_behind_one_that_never_passes_never_passes(tmp_path: Path) -> None:
    blocked = dataclasses.replace(STAGING, approvals=("anna",))
    [remark] = said(tmp_path, "production", staging=blocked)
    assert remark.startswith("can never pass: it waits for staging, and there the image has to be signed by anna")


def test_channels_that_wait_for_each_other_are_said_and_no_fault(tmp_path: Path) -> None:
    around = dataclasses.replace(STAGING, after="production")
    assert any("which waits for it" in each for each in said(tmp_path, "staging", staging=around))
