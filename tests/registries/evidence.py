"""Made-up facts about an image, for tests of evidence and releases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.report import Case, CaseStatus, Report, StageResult, Verdict
from vllm_ci.evidence.bundle import Bundle
from vllm_ci.evidence.keys import PrivateKey
from vllm_ci.evidence.materials import Materials, Package
from vllm_ci.evidence.predicates import provenance, sbom, test_result
from vllm_ci.evidence.statement import Statement

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
STAGES = ("unit", "integration", "streaming", "security")
VLLM = Package(purl="pkg:pypi/vllm@0.32.0", sha256="a" * 64, ecosystem="PyPI", source="vllm")
SSL = Package(
    purl="pkg:deb/debian/libssl3@3.0.15-1~deb12u1%2Bb1?arch=amd64&distro=bookworm",
    sha256="b" * 64,
    ecosystem="Debian:12",
    source="openssl",
)
MATERIALS = Materials(
    packages=(SSL, VLLM),
    files={"/opt/serving/template.jinja": "c" * 64},
    locks={"cpu.lock": "d" * 64},
    parameters={"image": "cpu"},
)


def commit_of(number: int, *, dirty: bool = False, ref: str = "refs/heads/main") -> Commit:
    return Commit(
        sha=f"{number:040x}", ref=ref, dirty=dirty, committed_at=1_790_000_000 + number, source="https://git.example.com/fork"
    )


def report_of(
    commit: Commit | None,
    image: ImageRef | None,
    verdicts: Mapping[str, Verdict] | None = None,
    *,
    at: datetime = NOW,
    double: bool = False,
    stages: Sequence[str] = STAGES,
) -> Report:
    given = dict.fromkeys(stages, Verdict.PASSED) | dict(verdicts or {})
    statuses = {Verdict.PASSED: CaseStatus.PASSED, Verdict.FAILED: CaseStatus.FAILED, Verdict.ERRORED: CaseStatus.ERRORED}
    results = tuple(
        StageResult(
            name=name,
            verdict=verdict,
            seconds=1.0,
            cases=(Case(name="test_it", status=statuses.get(verdict, CaseStatus.SKIPPED)),),
        )
        for name, verdict in given.items()
    )
    return Report(
        commit=commit, image=image, engine="host", stages=results, started_at=at.isoformat(), seconds=4.0, double=double
    )


def statements_of(
    image: ImageRef, commit: Commit, *, verdicts: Mapping[str, Verdict] | None = None, at: datetime = NOW
) -> Iterator[Statement]:
    yield provenance.statement(image, commit, MATERIALS, started=at, finished=at)
    yield sbom.statement(image, commit, MATERIALS, at=at)
    yield from test_result.statements(report_of(commit, image, verdicts, at=at), image, b"{}")


def bundles_of(statements: Iterator[Statement], key: PrivateKey) -> list[Bundle]:
    return [key.sign_statement(each) for each in statements]
