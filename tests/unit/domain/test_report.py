from __future__ import annotations

import itertools

import pytest

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.report import Case, CaseStatus, Verdict, verdict_of


def case(status: CaseStatus) -> Case:
    return Case(name=f"a case that {status.value}", status=status)


def test_failed_beats_errored_beats_inconclusive_beats_passed() -> None:
    order = [Verdict.FAILED, Verdict.ERRORED, Verdict.INCONCLUSIVE, Verdict.PASSED]
    for better, worse in itertools.combinations(reversed(order), 2):
        assert Verdict.worst([better, worse, better]) is worse


def test_nothing_checked_is_errored_not_passed() -> None:
    assert Verdict.worst([]) is Verdict.ERRORED
    assert verdict_of([])[0] is Verdict.ERRORED


def test_fewer_cases_than_promised_is_errored() -> None:
    verdict, message = verdict_of([case(CaseStatus.PASSED)], promised=2)
    assert verdict is Verdict.ERRORED
    assert "2 were promised" in message


def test_only_skipped_cases_is_errored() -> None:
    assert verdict_of([case(CaseStatus.SKIPPED)] * 3)[0] is Verdict.ERRORED


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([CaseStatus.PASSED, CaseStatus.SKIPPED], Verdict.PASSED),
        ([CaseStatus.PASSED, CaseStatus.ERRORED], Verdict.ERRORED),
        ([CaseStatus.ERRORED, CaseStatus.FAILED], Verdict.FAILED),
    ],
)
def test_the_verdict_follows_the_cases(statuses: list[CaseStatus], expected: Verdict) -> None:
    assert verdict_of(map(case, statuses))[0] is expected


def test_exit_codes_are_one_per_verdict() -> None:
    assert [verdict.exit_code for verdict in Verdict] == [0, 1, 3, 4]


@pytest.mark.parametrize("sha", ["", "main", "A" * 40, "0" * 39, "0" * 64])
def test_a_commit_is_40_lower_case_hex_digits(sha: str) -> None:
    with pytest.raises(ValueError, match="40-digit"):
        Commit(sha=sha)


def test_an_image_without_a_whole_digest_is_refused() -> None:
    with pytest.raises(ValueError, match="sha256"):
        ImageRef(repository="name", digest="sha256:abc")
    assert ImageRef(repository="name", digest="sha256:" + "0" * 64).reference == "name@sha256:" + "0" * 64
