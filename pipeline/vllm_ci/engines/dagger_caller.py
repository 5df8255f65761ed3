"""The two places from which a Dagger engine is called: a machine (plain client), and a function of a module."""

from __future__ import annotations

import contextlib
import io
import math
import os
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO, cast

import anyio
import dagger
from dagger import dag

import vllm_ci
from vllm_ci.domain.errors import EngineError, UsageError
from vllm_ci.engines.dagger_errors import REMEDY
from vllm_ci.system.vcs import git

_PATIENCE_S = 60.0


class Caller(Protocol):
    """What differs between the two."""

    def session(self) -> AbstractAsyncContextManager[Any]:
        """The session with the engine."""

    def directory(self, path: Path) -> dagger.Directory:
        """A folder of the caller."""

    def secret(self, name: str) -> dagger.Secret:
        """The secret that a variable of this name would hold.

        Raises:
            EngineError: There is none.
        """

    async def endpoint(self, service: dagger.Service, port: int, *, wanted: int = 0) -> str:
        """``host:port`` at which the caller reaches a port of a service; ``wanted`` is the port it would like, 0 for any."""


@dataclass(frozen=True, kw_only=True)
class MachineCaller:
    """A machine with its files, its environment, and the loopback interface that tunnels end at."""

    def session(self) -> AbstractAsyncContextManager[Any]:
        """A new one; or, under ``dagger run``, the one that is there."""
        # The SDK would download a CLI where PATH has one.
        if found := shutil.which("dagger"):
            os.environ.setdefault("_EXPERIMENTAL_DAGGER_CLI_BIN", found)
        return _connection()

    def directory(self, path: Path) -> dagger.Directory:
        """Of a checkout, what git ignores stays behind: it is no part of any commit, and it may be large.

        Raises:
            UsageError: It is a worktree, whose repository lies somewhere else.
        """
        if (path / ".git").is_file():
            raise UsageError(
                f"{path} is a git worktree",
                why="its repository lies in another folder, which a container does not see",
                remedy="use the main checkout or a clone (git clone --local), or --engine host",
            )
        exclude = _ignored(path) if (path / ".git").is_dir() else []
        return dag.host().directory(str(path.absolute()), exclude=exclude)

    def secret(self, name: str) -> dagger.Secret:
        """A variable of the environment."""
        if name not in os.environ:
            raise EngineError(f"the environment has no variable {name}", remedy=f"export {name}=... before the call")
        return dag.set_secret(name, os.environ[name])

    async def endpoint(self, service: dagger.Service, port: int, *, wanted: int = 0) -> str:
        """Through a tunnel."""
        tunnel = dag.host().tunnel(service, ports=[dagger.PortForward(backend=port, frontend=wanted)])
        endpoint = await (await tunnel.start()).endpoint()
        return f"127.0.0.1:{endpoint.rpartition(':')[2]}"


@dataclass(frozen=True, kw_only=True)
class ModuleCaller:
    """A function of a module: no host, but the session's own network.

    Attributes:
        package: Holds ``pipeline/vllm_ci``.
        secrets: Those that the function was given, by the name of the variable that would hold them.
    """

    package: dagger.Directory
    secrets: Mapping[str, dagger.Secret] = field(default_factory=dict)

    def session(self) -> AbstractAsyncContextManager[Any]:
        """That in which the function was called."""
        return contextlib.nullcontext()

    def directory(self, path: Path) -> dagger.Directory:
        """A folder of this package; a function has no others."""
        inside = path.relative_to(Path(vllm_ci.__file__).parent)
        return self.package.directory(f"pipeline/vllm_ci/{inside}")

    def secret(self, name: str) -> dagger.Secret:
        """An argument of the function."""
        if name not in self.secrets:
            raise EngineError(f"no secret {name} was given", remedy=f"pass it: --secrets env://{name}")
        return self.secrets[name]

    async def endpoint(self, service: dagger.Service, port: int, *, wanted: int = 0) -> str:  # noqa: ARG002 - it has its own address
        """By the service's name."""
        return await service.endpoint(port=port)


@asynccontextmanager
async def _connection() -> AsyncIterator[None]:
    """That of the SDK, which may be given up.

    Dagger's command line waits ten minutes for an engine that is not there, whatever signal asks it to end, and the SDK waits
    for the command line in a thread. Before there is a session it holds nothing that would be lost with it.

    Raises:
        EngineError: An engine that is named by its address does not answer, or the command line ended; with its last words.
    """
    address = os.environ.get("_EXPERIMENTAL_DAGGER_RUNNER_HOST", "")
    patience_s = _PATIENCE_S if address.startswith(("unix://", "tcp://")) else math.inf
    waiting, problem = True, None
    said = _Tail()

    async def give_up() -> None:
        try:
            await anyio.sleep(patience_s)
        finally:
            with anyio.CancelScope(shield=True):
                while waiting:
                    for process in _sessions():
                        os.kill(process, signal.SIGKILL)
                    await anyio.sleep(0.1)

    async with contextlib.AsyncExitStack() as stack:
        begun = time.monotonic()
        async with anyio.create_task_group() as group:
            group.start_soon(give_up)
            try:
                await stack.enter_async_context(dagger.connection(dagger.Config(log_output=cast(TextIO, said))))
            except dagger.DaggerError as error:
                problem = error
            finally:
                waiting = False
            group.cancel_scope.cancel()
        if problem is not None and time.monotonic() - begun < patience_s:
            raise EngineError(
                "Dagger could not be reached",
                why="\n".join([str(problem), *(await said.lines())]),
                remedy=REMEDY,
            ) from problem
        if problem is not None:
            raise EngineError(
                f"no Dagger engine answers at {address}",
                why=f"it was given {patience_s:.0f} s",
                remedy="start it, or correct _EXPERIMENTAL_DAGGER_RUNNER_HOST",
            ) from problem
        yield


class _Tail(io.TextIOBase):
    """The last lines that the command line writes to standard error, which the SDK copies here in a thread.

    The SDK also gives it to a console for its own progress, which is not kept.
    """

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=20)
        self._ended = threading.Event()

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        """Take lines of the command line until there are no more."""
        try:
            self._lines.extend(lines)
        finally:
            self._ended.set()

    def write(self, text: str) -> int:
        """Take progress of the SDK."""
        return len(text)

    async def lines(self) -> list[str]:
        """Those kept when the command line has ended; a process of its own that lives on is not waited for."""
        with anyio.move_on_after(2):
            while not self._ended.is_set():
                await anyio.sleep(0.02)
        return [line.rstrip() for line in list(self._lines) if line.strip()]


def _sessions() -> list[int]:
    """Processes of Dagger's command line that the SDK started here."""
    found = []
    for task in Path("/proc/self/task").glob("*/children"):
        for child in map(int, task.read_text(encoding="utf-8").split()):
            with contextlib.suppress(OSError):
                if b"dagger.io/sdk.name:python" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                    found.append(child)
    return found


def _ignored(checkout: Path) -> list[str]:
    """What git ignores in a checkout, as patterns that match these paths alone."""
    listed = git("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory", cwd=checkout)
    return [_literal(name) for name in listed.decode(errors="surrogateescape").split("\0") if name]


def _literal(path: str) -> str:
    return "".join(f"\\{letter}" if letter in "*?[]\\!#" else letter for letter in path.rstrip("/"))
