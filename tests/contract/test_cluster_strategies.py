"""Strategies in a cluster: a real API server and its controllers, with nodes and a Gateway that are played."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from contract.target_fixtures import Bed, kubernetes
from standin import cluster
from standin.deploying import KNOWN, OLD, deployed, release, revision, settled
from vllm_ci.deploy.analysis import Analysis
from vllm_ci.deploy.condition import parse
from vllm_ci.deploy.journal import Journal
from vllm_ci.deploy.rolling import Rolling
from vllm_ci.deploy.rules import Rules
from vllm_ci.deploy.strategy import BlueGreen, Canary, CanaryStep, Shadow, Strategy, Switch
from vllm_ci.deploy.target import Route
from vllm_ci.deploy.verbs import Wanted
from vllm_ci.targets.kubernetes import objects
from vllm_ci.targets.kubernetes.target import KubernetesTarget

pytestmark = [pytest.mark.anyio, pytest.mark.needs_tool]
STRATEGIES: dict[str, Strategy] = {
    "blue-green": BlueGreen(watch_s=1),
    "canary": Canary(stages=(CanaryStep(weight=5, hold_s=1), CanaryStep(weight=50, hold_s=1))),
    "rolling": Rolling(max_surge=1, hold_s=1),
    "shadow": Shadow(percent=20, hold_s=1),
}
RULES = Rules(analysis=Analysis(conditions=(parse("errors <= 1%"),), min_requests=5, interval_s=1))


@pytest.fixture(name="bed")
async def _bed(tmp_path: Path) -> AsyncIterator[Bed]:
    with anyio.fail_after(250):
        async with kubernetes(tmp_path / "target") as opened:
            yield opened


def wanted(strategy: Strategy, letter: str = "b", keep_s: float = 0.0) -> Wanted:
    return Wanted(
        channel="production",
        release=release(letter),
        revision=revision(letter),
        replicas=2,
        strategy=strategy,
        keep_s=keep_s,
        known=(*KNOWN, release("e")),
    )


def watched(bed: Bed) -> list[Route]:
    """The target's routes from now on."""
    seen: list[Route] = []
    passed_on = bed.target.route

    async def noting(route: Route) -> None:
        await passed_on(route)
        seen.append(route)

    bed.target.route = noting  # type: ignore[method-assign]
    return seen


async def served(bed: Bed) -> None:
    await bed.target.start(OLD, 2)
    await bed.target.route(Route(weights={OLD.name: 100}))


@pytest.mark.parametrize("name", STRATEGIES)
async def test_a_good_release_serves_alone_in_the_end(name: str, bed: Bed, tmp_path: Path) -> None:
    await served(bed)
    seen = watched(bed)
    done = await deployed(bed.target, Journal(tmp_path), wanted(STRATEGIES[name]), RULES)
    new = revision("b").name
    assert done.phase == "live", done.reason
    assert settled(await bed.target.current(), new, 2)
    assert all(each.revisions for each in seen), "at no time did nothing serve"
    if name == "canary":
        assert [each.weights.get(new, 0) for each in seen if each.weights][-3:] == [5, 50, 100]
    if name == "shadow":
        assert any(each.mirror == new and each.mirror_percent == 20 for each in seen)


async def test_a_release_that_fails_requests_goes_back(bed: Bed, tmp_path: Path) -> None:
    await served(bed)
    target: Any = bed.target
    assert isinstance(target, KubernetesTarget)
    bad = objects.name(target._deployment, revision("b").name)
    cluster.shared().failing.add(bad)
    try:
        done = await deployed(bed.target, Journal(tmp_path), wanted(STRATEGIES["canary"]), RULES)
    finally:
        cluster.shared().failing.discard(bad)
    assert done.phase == "returned"
    assert "limit <= 1 %" in done.reason
    assert settled(await bed.target.current(), OLD.name, 2)


async def test_a_release_that_never_starts_goes_back_with_the_reason(bed: Bed, tmp_path: Path) -> None:
    await served(bed)
    done = await deployed(bed.target, Journal(tmp_path), wanted(BlueGreen(), "e"), RULES)
    assert done.phase == "returned"
    assert "CrashLoopBackOff" in done.reason
    assert settled(await bed.target.current(), OLD.name, 2)


async def test_a_rollback_to_a_release_that_is_kept_ready_takes_a_moment(
    bed: Bed, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    await served(bed)
    await bed.target.start(revision("b"), 2)
    await bed.target.route(Route(weights={revision("b").name: 100}))
    times: list[float] = []
    passed_on = bed.target.route

    async def timed(route: Route) -> None:
        await passed_on(route)
        times.append(time.monotonic())

    bed.target.route = timed  # type: ignore[method-assign]
    begun = time.monotonic()
    done = await deployed(bed.target, Journal(tmp_path), wanted(Switch(), "a"), RULES)
    assert done.phase == "live", done.reason
    record_property("seconds", times[0] - begun)
    assert times[0] - begun < 10
