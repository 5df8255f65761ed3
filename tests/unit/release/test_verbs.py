"""Publish, promote, roll back: in a folder, and the same against a registry."""

from __future__ import annotations

import dataclasses
import json
from datetime import date, timedelta
from pathlib import Path

import pytest
import yaml

from registries.docker import DockerRegistry
from registries.evidence import MATERIALS, NOW, commit_of, report_of
from registries.releases import PRODUCTION, STAGING, World, tree_hash, world_in
from vllm_ci.domain.errors import ConfigError, FailedError, UsageError
from vllm_ci.domain.events import Event, Finished, Progress, Started
from vllm_ci.domain.report import Report, StageResult, Verdict
from vllm_ci.evidence.osv import Severity
from vllm_ci.evidence.refusals import AlteredImageError
from vllm_ci.registry.access import Access
from vllm_ci.registry.errors import NotFoundError, UnreachableError
from vllm_ci.registry.layout import Layout
from vllm_ci.release import doctor, history
from vllm_ci.release.candidate import Candidate, ReportFile
from vllm_ci.release.ledger import State
from vllm_ci.release.moved import Moved
from vllm_ci.release.policy import Accepted, ScanRule
from vllm_ci.release.promote import promote
from vllm_ci.release.prune import prune
from vllm_ci.release.publish import publish
from vllm_ci.release.rollback import rollback
from vllm_ci.release.show import show
from vllm_ci.system.vcs import git

pytestmark = pytest.mark.slow

LATER = NOW + timedelta(hours=1)


@pytest.fixture(name="world", params=["folder", pytest.param("registry", marks=pytest.mark.needs_registry)])
def _world(request: pytest.FixtureRequest, tmp_path: Path, access: Access) -> World:
    if request.param == "folder":
        return world_in(tmp_path)
    registry: DockerRegistry = request.getfixturevalue("registry")
    return world_in(tmp_path, repository=f"{registry.host}/team/name", access=access)


@pytest.fixture(name="local")
def _local(tmp_path: Path) -> World:
    return world_in(tmp_path)


def published(world: World, number: int, channel: str = "staging") -> Moved:
    return publish(world.setup, world.candidate(number), channel, now=NOW + timedelta(minutes=number)).require()


def state(world: World) -> State:
    return world.setup.ledger.read()


def overlay_of(world: World, path: str) -> str:
    return world.setup.ledger.read([path]).overlays[path].text or ""


def standing(world: World, channel: str) -> str:
    head = history.current(state(world).records, channel)
    return head.release.commit if head else ""


def tag_of(world: World, channel: str) -> str | None:
    with world.setup.open() as repository:
        return repository.resolve(channel)


def test_the_whole_story(world: World) -> None:
    first, second = published(world, 1), published(world, 2)
    assert (first.previous, second.previous) == (None, first.release)
    up = promote(world.setup, "staging", "production", now=LATER, reason="all green").require()
    assert up.release == second.release
    published(world, 3)
    up = promote(world.setup, "staging", "production", now=LATER).require()
    assert up.previous == second.release
    back = rollback(world.setup, "production", now=LATER, reason="latency").require()
    assert (back.release, back.previous, back.changed) == (second.release, up.release, True)
    assert standing(world, "production") == second.release.commit
    assert standing(world, "staging") == commit_of(3).sha
    assert tag_of(world, "production") == second.release.digest
    records = state(world).records
    assert [each.action for each in records] == ["publish", "publish", "promote", "publish", "promote", "rollback"]
    assert [each.reason for each in records if each.reason] == ["all green", "latency"]
    overlay = yaml.safe_load(overlay_of(world, "deploy/production/kustomization.yaml"))
    expected = {"name": "vllm", "newName": world.setup.subject, "newTag": second.release.tag, "digest": second.release.digest}
    assert overlay["images"] == [expected]
    assert doctor.check(world.setup) == ()
    [shown] = show(world.setup, second.release.commit, now=LATER)
    assert shown.current == ("production",)
    assert shown.tests == dict.fromkeys(["unit", "integration", "streaming", "security"], "passed")
    assert show(world.setup, second.release.digest, now=LATER)[0].release == shown.release


def test_publishing_again_changes_nothing(world: World) -> None:
    published(world, 1)
    before = state(world).head
    with world.setup.open() as repository:
        digest = repository.resolve("staging")
        assert digest
        attached = {each.digest for each in repository.referrers(digest)}
    again = published(world, 1)
    assert not again.changed
    assert again.decision.allowed
    assert again.done == ()
    assert state(world).head == before
    with world.setup.open() as repository:
        assert {each.digest for each in repository.referrers(digest)} == attached


def test_a_dry_run_says_everything_and_does_nothing(local: World) -> None:
    published(local, 1)
    promote(local.setup, "staging", "production", now=LATER).require()
    before = tree_hash(local.folder)
    local.candidate(2)
    candidate = local.candidate(2)
    before = tree_hash(local.folder)
    moved = publish(local.setup, candidate, "staging", dry_run=True, now=LATER)
    assert moved.changed
    assert moved.done[0].startswith(f"push {moved.release.digest}")
    assert "attach provenance" in moved.done
    assert moved.done[-2:] == (f"record that staging points to {moved.release.commit[:12]}", "set tag staging")
    assert tree_hash(local.folder) == before
    publish(local.setup, candidate, "staging", now=LATER).require()
    before = tree_hash(local.folder)
    assert promote(local.setup, "staging", "production", dry_run=True, now=LATER).changed
    assert tree_hash(local.folder) == before
    promote(local.setup, "staging", "production", now=LATER).require()
    before = tree_hash(local.folder)
    assert rollback(local.setup, "production", dry_run=True, now=LATER).changed
    assert tree_hash(local.folder) == before


def with_report(candidate: Candidate, report: Report) -> Candidate:
    return dataclasses.replace(candidate, tested=(ReportFile(report=report, ctrf=b"{}"),))


# Gates ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.ERRORED, Verdict.INCONCLUSIVE])
def test_a_stage_that_did_not_pass_is_refused_and_leaves_nothing(verdict: Verdict, local: World) -> None:
    moved = publish(local.setup, local.candidate(1, verdicts={"streaming": verdict}), "staging", now=LATER)
    assert not moved.decision.allowed
    assert not moved.changed
    [reason] = moved.decision.reasons
    assert reason.startswith(f"tests.streaming: expected passed, got {verdict.value}")
    assert not (local.folder / "ledger.git").exists()
    assert not (local.folder / "registry").exists()
    with pytest.raises(FailedError, match="may not go"):
        moved.require()


def test_a_policy_may_take_inconclusive_for_an_answer(local: World) -> None:
    lenient = dataclasses.replace(STAGING, tests={"streaming": (Verdict.PASSED, Verdict.INCONCLUSIVE)})
    world = local.with_policies(staging=lenient)
    assert publish(world.setup, world.candidate(1, verdicts={"streaming": Verdict.INCONCLUSIVE}), "staging", now=LATER).changed


def test_what_was_not_tested_is_refused(local: World) -> None:
    candidate = dataclasses.replace(local.candidate(1), tested=(), materials=None)
    moved = publish(local.setup, candidate, "staging", now=LATER)
    assert {reason.partition(":")[0] for reason in moved.decision.reasons} == {
        "provenance", "clean", "pull_request", "sbom", "tests.unit", "tests.integration", "tests.streaming", "tests.security",
    }  # fmt: skip


def test_a_later_failure_beats_an_earlier_pass_and_a_later_pass_the_failure(local: World) -> None:
    published(local, 1)
    failed = local.candidate(1, verdicts={"security": Verdict.FAILED}, at=NOW + timedelta(hours=1))
    assert not publish(local.setup, failed, "staging", now=NOW + timedelta(hours=2)).decision.allowed
    refused = promote(local.setup, "staging", "production", now=NOW + timedelta(hours=3))
    assert [reason.partition(",")[0] for reason in refused.decision.reasons] == ["tests.security: expected passed"]
    passed = local.candidate(1, at=NOW + timedelta(hours=4))
    publish(local.setup, passed, "staging", now=NOW + timedelta(hours=5)).require()
    assert promote(local.setup, "staging", "production", now=NOW + timedelta(hours=6)).decision.allowed


def test_doubles_and_dirty_trees_never_pass(local: World) -> None:
    candidate = local.candidate(1)
    double = with_report(candidate, dataclasses.replace(candidate.tested[0].report, double=True))
    lenient = local.with_policies(staging=dataclasses.replace(STAGING, tests={}, sbom=False))
    with pytest.raises(FailedError, match="double"):
        publish(lenient.setup, double, "staging", now=LATER)
    dirty = commit_of(1, dirty=True)
    with pytest.raises(FailedError, match="its image cannot be published"):
        publish(lenient.setup, local.candidate(1, commit=dirty), "staging", now=LATER)
    report = report_of(dirty, candidate.image)
    with pytest.raises(FailedError, match="dirty"):
        publish(lenient.setup, with_report(candidate, report), "staging", now=LATER)


def test_a_report_of_another_image_or_commit_is_refused(local: World) -> None:
    one, two = local.candidate(1), local.candidate(2)
    with pytest.raises(FailedError, match="the report is for"):
        publish(local.setup, dataclasses.replace(one, tested=two.tested), "staging", now=LATER)
    other = dataclasses.replace(one.tested[0].report, image=two.image)
    with pytest.raises(FailedError, match="built again"):
        publish(local.setup, with_report(one, other), "staging", now=LATER)


def test_a_commit_s_tag_never_moves(local: World) -> None:
    published(local, 1)
    other = local.candidate(2, commit=commit_of(1))
    with pytest.raises(FailedError, match="already points to another image"):
        publish(local.setup, other, "staging", now=LATER)


def test_production_wants_staging_branch_and_soak_time(local: World) -> None:
    direct = publish(local.setup, local.candidate(1), "production", now=LATER)
    assert [reason.partition(":")[0] for reason in direct.decision.reasons] == ["soak"]
    side = local.candidate(2, commit=dataclasses.replace(commit_of(2), ref="refs/heads/feature/x"))
    publish(local.setup, side, "staging", now=NOW).require()
    refused = promote(local.setup, "staging", "production", now=LATER)
    assert [reason.partition(":")[0] for reason in refused.decision.reasons] == ["ref"]
    slow = local.with_policies(production=dataclasses.replace(PRODUCTION, soak_hours=24.0))
    published(slow, 3)
    early = promote(slow.setup, "staging", "production", now=NOW + timedelta(hours=23))
    assert early.decision.reasons == ("soak: expected 24 hours in staging, got 22.9 hours there",)
    assert promote(slow.setup, "staging", "production", now=NOW + timedelta(hours=25)).changed


def compared(world: World, number: int, baseline: str) -> Candidate:
    """A candidate whose stage performance compared it with an image."""
    made = world.candidate(number)
    (tested,) = made.tested
    metrics = {"comparison": {"baseline": baseline, "candidate": made.image.digest}}
    stage = StageResult(name="performance", verdict=Verdict.PASSED, seconds=1.0, metrics=metrics)
    report = dataclasses.replace(tested.report, stages=(*tested.report.stages, stage))
    return dataclasses.replace(made, tested=(dataclasses.replace(tested, report=report),))


def test_a_release_must_have_been_compared_with_the_image_that_it_replaces(local: World) -> None:
    world = local.with_policies(staging=dataclasses.replace(STAGING, compared_with="staging"))
    first = published(world, 1).release
    second = publish(world.setup, compared(world, 2, first.digest), "staging", now=LATER).require().release
    late = publish(world.setup, compared(world, 3, first.digest), "staging", now=LATER)
    assert [reason.partition(":")[0] for reason in late.decision.reasons] == ["performance.baseline"]
    assert second.digest[:19] in late.decision.reasons[0]
    assert standing(world, "staging") == second.commit
    back = rollback(world.setup, "staging", now=LATER, reason="slow").require()
    assert back.release == first, "its own baseline is older, and it was there before"


def test_an_expired_scan_is_refused_and_a_new_one_is_accepted(local: World, tmp_path: Path) -> None:
    entry = {
        "id": "GHSA-1",
        "modified": "2026-11-19T00:00:00Z",
        "affected": [
            {
                "package": {"ecosystem": "PyPI", "name": "vllm"},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
            }
        ],
        "database_specific": {"severity": "HIGH"},
    }
    data = tmp_path / "osv.json"
    data.write_text(json.dumps(entry))
    strict = dataclasses.replace(STAGING, scan=ScanRule(max_age_days=7, fail_on=Severity.HIGH))
    world = local.with_policies(staging=strict)
    assert [
        reason.partition(":")[0] for reason in publish(world.setup, world.candidate(1), "staging", now=NOW).decision.reasons
    ] == [
        "scan.age",
        "scan.severity",
    ]
    found = publish(world.setup, world.candidate(1, osv=data), "staging", now=NOW)
    assert found.decision.reasons == (
        "scan.severity: expected nothing of severity high or worse, got GHSA-1 (high) in vllm 0.32.0",
    )
    accept = (Accepted(id="GHSA-1", reason="not reachable", until=date(2026, 12, 1)),)
    lived_with = dataclasses.replace(strict, scan=ScanRule(max_age_days=7, fail_on=Severity.HIGH, accept=accept))
    world = local.with_policies(staging=lived_with, production=dataclasses.replace(lived_with, after="staging"))
    publish(world.setup, world.candidate(1, osv=data), "staging", now=NOW).require()
    expired = promote(world.setup, "staging", "production", now=NOW + timedelta(days=10))
    assert expired.decision.reasons == (
        "scan.age: expected data of the last 7 days, got data of 2026-11-19, 11 days old, expired",
    )
    data.write_text(json.dumps({**entry, "modified": "2026-11-29T00:00:00Z"}))
    promote(world.setup, "staging", "production", osv=data, now=NOW + timedelta(days=10)).require()
    over = promote(world.setup, "staging", "production", now=NOW + timedelta(days=12))
    assert any("GHSA-1" in reason for reason in over.decision.reasons), "an acceptance ends with its day"


def test_evidence_of_others_does_not_count(local: World) -> None:
    world = local.with_policies(staging=dataclasses.replace(STAGING, signers=("security-team",)))
    moved = publish(world.setup, world.candidate(1), "staging", now=LATER)
    assert "by other signers" in moved.decision.reasons[0]


def test_an_approval_must_be_signed_by_whom_it_names(local: World) -> None:
    world = local.with_policies(staging=dataclasses.replace(STAGING, approvals=("ci", "anna")))
    moved = publish(world.setup, world.candidate(1), "staging", now=LATER)
    assert moved.decision.reasons == ("approval.anna: expected the image signed by anna, got signed by ci",)


# Going back -------------------------------------------------------------------------------------------------------------


def test_going_back_twice_goes_back_two_releases(local: World) -> None:
    for number in (1, 2, 3):
        published(local, number)
    assert rollback(local.setup, "staging", now=LATER).release.commit == commit_of(2).sha
    assert rollback(local.setup, "staging", now=LATER).release.commit == commit_of(1).sha
    with pytest.raises(UsageError, match="no earlier release"):
        rollback(local.setup, "staging", now=LATER)
    assert rollback(local.setup, "staging", to=commit_of(3).sha, now=LATER).changed


def test_going_back_skips_what_does_not_hold_any_more(local: World) -> None:
    for number in (1, 2, 3, 4):
        published(local, number)
    layout = Layout(local.folder / "registry")
    gone, altered = (each.release for each in state(local).records[1:3][::-1])
    layout.delete(gone.digest)
    config = layout.find(layout.manifest(altered.digest).blobs[0].digest)
    assert config
    config.write_bytes(b"{}")
    moved = rollback(local.setup, "staging", now=LATER).require()
    assert moved.release.commit == commit_of(1).sha
    assert [step.partition(":")[0] for step in moved.done[:2]] == [f"skip {gone.commit[:12]}", f"skip {altered.commit[:12]}"]


def test_a_named_release_that_does_not_hold_is_refused(local: World) -> None:
    for number in (1, 2):
        published(local, number)
    Layout(local.folder / "registry").delete(state(local).records[0].release.digest)
    moved = rollback(local.setup, "staging", to=commit_of(1).sha, now=LATER)
    assert not moved.decision.allowed
    assert "no manifest" in moved.decision.reasons[0]
    assert standing(local, "staging") == commit_of(2).sha
    with pytest.raises(UsageError, match="never released"):
        rollback(local.setup, "staging", to=commit_of(9).sha, now=LATER)
    with pytest.raises(UsageError, match="never released"):
        rollback(local.setup, "staging", to="0000", now=LATER)


def test_going_back_is_checked_by_today_s_policy(local: World) -> None:
    published(local, 1)
    published(local, 2)
    stricter = local.with_policies(staging=dataclasses.replace(STAGING, refs=("release/*",)))
    moved = rollback(stricter.setup, "staging", now=LATER)
    assert [reason.partition(":")[0] for reason in moved.decision.reasons] == ["ref"]


@pytest.mark.needs_registry
def test_a_registry_that_is_down_is_not_a_reason_to_go_back_further(
    registry: DockerRegistry, tmp_path: Path, access: Access
) -> None:
    world = world_in(tmp_path, repository=f"{registry.host}/team/name", access=access)
    published(world, 1)
    published(world, 2)
    down = dataclasses.replace(world.setup, repository="127.0.0.1:9/team/name")
    with pytest.raises(UnreachableError):
        rollback(down, "staging", now=LATER)
    assert standing(world, "staging") == commit_of(2).sha


def test_a_rollback_that_was_interrupted_is_completed_and_goes_no_further(local: World) -> None:
    for number in (1, 2, 3):
        published(local, number)
    layout = Layout(local.folder / "registry")
    three = layout.manifest("staging")
    rollback(local.setup, "staging", now=LATER).require()
    layout.put_manifest(three, tag="staging")  # as if it had been killed before the tag
    again = rollback(local.setup, "staging", now=LATER)
    assert (again.release.commit, again.changed) == (commit_of(2).sha, False)
    assert "complete the interrupted rollback" in again.done[0]
    assert tag_of(local, "staging") == again.release.digest


def interrupted_before_the_tag(world: World, number: int, *, before: int) -> None:
    """As publishing `number` leaves it when it is killed between ledger and tag."""
    published(world, number)
    layout = Layout(world.folder / "registry")
    digest = next(each.release.digest for each in state(world).records if each.release.commit == commit_of(before).sha)
    layout.put_manifest(layout.manifest(digest), tag="staging")


def test_rollback_after_a_publication_that_was_interrupted_goes_back(local: World) -> None:
    published(local, 1)
    interrupted_before_the_tag(local, 2, before=1)
    moved = rollback(local.setup, "staging", now=LATER).require()
    assert (moved.release.commit, moved.changed) == (commit_of(1).sha, True)
    assert standing(local, "staging") == commit_of(1).sha
    assert tag_of(local, "staging") == moved.release.digest
    assert doctor.check(local.setup) == ()


def test_a_rollback_that_was_interrupted_is_verified_again_before_it_is_completed(local: World) -> None:
    for number in (1, 2, 3):
        published(local, number)
    layout = Layout(local.folder / "registry")
    three = layout.manifest("staging")
    back = rollback(local.setup, "staging", now=LATER).require()
    layout.put_manifest(three, tag="staging")
    config = layout.find(layout.manifest(back.release.digest).blobs[0].digest)
    assert config
    config.write_bytes(b"{}")  # altered since
    again = rollback(local.setup, "staging", now=LATER).require()
    assert (again.release.commit, again.changed) == (commit_of(1).sha, True)
    assert again.done[0].startswith(f"skip {commit_of(2).sha[:12]}: image: ")


def test_what_an_interrupted_rollback_shows_are_rules_that_were_asked_now(local: World) -> None:
    for number in (1, 2):
        published(local, number)
    layout = Layout(local.folder / "registry")
    two = layout.manifest("staging")
    rollback(local.setup, "staging", now=LATER).require()
    layout.put_manifest(two, tag="staging")
    stricter = local.with_policies(staging=dataclasses.replace(STAGING, refs=("release/*",)))
    refused = rollback(stricter.setup, "staging", now=LATER)
    assert [reason.partition(":")[0] for reason in refused.decision.reasons] == ["ref"]
    assert tag_of(local, "staging") == two.digest, "nothing was touched"


def test_a_repaired_kustomization_does_not_hide_an_interrupted_rollback(local: World) -> None:
    for number in (1, 2, 3):
        published(local, number)
    layout = Layout(local.folder / "registry")
    three = layout.manifest("staging")
    rollback(local.setup, "staging", now=LATER).require()
    checkout = local.folder / "checkout"
    git("clone", "--quiet", "--branch", "releases", str(local.folder / "ledger.git"), str(checkout), cwd=local.folder)
    file = checkout / "deploy/staging/kustomization.yaml"
    file.write_text(file.read_text().replace(commit_of(2).sha, "v0"))
    git("-c", "user.name=p", "-c", "user.email=p@example.com", "commit", "--quiet", "-am", "by hand", cwd=checkout)
    git("push", "--quiet", cwd=checkout)
    doctor.check(local.setup, repair=True)
    layout.put_manifest(three, tag="staging")
    assert rollback(local.setup, "staging", now=LATER).release.commit == commit_of(2).sha


# Ledger, doctor, prune --------------------------------------------------------------------------------------------------


def test_each_commit_of_the_ledger_is_one_record(local: World) -> None:
    published(local, 1)
    published(local, 2)
    log = git("log", "--format=%s", "--name-only", "releases", cwd=local.folder / "ledger.git").decode()
    assert log.split("\n\n") == [
        f"publish {commit_of(2).sha[:12]} to staging",
        f"deploy/staging/kustomization.yaml\nrecords/000002.json\npublish {commit_of(1).sha[:12]} to staging",
        "deploy/staging/kustomization.yaml\nrecords/000001.json\n",
    ]
    second = state(local).records[1]
    first = state(local).records[0]
    assert second.kustomization == {"newName": "localhost/project", "newTag": first.release.tag, "digest": first.release.digest}
    assert first.kustomization == {}
    assert {rule.rule for rule in second.rules} >= {"provenance", "clean", "sbom", "tests.unit"}


def test_a_user_s_overlay_keeps_its_other_bytes(local: World) -> None:
    published(local, 1)
    checkout = local.folder / "checkout"
    git("clone", "--quiet", "--branch", "releases", str(local.folder / "ledger.git"), str(checkout), cwd=local.folder)
    file = checkout / "deploy/staging/kustomization.yaml"
    text = (
        "# ours\nresources: [d.yaml]   # the deployment\nimages:\n- {name: proxy, newTag: v1}\n- name: vllm # set by vllm-ci\n"
    )
    file.write_text(text)
    person = ("-c", "user.name=p", "-c", "user.email=p@example.com")
    git(*person, "commit", "--quiet", "-am", "our own overlay", cwd=checkout)
    git("push", "--quiet", cwd=checkout)
    published(local, 2)
    now = overlay_of(local, "deploy/staging/kustomization.yaml")
    assert now.startswith(text)
    assert "newTag" in now.removeprefix(text)


def test_disagreements_are_named_and_repaired(world: World) -> None:
    first, second = published(world, 1), published(world, 2)
    with world.setup.open() as repository:
        repository.put_manifest(repository.manifest(first.release.digest), tag="staging")
    checkout = world.folder / "checkout"
    git("clone", "--quiet", "--branch", "releases", str(world.folder / "ledger.git"), str(checkout), cwd=world.folder)
    file = checkout / "deploy/staging/kustomization.yaml"
    file.write_text(file.read_text().replace(second.release.tag, "v0"))
    git("-c", "user.name=p", "-c", "user.email=p@example.com", "commit", "--quiet", "-am", "by hand", cwd=checkout)
    git("push", "--quiet", cwd=checkout)
    found = doctor.check(world.setup)
    assert [(each.what, each.repaired) for each in found] == [("kustomization", False), ("channel tag", False)]
    assert found[1].got == first.release.digest
    repaired = doctor.check(world.setup, repair=True)
    assert [(each.what, each.repaired) for each in repaired] == [("kustomization", True), ("channel tag", True)]
    assert doctor.check(world.setup) == ()
    assert standing(world, "staging") == second.release.commit
    assert rollback(world.setup, "staging", now=LATER).release == first.release


def test_a_lost_image_and_a_moved_tag_are_named_with_what_to_do(local: World) -> None:
    first, second = published(local, 1), published(local, 2)
    layout = Layout(local.folder / "registry")
    layout.put_manifest(layout.manifest(first.release.digest), tag=second.release.tag)
    [moved] = doctor.check(local.setup, repair=True)
    assert (moved.what, moved.repaired) == ("commit tag", False)
    assert "who moved" in moved.remedy
    layout.delete(second.release.digest)
    found = doctor.check(local.setup, repair=True)
    assert [(each.what, each.repaired) for each in found] == [("image", False), ("channel tag", False)]


def test_prune_keeps_what_any_channel_could_go_back_to(world: World) -> None:
    for number in (1, 2, 3, 4, 5):
        published(world, number)
        if number == 2:
            promote(world.setup, "staging", "production", now=LATER).require()
    digests = {number: state(world).records[number - 1 + (number > 2)].release.digest for number in (1, 2, 3, 4, 5)}
    would = prune(world.setup, keep=2)
    assert set(would.deleted) == {digests[1], digests[3]}
    with world.setup.open() as repository:
        assert repository.resolve(digests[1])
    done = prune(world.setup, keep=2, dry_run=False)
    assert done == dataclasses.replace(would, dry_run=False)
    assert done.attachments > 10
    with world.setup.open() as repository:
        assert [bool(repository.resolve(digest)) for digest in digests.values()] == [False, True, False, True, True]
        with pytest.raises(NotFoundError):
            repository.manifest(digests[1])
        assert repository.referrers(digests[1]) == ()
        assert len(repository.referrers(digests[2])) > 5
    assert rollback(world.setup, "staging", now=LATER).release.digest == digests[4]
    assert promote(world.setup, "staging", "production", now=LATER).changed


def test_a_channel_that_is_not_configured_is_named(local: World) -> None:
    with pytest.raises(ConfigError, match="staging, production"):
        publish(local.setup, local.candidate(1), "prod", now=LATER)
    with pytest.raises(UsageError, match="nothing was ever released"):
        promote(local.setup, "staging", "production", now=LATER)


def test_an_image_altered_since_its_build_is_not_published(local: World) -> None:
    candidate = local.candidate(1)
    assert candidate.layout
    file = candidate.layout.find(candidate.image.digest)
    assert file
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(AlteredImageError):
        publish(local.setup, candidate, "staging", now=LATER)


def test_materials_reach_the_bill_and_the_provenance(local: World) -> None:
    published(local, 1)
    [shown] = show(local.setup, commit_of(1).sha, now=LATER)
    kinds = [each["kind"] for each in shown.to_json()["evidence"]]  # type: ignore[attr-defined]
    assert sorted(kinds) == ["decision", "provenance", "sbom", "signature", *["test result"] * 4]
    assert MATERIALS.packages


def test_every_verb_tells_of_its_steps_as_a_run_does(local: World) -> None:
    told: list[Event] = []
    publish(local.setup, local.candidate(1), "staging", now=NOW, emit=told.append).require()
    assert steps_of(told) == ["verify", "evidence", "push", "attach", "attach", "ledger", "tag"]
    assert any(isinstance(each, Progress) and each.step == "push" and "MB sent" in each.detail for each in told)
    assert [each.detail for each in told if isinstance(each, Finished) and each.step == "ledger"] == ["record 1"]
    told.clear()
    promote(local.setup, "staging", "production", now=NOW, emit=told.append).require()
    assert steps_of(told) == ["verify", "attach", "ledger", "tag"]
    publish(local.setup, local.candidate(2), "staging", now=NOW).require()
    told.clear()
    rollback(local.setup, "staging", now=NOW, emit=told.append).require()
    assert steps_of(told) == ["verify", "ledger", "tag"]


def steps_of(told: list[Event]) -> list[str]:
    """Names of the steps that began; each of them ended."""
    begun = [each.step for each in told if isinstance(each, Started)]
    assert sorted(begun) == sorted(each.step for each in told if isinstance(each, Finished))
    return begun
