"""What is to be published: chosen by the reports of a commit, or by what the repository has under the commit's tag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.report import Report
from vllm_ci.evidence.materials import Materials
from vllm_ci.registry.layout import Layout
from vllm_ci.release.setup import Setup


@dataclass(frozen=True, kw_only=True)
class ReportFile:
    """A report, and the bytes of its CTRF view, whose hash is signed with it."""

    report: Report
    ctrf: bytes

    def is_of(self, commit: Commit) -> bool:
        """Whether it is about this commit as it was committed; the report of a test double is about none."""
        tested = self.report.commit
        return tested is not None and tested.sha == commit.sha and not tested.dirty and not self.report.double


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is to be published.

    Attributes:
        commit: It was made from.
        image: Digest and tags; the name is the setup's.
        layout: Where it was built; ``None`` when the repository has it already.
        tested: What the stages found, oldest first; none relies on evidence that is attached already.
        materials: What the image was made of; ``None`` when the repository has the image already.
        osv: OSV data to scan with.
        scanner: Result of another scanner.
        run: URL or id of the CI run.
    """

    commit: Commit
    image: ImageRef
    layout: Layout | None = None
    tested: tuple[ReportFile, ...] = ()
    materials: Materials | None = None
    osv: Path | None = None
    scanner: Path | None = None
    run: str = ""


def tested(commit: Commit, reports: Sequence[ReportFile], *, layout: Layout) -> Candidate:
    """The image that the newest report names, with every report about that image.

    Args:
        commit: That is to be published.
        reports: At least one, oldest first. Runs of some stages only count as well, as long as they tested the same image.
        layout: Where the image was built.

    Raises:
        UsageError: The newest report names no image.
    """
    newest = reports[-1].report
    if newest.image is None:
        raise UsageError("the report names no image", remedy="publish needs a report of vllm-ci run")
    same = tuple(each for each in reports if each.report.image and each.report.image.digest == newest.image.digest)
    described = _as_tested(commit, newest.commit) if newest.commit else commit
    return Candidate(commit=described, image=newest.image, layout=layout, tested=same)


def published(commit: Commit, setup: Setup) -> Candidate:
    """A commit that was published before, maybe from another machine, by its tag in the repository.

    Raises:
        UsageError: It never was.
        RegistryError: The registry broke or refused.
    """
    with setup.open() as repository:
        tag = next((each for each in repository.tags() if each.startswith(commit.sha)), "")
        digest = repository.resolve(tag) if tag else None
    if digest is None:
        raise UsageError(
            f"there is no report of commit {commit.short}",
            why="only tested commits are published; reports of a dirty tree or of a test double do not count",
            remedy="check out that commit with a clean work tree and run: vllm-ci run",
        )
    return Candidate(commit=commit, image=ImageRef(repository=setup.subject, digest=digest, tags=(tag,)))


def _as_tested(commit: Commit, by_run: Commit) -> Commit:
    """The commit with the ref and the pull request of the run that tested it; or else of the run that publishes.

    A short ref is one of an older report: it does not say whether it was a branch or a tag, nor whether anything confirmed it.
    """
    ref = by_run.ref if by_run.ref.startswith("refs/") else ""
    number = by_run.pull_request or commit.pull_request
    return replace(commit, ref="" if number else ref or commit.ref, pull_request=number)
