"""A double of a target: it serves nobody and only acts as if, in virtual time, with faults that are asked for.

::

    target = MemoryTarget(faults={bad.name: Behaviour(errors=0.2)})
    await target.start(bad, 2)
    await target.route(Route(weights={bad.name: 100}))
    observed = await target.observe(seconds=60)   # returns at once
    assert observed.samples[bad.name].errors > 0

With a folder its state outlives the process, as that of a real target does. What it "serves" never counts as a deployment: no
ledger records it.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from vllm_ci.deploy import scaling
from vllm_ci.deploy.comparison import Pair, Side
from vllm_ci.deploy.plan import shares
from vllm_ci.deploy.target import (
    Current,
    Drained,
    Observation,
    Replica,
    Revision,
    Route,
    Sample,
    TargetCapabilities,
)
from vllm_ci.domain.errors import ErroredError, FailedError, UsageError

if TYPE_CHECKING:
    from vllm_ci.targets.opening import Opening

ABLE = TargetCapabilities(weights=1, mirror=True, headers=True, compares=True, double=True)
_EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How servers of a revision behave.

    Attributes:
        start_s: From the start of a server to its first completion.
        never_ready: They never complete a request.
        errors: Share of the requests that they fail.
        ttft_ms: Milliseconds to the first byte.
        latency_ms: Milliseconds to the end.
        dies_after: A server dies when it has answered so many requests; 0: it does not.
        stuck: Open requests that never end.
        agreement: Share of the tokens of an answer that are those of another revision.
    """

    start_s: float = 1.0
    never_ready: bool = False
    errors: float = 0.0
    ttft_ms: float = 50.0
    latency_ms: float = 500.0
    dies_after: int = 0
    stuck: int = 0
    agreement: float = 1.0


@dataclass(kw_only=True)
class State:
    """What the target remembers.

    Attributes:
        clock_s: Virtual time.
        answered: Requests by name of the replica.
        routed: Names of the revisions that have had requests, and so may have open ones.
        lost: Requests that nobody could answer.
        silent: The gateway cannot be reached.
        down: The gateway has died.
        faults: Behaviour by the beginning of a revision's name.
    """

    clock_s: float = 0.0
    route: Route = field(default_factory=Route)
    replicas: dict[str, Replica] = field(default_factory=dict)
    wanted: dict[str, int] = field(default_factory=dict)
    revisions: dict[str, Revision] = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=dict)
    routed: list[str] = field(default_factory=list)
    lost: int = 0
    made: int = 0
    silent: bool = False
    down: bool = False
    faults: dict[str, Behaviour] = field(default_factory=dict)


_STATE = TypeAdapter(State)


class MemoryTarget:
    """See the module.

    Args:
        folder: Where its state is kept; by default nowhere.
        able: What it can do.
        faults: Behaviour by the beginning of a revision's name.
        rate: Requests per second that users send.
        room: Number of replicas that fit.
    """

    name = "memory"

    def __init__(
        self,
        folder: Path | None = None,
        *,
        able: TargetCapabilities = ABLE,
        faults: Mapping[str, Behaviour] | None = None,
        rate: float = 10.0,
        room: int = 1000,
    ) -> None:
        self._file = folder / "memory.json" if folder else None
        self._able = able
        self._rate = rate
        self._room = room
        self._pairs: list[Pair] = []
        self._state = State(faults=dict(faults or {}))
        if faults and self._file:
            self.change(faults=dict(faults))

    @property
    def capabilities(self) -> TargetCapabilities:
        """What it can do."""
        return self._able

    @property
    def state(self) -> State:
        """What it remembers, as it is now."""
        if self._file and self._file.exists():
            self._state = _STATE.validate_json(self._file.read_bytes())
        return self._state

    def change(self, **fields: object) -> None:
        """Set fields of its state: what a test wants to happen."""
        state = self.state
        for name, value in fields.items():
            setattr(state, name, value)
        self._keep(state)

    async def current(self) -> Current:
        """As in the port."""
        state = self.state
        return Current(
            address="http://gateway.memory" if state.revisions else "",
            route=state.route,
            replicas=tuple(state.replicas.values()),
            wanted=dict(state.wanted),
            revisions=dict(state.revisions),
            down=state.down,
        )

    async def start(self, revision: Revision, replicas: int) -> None:
        """As in the port."""
        state = self.state
        mine = [each for each in state.replicas.values() if each.revision == revision.name and each.state != "failed"]
        others = sum(each.revision != revision.name for each in state.replicas.values())
        if others + replicas > self._room:
            raise UsageError(
                f"{replicas} replicas of {revision.name} do not fit: {others} others run, and there is room for {self._room}",
                remedy="stop a deployment, or ask for fewer replicas",
            )
        state.down = False
        state.revisions[revision.name] = revision
        state.wanted[revision.name] = replicas
        for name in [each.name for each in state.replicas.values() if each.revision == revision.name]:
            if state.replicas[name].state == "failed":
                del state.replicas[name]
        for surplus in mine[replicas:]:
            del state.replicas[surplus.name]
        behaviour = self.behaviour(state, revision.name)
        for _ in range(replicas - len(mine)):
            self._add(state, revision, behaviour)
        if replicas > len(mine):
            state.clock_s += revision.serving.ready_timeout_s if behaviour.never_ready else behaviour.start_s
        self._keep(state)
        if behaviour.never_ready:
            raise FailedError(
                f"a server of {revision.name} was not ready after {revision.serving.ready_timeout_s:g} s",
                why="it was asked to behave like that",
            )

    def _add(self, state: State, revision: Revision, behaviour: Behaviour) -> None:
        state.made += 1
        name = f"{revision.name}-{state.made}"
        state.replicas[name] = Replica(
            name=name,
            revision=revision.name,
            state="failed" if behaviour.never_ready else "ready",
            url=f"http://{name}.memory",
            started_at=(_EPOCH + timedelta(seconds=state.clock_s)).isoformat(),
            message="not ready in time" if behaviour.never_ready else "",
        )

    async def route(self, route: Route) -> None:
        """As in the port."""
        state = self.state
        self._heard(state)
        for name in sorted(route.revisions):
            if not any(each.revision == name and each.state == "ready" for each in state.replicas.values()):
                raise FailedError(f"no replica of {name} is ready", remedy="start it first, or look at its log")
        state.route, state.down = route, False
        state.routed = sorted({*state.routed, *route.revisions})
        self._keep(state)

    async def drain(self, revision: str, *, deadline_s: float) -> Drained:
        """As in the port."""
        state = self.state
        self._unrouted(state, revision)
        behaviour = self.behaviour(state, revision)
        opened = revision in state.routed and any(each.revision == revision for each in state.replicas.values())
        seconds = (deadline_s if behaviour.stuck else min(deadline_s, behaviour.latency_ms / 1000)) if opened else 0.0
        state.clock_s += seconds
        if opened and not behaviour.stuck:
            state.routed.remove(revision)
        self._keep(state)
        return Drained(seconds=seconds, open=behaviour.stuck if opened else 0)

    async def stop(self, revision: str) -> None:
        """As in the port."""
        state = self.state
        self._unrouted(state, revision)
        state.replicas = {name: each for name, each in state.replicas.items() if each.revision != revision}
        state.wanted.pop(revision, None)
        state.routed = [name for name in state.routed if name != revision]
        self._keep(state)

    async def observe(self, *, seconds: float) -> Observation:
        """As in the port; returns at once."""
        state = self.state
        self._heard(state)
        if state.down:
            raise ErroredError("the gateway cannot be reached", why="it has died")
        state.clock_s += seconds
        requests = round(self._rate * seconds)
        samples: dict[str, Sample] = {}
        for name, count in _counts(state.route, requests).items():
            self._answer(state, name, count, samples, users=True)
        if state.route.mirror and state.route.mirror_percent:
            copies = requests * state.route.mirror_percent // 100
            self._answer(state, state.route.mirror, copies, samples, users=False)
            self._pairs += self._compared(state, copies)
        self._keep(state)
        return Observation(seconds=seconds, samples=samples)

    @contextmanager
    def comparing(self) -> Iterator[Callable[[], tuple[Pair, ...]]]:
        """As in the port."""
        self._pairs.clear()

        def taken() -> tuple[Pair, ...]:
            found = tuple(self._pairs)
            self._pairs.clear()
            return found

        yield taken

    def _compared(self, state: State, count: int) -> list[Pair]:
        """What both answers to so many greedy requests have in common."""
        main = max(state.route.weights, key=lambda name: state.route.weights[name], default="")
        old, new = self.behaviour(state, main), self.behaviour(state, state.route.mirror)
        failing = round(count * new.errors)
        return [
            Pair(
                request_id=f"{state.clock_s:g}-{index}",
                path="/v1/completions",
                old=Side(status=200, finish=("length",), tokens=100, latency_ms=old.latency_ms),
                new=Side(status=500 if index < failing else 200, finish=("length",), tokens=100, latency_ms=new.latency_ms),
                greedy=True,
                agreed=round(100 * new.agreement),
            )
            for index in range(count)
        ]

    def _answer(self, state: State, name: str, count: int, samples: dict[str, Sample], *, users: bool) -> None:
        behaviour = self.behaviour(state, name)
        ready = [each for each in state.replicas.values() if each.revision == name and each.state == "ready"]
        answered = 0
        for index, replica in enumerate(ready):
            before = state.answered.get(replica.name, 0)
            share = count * (index + 1) // len(ready) - count * index // len(ready)
            could = max(behaviour.dies_after - before, 0) if behaviour.dies_after else share
            state.answered[replica.name] = before + min(share, could)
            answered += min(share, could)
            if share > could:
                state.replicas[replica.name] = replace(replica, state="failed", message="died")
        lost = count - answered
        state.lost += lost if users else 0
        samples[name] = Sample(
            requests=count,
            errors=lost + round(answered * behaviour.errors),
            latencies_ms=dict.fromkeys(("0.5", "0.95", "0.99"), behaviour.latency_ms) if answered else {},
            ttft_ms=dict.fromkeys(("0.5", "0.95", "0.99"), behaviour.ttft_ms) if answered else {},
            values={scaling.RUNNING: self._rate * behaviour.latency_ms / 1000 if users else 0.0, scaling.WAITING: 0.0},
        )

    async def logs(self, replica: str, *, lines: int = 200) -> str:
        """As in the port."""
        found = self.state.replicas.get(replica)
        if found is None:
            raise UsageError(f"there is no replica {replica}", remedy="see them with: vllm-ci deploy status CHANNEL")
        return "\n".join([f"{found.name} is {found.state}", found.message][:lines]).strip()

    async def close(self) -> None:
        """As in the port."""
        self._keep(State(faults=self.state.faults, lost=self.state.lost))

    def behaviour(self, state: State, revision: str) -> Behaviour:
        """How servers of a revision behave."""
        return next((each for key, each in state.faults.items() if revision.startswith(key)), Behaviour())

    def _unrouted(self, state: State, revision: str) -> None:
        if revision in state.route.revisions:
            raise UsageError(f"requests still go to {revision}", remedy="route them to another revision first")

    def _heard(self, state: State) -> None:
        if state.silent:
            raise ErroredError("the gateway cannot be reached", why="it was asked to behave like that")

    def _keep(self, state: State) -> None:
        self._state = state
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part = self._file.with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps(asdict(state)), encoding="utf-8")
            part.replace(self._file)


def _counts(route: Route, requests: int) -> dict[str, int]:
    """Whole requests by revision, in proportion to the weights."""
    weights = {name: share for name, share in route.weights.items() if share}
    exact = shares(weights, granularity=1) if weights else {}
    names = sorted(exact)
    given = {name: requests * exact[name] // 100 for name in names}
    if names:
        given[max(names, key=lambda each: exact[each])] += requests - sum(given.values())
    return given


@asynccontextmanager
async def open_memory(opening: Opening) -> AsyncIterator[MemoryTarget]:
    """The double for one deployment; its state is kept in the deployment's folder."""
    yield MemoryTarget(opening.state / "target")
