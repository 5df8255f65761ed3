"""The target ``local``: replicas are processes of this machine behind Envoy; they outlive the command that started them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio

from vllm_ci.deploy.comparison import Pair
from vllm_ci.deploy.target import Current, Drained, Observation, Revision, Route, TargetCapabilities
from vllm_ci.domain.errors import ErroredError, FailedError, UsageError
from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.engine import single_error
from vllm_ci.targets.envoy.files import CLUSTER_PREFIX
from vllm_ci.targets.local import admission, budget, late, neighbours, observing, speaking, tapping, telling
from vllm_ci.targets.local.configuration import Configuration
from vllm_ci.targets.local.fleet import Fleet
from vllm_ci.targets.local.gateway import Gateway
from vllm_ci.targets.local.launcher import Launcher
from vllm_ci.targets.local.recorder import Recorder
from vllm_ci.targets.local.state import Kept, State, Store

# On a busy machine, Envoy's workers know of a change later; requests that wait for a server can wait for that as well.
_WAITING_SETTLE_S = 0.25


@dataclass(kw_only=True)
class LocalTarget:
    """One deployment on this machine; its state, logs and sockets are in ``folder``.

    Attributes:
        folder: Only this deployment's.
        launcher: How a replica becomes a process.
        settings: Of the gateway; ``None``: those of last time.
        machine: What there is to share.
    """

    folder: Path
    launcher: Launcher
    settings: GatewaySettings | None = None
    machine: Callable[[], budget.Machine] = budget.machine
    name: str = "local"

    def __post_init__(self) -> None:
        self._store = Store(folder=self.folder)
        self._fleet = Fleet(
            folder=self.folder / "replicas", mark=f"{self.folder}/replicas", launcher=self.launcher, machine=self.machine
        )
        self._configuration = Configuration(folder=self.folder / "gateway")
        self._gateway = Gateway(configuration=self._configuration, mark=f"{self.folder}/gateway")
        self._recorder = Recorder(folder=self.folder)

    @property
    def capabilities(self) -> TargetCapabilities:
        """Shares in steps of one percent, copies, headers, and no server at all while nobody asks."""
        return TargetCapabilities(weights=1, mirror=True, headers=True, compares=True, zero=True)

    async def current(self) -> Current:
        """What runs; see :class:`~vllm_ci.deploy.target.Target`."""
        state = self._store.load()
        return Current() if state.ports is None else telling.current(state, self._configuration.route(), self._fleet)

    async def start(self, revision: Revision, replicas: int) -> None:
        """Make replicas run; see :class:`~vllm_ci.deploy.target.Target`."""
        if replicas < 0:
            raise UsageError(f"{replicas} replicas cannot run", remedy="use 0 or more")
        await self._start(revision, replicas, lambda _: True)

    async def wake(self, revision: Revision, replicas: int) -> None:
        """Start a revision that is scaled to zero, unless a command has sent its requests to another one meanwhile.

        Raises:
            VllmCiError: Like :meth:`start`.
        """
        await self._start(revision, replicas, lambda state: state.asleep == revision.name)

    async def _start(self, revision: Revision, replicas: int, still: Callable[[State], bool]) -> None:
        admission.check(revision, admission.settings(self.settings, self._store.load()))
        await self.launcher.prepare(revision)
        async with self._store.lock():
            state = await self._with_gateway()
            if not still(state):
                return
            state = await self._fleet.woken(await self._without_hung(state), revision)
            async with neighbours.choosing(self.folder):
                state = await self._fleet.filled(state, revision, replicas)
                revisions = {**state.revisions, revision.name: revision}
                state = replace(state, revisions=revisions, wanted={**state.wanted, revision.name: replicas})
                self._store.save(state)
            await self._configuration.shape(state)
        started = {name: kept for name, kept in state.of(revision.name).items() if kept.phase == "starting"}
        failures: list[str] = []
        with single_error():
            async with anyio.create_task_group() as group:
                for name, kept in started.items():
                    group.start_soon(self._become_ready, name, kept, revision, failures)
                group.start_soon(self._drain_extra, revision)
        if failures:
            raise FailedError(
                f"{len(failures)} of {replicas} replicas of {revision.name} did not start",
                why=failures[0],
                remedy="repair what the log names; replicas that are ready go on",
            )
        await self._seen({revision.name})
        await self._answers(revision.name)

    async def route(self, route: Route) -> None:
        """Share requests in another way; see :class:`~vllm_ci.deploy.target.Target`."""
        async with self._store.lock():
            await self._routed(await self._with_gateway(), route)

    async def _routed(self, before: State, route: Route) -> None:
        asleep = telling.without_server(before, route)
        telling.require_ready(await self.current(), route.revisions - {asleep})
        await self._configuration.shape(before, more=route.revisions)  # its clusters are there before it
        await self._seen(route.revisions - {asleep})
        await self._configuration.turn(route, before.settings, asleep=asleep)
        state = late.answered(before, route.revisions - {asleep})
        if before.asleep and before.asleep not in route.revisions:
            # The new one answers those that wait.
            state = await late.led(state, before.asleep, self._store, self._configuration)
            await anyio.sleep(_WAITING_SETTLE_S)
        state = replace(state, asleep=asleep)
        await self._configuration.shape(state)
        if state != before:
            self._store.save(state)

    async def drain(self, revision: str, *, deadline_s: float) -> Drained:
        """Wait for open requests; see :class:`~vllm_ci.deploy.target.Target`."""
        self._check_unrouted(revision)
        begun = time.monotonic()
        quiet = left = 0
        while quiet < 3:
            try:
                left = await self._configuration.admin.open_requests(revision)
                quiet = 0 if left else quiet + 1
            except ErroredError:  # it is slow to tell
                quiet = 0
            if time.monotonic() - begun > deadline_s:
                break
            await anyio.sleep(0.05)
        return Drained(seconds=time.monotonic() - begun, open=left)

    async def stop(self, revision: str) -> None:
        """End a revision's replicas; see :class:`~vllm_ci.deploy.target.Target`."""
        async with self._store.lock():
            self._check_unrouted(revision)
            state = self._store.load()
            doomed = state.of(revision)
            state = await late.led(state, revision, self._store, self._configuration) if doomed else state
            async with anyio.create_task_group() as group:
                for name, kept in doomed.items():
                    group.start_soon(self._fleet.end, name, kept)
            for name in doomed:
                state = self._fleet.forgotten(state, name)
            state = replace(state, wanted={name: count for name, count in state.wanted.items() if name != revision})
            self._store.save(state)
            await self._configuration.shape(state)

    async def rest(self, waits: Callable[[], bool]) -> bool:
        """Scale to zero, unless a request is open or comes meanwhile; whether it did.

        Args:
            waits: Whether a request waits at the waker, where all requests go from now on.

        Raises:
            ErroredError: The gateway cannot be reached, or the disk is full; what serves goes on.
        """
        async with self._store.lock():
            state, route = self._store.load(), self._configuration.route()
            running = {kept.revision for kept in state.replicas.values()}
            if state.settings.waiting is None or len(route.revisions) != 1 or running != route.revisions:
                return False
            (name,) = route.revisions
            state = replace(state, asleep=name)
            self._store.save(state)
            await self._configuration.turn(route, state.settings, asleep=name)
            if not await self._quiet(waits):
                self._store.save(replace(state, asleep=""))
                await self._configuration.turn(route, state.settings)
                return False
            state = await self._fleet.rested(state, state.revisions[name], self._store.save)
            state = replace(state, wanted={**state.wanted, name: 0})
            self._store.save(state)
            await self._configuration.shape(state)
        return True

    async def _quiet(self, waits: Callable[[], bool]) -> bool:
        """Whether no request is open, also none that began before it would have to wait and whose body still arrives."""
        for _ in range(5):
            await anyio.sleep(late.SETTLE_S)
            if waits() or (await self.requests())[1]:
                return False
        return True

    async def requests(self) -> tuple[int, int]:
        """Requests that went to revisions since the gateway was started, and those that are open, waiting ones included.

        Raises:
            ErroredError: The gateway cannot be reached.
        """
        admin = self._configuration.admin
        sent = await admin.counters(rf"^cluster\.{CLUSTER_PREFIX}.*\.upstream_rq_total$")
        still_open = await admin.counters(r"^http\.(gateway|checks)\.downstream_rq_active$")
        return sum(sent.values()), sum(still_open.values())

    async def ensured(self) -> None:
        """Have the gateway run, with the settings of this target.

        Raises:
            ErroredError: It does not start.
            UsageError: Envoy is not installed, or a port is taken.
        """
        async with self._store.lock():
            if self._store.load().ports is not None:
                await self._with_gateway()

    async def give_up(self, revision: str) -> None:
        """End what runs of a revision that is scaled to zero and did not start; its logs stay.

        Raises:
            ErroredError: The disk is full, or the gateway refuses its files.
        """
        async with self._store.lock():
            state = self._store.load()
            if state.asleep != revision:
                return
            for name, kept in state.of(revision).items():
                await self._fleet.end(name, kept)
                message = kept.message or "it was ended, because the start failed"
                state = state.with_replica(name, replace(kept, phase="failed", message=message))
            state = replace(state, wanted={**state.wanted, revision: 0})
            self._store.save(state)
            await self._configuration.shape(state)

    async def complete_route(self) -> State:
        """Finish what a command that was killed between two files has left: a route, and that its requests wait or do not.

        Returns:
            The state after that.

        Raises:
            ErroredError: It cannot be read or written, or the gateway cannot be reached.
            FailedError: A revision of the route has no server.
        """
        state = self._store.load()
        if telling.incomplete(state, self._configuration.route()):
            async with self._store.lock():
                state, route = await self._with_gateway(), self._configuration.route()
                if telling.incomplete(state, route):  # no command has changed the route meanwhile
                    await self._routed(state, route)
            state = self._store.load()
        return state

    def waiting(self) -> bool:
        """Whether requests that ask the waker have to wait.

        Raises:
            ErroredError: The state cannot be read.
        """
        state = self._store.load()
        return bool(state.asleep or telling.without_server(state, self._configuration.route()))

    def state(self) -> State:
        """What is remembered, for the waker.

        Raises:
            ErroredError: It cannot be read.
        """
        return self._store.load()

    async def _answers(self, revision: str) -> None:
        """Have a revision answer its requests itself, now that the gateway knows its servers: none waits or goes elsewhere."""
        async with self._store.lock():
            state = self._store.load()
            known = state.asleep != revision and revision not in state.retired
            if known or not telling.ready_ports(state, revision):
                return
            if state.asleep == revision:
                await self._configuration.turn(self._configuration.route(), state.settings)
                state = replace(state, asleep="")
            state = late.answered(state, {revision})
            self._store.save(state)
            await self._configuration.shape(state)

    async def observe(self, *, seconds: float) -> Observation:
        """Watch for a while; see :class:`~vllm_ci.deploy.target.Target`."""
        return await observing.observe(self._configuration, self._store, self._fleet, seconds=seconds)

    @contextmanager
    def comparing(self) -> Iterator[Callable[[], tuple[Pair, ...]]]:
        """Record both answers to copied requests; see :class:`~vllm_ci.deploy.target.Target`."""
        with tapping.recording(self._configuration.folder) as recorder:
            yield recorder.taken

    async def logs(self, replica: str, *, lines: int = 200) -> str:
        """The end of a log; see :class:`~vllm_ci.deploy.target.Target`."""
        known = self._store.load().replicas
        if replica not in known:
            raise UsageError(f"there is no replica {replica}", remedy=f"the replicas are: {', '.join(sorted(known)) or 'none'}")
        return self._fleet.log(replica, lines)

    async def close(self) -> None:
        """End everything; see :class:`~vllm_ci.deploy.target.Target`."""
        async with self._store.lock():
            state = self._store.load()
            async with anyio.create_task_group() as group:
                for name, kept in state.replicas.items():
                    group.start_soon(self._fleet.end, name, kept)
                group.start_soon(self._gateway.end, state.envoy)
                group.start_soon(self._recorder.end, state.recorder)
            self._fleet.end_unknown(State())
            self._store.save(State())
            for folder in (self._fleet.folder, self._gateway.folder):
                shutil.rmtree(folder, ignore_errors=True)

    async def _with_gateway(self) -> State:
        """The state with a gateway that runs; call it with the lock."""
        state = self._store.load()
        found = await self._gateway.ensured(state, admission.settings(self.settings, state))
        if found != state:
            self._store.save(found)
        recorded = await self._recorder.ensured(found)
        if recorded != found:
            self._store.save(recorded)
        return recorded

    async def _without_hung(self, state: State) -> State:
        """Replicas that live and do not answer the gateway's checks are ended, so that they are started again."""
        hosts = await self._configuration.admin.hosts()
        for name, kept in state.replicas.items():
            host = hosts.get(kept.revision, {}).get(kept.port)
            suspect = kept.phase == "ready" and kept.process.alive and host is not None and host.unanswered
            # A gateway that has just started has not asked anybody yet.
            if suspect and not await speaking.answers(kept.port, state.settings.protocol):
                await self._fleet.end(name, kept, grace_s=1.0)
        return state

    async def _become_ready(self, name: str, kept: Kept, revision: Revision, failures: list[str]) -> None:
        reason = await self._fleet.why_not_ready(kept, name, revision, time.monotonic())
        if reason:
            await self._fleet.end(name, kept)
            failures.append(f"{name}: {reason}")
        async with self._store.lock():
            state = self._store.load()
            if (now := state.replicas.get(name)) is None or now.process != kept.process or now.phase != "starting":
                return  # another process has stopped it, or is about to
            state = state.with_replica(name, replace(now, phase="failed" if reason else "ready", message=reason))
            self._store.save(state)
            await self._configuration.shape(state)

    async def _drain_extra(self, revision: Revision) -> None:
        """End replicas beyond the wanted number once their last request has ended."""
        extra = {name: kept for name, kept in self._store.load().of(revision.name).items() if kept.phase == "draining"}
        end = time.monotonic() + revision.serving.drain_s
        for name, kept in extra.items():
            quiet = 0
            while quiet < 3 and time.monotonic() < end and kept.process.alive:
                host = (await self._configuration.admin.hosts()).get(revision.name, {}).get(kept.port)
                quiet = 0 if host is not None and host.active else quiet + 1
                await anyio.sleep(0.05)
            await self._fleet.end(name, kept)
            async with self._store.lock():
                state = self._fleet.forgotten(self._store.load(), name)
                self._store.save(state)
                await self._configuration.shape(state)

    async def _seen(self, revisions: frozenset[str] | set[str]) -> None:
        """Wait until the gateway sends requests to all replicas that are ready.

        Raises:
            FailedError: None of a revision answers its checks.
        """
        end = time.monotonic() + late.SEEN_S
        while True:
            hosts = await self._configuration.admin.hosts()
            ready = {name: telling.ready_ports(self._store.load(), name) for name in revisions}
            healthy = {name: telling.healthy(hosts.get(name, {})) for name in revisions}
            if all(ready[name] <= healthy[name] for name in revisions):
                await anyio.sleep(late.SETTLE_S)
                return
            if time.monotonic() > end:
                break
            await anyio.sleep(0.02)
        if bad := sorted(name for name in revisions if ready[name] and not ready[name] & healthy[name]):
            raise FailedError(
                f"the gateway gets no answer from the replicas of {', '.join(bad)}",
                why=speaking.UNHEALTHY[self._store.load().settings.protocol],
                remedy="look at their logs; requests are shared as before",
            )

    def _check_unrouted(self, revision: str) -> None:
        if revision in self._configuration.route().revisions:
            raise UsageError(f"{revision} still gets requests", remedy="route them to another revision first")
