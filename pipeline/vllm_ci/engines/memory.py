"""A test double of an engine: it runs nothing, and every program ends as scripted. Tests of pipelines take milliseconds.

::

    engine = MemoryEngine()
    engine.on("smoke", fails("test_answers", "no answer"))
    report = await run_pipeline("path/to/project", engine=engine)
    assert report.verdict is Verdict.FAILED

Programs without a script succeed: the image is built, the server is ready, and all cases of a stage pass. Reports of this
engine are marked (``Report.double``) and satisfy no policy.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import anyio
import httpx

from vllm_ci.domain.errors import EngineError, ServiceError
from vllm_ci.domain.program import Directory, Outcome, Program, Service, ServiceSpec, refusal_of_secret
from vllm_ci.engine import Capabilities
from vllm_ci.engines import scripts
from vllm_ci.engines.host_directory import HostDirectory
from vllm_ci.engines.scripts import Ends

Answer = Callable[[httpx.Request], httpx.Response] | Mapping[str, object]
"""The answer of a server: a JSON object, or a function from request to response."""


@dataclass(frozen=True)
class MemoryDirectory:
    """Files in memory."""

    files: Mapping[str, bytes] = field(default_factory=dict)

    async def read(self, name: str) -> bytes:
        """Content of one file."""
        try:
            return self.files[name]
        except KeyError as error:
            raise FileNotFoundError(name) from error

    async def names(self) -> tuple[str, ...]:
        """All files, sorted."""
        return tuple(sorted(self.files))


@dataclass(kw_only=True)
class MemoryService:
    """A server with scripted answers.

    Attributes:
        transport: Returns scripted answers to HTTP clients, without a network.
        text: The log.
        dead: Whether it has died.
    """

    name: str
    url: str = "http://server.memory"
    ready_s: float = 0.0
    transport: httpx.AsyncBaseTransport
    text: str = ""
    dead: bool = False

    async def log(self) -> str:
        """The log."""
        return self.text

    async def alive(self) -> bool:
        """Whether it is alive."""
        return not self.dead


@dataclass(kw_only=True)
class MemoryEngine:
    """An engine that runs nothing. It is always open; ``async with`` is optional.

    Attributes:
        answers: Answers of servers by path (``/v1/completions``); other paths return 404.
        gpus: Reported number of GPUs.
        cores: Reported number of CPU cores.
        ran: All programs that ran, in order.
        served: Specs of all services that were started, in order.
        services: The services.
        stopped: Names of stopped services.
    """

    answers: Mapping[str, Answer] = field(default_factory=dict)
    gpus: int | None = 0
    cores: int | None = 4
    name: str = "memory"
    ran: list[Program] = field(default_factory=list, init=False)
    served: list[ServiceSpec] = field(default_factory=list, init=False)
    services: list[MemoryService] = field(default_factory=list, init=False)
    stopped: list[str] = field(default_factory=list, init=False)
    port: int = 0
    _scripts: dict[str, deque[Ends | Exception]] = field(default_factory=dict, init=False)
    _kept: dict[str, Outcome] = field(default_factory=dict, init=False)

    def on(self, program: str, *endings: Ends | Exception) -> Self:
        """Script how a program or the start of a server ends: one ending per run; the last one is repeated.

        Args:
            program: ``build``, ``model``, ``machine``, the name of a stage (``integration``; ``integration-own`` for your
                tests in it) or of a command (``image.run(..., name="lint")``), or ``vllm`` for the server.
            endings: Endings (:func:`passes`, :func:`fails`, :class:`Ends` ...), or exceptions to raise.
        """
        self._scripts[program] = deque(endings)
        return self

    @property
    def programs(self) -> list[str]:
        """Names of all programs that ran, in order."""
        return [program.name for program in self.ran]

    @property
    def capabilities(self) -> Capabilities:
        """Isolated, all platforms, marked as a double."""
        return Capabilities(
            isolated=True, gpus=self.gpus, shm=True, cores=self.cores, platforms=("linux/amd64", "linux/arm64"), double=True
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def hardware(self) -> Mapping[str, object]:
        """Fixed facts; there is no machine."""
        return {"system": "memory", "machine": "none", "cores": self.cores, "memory_bytes": 2**34}

    def directory(self, path: Path) -> Directory:
        """Handle for a directory of this machine, which is only read."""
        return HostDirectory(path.absolute())

    async def export(self, directory: Directory, path: Path) -> None:
        """Write a directory's files to ``path``."""
        if isinstance(directory, HostDirectory):
            shutil.copytree(directory.path, path, dirs_exist_ok=True, symlinks=True)
            return
        await anyio.Path(path).mkdir(parents=True, exist_ok=True)
        for name in await directory.names():
            await anyio.Path(path / name).parent.mkdir(parents=True, exist_ok=True)
            await anyio.Path(path / name).write_bytes(await directory.read(name))

    async def run(self, program: Program, *, stop: anyio.Event | None = None) -> Outcome:
        """End the program as scripted, immediately."""
        if program.cache_key in self._kept:
            return replace(self._kept[program.cache_key], reused=True)
        _check(program.secrets)
        self.ran.append(program)
        ending = self._ending(program.name) or scripts.of(program)
        if isinstance(ending, Exception):
            raise ending
        if ending.kills_server:
            for service in self.services:
                service.dead, service.text = True, f"{service.text}{ending.kills_server}\n"
        stopped = await _waited(ending, stop)
        outcome = Outcome(
            exit_code=128 + signal.SIGTERM if stopped or ending.timed_out else ending.exit_code,
            seconds=program.timeout_s if ending.timed_out else ending.seconds,
            output=MemoryDirectory({name: _bytes(content) for name, content in ending.files.items()}),
            log=ending.log,
            timed_out=ending.timed_out,
            stopped=stopped,
        )
        if program.cache_key and outcome:
            self._kept[program.cache_key] = outcome
        return outcome

    @asynccontextmanager
    async def serve(self, spec: ServiceSpec) -> AsyncIterator[Service]:
        """Start a server that is ready immediately, or fail as scripted."""
        _check(spec.secrets)
        self.served.append(spec)
        ending = self._ending(spec.name) or Ends(log="server of the memory engine")
        if isinstance(ending, Exception):
            raise ending
        if ending.timed_out or ending.exit_code:
            raise _not_started(spec, ending)
        await _waited(ending, None)
        service = MemoryService(name=spec.name, text=ending.log, transport=httpx.MockTransport(self._answer))
        self.services.append(service)
        try:
            yield service
        finally:
            self.stopped.append(spec.name)

    def _ending(self, name: str) -> Ends | Exception | None:
        endings = self._scripts.get(name)
        if not endings:
            return None
        return endings.popleft() if len(endings) > 1 else endings[0]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        answer = self.answers.get(request.url.path)
        if answer is None:
            known = ", ".join(self.answers) or "none"
            return httpx.Response(
                404, json={"error": f"the memory engine has no answer for {request.url.path}; it has answers for: {known}"}
            )
        return answer(request) if callable(answer) else httpx.Response(200, json=answer)


def passes(*cases: str) -> Ends:
    """A run of pytest in which these cases pass."""
    return Ends(files={"cases.json": scripts.cases(dict.fromkeys(cases, ("passed", "")))})


def fails(case: str, message: str = "it failed", *, passing: Iterable[str] = ()) -> Ends:
    """A run of pytest in which one case fails, and others pass.

    Args:
        case: Name of the failing case.
        message: Failure message.
        passing: Names of passing cases.
    """
    found = {**dict.fromkeys(passing, ("passed", "")), case: ("failed", message)}
    return Ends(exit_code=1, files={"cases.json": scripts.cases(found)})


def times_out(log: str = "") -> Ends:
    """A program that times out; a service that never becomes ready."""
    return Ends(timed_out=True, log=log)


def hangs(log: str = "") -> Ends:
    """A program that runs until it is stopped, for example by interrupting the run."""
    return Ends(hangs=True, log=log)


def kills_the_server(log: str = "the server died") -> Ends:
    """A program during which the server dies.

    Args:
        log: The last line of the server's log.
    """
    return Ends(kills_server=log, hangs=True)


async def _waited(ending: Ends, stop: anyio.Event | None) -> bool:
    """Wait for the end of the program; true if it was stopped before."""
    if stop is not None and stop.is_set():
        return True
    if not ending.hangs:
        await anyio.lowlevel.checkpoint()
        return False
    await (stop.wait() if stop is not None else anyio.sleep_forever())
    return True


def _not_started(spec: ServiceSpec, ending: Ends) -> ServiceError:
    if ending.timed_out:
        return ServiceError(f"{spec.name} was not ready after {spec.ready_timeout_s:g} s", log=ending.log)
    return ServiceError(f"{spec.name} ended with exit code {ending.exit_code}", log=ending.log, ended=ending.exit_code)


def _check(secrets: Iterable[str]) -> None:
    """Refuse the same secrets as every engine: missing ones, and those with reserved names.

    Raises:
        EngineError: A secret is refused.
    """
    for secret in secrets:
        if reason := refusal_of_secret(secret, ours=True):
            raise EngineError("a secret cannot be passed on", why=reason, remedy="give it another name")
        name = secret.rpartition("=")[2]
        if name not in os.environ:
            raise EngineError(f"the environment variable {name} is not set", remedy=f"export {name}=... before the call")


def _bytes(content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    return content.encode() if isinstance(content, str) else json.dumps(content).encode()
