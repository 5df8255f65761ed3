"""The replicas of a deployment: starting, watching and ending their processes."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio

from vllm_ci.deploy.target import Revision
from vllm_ci.domain.errors import ErroredError, UsageError
from vllm_ci.engines import detached, ports
from vllm_ci.targets.local import budget, neighbours, sleeping, speaking
from vllm_ci.targets.local.launcher import Launcher, fresh
from vllm_ci.targets.local.state import Kept, State

_POLL_S = 0.25
# Between SIGTERM, on which vLLM lets its requests end, and SIGKILL.
_GRACE_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Replicas whose folders are in ``folder``.

    Attributes:
        folder: One folder for each replica, with its log.
        mark: Beginning of the marks of its processes.
        launcher: Turns a revision into processes.
        machine: What there is to share.
    """

    folder: Path
    mark: str
    launcher: Launcher
    machine: Callable[[], budget.Machine] = budget.machine

    def mark_of(self, name: str) -> str:
        """Mark of a replica's processes."""
        return f"{self.mark}/{name}"

    async def filled(self, state: State, revision: Revision, count: int) -> State:
        """Start what is missing to ``count`` replicas, and mark those beyond it as draining; call it with the lock.

        Raises:
            UsageError: It does not fit.
            EngineError: A process cannot be started.
        """
        mine = state.of(revision.name)
        lost = [name for name, kept in mine.items() if not kept.process.alive]
        living = sorted((name for name in mine if name not in lost and mine[name].phase != "draining"), key=_number)
        for name in living[count:]:
            state = state.with_replica(name, replace(mine[name], phase="draining"))
        missing = max(0, count - len(living))
        devices = await self._devices(state, revision, missing) if missing else []
        self.end_unknown(state)
        names = [*sorted((name for name in lost if mine[name].phase != "draining"), key=_number), *_new_names(revision, mine)]
        try:
            for name, each in zip(names[:missing], devices, strict=True):
                used = {kept.port for kept in state.replicas.values()}
                state = state.with_replica(name, await self._launched(name, revision, each, mine.get(name), used))
        except BaseException:
            for name in names[:missing]:
                detached.end_marked(self.mark_of(name))
            raise
        for name in {*lost} - {*names[:missing]}:
            state = self.forgotten(state, name)
        return state

    async def _devices(self, state: State, revision: Revision, count: int) -> list[tuple[int, ...]]:
        """GPUs for more replicas; servers of other revisions that sleep are ended where there is no room otherwise."""
        there, serving = self.machine(), revision.serving
        others = neighbours.beside(self.folder.parent) if serving.gpus or serving.memory_bytes else []
        try:
            return budget.assign(serving, revision.name, count, [*neighbours.used(state), *others], there)
        except UsageError:
            sleepers = {
                name for name, kept in state.replicas.items() if kept.phase == "asleep" and kept.revision != revision.name
            }
            awake = replace(state, replicas={name: kept for name, kept in state.replicas.items() if name not in sleepers})
            found = budget.assign(serving, revision.name, count, [*neighbours.used(awake), *others], there)
        for name in sleepers:
            await self.end(name, state.replicas[name])
        return found

    async def rested(self, state: State, revision: Revision, keep: Callable[[State], None]) -> State:
        """Have no server of a revision use a GPU: those that can, sleep, the others are ended; call it with the lock.

        Args:
            state: With servers that get no requests.
            revision: Theirs.
            keep: Writes a state down, before a server sleeps, so that none that sleeps is taken for one that answers.

        Raises:
            ErroredError: The state cannot be written.
        """
        mine, ended = state.of(revision.name), set[str]()
        if revision.serving.sleeps:
            for name, kept in mine.items():
                state = state.with_replica(name, replace(kept, phase="asleep"))
            keep(state)

        async def rest(name: str, kept: Kept) -> None:
            if not revision.serving.sleeps or not await sleeping.sleep(kept.port):
                await self.end(name, kept)
                ended.add(name)

        async with anyio.create_task_group() as group:
            for name, kept in mine.items():
                group.start_soon(rest, name, kept)
        for name in ended:
            state = self.forgotten(state, name)
        return state

    async def woken(self, state: State, revision: Revision) -> State:
        """Wake the servers of a revision that sleep; one that does not wake is ended, and counts as lost."""
        for name, kept in state.of(revision.name).items():
            if kept.phase == "asleep":
                if not await sleeping.wake(kept.port):
                    await self.end(name, kept, grace_s=1.0)
                state = state.with_replica(name, replace(kept, phase="starting"))
        return state

    def end_unknown(self, state: State) -> None:
        """End what a process started that was killed before it could write that down."""
        for mark in detached.marks(f"{self.mark}/"):
            if mark.removeprefix(f"{self.mark}/") not in state.replicas:
                detached.end_marked(mark)

    async def _launched(
        self, name: str, revision: Revision, devices: tuple[int, ...], before: Kept | None, used: set[int]
    ) -> Kept:
        place = self.folder / name
        if before is not None:
            detached.end_marked(self.mark_of(name))
        fresh(place)
        port = ports.lasting(used)
        launch = await self.launcher.launch(revision, place, port=port, devices=devices)
        try:
            process = detached.start(
                detached.supervised(launch.argv, revision.serving.drain_s + _GRACE_S),
                env=launch.env,
                cwd=place,
                log=place / "log",
                mark=self.mark_of(name),
                keep=launch.keep,
            )
        finally:
            for handle in launch.keep:
                os.close(handle)
        return Kept(
            revision=revision.name,
            port=port,
            devices=devices,
            process=process,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            restarts=before.restarts + 1 if before is not None else 0,
        )

    async def why_not_ready(self, kept: Kept, name: str, revision: Revision, since: float) -> str:
        """Wait for a replica's first completion; empty when it came, else why it did not, with the end of the log."""
        serving, reason = revision.serving, ""
        end = since + serving.ready_timeout_s
        while kept.process.alive and (left := end - time.monotonic()) > 0:
            patience = min(60.0, max(1.0, left))
            ask = partial(speaking.why_not_ready, kept.port, serving, timeout_s=patience)
            reason = await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)
            if not reason and kept.process.alive:
                return ""
            await anyio.sleep(_POLL_S)
        tail = f"the end of its log:\n{self.log(name, 25)}"
        if kept.process.alive:
            return f"it was not ready after {serving.ready_timeout_s:g} s; the last check said: {reason}\n{tail}"
        return f"it ended before it was ready; {tail}"

    async def end(self, name: str, kept: Kept, grace_s: float = _GRACE_S) -> None:
        """End a replica: SIGTERM, on which vLLM lets open requests end, and SIGKILL after ``grace_s``."""
        kept.process.signal(signal.SIGTERM)
        with anyio.move_on_after(grace_s):
            while kept.process.alive:
                await anyio.sleep(0.02)
        await anyio.to_thread.run_sync(detached.end_marked, self.mark_of(name))

    def forgotten(self, state: State, name: str) -> State:
        """Remove a replica that has ended, with its folder; call it with the lock."""
        detached.end_marked(self.mark_of(name))
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return state.with_replica(name, None)

    def log(self, name: str, lines: int) -> str:
        """The end of a replica's log.

        Raises:
            ErroredError: It cannot be read.
        """
        path = self.folder / name / "log"
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - lines * 2000))
                text = file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise ErroredError(f"{path} cannot be read", why=str(error), remedy="check who owns it") from error
        return "\n".join(text.splitlines()[-lines:])


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _new_names(revision: Revision, there: dict[str, Kept]) -> list[str]:
    """Names that no replica has; more than are ever needed at once."""
    numbers = {_number(name) for name in there}
    return [f"{revision.name}-{number}" for number in range(len(numbers) + 256) if number not in numbers]
