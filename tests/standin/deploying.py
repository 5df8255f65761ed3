"""Deployments to try the driver with: revisions that exist nowhere, a target in memory, and ways to kill a driver."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from vllm_ci.deploy import verbs
from vllm_ci.deploy.analysis import Analysis
from vllm_ci.deploy.condition import parse
from vllm_ci.deploy.deployment import Deployment
from vllm_ci.deploy.journal import Journal
from vllm_ci.deploy.rolling import Rolling
from vllm_ci.deploy.rollout import Rollout
from vllm_ci.deploy.rules import Rules
from vllm_ci.deploy.strategy import BlueGreen, Canary, CanaryStep, Shadow, Strategy, Switch
from vllm_ci.deploy.target import Current, Revision, Route, Serving, Target
from vllm_ci.deploy.verbs import Wanted
from vllm_ci.domain.image import ImageRef
from vllm_ci.release.record import Release
from vllm_ci.targets.memory import ABLE, Behaviour, MemoryTarget
from vllm_ci.targets.opening import Opening

STRATEGIES: Mapping[str, Strategy] = {
    "blue-green": BlueGreen(watch_s=30),
    "canary": Canary(stages=(CanaryStep(weight=5, hold_s=20), CanaryStep(weight=50, hold_s=20))),
    "rolling": Rolling(max_surge=1, hold_s=20),
    "rolling without surge": Rolling(max_surge=0, max_unavailable=1, hold_s=20),
    "shadow": Shadow(percent=20, hold_s=20),
    "rollback": Switch(),
}
ANALYSIS = Analysis(conditions=(parse("errors <= 1%"), parse("ttft_ms.p95 <= 1.5 * baseline")), min_requests=5)


def revision(letter: str) -> Revision:
    return Revision(
        commit=letter * 40,
        image=ImageRef(repository="example.com/team/app", digest="sha256:" + letter * 64),
        serving=Serving(argv=("serve", "--port", "{port}"), model="tiny", ready_timeout_s=60, drain_s=30),
    )


def release(letter: str) -> Release:
    return Release(commit=letter * 40, digest="sha256:" + letter * 64, repository="example.com/team/app", tag=letter * 40)


OLD, NEW = revision("a"), revision("b")
KNOWN = (release("a"), release("b"))


def wanted(strategy: Strategy, *, letter: str = "b", replicas: int = 3, keep_s: float = 0.0) -> Wanted:
    return Wanted(
        channel="production",
        release=release(letter),
        revision=revision(letter),
        replicas=replicas,
        strategy=strategy,
        keep_s=keep_s,
        known=KNOWN,
    )


async def served(folder: Path, *, faults: Mapping[str, Behaviour] | None = None, rate: float = 10.0) -> MemoryTarget:
    """A target whose users are served by three replicas of the old revision."""
    target = MemoryTarget(folder / "target", faults=faults, rate=rate)
    await target.start(OLD, 3)
    await target.route(Route(weights={OLD.name: 100}))
    return target


async def deployed(target: Target, journal: Journal, what: Wanted, rules: Rules | None = None) -> Deployment:
    """Begin or resume, and carry out as far as it goes without a person."""
    made = await verbs.begun(target, journal, what)
    assert made is not None
    return await Rollout(target, journal, made, rules or Rules(analysis=ANALYSIS)).run()


async def assert_serves(target: MemoryTarget) -> None:
    """Users are answered now, all of them, by replicas that are ready."""
    current = await target.current()
    assert current.route.revisions
    assert all(current.ready(name) for name in current.route.revisions)
    lost = target.state.lost
    await target.observe(seconds=1)
    assert target.state.lost == lost


def settled(current: Current, name: str, replicas: int = 3) -> bool:
    """Only this revision runs and serves, with all replicas."""
    return (
        current.route == Route(weights={name: 100})
        and current.ready(name) == replicas
        and {each.revision for each in current.replicas} == {name}
    )


@asynccontextmanager
async def open_serving(opening: Opening) -> AsyncIterator[MemoryTarget]:
    """A target in memory that counts as one that serves."""
    yield MemoryTarget(opening.state / "target", able=replace(ABLE, double=False))


class Killed:
    """Kills this process, without a chance to clean up, at the n-th moment that it is told of."""

    def __init__(self, at: int) -> None:
        self._left = at

    def moment(self) -> None:
        self._left -= 1
        if self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


class KilledTarget:
    """A target whose caller dies before or after one of its calls."""

    def __init__(self, target: MemoryTarget, killed: Killed) -> None:
        self._target = target
        self._killed = killed

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name not in ("start", "route", "drain", "stop", "observe"):
            return found

        async def call(*given: Any, **named: Any) -> Any:
            self._killed.moment()
            result = await found(*given, **named)
            self._killed.moment()
            return result

        return call


class KilledJournal(Journal):
    """A journal whose writer dies before or after a write."""

    def __init__(self, folder: Path, killed: Killed) -> None:
        super().__init__(folder)
        self._killed = killed

    def write(self, deployment: Deployment) -> None:
        self._killed.moment()
        super().write(deployment)
        self._killed.moment()


def in_a_process(work: Callable[[], Awaitable[object]]) -> int:
    """Run a coroutine in a process of its own; its signal, or 0."""
    import anyio

    pid = os.fork()
    if not pid:
        code = 1
        try:
            anyio.run(work)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "it ended with an error"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
