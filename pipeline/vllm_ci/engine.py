"""The port: what a pipeline asks of an engine. Two verbs, and handles on directories.

Implementations live in ``vllm_ci.engines`` and pass one contract suite (``tests/contract``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import anyio

from vllm_ci.domain.errors import VllmCiError
from vllm_ci.domain.events import Emit
from vllm_ci.domain.image import ImageRef
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
        double: It runs nothing and only acts as if: reports made with it satisfy no policy.
    """

    isolated: bool
    gpus: int | None
    shm: bool
    cores: int | None
    platforms: tuple[str, ...]
    double: bool = False


class Engine(Protocol):
    """Runs programs and holds services.

    Every method translates what goes wrong underneath into :class:`~vllm_ci.domain.errors.EngineError`, from type.
    Cancelling a call ends what it started; nothing outlives the engine's own context.
    """

    name: str

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    async def hardware(self) -> Mapping[str, object]:
        """Facts about the machine that programs and services run on.

        ``system``, ``machine``, ``cpu``, ``cores``, ``memory_bytes``, ``gpus``, ``python``; without those it cannot find out.

        Raises:
            EngineError: It could not look.
        """

    async def run(self, program: Program, *, stop: anyio.Event | None = None) -> Outcome:
        """Run to the end. A non-zero exit code is an outcome, not an exception.

        Args:
            program: What to run.
            stop: When it is set, the program is ended at once, and the outcome says so. What it wrote until then is in the
                outcome where the engine can read it.

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


@runtime_checkable
class PreparesImages(Protocol):
    """An engine that needs some time before it can run the first program of an image."""

    async def prepare(self, image: ImageRef, emit: Emit) -> None:
        """Make an image ready to run; a step is reported only if that needs time.

        Raises:
            BuildError: It cannot be run.
        """


@contextmanager
def single_error() -> Iterator[None]:
    """Raise the first error of ours out of a task group's collection of them."""
    try:
        yield
    except BaseExceptionGroup as group:
        ours, _ = group.split(VllmCiError)
        while ours is not None and isinstance(ours.exceptions[0], BaseExceptionGroup):
            ours = ours.exceptions[0]
        if ours is None:
            raise
        raise ours.exceptions[0] from group


_MISSES = 3
_MISS_INTERVAL_S = 0.5


async def is_gone(service: Service) -> bool:
    """Whether a service runs no more: several questions in a row have to say so, because one can get lost on a busy machine."""
    for miss in range(_MISSES):
        if miss:
            await anyio.sleep(_MISS_INTERVAL_S)
        if await service.alive():
            return False
    return True
