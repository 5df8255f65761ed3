"""Records of what serves: they say so, and move nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import jsonschema
import pytest

from registries.evidence import NOW, commit_of
from registries.releases import PRODUCTION, World, world_in
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.report import Verdict
from vllm_ci.evidence.refusals import Refusal
from vllm_ci.registry.errors import NotFoundError
from vllm_ci.registry.layout import Layout
from vllm_ci.release import doctor, history, record
from vllm_ci.release.deployed import deployable, record_deployed
from vllm_ci.release.past import past
from vllm_ci.release.promote import promote
from vllm_ci.release.prune import prune
from vllm_ci.release.publish import publish
from vllm_ci.release.record import Record, Release
from vllm_ci.release.rollback import rollback
from vllm_ci.release.show import show

pytestmark = pytest.mark.slow

LATER = NOW + timedelta(hours=1)


@pytest.fixture(name="world")
def _world(tmp_path: Path) -> World:
    return world_in(tmp_path)


def published(world: World, number: int) -> Release:
    return publish(world.setup, world.candidate(number), "staging", now=NOW + timedelta(minutes=number)).require().release


def deployed(world: World, release: Release, deployment: str = "d1", reason: str = "live") -> Record | None:
    return record_deployed(world.setup, "staging", release, deployment=deployment, reason=reason, now=LATER)


def records(world: World) -> tuple[Record, ...]:
    return world.setup.ledger.read().records


def test_a_record_of_a_deployment_names_what_serves_and_what_served_before(world: World) -> None:
    first, second = published(world, 1), published(world, 2)
    deployed(world, first)
    found = deployed(world, second, "d2", "canary, 3 steps")
    assert found is not None
    assert (found.action, found.release, found.previous, found.source) == ("deploy", second, first, "d2")
    assert history.deployed(records(world), "staging") == found
    assert history.deployed(records(world), "production") is None
    jsonschema.validate(found.to_json(), record.schema())


def test_the_same_deployment_is_recorded_once(world: World) -> None:
    first = published(world, 1)
    assert deployed(world, first) is not None
    assert deployed(world, first) is None
    assert len(records(world)) == 2


def test_a_deployment_moves_no_channel(world: World) -> None:
    """A deployment that took a while is recorded after the channel has moved on."""
    first, second = published(world, 1), published(world, 2)
    head = history.current(records(world), "staging")
    deployed(world, first)
    assert history.current(records(world), "staging") == head
    assert history.last_move(records(world), "staging") == head
    assert history.earlier(records(world), "staging") == (first,)
    assert history.stays(records(world), second.digest, LATER + timedelta(hours=1))["staging"] > timedelta(hours=1)
    assert past(world.setup, "staging").heads["staging"] == head
    assert promote(world.setup, "staging", "production", now=LATER).require().release == second
    assert doctor.check(world.setup) == ()
    assert rollback(world.setup, "staging", now=LATER).require().release == first


def test_a_rollback_after_a_deployment_goes_back_one_release(world: World) -> None:
    first, second = published(world, 1), published(world, 2)
    deployed(world, first)
    deployed(world, second, "d2")
    deployed(world, first, "d2", "went back: errors 20 %")
    assert rollback(world.setup, "staging", now=LATER).require().release == first


def test_an_interrupted_rollback_is_completed_although_a_deployment_was_recorded_since(world: World) -> None:
    first, second = published(world, 1), published(world, 2)
    rollback(world.setup, "staging", now=LATER).require()
    with world.setup.open() as repository:
        repository.put_manifest(repository.manifest(second.digest), tag="staging")
    deployed(world, second)
    assert rollback(world.setup, "staging", now=LATER).require().release == first


def test_the_soak_time_of_a_release_does_not_depend_on_deployments(world: World) -> None:
    first = published(world, 1)
    deployed(world, first)
    stays = history.stays(records(world), first.digest, LATER)
    assert stays == history.stays(records(world)[:1], first.digest, LATER)


def test_a_release_that_serves_is_not_pruned(world: World) -> None:
    releases = [published(world, number) for number in (1, 2, 3, 4)]
    deployed(world, releases[0])
    done = prune(world.setup, keep=1, dry_run=False)
    assert set(done.deleted) == {releases[1].digest, releases[2].digest}
    with world.setup.open() as repository:
        assert repository.resolve(releases[0].digest)


def test_history_lists_deployments_and_show_does_too(world: World) -> None:
    first = published(world, 1)
    deployed(world, first)
    assert [each.action for each in past(world.setup, "staging").records] == ["deploy", "publish"]
    assert [each.action for each in show(world.setup, first.commit)[0].records] == ["publish", "deploy"]


def test_a_deployment_leaves_the_kustomization_as_it_is(world: World) -> None:
    first, second = published(world, 1), published(world, 2)
    before = world.setup.ledger.read(["deploy/staging/kustomization.yaml"]).overlays
    deployed(world, first)
    assert world.setup.ledger.read(["deploy/staging/kustomization.yaml"]).overlays == before
    assert second.digest in (before["deploy/staging/kustomization.yaml"].text or "")


def test_what_is_deployed_is_what_the_channel_points_to_verified_now(world: World) -> None:
    published(world, 1)
    second = published(world, 2)
    found = deployable(world.setup, "staging", now=LATER)
    assert found.release == second
    assert found.decision.allowed
    assert found.config["architecture"]


def test_a_release_that_today_s_policy_refuses_is_not_allowed(world: World) -> None:
    published(world, 1)
    strict = world.with_policies(staging=PRODUCTION.__class__(tests={"performance": (Verdict.PASSED,)}))
    assert not deployable(strict.setup, "staging", now=LATER).decision.allowed


def test_a_channel_without_a_release_and_a_release_without_its_image_are_said(world: World) -> None:
    with pytest.raises(UsageError, match="nothing was ever released to staging"):
        deployable(world.setup, "staging", now=LATER)
    first = published(world, 1)
    config = Layout(world.folder / "registry").find(Layout(world.folder / "registry").manifest(first.digest).blobs[0].digest)
    assert config
    config.write_bytes(b"{}")
    with pytest.raises(Refusal):
        deployable(world.setup, "staging", now=LATER)
    Layout(world.folder / "registry").delete(first.digest)
    with pytest.raises(NotFoundError):
        deployable(world.setup, "staging", now=LATER)
    assert commit_of(1).sha == first.commit
