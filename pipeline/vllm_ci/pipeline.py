"""The verbs, composed of an engine's two: build, model, serve, test. Names no engine."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import anyio

from vllm_ci import fitting
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import BuildError, ConfigError, ErroredError, VllmCiError
from vllm_ci.domain.events import Emit, Event, Finished, Started
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.program import Directory, Program, Service, ServiceSpec
from vllm_ci.domain.project import Project, cache_key
from vllm_ci.domain.report import Report, StageResult
from vllm_ci.domain.stage import StageSpec
from vllm_ci.domain.variant import Matrix, Variant
from vllm_ci.engine import Engine
from vllm_ci.programs import FOLDER as PROGRAMS
from vllm_ci.stages import STAGES, reading
from vllm_ci.stages.running import Runner
from vllm_ci.stages.stage import StageContext

_BUILD_TIMEOUT_S = 3 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a project's files are.

    Attributes:
        commit: What they are a state of.
        checkout: The repository, with its ``.git``.
        project: The folder of the configuration file.
        model: Folder of the checkpoint, when the project names one by path.
        changed: Files that differ from the base branch, relative to the project's folder.
    """

    commit: Commit
    checkout: Directory
    project: Directory
    model: Directory | None = None
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Built:
    """An image and what is known of it.

    Attributes:
        image: Its reference.
        facts: Directory with ``build.json`` (what ``vllm-ci build --json`` prints), ``config.json`` (the OCI image
            configuration) and ``manifest.json`` (what its files must be).
        config: That image configuration.
        summary: That of ``build.json``.
    """

    image: ImageRef
    facts: Directory
    config: Mapping[str, Any]
    summary: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A report and the files behind it.

    Attributes:
        report: What was found.
        outputs: Directories that the programs of each stage wrote.
        logs: Logs by name (``build``, ``server``).
    """

    report: Report
    outputs: Mapping[str, tuple[Directory, ...]] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)


async def build(engine: Engine, project: Project, source: Source, emit: Emit) -> Built:
    """Build the image of the source's commit.

    Raises:
        BuildError: It could not be built.
        ConfigError: What was asked for cannot be built.
    """
    commit = source.commit
    with _step(emit, "build", f"image of {commit.short}") as done:
        outcome = await engine.run(
            Program(
                name="build",
                argv=(
                    *("python", "-m", "vllm_ci", "build", commit.sha, "--json", "--facts", "{out}"),
                    *("--config", f"{{in.source}}/{project.config}", "--dirty" if commit.dirty else "--no-dirty"),
                    *project.build_args,
                ),
                inputs={"source": source.checkout},
                timeout_s=_BUILD_TIMEOUT_S,
            )
        )
        if not outcome:
            kind = ConfigError if outcome.exit_code == ConfigError.exit_code else BuildError
            raise kind("the image could not be built", why=reading.tail(outcome.log), remedy="mend what that says")
        summary = json.loads(await outcome.output.read("build.json"))
        config = json.loads(await outcome.output.read("config.json"))
        image = summary["image"]
        ref = ImageRef(
            repository=image["reference"].partition("@")[0], digest=image["digest"], tags=tuple(image.get("tags", ()))
        )
        made = sum(layer["built"] for layer in summary["layers"])
        done(f"{ref.digest}, {made} of {len(summary['layers'])} layers made")
    return Built(image=ref, facts=outcome.output, config=config, summary=summary)


async def model(
    engine: Engine, project: Project, source: Source, image: ImageRef, emit: Emit, step: str = "model"
) -> Directory | None:
    """The checkpoint to serve, made on the spot if it is a tiny one; ``None`` when the server loads it by name.

    Raises:
        ErroredError: It could not be made.
    """
    spec = project.model
    if spec.tiny is None:
        return source.model
    with _step(emit, step, f"{spec.served_name}, {spec.tiny.layers} layers of {spec.tiny.hidden_size}") as done:
        script = (PROGRAMS / "tiny_model.py").read_bytes()
        outcome = await engine.run(
            Program(
                name="model",
                argv=("python", "{in.programs}/tiny_model.py", "{out}", spec.tiny.parameters),
                image=image,
                inputs={"programs": engine.directory(PROGRAMS)},
                cache_key=cache_key("tiny-model", script, spec.tiny.parameters),
            )
        )
        if not outcome:
            raise ErroredError("the tiny model could not be made", why=reading.tail(outcome.log), remedy="vllm-ci doctor")
        done("reused" if outcome.reused else "made")
    return outcome.output


async def fitted(
    engine: Engine, project: Project, built: Built, checkpoint: Directory | None, emit: Emit, step: str = "settings"
) -> Project:
    """The project with what its server needs on the machine it will run on, where the user says nothing (CPU images)."""
    image = built.summary["image"]
    return await fitting.fitted(engine, project, checkpoint, image=image, config=built.config, emit=emit, step=step)


def service(engine: Engine, project: Project, built: Built, checkpoint: Directory | None) -> ServiceSpec:
    """The server that the project wants from its image."""
    spec, server = project.model, project.server
    source = ("--model", "{in.model}") if checkpoint is not None else ("--model", spec.name)
    revision = ("--revision", spec.revision) if spec.revision else ()
    entrypoint = tuple(built.config.get("config", {}).get("Entrypoint") or ("vllm", "serve"))
    secrets = (f"VLLM_API_KEY={server.api_key_env}",) if server.api_key_env else ()
    return ServiceSpec(
        name="vllm",
        argv=(
            *entrypoint,
            *source,
            *revision,
            *("--served-model-name", spec.served_name, "--host", "{host}", "--port", "{port}"),
            *("--shutdown-timeout", str(int(server.stop_grace_s))),
            *server.args,
        ),
        ready=("python", "{in.programs}/ready.py", "{url}", spec.served_name, "VLLM_API_KEY"),
        env=server.env,
        secrets=(*server.secrets, *secrets),
        image=built.image,
        inputs={"programs": engine.directory(PROGRAMS), **({"model": checkpoint} if checkpoint is not None else {})},
        ready_timeout_s=server.ready_timeout_s,
        stop_grace_s=server.stop_grace_s + 10,
        gpus=server.gpus,
        shm_bytes=server.shm_bytes,
    )


@asynccontextmanager
async def serve(engine: Engine, project: Project, source: Source, emit: Emit) -> AsyncIterator[tuple[Built, Service]]:
    """Build, make the model, and hold the server."""
    built = await build(engine, project, source, emit)
    checkpoint = await model(engine, project, source, built.image, emit)
    project = await fitted(engine, project, built, checkpoint, emit)
    async with _held(engine, service(engine, project, built, checkpoint), project.model.served_name, emit) as held:
        yield built, held


async def run(engine: Engine, project: Project, source: Source, emit: Emit, matrix: Matrix | None = None) -> Run:
    """Build, serve, test, report; with a matrix also against its other servers, one after another.

    A stage that breaks or a server that dies is part of the report; what keeps the stages from starting at all is raised.

    Raises:
        BuildError: There is no image.
        ServiceError: The server never became ready.
    """
    clock = _Clock(emit)
    built = await build(engine, project, source, clock)
    checkpoint = await model(engine, project, source, built.image, clock)
    base = StageContext(
        spec=StageSpec(name=""),
        commit=source.commit,
        image=built.image,
        model=project.model.served_name,
        api_key_env=project.server.api_key_env,
        source=source.project,
        tools=await _tools(engine),
        image_facts=built.facts,
        changed=source.changed,
    )
    runner = Runner(engine=engine, emit=clock)
    logs: dict[str, str] = {}

    async def without_server() -> None:
        for spec in project.stages:
            if not STAGES[spec.name].needs_server:
                await runner.run(replace(base, spec=spec))

    async def with_server() -> None:
        served = await fitted(engine, project, built, checkpoint, clock)
        async with _held(engine, service(engine, served, built, checkpoint), project.model.served_name, clock) as held:
            for spec in project.stages:
                if STAGES[spec.name].needs_server:
                    await runner.run(replace(base, spec=spec, service=held), held)
            logs["server"] = await held.log()

    # What needs no server runs while the server starts: that is mostly one core's work.
    with _first_error():
        async with anyio.create_task_group() as group:
            group.start_soon(without_server)
            if any(STAGES[spec.name].needs_server for spec in project.stages):
                group.start_soon(with_server)
    skipped: dict[str, str] = {}
    for variant in matrix.variants if matrix else ():
        specs = [spec for spec in project.stages if matrix and spec.name in matrix.stages and STAGES[spec.name].needs_server]
        capabilities = engine.capabilities
        if reason := variant.impossible(project, gpus=capabilities.gpus, cores=capabilities.cores):
            skipped |= {f"{spec.name}@{variant.name}": reason for spec in specs}
            continue
        context = replace(base, tensor_parallel_size=variant.tensor_parallel_size, quantization=variant.quantization)
        logs |= await _variant(runner, variant, project, source, built, [replace(context, spec=spec) for spec in specs])
    report = clock.report(engine, runner, source.commit, built.image)
    return Run(report=replace(report, skipped=skipped), outputs=runner.outputs, logs=logs)


async def _variant(
    runner: Runner, variant: Variant, project: Project, source: Source, built: Built, contexts: Sequence[StageContext]
) -> dict[str, str]:
    """Run stages against one server of a matrix; one that does not start is an errored row of each stage. Its log, by name."""
    engine, name, served = runner.engine, variant.name, variant.of(project)
    try:
        checkpoint = await model(engine, served, source, built.image, runner.emit, f"model@{name}")
        served = await fitted(engine, served, built, checkpoint, runner.emit, f"settings@{name}")
        spec = service(engine, served, built, checkpoint)
        async with _held(engine, spec, name, runner.emit, f"server@{name}") as held:
            for context in contexts:
                await runner.run(replace(context, service=held), held, row=f"{context.spec.name}@{name}")
            return {f"server@{name}": await held.log()}
    except ErroredError as error:
        for context in contexts:
            runner.could_not(f"{context.spec.name}@{name}", str(error))
        return {}


async def test(engine: Engine, stages: Sequence[StageSpec], context: StageContext, emit: Emit) -> Run:
    """Test the server at ``context.url``, whoever runs it: stages that need an image are left out by the caller."""
    clock = _Clock(emit)
    runner = Runner(engine=engine, emit=clock)
    for spec in stages:
        await runner.run(replace(context, spec=spec))
    return Run(report=clock.report(engine, runner, None, None), outputs=runner.outputs)


async def _tools(engine: Engine) -> Directory:
    """What is mounted beside an image so that pytest can run in it."""
    program = Program(name="tools", argv=("python", "-m", "vllm_ci.stages.mounts", "{out}"))
    outcome = await engine.run(program)
    if not outcome:
        raise ErroredError("pytest could not be laid out for the image", why=reading.tail(outcome.log), remedy="vllm-ci doctor")
    return outcome.output


@asynccontextmanager
async def _held(engine: Engine, spec: ServiceSpec, what: str, emit: Emit, step: str = "server") -> AsyncIterator[Service]:
    emit(Started(step=step, detail=f"vLLM with {what}"))
    begun = time.monotonic()
    async with engine.serve(spec) as held:
        detail = f"first completion after {held.ready_s:.1f} s"
        emit(Finished(step=step, seconds=time.monotonic() - begun, detail=detail))
        yield held


def _place(result: StageResult) -> tuple[bool, int]:
    """Stages in their order, the rows of a matrix after them in the order they ran."""
    stage, at, _ = result.name.partition("@")
    return bool(at), 0 if at else list(STAGES).index(stage)


@contextmanager
def _first_error() -> Iterator[None]:
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


@contextmanager
def _step(emit: Emit, step: str, detail: str) -> Iterator[Callable[[str], None]]:
    """Tell of a step; the caller says what came of it."""
    emit(Started(step=step, detail=detail))
    begun = time.monotonic()
    said: list[str] = []
    yield said.append
    emit(Finished(step=step, seconds=time.monotonic() - begun, detail=" ".join(said)))


@dataclass(kw_only=False)
class _Clock:
    """Passes events on and keeps the seconds of every step."""

    emit: Emit
    seconds: dict[str, float] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __call__(self, event: Event) -> None:
        if isinstance(event, Finished):
            self.seconds[event.step] = round(event.seconds, 3)
        self.emit(event)

    def report(self, engine: Engine, runner: Runner, commit: Commit | None, image: ImageRef | None) -> Report:
        results = tuple(sorted(runner.results.values(), key=_place))
        server = {key: value for result in results for key, value in result.facts.items()}
        return Report(
            commit=commit,
            image=image,
            engine=engine.name,
            server=server,
            stages=results,
            started_at=self.started_at,
            seconds=round(time.monotonic() - self.begun, 3),
            timings=self.seconds,
            double=bool(server.get("double")),
        )
