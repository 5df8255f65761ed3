"""What a deployment on this machine remembers: one file, replaced as a whole, that every process of this user may read."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import anyio
from pydantic import TypeAdapter, ValidationError

from vllm_ci.deploy.target import Revision
from vllm_ci.domain.errors import ErroredError
from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.engines.detached import Identity
from vllm_ci.system import filelock
from vllm_ci.targets.envoy.listeners import Ports

Phase = Literal["starting", "ready", "draining", "asleep", "failed"]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One replica, as it was started.

    Attributes:
        revision: Name of its revision.
        port: That it listens on.
        devices: Indices of its GPUs.
        process: Its supervisor.
        phase: As last decided; whether the process lives is looked up.
        started_at: RFC 3339, UTC.
        restarts: How often it was started again.
        message: Why it is in this phase.
    """

    revision: str
    port: int
    devices: tuple[int, ...] = ()
    process: Identity
    phase: Phase = "starting"
    started_at: str
    restarts: int = 0
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything that is remembered.

    Attributes:
        settings: Of the gateway, as last applied.
        ports: Of the gateway, kept for good.
        envoy: The running gateway.
        recorder: The running process that keeps the request log.
        revisions: By name.
        wanted: Number of replicas by name of the revision.
        replicas: By name.
        asleep: Name of the revision that is scaled to zero, whose requests ask the waker first; empty: none.
        retired: When a revision that is stopped got its last request at the latest (seconds since the epoch), by name.
        format: Of this file.
    """

    settings: GatewaySettings = field(default_factory=GatewaySettings)
    ports: Ports | None = None
    envoy: Identity | None = None
    recorder: Identity | None = None
    revisions: Mapping[str, Revision] = field(default_factory=dict)
    wanted: Mapping[str, int] = field(default_factory=dict)
    replicas: Mapping[str, Kept] = field(default_factory=dict)
    asleep: str = ""
    retired: Mapping[str, float] = field(default_factory=dict)
    format: Literal[1] = 1

    def of(self, revision: str) -> dict[str, Kept]:
        """Replicas of a revision."""
        return {name: kept for name, kept in self.replicas.items() if kept.revision == revision}

    def with_replica(self, name: str, kept: Kept | None) -> State:
        """The state with one replica changed, added, or removed (``None``)."""
        replicas = {key: value for key, value in self.replicas.items() if key != name}
        return replace(self, replicas=replicas if kept is None else {**replicas, name: kept})


_ADAPTER = TypeAdapter(State)


@dataclass(frozen=True, kw_only=True)
class Store:
    """The file with the state in ``folder``, and the lock of those that change it."""

    FILE: ClassVar[str] = "state.json"
    folder: Path

    @property
    def _file(self) -> Path:
        return self.folder / self.FILE

    def load(self) -> State:
        """The state; an empty one if nothing was deployed yet.

        Raises:
            ErroredError: The file cannot be read or was written by another version.
        """
        try:
            content = self._file.read_bytes()
        except FileNotFoundError:
            return State()
        except OSError as error:
            raise ErroredError(f"{self._file} cannot be read", why=str(error), remedy="check who owns it") from error
        try:
            return _ADAPTER.validate_json(content)
        except ValidationError as error:
            raise ErroredError(
                f"{self._file} is not valid",
                why=str(error.errors()[0]["msg"]),
                remedy="stop its processes with the version of vllm-ci that started them, then delete the folder",
            ) from error

    def save(self, state: State) -> None:
        """Replace the state.

        Raises:
            ErroredError: The disk is full, or the folder cannot be written; the old state stays.
        """
        write(self._file, _ADAPTER.dump_json(state, indent=1))

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        """Only one process, and one task, at a time changes state, files and processes."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = await anyio.to_thread.run_sync(lambda: filelock.take(self.folder / ".lock", timeout_s=120))
        try:
            yield
        finally:
            os.close(handle)


def write(path: Path, content: bytes) -> None:
    """Replace a file: written beside and renamed over, so that nobody ever reads a part.

    Raises:
        ErroredError: The disk is full, or the folder cannot be written; the old file stays.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ErroredError(
            f"{path} cannot be written",
            why=f"{error.strerror}; the old file stays",
            remedy="free some space, then run it again",
        ) from error
