"""The verbs, composed of an engine's two: build, model, serve, test. Names no engine."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from vllm_ci.domain.changes import Changes
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import BuildError, ConfigError, EngineError, ErroredError, ServiceError
from vllm_ci.domain.events import Emit, Finished, Started
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.program import Directory, Program, Service, ServiceSpec
from vllm_ci.domain.project import Project, cache_key
from vllm_ci.domain.stage import StageSpec
from vllm_ci.domain.startup_cause import startup_cause
from vllm_ci.domain.variant import Matrix
from vllm_ci.engine import Engine, single_error
from vllm_ci.pipeline import fitting
from vllm_ci.pipeline.record import SUMMARIES, Record, Run
from vllm_ci.programs import FOLDER as PROGRAMS
from vllm_ci.stages import STAGES, reading
from vllm_ci.stages.running import Runner
from vllm_ci.stages.stage import StageContext

__all__ = ["Built", "Record", "Run", "Source", "build", "model", "run", "serve", "service", "test"]

_BUILD_TIMEOUT_S = 3 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a project's files are.

    Attributes:
        commit: What they are a state of.
        checkout: The repository, with its ``.git``.
        project: The folder of the configuration file.
        model: Folder of the checkpoint, when the project names one by path.
        changed: What differs from the base branch; ``None`` when nobody looked.
        secrets: Values of the secrets that the project names, by the name of their variable.
    """

    commit: Commit
    checkout: Directory
    project: Directory
    model: Directory | None = None
    changed: Changes | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


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
            told = _told(outcome.log)
            message = f"{SUMMARIES['build']}: {told['message']}"
            if outcome.exit_code == ConfigError.exit_code:
                raise ConfigError(message, why=told["why"], remedy=told["remedy"])
            raise BuildError(message, why=told["why"], remedy=told["remedy"], log=outcome.log)
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
            told = _told(outcome.log)
            message = f"{SUMMARIES['model']}: {told['message']}"
            raise ErroredError(message, why=told["why"], remedy=told["remedy"], log=outcome.log)
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


async def run(
    engine: Engine,
    project: Project,
    source: Source,
    emit: Emit,
    matrix: Matrix | None = None,
    record: Record | None = None,
) -> Run:
    """Build, serve, test, report; with a matrix also against its other servers, one after another.

    Whatever breaks is part of the report: a stage, a server that dies, and what keeps stages from being run at all.

    Args:
        engine: Where everything runs.
        project: What is wanted.
        source: Its files.
        emit: Is told of each step.
        matrix: Other servers to test.
        record: Takes down what is found, for a caller who may stop the run before its end; it has ``emit`` itself.

    Raises:
        ConfigError: What was asked for cannot be built.
    """
    record = record or Record(emit=emit)
    record.engine, record.commit, record.rows = engine.name, source.commit, rows(project, matrix)
    with record.watching("build"):
        built = await build(engine, project, source, record)
        record.image = built.image
    if record.problem is not None:
        return record.run()
    runner = record.runner = Runner(engine=engine, emit=record)
    base = StageContext(
        spec=StageSpec(name=""),
        commit=source.commit,
        image=built.image,
        model=project.model.served_name,
        api_key_env=project.server.api_key_env,
        secrets=source.secrets,
        source=source.project,
        image_facts=built.facts,
        changed=source.changed,
    )

    async def look() -> None:
        with contextlib.suppress(EngineError):  # a report without these facts says that they are unknown
            record.hardware = await engine.hardware()

    inside = [replace(base, spec=spec) for spec in project.stages if not STAGES[spec.name].needs_server]
    outside = [replace(base, spec=spec) for spec in project.stages if STAGES[spec.name].needs_server]
    # What needs no server runs while the server starts: that is mostly one core's work.
    with single_error():
        async with anyio.create_task_group() as group:
            group.start_soon(_inside, runner, inside)
            group.start_soon(_against, record, project, source, built, outside)
            group.start_soon(look)
    if matrix is not None and record.problem is None:
        await _variants(record, matrix, project, source, built, outside)
    return record.run()


def rows(project: Project, matrix: Matrix | None = None) -> list[str]:
    """Names of the results that a run is going to have."""
    names = [spec.name for spec in project.stages]
    served = [name for name in names if matrix and name in matrix.stages and STAGES[name].needs_server]
    return [*names, *(f"{name}@{variant.name}" for variant in (matrix.variants if matrix else ()) for name in served)]


async def _inside(runner: Runner, contexts: Sequence[StageContext]) -> None:
    """Run the stages that look into the image."""
    if not contexts:
        return
    try:
        tools = await _tools(runner.engine)
    except ErroredError as error:
        for context in contexts:
            runner.could_not(context.spec.name, str(error))
        return
    for context in contexts:
        await runner.run(replace(context, tools=tools))


async def _against(
    record: Record, project: Project, source: Source, built: Built, contexts: Sequence[StageContext], at: str = ""
) -> None:
    """Run stages against one server; one that does not start is the run's problem. ``at`` names a server of a matrix."""
    if not contexts:
        return
    runner = _runner(record)
    async with contextlib.AsyncExitStack() as stack:
        checkpoint, held = None, None
        with record.watching(f"model{at}"):
            checkpoint = await model(runner.engine, project, source, built.image, record, f"model{at}")
        if record.problem is not None:
            return
        with record.watching(f"settings{at}"):
            project = await fitted(runner.engine, project, built, checkpoint, record, f"settings{at}")
        if record.problem is not None:
            return
        spec, name = service(runner.engine, project, built, checkpoint), f"server{at}"
        with record.watching(name):
            what = at[1:] or project.model.served_name
            held = await stack.enter_async_context(_held(runner.engine, spec, what, record, name))
        if held is None:
            return
        record.services[name] = held
        for context in contexts:
            await runner.run(replace(context, service=held), held, row=f"{context.spec.name}{at}")
        record.logs[name] = await held.log()
        del record.services[name]


def _runner(record: Record) -> Runner:
    if record.runner is None:
        raise EngineError("no stage can run before there is an image", remedy="call pipeline.run")
    return record.runner


async def _variants(
    record: Record, matrix: Matrix, project: Project, source: Source, built: Built, contexts: Sequence[StageContext]
) -> None:
    """Run stages against the servers of a matrix; one that does not start is an errored row of each stage that it was for."""
    runner = _runner(record)
    for variant in matrix.variants:
        at = f"@{variant.name}"
        chosen = [
            replace(context, tensor_parallel_size=variant.tensor_parallel_size, quantization=variant.quantization)
            for context in contexts
            if context.spec.name in matrix.stages
        ]
        capabilities = runner.engine.capabilities
        if reason := variant.impossible(project, gpus=capabilities.gpus, cores=capabilities.cores):
            record.skipped |= {f"{context.spec.name}{at}": reason for context in chosen}
            continue
        await _against(record, variant.of(project), source, built, chosen, at)
        problem, record.problem = record.problem, None
        if problem is not None:
            told = f"{problem.not_run}\n  why: {problem.explanation}\n  do:  {problem.change}"
            for context in chosen:
                runner.could_not(f"{context.spec.name}{at}", told)


async def test(
    engine: Engine,
    stages: Sequence[StageSpec],
    context: StageContext,
    emit: Emit,
    record: Record | None = None,  # noqa: PT028 - a verb of ours, no test
) -> Run:
    """Test the server at ``context.url``, whoever runs it: stages that need an image are left out by the caller.

    Nothing is known of the machine that the server runs on, and the report has no facts about it.
    """
    record = record or Record(emit=emit)
    record.engine, record.rows = engine.name, [spec.name for spec in stages]
    runner = record.runner = Runner(engine=engine, emit=record)
    for spec in stages:
        await runner.run(replace(context, spec=spec))
    return record.run()


async def _tools(engine: Engine) -> Directory:
    """What is mounted beside an image so that pytest can run in it."""
    program = Program(name="tools", argv=("python", "-m", "vllm_ci.stages.mounts", "{out}"))
    outcome = await engine.run(program)
    if not outcome:
        raise ErroredError("pytest could not be laid out for the image", why=reading.tail(outcome.log), remedy="vllm-ci doctor")
    return outcome.output


@asynccontextmanager
async def _held(engine: Engine, spec: ServiceSpec, what: str, emit: Emit, step: str = "server") -> AsyncIterator[Service]:
    """Hold a server; one that does not start is explained from its log.

    Raises:
        ServiceError: It did not become ready; the message has the cause, the log is with it.
    """
    emit(Started(step=step, detail=f"vLLM with {what}"))
    begun = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        try:
            held = await stack.enter_async_context(engine.serve(spec))
        except ServiceError as error:
            raise _explained(error) from error
        detail = f"first completion after {held.ready_s:.1f} s"
        emit(Finished(step=step, seconds=time.monotonic() - begun, detail=detail))
        yield held


def _explained(error: ServiceError) -> ServiceError:
    """What an engine says of a server that did not start, with the cause out of its log."""
    summary = SUMMARIES["server"]
    if not error.log and error.ended is None:  # it was not even tried: the engine's own words are the cause
        return ServiceError(f"{summary}: {error.message}", why=error.why, remedy=error.remedy)
    cause = startup_cause(error.log, exit_code=error.ended)
    if error.ended is None:
        asked = error.why.partition("\nthe end of")[0]
        told = f"{cause.explanation} It said: {cause.line}" if cause.explanation else f"the last line of its log: {cause.line}"
        why = f"{asked}\n{told}"
        return ServiceError(f"{summary}: {error.message}", why=why, remedy=cause.change or error.remedy, log=error.log)
    return ServiceError(
        f"{summary}: {cause.line}",
        why=cause.explanation or f"no known reason (exit code {error.ended}); {cause.process or 'the server'} says that itself",
        remedy=cause.change or error.remedy,
        log=error.log,
        ended=error.ended,
    )


def _told(log: str) -> dict[str, str]:
    """What a command of this tool said when it broke, as its error has it; the end of its log where it said nothing."""
    _, found, said = f"\n{log}".rpartition("\nvllm-ci: ")
    if not found:
        cause = startup_cause(log)
        return {
            "message": cause.line,
            "why": cause.explanation or reading.tail(log),
            "remedy": cause.change or "vllm-ci doctor",
        }
    message, _, rest = said.partition("\n  why: ")
    why, _, remedy = rest.partition("\n  do:  ")
    if not rest:
        message, _, remedy = said.partition("\n  do:  ")
    return {"message": message.strip(), "why": why.strip(), "remedy": remedy.strip()}


@contextmanager
def _step(emit: Emit, step: str, detail: str) -> Iterator[Callable[[str], None]]:
    """Tell of a step; the caller says what came of it."""
    emit(Started(step=step, detail=detail))
    begun = time.monotonic()
    said: list[str] = []
    yield said.append
    emit(Finished(step=step, seconds=time.monotonic() - begun, detail=" ".join(said)))
