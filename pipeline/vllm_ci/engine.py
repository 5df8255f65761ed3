"""The port: what a pipeline asks of an engine. Two verbs, and handles on directories.

Implementations live in ``vllm_ci.engines`` and pass one contract suite (``tests/contract``).
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from vllm_ci.domain.program import Directory, Outcome, Program, Service, ServiceSpec


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What an engine can do, said honestly.

    Attributes:
        isolated: Programs see only their image and inputs (containers); processes on a host do not promise that.
        gpus: Number of devices it can hand out, ``None`` when it cannot know beforehand.
        shm: It can size ``/dev/shm``.
        cores: Number of processors, ``None`` when it cannot know.
        platforms: Platforms whose images it can run, e.g. ``linux/amd64``.
    """

    isolated: bool
    gpus: int | None
    shm: bool
    cores: int | None
    platforms: tuple[str, ...]


class Engine(Protocol):
    """Runs programs and holds services.

    Every method translates what goes wrong underneath into :class:`~vllm_ci.domain.errors.EngineError`, from type.
    Cancelling a call ends what it started; nothing outlives the engine's own context.
    """

    name: str

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    async def run(self, program: Program) -> Outcome:
        """Run to the end. A non-zero exit code is an outcome, not an exception.

        Raises:
            EngineError: It could not be started, or its output could not be kept.
        """

    def serve(self, spec: ServiceSpec) -> AbstractAsyncContextManager[Service]:
        """Start, wait until ready, hold while the context lasts, stop.

        Raises:
            ServiceError: It died or did not become ready in time; the message carries the end of its log.
        """

    def directory(self, path: Path) -> Directory:
        """Handle on a directory of the caller's machine."""

    async def export(self, directory: Directory, path: Path) -> None:
        """Copy a directory's files to ``path`` on the caller's machine, which is created."""


@runtime_checkable
class TellsSoFar(Protocol):
    """An engine that can be asked what a program has written before it ends. Not all can."""

    def so_far(self, program: str) -> Directory | None:
        """The output directory, as it is now, of the program that was started last under this name."""
