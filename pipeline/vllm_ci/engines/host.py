"""The host engine: programs and services as processes of this machine, without a container engine."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc

from vllm_ci.domain.errors import EngineError, ServiceError
from vllm_ci.domain.events import Emit, ignore
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.program import Directory, Outcome, Program, Service, ServiceSpec
from vllm_ci.engine import Capabilities
from vllm_ci.engines import environment, machine, ports, supervise, workspace
from vllm_ci.engines.host_directory import HostDirectory
from vllm_ci.system.home import home

_STOP_GRACE_S = 5.0


@dataclass(kw_only=True)
class HostService:
    """A supervised process that listens on a port of the loopback interface."""

    name: str
    url: str
    ready_s: float = math.nan
    place: Path
    process: anyio.abc.Process
    ready: list[str]
    env: dict[str, str]

    async def log(self) -> str:
        """Its complete output so far."""
        return await anyio.Path(self.place / "log").read_text(errors="replace", encoding="utf-8")

    async def alive(self) -> bool:
        """Whether its process is still running."""
        return self.process.returncode is None

    async def become_ready(self, spec: ServiceSpec) -> None:
        """Run the ``ready`` command until it succeeds, which sets ``ready_s``, or until the process ends or the timeout."""
        started = time.monotonic()
        place = self.place / "ready"
        place.mkdir()
        with anyio.move_on_after(spec.ready_timeout_s):
            async with anyio.create_task_group() as group:
                group.start_soon(_cancel_when_ended, self.process, group.cancel_scope)
                while True:
                    asked = await _run(self.ready, self.env, place, max(10.0, spec.ready_timeout_s / 4))
                    if asked.code == 0 and await self.alive():
                        self.ready_s = time.monotonic() - started
                        group.cancel_scope.cancel()
                    await anyio.sleep(spec.ready_interval_s)


@dataclass(kw_only=True)
class HostEngine:
    """Runs programs and services as supervised processes; use it as an asynchronous context manager.

    Attributes:
        port: Port for services that do not set one; 0 is any free port.
    """

    port: int = 0
    name: str = "host"
    _folder: Path = field(init=False)
    _stack: contextlib.AsyncExitStack = field(init=False, default_factory=contextlib.AsyncExitStack)
    _count: int = field(init=False, default=0)
    _outputs: dict[str, Path] = field(init=False, default_factory=dict)
    _images: dict[str, tuple[Path, dict[str, Any]]] = field(init=False, default_factory=dict)

    @property
    def capabilities(self) -> Capabilities:
        """No isolation between processes; the devices and processors of this machine."""
        machine = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}.get(platform.machine(), platform.machine())
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
        return Capabilities(isolated=False, gpus=gpus, shm=False, cores=cores, platforms=(machine,))

    async def __aenter__(self) -> Self:
        self._folder = self._stack.enter_context(workspace.folder(home() / "work"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._stack.__aexit__(kind, error, trace)

    def directory(self, path: Path) -> HostDirectory:
        """Handle on a directory of this machine."""
        return HostDirectory(path.absolute())

    async def export(self, directory: Directory, path: Path) -> None:
        """Copy the files of a directory to ``path``; symbolic links are copied as links."""
        try:
            await anyio.to_thread.run_sync(lambda: shutil.copytree(_path(directory), path, dirs_exist_ok=True, symlinks=True))
        except (OSError, shutil.Error) as error:
            raise EngineError(
                f"cannot write to {path}", why=str(error), remedy="free some space, or name another folder"
            ) from error

    async def hardware(self) -> Mapping[str, object]:
        """Hardware facts of this machine."""
        return await anyio.to_thread.run_sync(machine.facts)

    async def run(self, program: Program, *, stop: anyio.Event | None = None) -> Outcome:
        """Run a program until it exits; see :class:`vllm_ci.engine.Engine`."""
        kept = home() / "outputs" / program.cache_key if program.cache_key else None
        if kept is not None and kept.is_dir():
            return Outcome(exit_code=0, seconds=0.0, output=HostDirectory(kept), log="", reused=True)
        place = self._place(program.name)
        out = place / "out"
        out.mkdir()
        self._outputs[program.name] = out
        values = {"out": str(out), **_inputs(program.inputs)}
        values |= {f"url.{name}": service.url for name, service in program.needs.items()}
        where = await self._environment(program.image, place, program.env, program.secrets, values)
        started = time.monotonic()
        ended = await _run(where.command(program.argv, values), where.env, place, program.timeout_s, stop)
        seconds = time.monotonic() - started
        log = (place / "log").read_text(errors="replace", encoding="utf-8")
        if kept is not None and ended.code == 0 and not (ended.timed_out or ended.stopped):
            out = await anyio.to_thread.run_sync(workspace.keep, out, kept)
        return Outcome(
            exit_code=ended.code,
            seconds=seconds,
            output=HostDirectory(out),
            log=log,
            timed_out=ended.timed_out,
            stopped=ended.stopped,
        )

    def so_far(self, program: str) -> Directory | None:
        """Output directory of a running program; see :class:`vllm_ci.engine.TellsSoFar`."""
        out = self._outputs.get(program)
        return HostDirectory(out) if out is not None and out.is_dir() else None

    @asynccontextmanager
    async def serve(self, spec: ServiceSpec) -> AsyncIterator[Service]:
        """Keep a service running; see :class:`vllm_ci.engine.Engine`."""
        wanted = spec.port or self.port
        for last in (False, False, True):
            port = wanted or ports.free()
            if wanted and ports.taken(wanted):
                raise ServiceError(
                    f"port {wanted} is already in use",
                    why="another program listens on it",
                    remedy="stop that program, choose another port with --port, or leave the port out to get a free one",
                )
            async with self._started(spec, port) as service:
                await service.become_ready(spec)
                if not math.isnan(service.ready_s):
                    yield service
                    return
                # Another program may take the chosen port before the service binds it: then try another one.
                lost_port = not await service.alive() and not wanted and ports.taken(port)
                if last or not lost_port:
                    raise await _not_ready(spec, service)

    @asynccontextmanager
    async def _started(self, spec: ServiceSpec, port: int) -> AsyncIterator[HostService]:
        place = self._place(spec.name)
        (place / "out").mkdir()
        url = f"http://127.0.0.1:{port}"
        values = {"out": str(place / "out"), "host": "127.0.0.1", "port": str(port), "url": url, **_inputs(spec.inputs)}
        env = {**environment.devices(spec.gpus), **spec.env}
        where = await self._environment(spec.image, place, env, spec.secrets, values)
        async with _supervised(where.command(spec.argv, values), where.env, place, spec.stop_grace_s) as process:
            ready = where.command(spec.ready, values)
            yield HostService(name=spec.name, url=url, place=place, process=process, ready=ready, env=where.env)

    async def prepare(self, image: ImageRef, emit: Emit) -> None:
        """Unpack an image."""
        await anyio.to_thread.run_sync(self._image, image.digest, emit)

    def _image(self, digest: str, emit: Emit = ignore) -> tuple[Path, dict[str, Any]]:
        """Files and configuration of an image, which ``vllm-ci cache prune`` leaves alone until this engine is closed."""
        from vllm_ci.images import store, tree

        if digest not in self._images:
            self._images[digest] = (self._stack.enter_context(tree.in_use(digest, emit=emit)), store.image_config(digest))
        return self._images[digest]

    def _place(self, name: str) -> Path:
        self._count += 1
        place = self._folder / f"{self._count:03d}-{name}"
        place.mkdir()
        return place

    async def _environment(
        self, image: ImageRef | None, place: Path, env: Mapping[str, str], secrets: tuple[str, ...], values: Mapping[str, str]
    ) -> environment.Environment:
        if image is None:
            return environment.of_tool(env, secrets, values)
        files = await anyio.to_thread.run_sync(self._image, image.digest)
        return environment.of_image(files, place, env, secrets, values)


def _path(directory: Directory) -> Path:
    if not isinstance(directory, HostDirectory):
        raise EngineError(f"{directory!r} belongs to another engine", remedy="pass directories of the host engine")
    return directory.path


def _inputs(inputs: Mapping[str, Directory]) -> dict[str, str]:
    return {f"in.{name}": str(_path(directory)) for name, directory in inputs.items()}


@asynccontextmanager
async def _supervised(command: list[str], env: dict[str, str], place: Path, grace_s: float) -> AsyncIterator[anyio.abc.Process]:
    """Run ``command`` under the supervisor with its output in ``place/log``; it has ended when the context ends."""
    argv = [sys.executable, "-I", "-S", supervise.__file__, str(grace_s), *command]
    try:
        with (place / "log").open("ab") as log:
            process = await anyio.open_process(argv, env=env, cwd=place, stdout=log, stderr=log, start_new_session=True)
    except OSError as error:
        raise EngineError(f"cannot start {command[0]}", why=str(error), remedy="run vllm-ci doctor") from error
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(process, grace_s)


@dataclass(frozen=True, kw_only=True)
class _Ended:
    """Result of a command: its exit code, and whether it was stopped by a timeout or on request."""

    code: int
    timed_out: bool = False
    stopped: bool = False


async def _run(
    command: list[str], env: dict[str, str], place: Path, timeout_s: float, stop: anyio.Event | None = None
) -> _Ended:
    """Run ``command`` until it exits, for at most ``timeout_s`` seconds, or until ``stop`` is set."""
    async with _supervised(command, env, place, _STOP_GRACE_S) as process:
        with anyio.move_on_after(timeout_s) as scope:
            await _end_of(process, stop)
        stopped = process.returncode is None and not scope.cancelled_caught
        await _stop(process, _STOP_GRACE_S)
    code = process.returncode if process.returncode is not None else 128 + signal.SIGKILL
    return _Ended(code=code, timed_out=scope.cancelled_caught, stopped=stopped)


async def _end_of(process: anyio.abc.Process, stop: anyio.Event | None) -> None:
    """Wait until the process ends or ``stop`` is set."""
    async with anyio.create_task_group() as group:
        group.start_soon(_cancel_when_ended, process, group.cancel_scope)
        if stop is None:
            await anyio.sleep_forever()
        else:
            await stop.wait()
            group.cancel_scope.cancel()


async def _stop(process: anyio.abc.Process, grace_s: float) -> None:
    """Ask the supervisor to end its command, by closing the pipe; it sends SIGKILL after the grace period."""
    if process.returncode is None and process.stdin is not None:
        await process.stdin.aclose()
        with anyio.move_on_after(grace_s + 15):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _cancel_when_ended(process: anyio.abc.Process, scope: anyio.CancelScope) -> None:
    await process.wait()
    scope.cancel()


async def _not_ready(spec: ServiceSpec, service: HostService) -> ServiceError:
    log = await service.log()
    tail = "\n".join(log.splitlines()[-25:])
    if await service.alive():
        asked = service.place / "ready" / "log"
        answer = (
            (asked.read_text(errors="replace", encoding="utf-8").splitlines() or ["nothing"])[-1]
            if asked.exists()
            else "nothing"
        )
        return ServiceError(
            f"{spec.name} was not ready after {spec.ready_timeout_s:.0f} s",
            why=f"the last readiness check said: {answer}\nthe end of its log:\n{tail}",
            remedy="raise the timeout (server.ready_timeout_s), or use a smaller model",
            log=log,
        )
    return ServiceError(
        f"{spec.name} ended with exit code {service.process.returncode} before it was ready",
        why=f"the end of its log:\n{tail}",
        remedy="fix the error in the log, then try it with: vllm-ci serve",
        log=log,
        ended=service.process.returncode,
    )
