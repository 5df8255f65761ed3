"""Publish: gate on evidence, push, sign, tag, record. Running it again changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from vllm_ci.domain.errors import FailedError, UsageError
from vllm_ci.domain.events import Emit, ignore, step
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence.predicates import performance, provenance, sbom, scan, test_result
from vllm_ci.evidence.statement import SIGNATURE, Statement, moment
from vllm_ci.evidence.verify import check_image
from vllm_ci.registry.errors import DigestError, NotFoundError
from vllm_ci.registry.push_progress import PushProgress
from vllm_ci.registry.repository import Repository
from vllm_ci.registry.transfer import copy
from vllm_ci.release.candidate import Candidate
from vllm_ci.release.gathering import attach_all, findings_of, now_or, sign, unknown
from vllm_ci.release.moved import Moved
from vllm_ci.release.moving import Move
from vllm_ci.release.record import Release
from vllm_ci.release.setup import Setup


def publish(
    setup: Setup,
    candidate: Candidate,
    channel_name: str,
    *,
    reason: str = "",
    dry_run: bool = False,
    now: datetime | None = None,
    emit: Emit = ignore,
) -> Moved:
    """Move a channel to a commit's image.

    Args:
        setup: Registry, ledger, key and policies.
        candidate: What.
        channel_name: Which channel.
        reason: Why, for the record.
        dry_run: Say what would be done, and do nothing.
        now: The present.
        emit: Told of each step.

    Raises:
        FailedError: The commit is dirty, or its report or image is not what it says it is.
        RegistryError: The registry broke or refused.
        ErroredError: The ledger cannot be reached.
    """
    present = now_or(now)
    channel = setup.channel(channel_name)
    _check_clean(candidate)
    digest = candidate.image.digest
    release = Release(
        commit=candidate.commit.sha, digest=digest, repository=setup.subject, tag=_tag(candidate), model=_model(candidate)
    )
    with setup.open() as repository:
        move = Move(
            setup=setup,
            repository=repository,
            channel=channel,
            action="publish",
            release=release,
            now=present,
            emit=emit,
            reason=reason,
            pull_request=candidate.commit.pull_request,
        )
        sources: tuple[Repository, ...] = (*([candidate.layout] if candidate.layout else []), repository)
        with step(emit, "verify", f"image {digest[:19]}"):
            check_image(next((each for each in sources if _has(each, digest)), repository), digest)
        with step(emit, "evidence") as done:
            known = findings_of(setup, repository, release, now=present)
            missing = unknown(_statements(setup, candidate, present), known)
            bundles = sign(setup, missing)
            done(f"{len(missing)} new statements, {len(known.evidence)} attached already")
        state = setup.ledger.read()
        decision = move.ask(state, findings_of(setup, repository, release, more=bundles, now=present))
        there = repository.resolve(release.tag) == digest
        steps = [] if there else [f"push {digest} as {repository.name}:{release.tag}"]
        steps += [*(f"attach {each.title}" for each in missing), *move.steps(state)]
        if not dry_run and not decision.allowed and repository.resolve(digest):
            # For an image that is in the registry already, unfavourable results are attached as well.
            attach_all(repository, digest, bundles, emit)
        if dry_run or not decision.allowed:
            return move.outcome(state, decision, steps, dry_run=dry_run)
        _check_tag(repository, release)
        with step(emit, "push", f"{repository.name}:{release.tag}") as done:
            told = PushProgress(emit, "push")
            sent = copy(sources, digest, repository, [release.tag], parallel=setup.access.parallel, on_bytes=told)
            done(f"{sent.pushed_bytes / 1e6:,.1f} MB sent")
        return move.complete(state, bundles, steps)


def _check_clean(candidate: Candidate) -> None:
    if candidate.commit.dirty:
        raise FailedError(
            f"the work tree of {candidate.commit.short} is dirty: its image cannot be published",
            why="the image holds changes that are in no commit, so it cannot be built again",
            remedy="commit your changes, then run vllm-ci run and publish that commit",
        )


def _has(source: Repository, digest: str) -> bool:
    try:
        source.manifest(digest)
    except NotFoundError:
        return False
    except DigestError:  # there, and altered: the check that follows says so
        return True
    return True


def _tag(candidate: Candidate) -> str:
    fitting = [each for each in candidate.image.tags if each.startswith(candidate.commit.sha)]
    return fitting[0] if fitting else candidate.commit.sha


def _model(candidate: Candidate) -> str:
    """The model of the newest report that names one."""
    reports = sorted((each.report for each in candidate.tested), key=lambda each: each.started_at)
    return next((each.model.identity for each in reversed(reports) if each.model), "")


def _check_tag(repository: Repository, release: Release) -> None:
    found = repository.resolve(release.tag)
    if found not in (None, release.digest):
        raise FailedError(
            f"tag {release.tag} already points to another image: {found}",
            why="the commit was published before from another build",
            remedy="publish that digest, or a new commit: the tag of a commit never changes",
        )


def _statements(setup: Setup, candidate: Candidate, now: datetime) -> Iterator[Statement]:
    """All that is known here, as statements; the same facts give the same statements."""
    image = ImageRef(repository=setup.subject, digest=candidate.image.digest)
    commit = candidate.commit
    if not candidate.tested:
        return
    for each in candidate.tested:
        tested = each.report.commit
        if tested is None or tested.sha != commit.sha:
            raise FailedError(
                f"the report is for {tested.short if tested else 'no commit'}, not for {commit.short}",
                remedy="run vllm-ci run at that commit",
            )
        test_result.check(each.report, image)
    report = candidate.tested[0].report
    began = moment(report.started_at or None)
    if candidate.materials is not None:
        finished = began + timedelta(seconds=float(report.timings.get("build", 0.0)))
        made = candidate.materials
        yield provenance.statement(image, commit, made, started=began, finished=finished, run=candidate.run)
        yield sbom.statement(image, commit, made, at=began)
        if candidate.osv:
            yield scan.statement(image, commit, scan.by_osv(made.packages, candidate.osv, at=now))
    elif candidate.osv:
        raise UsageError(
            "a scan with OSV data needs the record of what the image is made of", remedy="publish where the image was built"
        )
    if candidate.scanner:
        yield scan.statement(image, commit, scan.from_scanner(candidate.scanner, image, at=now))
    for each in candidate.tested:
        yield from test_result.statements(each.report, image, each.ctrf)
        yield from performance.statements(each.report, image)
    yield Statement.about(image, commit, SIGNATURE, {})
