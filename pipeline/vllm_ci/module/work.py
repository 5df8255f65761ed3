"""Implementation of the module's functions: pipeline steps on the calling engine."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import dagger
from dagger import dag

from vllm_ci.config.load import GENERATED_KEY
from vllm_ci.domain.errors import ErroredError
from vllm_ci.domain.events import Emit
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.program import Program
from vllm_ci.domain.stage import StageSpec
from vllm_ci.engines.dagger import DaggerDirectory, DaggerEngine
from vllm_ci.engines.dagger_service import PORT, DaggerService
from vllm_ci.module import image, run, session
from vllm_ci.module.arguments import Settings
from vllm_ci.module.session import Work, opened, watched
from vllm_ci.module.wanted import Wanted, plaintexts
from vllm_ci.pipeline import default, steps
from vllm_ci.stages import needs_server
from vllm_ci.stages.stage import StageContext

_BUILD_TIMEOUT_S = 3 * 3600.0


async def built(settings: Settings) -> image.Image:
    """Build the image of the commit."""
    async with opened(settings, Wanted()) as work:
        return image.of(settings, dict((await _built(work)).summary))


async def served(settings: Settings) -> dagger.Service:
    """The server of the commit's image, not yet started."""
    async with started(settings) as (_, service, _):
        return service


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[tuple[DaggerEngine, dagger.Service, str]]:
    """The engine, the server of the commit's image, not yet started, and the name of its API key; empty if it needs none."""
    async with opened(settings, Wanted(holds=True)) as work:
        with watched() as emit:
            made = await steps.build(work.engine, work.project, work.source, emit)
            model = await steps.model(work.engine, work.project, work.source, made.image, emit)
            project = await steps.fitted(work.engine, work.project, made, model, emit)
        server = project.server
        if server.api_key_env == GENERATED_KEY and settings.api_key is None:
            server = replace(server, api_key_env="")  # a generated key is unknown to clients
        spec = steps.service(work.engine, replace(project, server=server), made, model)
        yield work.engine, (await work.engine.guarded(spec)).service(), server.api_key_env


async def ran(
    settings: Settings,
    stages: list[str] | None = None,
    *,
    deep: bool = False,
    server: dagger.Service | None = None,
    model: str = "",
    shared: bool = False,
) -> run.Run:
    """Run the stages.

    Args:
        settings: Settings of the module's object.
        stages: Stages to run; by default the enabled ones.
        deep: Run without time budgets.
        server: Test this server instead of building an image.
        model: Model name on that server.
        shared: Other functions of the session may use the same server at the same time.
    """
    runs = Path.cwd() / "runs"
    wanted = Wanted(stages=tuple(stages or ()), serves=server is None, foreign=server is not None, deep=deep, shared=shared)
    async with opened(settings, wanted) as work:
        with watched(work.hidden) as emit:
            if server is None:
                function = work.own or default.pipeline
                result = await steps.run(work.engine, work.project, work.source, emit, function=function)
            else:
                result = await _foreign(work, server, model, emit)
        return await _written(result, work.hidden, runs)


async def checked(settings: Settings, stage: str = "") -> str:
    """Run one enabled stage or all, and fail unless they pass; functions of one session share builds and servers."""
    async with session.ending_well():
        enabled = (await session.configuration(settings)).config.stages.enabled()
    if stage and stage not in enabled:
        return f"{stage}: not run, {settings.config} does not enable it"
    found = await ran(settings, [stage] if stage else None, shared=True)
    return await found.assert_passed()


async def container(settings: Settings, reference: str) -> dagger.Container:
    """A container with a built image."""
    async with session.ending_well():
        repository, _, digest = reference.partition("@")
        engine = DaggerEngine(tool=await session.tool_of(settings))
        return engine.image(ImageRef(repository=repository, digest=digest))


async def tarball(made: image.Image) -> dagger.File:
    """An image that was built, as one file."""
    how = ("--output", "oci-archive:{out}/image.tar", "--dirty" if made.dirty else "--no-dirty")
    async with opened(made, Wanted()) as work:
        argv = ("python", "-m", "vllm_ci", "build", made.commit, "--config", f"{{in.source}}/{made.config}", *how)
        return await _file(work, "export", "image.tar", *argv, *work.project.build_args)


async def bill(made: image.Image) -> dagger.File:
    """The bill of materials of an image that was built."""
    async with opened(made, Wanted()) as work:
        await _built(work)  # nothing to do where the store still has it
        argv = ("python", "-m", "vllm_ci.module.bill", made.reference, made.commit, "{out}/sbom.json")
        return await _file(work, "sbom", "sbom.json", *argv)


async def _file(work: Work, name: str, file: str, *argv: str) -> dagger.File:
    """What a program of the tool writes about the source's image."""
    program = Program(name=name, argv=argv, inputs={"source": work.source.checkout}, timeout_s=_BUILD_TIMEOUT_S)
    outcome = await work.engine.run(program)
    if not outcome or not isinstance(outcome.output, DaggerDirectory):
        raise ErroredError(f"{file} could not be written", why=outcome.log, remedy="fix the error above and call again")
    return outcome.output.handle.file(file)


async def pushed(
    settings: Settings,
    registry: str,
    username: dagger.Secret | None,
    password: dagger.Secret | None,
    service: dagger.Service | None,
) -> str:
    """The reference of the commit's image in a registry that it was pushed to."""
    async with session.ending_well():
        await plaintexts([username, password])
        tool = await session.tool_of(settings)
    credentials = {"VLLM_CI_REGISTRY_USERNAME": username, "VLLM_CI_REGISTRY_PASSWORD": password}
    tool = replace(
        tool,
        secrets={name: value for name, value in credentials.items() if value is not None},
        services={registry.partition("/")[0]: service} if service is not None else {},
    )
    async with opened(settings, Wanted(), tool) as work:
        pushing = replace(work.project, build_args=(*work.project.build_args, "--push", registry))
        return (await _built(replace(work, project=pushing))).image.reference


async def _built(work: Work) -> steps.Built:
    with watched() as emit:
        return await steps.build(work.engine, work.project, work.source, emit)


async def _foreign(work: Work, server: dagger.Service, model: str, emit: Emit) -> steps.RunResult:
    """Run the stages that need only a server URL against an external server."""
    ports = [await port.port() for port in await server.ports()]
    held = DaggerService(name="vllm", port=ports[0] if ports else PORT, handle=server)
    context = StageContext(
        spec=StageSpec(name=""),
        service=held,
        model=model,
        api_key_env=work.project.server.api_key_env,
        secrets=work.source.secrets,
        source=work.source.project,
    )
    stages = [spec for spec in work.project.stages if needs_server(spec)]
    return await steps.test(work.engine, stages, context, emit)


async def _written(result: steps.RunResult, hidden: tuple[str, ...], runs: Path) -> run.Run:
    """Write the report of a result, and create the object."""
    from rich.console import Console

    from vllm_ci.cli import progress
    from vllm_ci.report import folder, redaction

    report = redaction.redacted(result.report, hidden)
    written = folder.write(runs, report, result.logs, secrets=hidden)
    # A report exported into its checkout must not make the work tree dirty.
    (written / ".gitignore").write_text("*\n", encoding="utf-8")
    text = io.StringIO()
    progress.close(Console(file=text, width=120, highlight=False, soft_wrap=True), report, "the run's field report")
    made = await dag.current_module().workdir(f"runs/{written.name}").sync()
    return run.of(report, made, redaction.of_text(text.getvalue(), hidden))
