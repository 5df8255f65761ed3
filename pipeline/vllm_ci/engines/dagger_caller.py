"""The two kinds of callers of a Dagger engine: a machine (plain client) and a module function."""

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
    """Differences between the two."""

    def session(self) -> AbstractAsyncContextManager[Any]:
        """Context with a session of the engine."""

    def directory(self, path: Path) -> dagger.Directory:
        """A directory of the caller."""

    def secret(self, name: str) -> dagger.Secret:
        """The secret with this variable name.

        Raises:
            EngineError: It is missing.
        """

    async def endpoint(self, service: dagger.Service, port: int, *, wanted: int = 0) -> str:
        """``host:port`` where the caller reaches a port of a service; ``wanted`` is the preferred port, 0 for any."""


@dataclass(frozen=True, kw_only=True)
class MachineCaller:
    """A machine: its files, environment and loopback interface (for tunnels)."""

    def session(self) -> AbstractAsyncContextManager[Any]:
        """A new session, or the existing one under ``dagger run``."""
        # Otherwise the SDK downloads a CLI although PATH has one.
        if found := shutil.which("dagger"):
            os.environ.setdefault("_EXPERIMENTAL_DAGGER_CLI_BIN", found)
        return _connection()

    def directory(self, path: Path) -> dagger.Directory:
        """A directory; in a checkout without files ignored by git, which are not part of a commit and may be large.

        Raises:
            UsageError: It is a git worktree, whose repository is in another directory.
        """
        if (path / ".git").is_file():
            raise UsageError(
                f"{path} is a git worktree",
                why="its repository is in another directory, which is not available in containers",
                remedy="use the main checkout or a clone (git clone --local), or --engine host",
            )
        exclude = _ignored(path) if (path / ".git").is_dir() else []
        return dag.host().directory(str(path.absolute()), exclude=exclude)

    def secret(self, name: str) -> dagger.Secret:
        """A variable of the environment."""
        if name not in os.environ:
            raise EngineError(f"the environment variable {name} is not set", remedy=f"export {name}=... before the call")
        return dag.set_secret(name, os.environ[name])

    async def endpoint(self, service: dagger.Service, port: int, *, wanted: int = 0) -> str:
        """The local end of a tunnel."""
        tunnel = dag.host().tunnel(service, ports=[dagger.PortForward(backend=port, frontend=wanted)])
        endpoint = await (await tunnel.start()).endpoint()
        return f"127.0.0.1:{endpoint.rpartition(':')[2]}"


@dataclass(frozen=True, kw_only=True)
class ModuleCaller:
    """A module function: no host, but the network of the session.

    Attributes:
        package: Directory with ``pipeline/vllm_ci``.
        secrets: Secrets passed to the function, by variable name.
    """

    package: dagger.Directory
    secrets: Mapping[str, dagger.Secret] = field(default_factory=dict)

    def session(self) -> AbstractAsyncContextManager[Any]:
        """The session of the function call; nothing to open."""
        return contextlib.nullcontext()

    def directory(self, path: Path) -> dagger.Directory:
        """A directory of this package; a function has no others."""
        inside = path.relative_to(Path(vllm_ci.__file__).parent)
        return self.package.directory(f"pipeline/vllm_ci/{inside}")

    def secret(self, name: str) -> dagger.Secret:
        """A secret passed to the function."""
        if name not in self.secrets:
            raise EngineError(f"the secret {name} is missing", remedy=f"pass it: --secrets env://{name}")
        return self.secrets[name]

    async def endpoint(self, service: dagger.Service, port: int, *, wanted: int = 0) -> str:  # noqa: ARG002 - not needed without tunnels
        """The address of the service in the session."""
        return await service.endpoint(port=port)


@asynccontextmanager
async def _connection() -> AsyncIterator[None]:
    """A connection of the SDK that can be cancelled and has a timeout.

    Dagger's command line waits ten minutes for a missing engine and ignores signals meanwhile; the SDK waits for it in a
    thread. It can be killed safely as long as there is no session.

    Raises:
        EngineError: An engine with a configured address does not answer, or the command line ended; with its last output.
    """
    address = os.environ.get("_EXPERIMENTAL_DAGGER_RUNNER_HOST", "")
    patience_s = _PATIENCE_S if address.startswith(("unix://", "tcp://")) else math.inf
    waiting, problem = True, None
    tail = _Tail()

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
                await stack.enter_async_context(dagger.connection(dagger.Config(log_output=cast(TextIO, tail))))
            except dagger.DaggerError as error:
                problem = error
            finally:
                waiting = False
            group.cancel_scope.cancel()
        if problem is not None and time.monotonic() - begun < patience_s:
            raise EngineError(
                "Dagger could not be reached",
                why="\n".join([str(problem), *(await tail.lines())]),
                remedy=REMEDY,
            ) from problem
        if problem is not None:
            raise EngineError(
                f"no Dagger engine answers at {address}",
                why=f"timed out after {patience_s:.0f} s",
                remedy="start the engine, or correct _EXPERIMENTAL_DAGGER_RUNNER_HOST",
            ) from problem
        yield


class _Tail(io.TextIOBase):
    """The last lines of the command line's standard error, which the SDK copies here in a thread.

    The SDK also writes its own progress here, which is discarded.
    """

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=20)
        self._ended = threading.Event()

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        """Keep lines of the command line until it ends."""
        try:
            self._lines.extend(lines)
        finally:
            self._ended.set()

    def write(self, text: str) -> int:
        """Discard progress of the SDK."""
        return len(text)

    async def lines(self) -> list[str]:
        """The last lines, once the command line has ended; waits at most 2 s, since child processes may keep the pipe open."""
        with anyio.move_on_after(2):
            while not self._ended.is_set():
                await anyio.sleep(0.02)
        return [line.rstrip() for line in list(self._lines) if line.strip()]


def _sessions() -> list[int]:
    """Process ids of Dagger command lines that this process's SDK started."""
    found = []
    for task in Path("/proc/self/task").glob("*/children"):
        for child in map(int, task.read_text(encoding="utf-8").split()):
            with contextlib.suppress(OSError):
                if b"dagger.io/sdk.name:python" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                    found.append(child)
    return found


def _ignored(checkout: Path) -> list[str]:
    """Paths ignored by git in a checkout, as patterns that match exactly these paths."""
    listed = git("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory", cwd=checkout)
    return [_literal(name) for name in listed.decode(errors="surrogateescape").split("\0") if name]


def _literal(path: str) -> str:
    return "".join(f"\\{letter}" if letter in "*?[]\\!#" else letter for letter in path.rstrip("/"))
