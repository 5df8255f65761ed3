"""Run programs and services in containers of a Dagger engine."""

from __future__ import annotations

import contextlib
import json
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio

from vllm_ci.domain.errors import EngineError, UsageError
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.program import Directory, NoFiles, Outcome, Program, Service, ServiceSpec, fill, refusal_of_secret
from vllm_ci.engine import Capabilities, single_error
from vllm_ci.system import scratch

try:
    import dagger
    from dagger import CacheSharingMode, ReturnType, dag
except ImportError as error:
    raise UsageError(
        "the engine dagger needs Dagger's SDK",
        why="the extra `dagger` of this package is not installed",
        remedy="install vllm-ci[dagger]",
    ) from error

from vllm_ci.engines import dagger_service, dagger_tool, guard
from vllm_ci.engines.dagger_caller import Caller, MachineCaller
from vllm_ci.engines.dagger_errors import translated
from vllm_ci.engines.dagger_service import CONTROL_PORT, PORT, DaggerService, Guarded
from vllm_ci.engines.dagger_tool import REGISTRY_PORT, Tool

_ROOT = "/vllm-ci"
_OUT = f"{_ROOT}/out"
_STATE = f"{_ROOT}/state"
_RESULT = f"{_STATE}/result.json"
_GUARD = f"{_ROOT}/guard.py"
_GUARD_SOURCE = Path(__file__).with_name("guard.py")
# The guard runs on any Python of the image, without its site packages.
_GUARDED = ("sh", "-c", 'exec "$(command -v python || command -v python3)" -I -S "$@"', "guard", _GUARD)
_SHM_MAX_BYTES = 2**31 - 1


@dataclass(frozen=True)
class DaggerDirectory:
    """A directory on the engine."""

    handle: dagger.Directory

    async def read(self, name: str) -> bytes:
        """Content of one file, exported as bytes: the API returns only text."""
        with translated(f"read {name}"), scratch.folder("read-") as folder:
            if not await self.handle.exists(name):
                raise FileNotFoundError(name)
            path = anyio.Path(folder, "file")
            await self.handle.file(name).export(str(path))
            return await path.read_bytes()

    async def names(self) -> tuple[str, ...]:
        """All files in the directory, sorted."""
        with translated("list a directory"):
            return tuple(sorted(name for name in await self.handle.glob("**/*") if not name.endswith("/")))


@dataclass(kw_only=True)
class DaggerEngine:
    """Runs programs and services in containers; use it as an asynchronous context.

    Attributes:
        port: Local port for services that do not set one; 0 is any free port.
        caller: Where the engine is called from.
        tool: The tool's environment; by default this package with the network settings of this machine.
        session: Identity of a session; callers that run the same program in that session share one run of it.
        shares_services: Those callers also share one service, which runs until the session ends, and use it in turns.
        nests: Programs of the tool may use this engine themselves, as clients of the same session.
    """

    port: int = 0
    caller: Caller = field(default_factory=MachineCaller)
    tool: Tool | None = None
    session: str = ""
    shares_services: bool = False
    nests: bool = False
    name: str = "dagger"
    capabilities: Capabilities = field(
        default=Capabilities(isolated=True, gpus=None, shm=True, cores=None, platforms=("linux/amd64", "linux/arm64"))
    )
    _stack: contextlib.AsyncExitStack = field(init=False, default_factory=contextlib.AsyncExitStack)
    _times: Counter[tuple[str, ...]] = field(init=False, default_factory=Counter)

    async def __aenter__(self) -> Self:
        with translated("be reached"):
            await self._stack.enter_async_context(self.caller.session())
        if self.tool is None:
            self.tool = dagger_tool.of_this_machine()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._stack.__aexit__(kind, error, trace)

    def directory(self, path: Path) -> DaggerDirectory:
        """Handle for a directory of the caller."""
        return DaggerDirectory(self.caller.directory(path))

    async def export(self, directory: Directory, path: Path) -> None:
        """Copy a directory's files to ``path``."""
        with translated(f"write to {path}"):
            await _handle(directory).export(str(await anyio.Path(path).absolute()))

    async def hardware(self) -> Mapping[str, object]:
        """Hardware of the engine's machine. GPUs are unknown: only containers that request them can see them."""
        outcome = await self.run(
            Program(name="hardware", argv=("python", "-m", "vllm_ci.engines.machine", "{out}/facts.json"), timeout_s=60.0)
        )
        if not outcome:
            raise EngineError(
                "the hardware of the engine's machine cannot be read", why=outcome.log, remedy="see docs/dagger.md"
            )
        facts: dict[str, object] = json.loads(await outcome.output.read("facts.json"))
        return {name: value for name, value in facts.items() if value or name != "gpus"}

    async def run(self, program: Program, *, stop: anyio.Event | None = None) -> Outcome:
        """Run a program to its end; see :class:`vllm_ci.engine.Engine`.

        The output of a stopped program is lost: files of a container can be read only after its command has ended.
        """
        begun = time.monotonic()
        found: list[Outcome] = []

        async def work(scope: anyio.CancelScope) -> None:
            found.append(await self._cached(program))
            scope.cancel()

        if stop is None:
            return await self._cached(program)
        with single_error():
            async with anyio.create_task_group() as group:
                group.start_soon(work, group.cancel_scope)
                await stop.wait()
                group.cancel_scope.cancel()
        ended = 128 + signal.SIGTERM
        return (
            found[0]
            if found
            else Outcome(exit_code=ended, seconds=time.monotonic() - begun, output=NoFiles(), log="", stopped=True)
        )

    async def _cached(self, program: Program) -> Outcome:
        if not program.cache_key:
            return await self._run(program, self._nonce(program))
        outcome = await self._run(program, "")
        # Dagger caches failures as well; only a success may be reused.
        return outcome or await self._run(program, self._nonce(program))

    def _nonce(self, program: Program) -> str:
        """A value that prevents a cached answer; in a session, the n-th run of a program has the same value for all callers."""
        if not self.session:
            return uuid.uuid4().hex
        key = (program.name, *program.argv)
        self._times[key] += 1
        return f"{self.session}-{self._times[key]}"

    async def _run(self, program: Program, nonce: str) -> Outcome:
        values = {"out": _OUT, **{f"in.{name}": f"{_ROOT}/in/{name}" for name in program.inputs}}
        values |= {f"url.{name}": f"http://{name}:{_service(service).port}" for name, service in program.needs.items()}
        with translated(f"prepare {program.name}"):
            container = await _with_gpus(await self._container(program.image), program.gpus)
        container = container.with_env_variable(guard.UNIQUE, nonce or program.cache_key)
        container = self._with_environment(_bound(container, program.needs), program, values)
        if program.needs and self.shares_services:
            # One program at a time: programs must not see each other's effects on the server.
            turn = dag.cache_volume(f"vllm-ci-turn-{self.session[:16]}")
            container = container.with_mounted_cache(f"{_ROOT}/turn", turn, sharing=CacheSharingMode.LOCKED)
        guarded = ("run", _RESULT, str(program.timeout_s), *(fill(word, values) for word in program.argv))
        this_run, begun = uuid.uuid4().hex, time.monotonic()
        with translated(f"run {program.name}"):
            ran = container.with_volatile_variable(guard.THIS_RUN, this_run).with_exec(
                [*_GUARDED, *guarded],
                expect=ReturnType.ANY,
                experimental_privileged_nesting=self.nests and program.image is None,
            )
            result = json.loads(await ran.file(_RESULT).contents())
        if missing := result.get("missing"):
            raise EngineError(
                f"program not found: {missing}", why="it is not on PATH", remedy=f"use an image that has {missing}"
            )
        reused = result["run"] != this_run
        return Outcome(
            exit_code=result["exit_code"],
            seconds=time.monotonic() - begun if reused else result["seconds"],
            output=DaggerDirectory(ran.directory(_OUT)),
            log=result["log"],
            timed_out=result["timed_out"],
            reused=reused,
        )

    @asynccontextmanager
    async def serve(self, spec: ServiceSpec) -> AsyncIterator[Service]:
        """Run a service; see :class:`vllm_ci.engine.Engine`."""
        shared = self.session if self.shares_services else ""
        async with dagger_service.held(await self.guarded(spec), self.caller, wanted=self.port, shared=shared) as service:
            yield service

    async def guarded(self, spec: ServiceSpec) -> Guarded:
        """A service that is started by someone else (``dagger call serve up``)."""
        port = spec.port or PORT
        values = {"out": _OUT, "host": "0.0.0.0", "port": str(port), "url": f"http://127.0.0.1:{port}"}  # noqa: S104 - in the container
        values |= {f"in.{name}": f"{_ROOT}/in/{name}" for name in spec.inputs}
        with translated(f"prepare {spec.name}"):
            container = self._with_environment(await self._container(spec.image), spec, values)
        if spec.shm_bytes:
            # The API accepts at most 31 bits; without a size the engine uses half of the memory.
            size = spec.shm_bytes if spec.shm_bytes <= _SHM_MAX_BYTES else None
            container = container.with_mounted_temp("/dev/shm", size=size)  # noqa: S108 - in the container
        check = json.dumps([fill(word, values) for word in spec.ready])
        argv = ("serve", str(CONTROL_PORT), str(spec.stop_grace_s), check, *(fill(word, values) for word in spec.argv))
        return Guarded(
            spec=spec,
            container=await _with_gpus(container, spec.gpus),
            argv=(*_GUARDED, *argv),
            ready=(*_GUARDED, "ready", str(CONTROL_PORT)),
        )

    async def check_gpus(self, gpus: str) -> None:
        """Check that the engine provides GPUs, before anything is built for them.

        Raises:
            EngineError: It provides none.
        """
        await _with_gpus(dag.container().from_(self._tool.python_image), gpus)

    def image(self, ref: ImageRef) -> dagger.Container:
        """A container with a built image, pulled by digest from the builder's store."""
        name = ref.repository.rpartition("/")[2].partition(":")[0]
        address = f"localhost:{REGISTRY_PORT}/{name}@{ref.digest}"
        return dag.container().from_(address, registry_service=self._tool.registry())

    @property
    def _tool(self) -> Tool:
        if self.tool is None:
            raise EngineError("the engine is not open", remedy="async with DaggerEngine() as engine: ...")
        return self.tool

    async def _container(self, image: ImageRef | None) -> dagger.Container:
        made = self._tool.container() if image is None else self.image(image)
        # World-writable directories would be reported by the suite that checks the image.
        user = "" if image is None else await made.user()
        writable = dag.directory().with_new_directory("it", permissions=0o755).directory("it")
        script = dag.directory().with_new_file("guard.py", _GUARD_SOURCE.read_text(encoding="utf-8")).file("guard.py")
        return (
            made.with_mounted_file(_GUARD, script)
            .with_mounted_directory(_OUT, writable, owner=user)
            .with_mounted_directory(_STATE, writable, owner=user)
            .with_workdir(_STATE)
        )

    def _with_environment(
        self, container: dagger.Container, wanted: Program | ServiceSpec, values: Mapping[str, str]
    ) -> dagger.Container:
        for name, directory in wanted.inputs.items():
            container = container.with_mounted_directory(f"{_ROOT}/in/{name}", _handle(directory), read_only=True)
        for name, value in wanted.env.items():
            container = container.with_env_variable(name, fill(value, values))
        for secret in wanted.secrets:
            if reason := refusal_of_secret(secret, ours=True):
                raise EngineError("a secret cannot be passed on", why=reason, remedy="give it another name")
            new, _, old = secret.rpartition("=")
            container = container.with_secret_variable(new or old, self.caller.secret(old))
        return container


def _handle(directory: Directory) -> dagger.Directory:
    if not isinstance(directory, DaggerDirectory):
        raise EngineError(f"{directory!r} is a directory of another engine", remedy="pass directories of the Dagger engine")
    return directory.handle


def _service(service: Service) -> DaggerService:
    if not isinstance(service, DaggerService):
        raise EngineError(f"{service!r} is a service of another engine", remedy="pass services of the Dagger engine")
    return service


def _bound(container: dagger.Container, needs: Mapping[str, Service]) -> dagger.Container:
    """Bind the services that a program needs, without a proxy in between."""
    for name, service in needs.items():
        container = container.with_service_binding(name, _service(service).handle)
    if needs:
        hosts = ",".join(("127.0.0.1", "localhost", *needs))
        container = container.with_env_variable("NO_PROXY", hosts).with_env_variable("no_proxy", hosts)
    return container


async def _with_gpus(container: dagger.Container, gpus: str) -> dagger.Container:
    """Add GPUs to a container, after checking that the engine has them; no check if none are requested."""
    if gpus == "none":
        return container
    given = container.experimental_with_all_gp_us() if gpus == "all" else container.experimental_with_gpu(gpus.split(","))
    try:
        await given.with_env_variable(guard.UNIQUE, uuid.uuid4().hex).with_exec(["true"]).sync()
    except dagger.QueryError as error:
        raise EngineError(
            f"the Dagger engine provides no GPUs (requested: {gpus})",
            why=str(error),
            remedy="start it on a machine with the NVIDIA container toolkit, with _EXPERIMENTAL_DAGGER_GPU_SUPPORT=1 in "
            "its environment (docs/dagger.md), or use none (--gpus none; train.gpus)",
        ) from error
    return given
