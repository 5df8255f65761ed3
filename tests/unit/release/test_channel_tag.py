"""The channel's tag follows the ledger, within bounds, also where the registry answers with what it was before."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from registries.evidence import NOW
from registries.releases import World, world_in
from vllm_ci.domain.events import Event
from vllm_ci.registry.access import Access
from vllm_ci.registry.repository import Repository
from vllm_ci.registry.retry import Retry
from vllm_ci.release import doctor, history
from vllm_ci.release.moving import LaggingTagError, set_channel_tag
from vllm_ci.release.publish import publish
from vllm_ci.release.setup import Setup

pytestmark = pytest.mark.slow


class Stale:
    """A repository that answers with the channel's old digest, for some number of questions."""

    def __init__(self, real: Repository, old: str, answers: int) -> None:
        self._real, self._old, self._left, self.puts = real, old, answers, 0

    def resolve(self, reference: str) -> str | None:
        if reference == "staging" and self._left:
            self._left -= 1
            return self._old
        return self._real.resolve(reference)

    def put_manifest(self, *arguments: Any, **named: Any) -> Any:
        self.puts += 1
        return self._real.put_manifest(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture(name="waits")
def _waits() -> list[float]:
    return []


@pytest.fixture(name="world")
def _world(tmp_path: Path, waits: list[float]) -> World:
    world = world_in(tmp_path, access=Access(retry=Retry(attempts=5, sleep=waits.append)))
    for number in (1, 2):
        publish(world.setup, world.candidate(number), "staging", now=NOW + timedelta(minutes=number)).require()
    return world


@contextlib.contextmanager
def stale(world: World, answers: int) -> Iterator[Any]:
    with world.setup.open() as repository:
        yield Stale(repository, world.setup.ledger.read().records[0].release.digest, answers)


def test_a_registry_that_goes_on_answering_with_the_old_digest_ends_it(world: World, waits: list[float]) -> None:
    with stale(world, 10**9) as repository, pytest.raises(LaggingTagError, match="its registry tag is outdated") as caught:
        set_channel_tag(world.setup, repository, "staging", lambda _: None)
    assert len(waits) == 4
    assert waits == sorted(waits), "it waits longer each time"
    assert "the ledger is correct" in caught.value.remedy
    assert "vllm-ci doctor --ledger --repair" in caught.value.remedy
    assert repository.puts <= 5


@pytest.mark.parametrize("answers", [1, 2, 3, 4])
def test_a_registry_that_settles_is_waited_for(world: World, answers: int) -> None:
    with stale(world, answers) as repository:
        set_channel_tag(world.setup, repository, "staging", lambda _: None)
        assert repository.puts <= answers


def test_the_doctor_says_that_the_tag_lags_and_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Setup.open

    @contextlib.contextmanager
    def stale_open(setup: Setup) -> Iterator[Any]:
        with opened(setup) as repository:
            yield Stale(repository, world.setup.ledger.read().records[0].release.digest, 10**9)

    monkeypatch.setattr(Setup, "open", stale_open)
    [found] = doctor.check(world.setup, repair=True)
    assert (found.what, found.repaired) == ("channel tag", False)
    assert "vllm-ci doctor --ledger --repair" in found.remedy


def test_a_ledger_that_moves_meanwhile_is_followed(world: World) -> None:
    moved: list[Event] = []

    def emit(event: Event) -> None:
        if not moved:
            moved.append(event)
            publish(world.setup, world.candidate(3), "staging", now=NOW + timedelta(hours=1)).require()

    first = world.setup.ledger.read().records[0].release.digest
    with world.setup.open() as repository:
        repository.put_manifest(repository.manifest(first), tag="staging")
        set_channel_tag(world.setup, repository, "staging", emit)
        head = history.current(world.setup.ledger.read().records, "staging")
        assert head
        assert repository.resolve("staging") == head.release.digest
    assert moved
    assert dataclasses.asdict(head.release)["commit"] == f"{3:040x}"
