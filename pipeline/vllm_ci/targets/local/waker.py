"""The waker: ends the last server of a deployment that is not used, or has it sleep, and starts one again for the next request.

Requests reach the gateway as always. While no server runs, Envoy asks the waker about each of them (``targets/envoy/waker.py``)
and keeps it until the answer. Nothing is lost with a waker that dies: what is remembered lies in the state of the target, Envoy
asks the next waker again, and servers that run serve without one.
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio

from vllm_ci.deploy.scaling import Scale, Use, idle, used
from vllm_ci.domain.errors import VllmCiError
from vllm_ci.domain.gateway import Waiting
from vllm_ci.targets.envoy import files
from vllm_ci.targets.envoy.waker import METRICS_PATH
from vllm_ci.targets.local import asking, observing, starts
from vllm_ci.targets.local.asking import Answer, Asked
from vllm_ci.targets.local.starts import Start, Starts
from vllm_ci.targets.local.state import State
from vllm_ci.targets.local.target import LocalTarget

_LOOK_S = 2.0
_POLL_S = 0.05
# For so long the gateway's log is searched for the answer to the request that caused a start.
_SEARCHED_S = 900.0


@dataclass(kw_only=True)
class _Turn:
    """One wait for a server: all who wait learn at once how it ended."""

    ended: anyio.Event = field(default_factory=anyio.Event)
    error: str = ""


class Waker:
    """Looks after one deployment.

    Args:
        target: The deployment.
        scale: When its last server is ended.
        waiting: How requests wait.
        changing: Whether a command changes what serves, so that nothing is ended now.
        going_back: Whether a command sends the requests to another release now, so that those that wait are answered by that.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        target: LocalTarget,
        scale: Scale,
        waiting: Waiting,
        *,
        changing: Callable[[], bool] = lambda: False,
        going_back: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._target, self._scale, self._waiting = target, scale, waiting
        self._changing, self._going_back, self._clock = changing, going_back, clock
        self._starts: Starts = starts.read(target.folder)
        self._asked: dict[object, Asked] = {}
        self._called = anyio.Event()
        self._turn = _Turn()
        self._closing = False
        self._use: Use | None = None
        self._ready_at = clock()
        self._log = observing.Log.end_of(self._access_log)
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def _access_log(self) -> Path:
        return self._target.folder / "gateway" / files.ACCESS_LOG

    async def run(self, listener: socket.socket) -> None:
        """Until nothing is deployed any more, or requests are to wait in another way.

        Raises:
            ErroredError: The state cannot be read, or the gateway does not start.
        """
        server = await asyncio.start_server(self._connected, sock=listener)  # that for Unix sockets wants to find its path
        try:
            await self._target.ensured()
            # Whoever changes how requests wait starts another waker.
            while (state := self._target.state()).ports is not None and state.settings.waiting == self._waiting:
                await self._look(state)
                with anyio.move_on_after(min(_LOOK_S, self._scale.idle_s / 4)):
                    await self._called.wait()
                    await anyio.sleep(_POLL_S)  # not in a busy loop, where nothing can be done about those that wait yet
                self._called = anyio.Event()
        finally:
            server.close()
            for each in self._connections:
                each.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        await asking.connection(reader, writer, self._answer)

    async def _answer(self, asked: Asked) -> Answer:
        """What Envoy is told about a request; 200 lets it go on."""
        if asked.path == METRICS_PATH:
            found = self._target.state()
            return Answer(status=200, body=starts.prometheus(self._starts, asleep=bool(found.asleep), waiting=len(self._asked)))
        if not self._closing and not self._target.waiting():
            return Answer(status=200)
        if (left := self._starts.again_at - self._clock()) > 0:
            return self._refused("the release did not start, see vllm-ci deploy status", left)
        if len(self._asked) >= self._waiting.queue:
            return self._refused("too many requests wait for a server that starts", self._expected())
        return await self._waited(asked)

    async def _waited(self, asked: Asked) -> Answer:
        mine = object()
        self._asked[mine] = asked
        self._called.set()
        turn = self._turn
        try:
            with anyio.move_on_after(self._waiting.wait_s):
                await turn.ended.wait()
        finally:
            del self._asked[mine]
        if not turn.ended.is_set():
            return self._refused(f"no server was ready within {self._waiting.wait_s:g} s", self._expected())
        return self._refused(turn.error, self._starts.again_at - self._clock()) if turn.error else Answer(status=200)

    def _refused(self, why: str, retry_s: float) -> Answer:
        self._starts = replace(self._starts, refused=self._starts.refused + 1)
        return Answer(status=429, body=why, retry_s=max(1, math.ceil(retry_s)))

    def _expected(self) -> float:
        """How long a start may take, by the last one."""
        last = self._starts.last
        return last.routed_s if last and last.routed_s else 10.0

    async def _look(self, state: State) -> None:
        """Do what is to be done now; what cannot be done is tried again at the next look."""
        with suppress(VllmCiError):
            if state.envoy is None or not state.envoy.alive:
                await self._target.ensured()
            if not self._changing():
                state = await self._target.complete_route()
            if state.asleep:
                await self._asleep(state)
            else:
                await self._awake()

    async def _asleep(self, state: State) -> None:
        mine = state.of(state.asleep).values()
        interrupted = any(kept.process.alive and kept.phase != "asleep" for kept in mine)
        if not (self._asked or interrupted) or self._going_back() or self._clock() < self._starts.again_at:
            return
        start = await self._started(state, next(iter(self._asked.values()), Asked(at=self._clock())))
        self._starts = self._starts.having(start)
        if not start.error:
            self._ready_at, self._use = self._clock(), None
        self._over(start.error)
        starts.keep(self._target.folder, self._starts)

    def _over(self, error: str = "") -> None:
        """Tell those that wait."""
        turn, self._turn = self._turn, _Turn()
        turn.error = error
        turn.ended.set()

    async def _started(self, state: State, first: Asked) -> Start:
        """Start the first server, and note when it got how far."""
        name = state.asleep
        start = Start(at=first.at, revision=name, request_id=first.request_id)
        phases: dict[str, float] = {}
        self._log = observing.Log.end_of(self._access_log)
        async with anyio.create_task_group() as group:
            group.start_soon(self._phases, name, first.at, phases)
            try:
                await self._target.wake(state.revisions[name], max(1, state.wanted.get(name, 0)))
                phases["routed_s"] = self._clock() - first.at
            except VllmCiError as error:
                await self._given_up(name)
                start = replace(start, error=f"{error.message}: {error.why}" if error.why else error.message)
            group.cancel_scope.cancel()
        rounded = {phase: round(max(seconds, 0.0), 3) for phase, seconds in phases.items()}
        return replace(start, ended_at=self._clock(), waited=len(self._asked), **rounded)  # type: ignore[arg-type]

    async def _phases(self, name: str, begun: float, phases: dict[str, float]) -> None:
        while "ready_s" not in phases:
            for kept in self._target.state().of(name).values():
                if kept.process.alive and kept.phase in ("starting", "ready"):
                    phases.setdefault("process_s", self._clock() - begun)
                if kept.process.alive and kept.phase == "ready":
                    phases.setdefault("ready_s", self._clock() - begun)
            await anyio.sleep(_POLL_S)

    async def _given_up(self, name: str) -> None:
        """Whatever of a failed start still runs is ended; the log of what failed stays."""
        with suppress(VllmCiError):
            await self._target.give_up(name)

    async def _awake(self) -> None:
        if self._asked:
            self._over()
        self._first_byte()
        requests, still_open = await self._target.requests()
        now = self._clock()
        self._use = used(self._use, requests=requests, still_open=still_open, now=now)
        took = (self._starts.last.routed_s or 0.0) if self._starts.last else 0.0
        if self._changing() or not idle(self._scale, self._use, ready_at=self._ready_at, start_s=took, now=now):
            return
        self._closing = True
        try:
            rested = await self._target.rest(lambda: bool(self._asked))
        finally:
            self._closing = False
        if rested:
            self._starts = replace(self._starts, rested=self._starts.rested + 1)
            starts.keep(self._target.folder, self._starts)
        elif self._asked:
            self._over()

    def _first_byte(self) -> None:
        """Look for the answer to the request that caused the last start; the gateway logs it when it has ended."""
        last = self._starts.last
        known = last is None or last.error or last.first_byte_s is not None or not last.request_id
        if last is None or known or self._clock() - last.at > _SEARCHED_S:
            return
        for row in self._log.since():
            if row.get("request_id") == last.request_id and isinstance(row.get("first_byte_us"), int | float):
                self._starts = self._starts.answered(round(float(row["first_byte_us"]) / 1e6, 3))
                starts.keep(self._target.folder, self._starts)
