"""Common parts of the module's functions: an open engine, a project, and errors with exit codes."""

import contextlib
import posixpath
import re
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import dagger
from dagger import dag

from vllm_ci.config.load import GENERATED_KEY, Loaded, Override, load
from vllm_ci.config.pipeline_file import PLACE
from vllm_ci.config.stages import BUDGETED
from vllm_ci.domain.errors import ConfigError, UsageError, VllmCiError
from vllm_ci.domain.events import Emit
from vllm_ci.domain.project import Project
from vllm_ci.engines.dagger import DaggerDirectory, DaggerEngine
from vllm_ci.engines.dagger_caller import ModuleCaller
from vllm_ci.engines.dagger_tool import Tool
from vllm_ci.module import checkout
from vllm_ci.module.arguments import Settings
from vllm_ci.module.endings import end
from vllm_ci.module.own import pipeline as own_pipeline
from vllm_ci.module.wanted import Wanted, given, identity, plaintexts, serves
from vllm_ci.pipeline.loading import OwnPipeline
from vllm_ci.pipeline.steps import Source
from vllm_ci.system import scratch

_EMPTY = (
    "the cache volume {volume} has no image: this is its first build, or the engine's garbage collection removed it "
    "(docs/dagger.md, Disk space)"
)
_DIRTY = "the work tree is dirty: this image contains uncommitted changes and cannot be published"


@dataclass(frozen=True, kw_only=True)
class Work:
    """The input of a function.

    Attributes:
        engine: The open engine.
        project: The configured project.
        source: Its files.
        own: The user's pipeline; ``None`` means the default one.
        hidden: Values that must not appear in reports.
    """

    engine: DaggerEngine
    project: Project
    source: Source
    own: OwnPipeline | None = None
    hidden: tuple[str, ...] = field(default=(), repr=False)


@asynccontextmanager
async def ending_well() -> AsyncIterator[None]:
    """End the call with message and exit code of an error from vllm-ci."""
    try:
        yield
    except VllmCiError as error:
        caught = error
    else:
        return
    await end(f"vllm-ci: {caught}", caught.exit_code)


@asynccontextmanager
async def opened(settings: Settings, wanted: Wanted, tool: Tool | None = None) -> AsyncIterator[Work]:
    """Open the input of a function, and check as much as possible before anything is built.

    Args:
        settings: Settings of the module's object.
        wanted: Requirements of the call.
        tool: The tool's environment; by default from the settings.
    """
    async with ending_well(), contextlib.AsyncExitStack() as stack:
        loaded = await configuration(settings, deep=wanted.deep)
        own = await stack.enter_async_context(own_pipeline(settings, loaded)) if wanted.serves else None
        project = _project(loaded, settings, wanted, own=own.stages if own is not None else ())
        found = await given(settings, project, wanted)
        made = tool or await tool_of(settings)
        engine = DaggerEngine(
            caller=ModuleCaller(package=made.package, secrets={name: secret for name, (secret, _) in found.items()}),
            tool=made,
            session=await identity(),
            shares_services=wanted.shared,
        )
        async with engine:
            if serves(project, wanted):
                await engine.check_gpus(project.server.gpus)
            await engine.check_gpus(wanted.gpus)
            yield Work(
                engine=engine,
                project=project,
                # The security stage searches the server log for the key.
                source=replace(
                    await _source(engine, loaded, settings, project, model=serves(project, wanted) and not wanted.retrains),
                    secrets={name: text for name, (_, text) in found.items()},
                ),
                own=own,
                hidden=tuple(text for _, text in found.values()),
            )


async def configuration(settings: Settings, *, deep: bool = False) -> Loaded:
    """The configuration of the source, overridden by the settings. Messages show the user's path of the file.

    Raises:
        UsageError: The source is not a checkout, or the module's own repository.
        ConfigError: The file is missing or invalid.
    """
    await checkout.check(settings)
    overrides: dict[str, Override] = {}
    if settings.gpus:
        overrides["server.gpus"] = Override(value=settings.gpus, origin="argument --gpus")
    if deep:
        origin = "argument --deep"
        overrides |= {f"stages.{name}.budget_s": Override(value=0.0, origin=origin) for name in BUDGETED}
    if not await settings.source.exists(settings.config):
        raise ConfigError(
            f"the source has no {settings.config}", remedy="pass the configuration file: --config path/to/vllm-ci.yaml"
        )
    files = {settings.config: await settings.source.file(settings.config).contents()}
    for path in _pipelines(settings.config, files[settings.config]):
        if await settings.source.exists(path):
            files[path] = await settings.source.file(path).contents()
    return _loaded(settings.config, files, overrides)


def _pipelines(config: str, text: str) -> list[str]:
    """Possible paths of a user's pipeline in the source: policies may name the stages that it defines."""
    named = re.findall(r"""^pipeline: *["']?([^"'#\s]+)""", text, re.MULTILINE)
    paths = [posixpath.normpath(posixpath.join(posixpath.dirname(config), path)) for path in (PLACE, *named)]
    return [path for path in paths if not path.startswith(("/", "..")) and path.endswith(".py")]


def _loaded(config: str, files: Mapping[str, str], overrides: Mapping[str, Override]) -> Loaded:
    with written(files):
        return load(Path(config), overrides)


@contextmanager
def written(files: Mapping[str, str]) -> Iterator[None]:
    """Files of the source in the working directory, so that messages about them show their paths in the checkout."""
    with scratch.folder("configuration-") as folder, contextlib.chdir(folder):
        for name, text in files.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(text, encoding="utf-8")
        yield


async def tool_of(settings: Settings) -> Tool:
    """The tool's environment, from the settings.

    Raises:
        UsageError: A secret has no value.
    """
    network = {
        "PIP_INDEX_URL": settings.index,
        "PIP_EXTRA_INDEX_URL": settings.extra_index,
        "VLLM_CI_DEBIAN_MIRROR": settings.debian_mirror,
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), settings.proxy),
    }
    await plaintexts([settings.index, settings.extra_index, settings.debian_mirror, settings.proxy])
    return Tool(
        package=package(),
        python_image=settings.python_image,
        certificates=settings.certificates,
        network={name: value for name, value in network.items() if value is not None},
        volume=settings.cache,
    )


def package() -> dagger.Directory:
    """This package with the files that the builder needs, from the module's source."""
    source = dag.current_module().source()
    made = dag.directory().with_file("requirements.lock", source.file("requirements.lock"))
    for name in ("pipeline/vllm_ci", "images"):
        made = made.with_directory(name, source.directory(name))
    return made


@contextmanager
def watched(hidden: Sequence[str] = ()) -> Iterator[Emit]:
    """Print a line at each start and end of a step to the function's log, without the secrets ``hidden``."""
    from vllm_ci.cli import progress

    with progress.watch(progress.console(), hidden) as emit:
        yield emit


def note(text: str) -> None:
    """Print a note to the function's log."""
    print(f"note: {text}", file=sys.stderr, flush=True)  # noqa: T201 - Dagger shows it at the function


def _project(loaded: Loaded, settings: Settings, wanted: Wanted, *, own: Iterable[str] = ()) -> Project:
    project = loaded.project(settings.config, wanted.stages, own=own)
    key = project.server.api_key_env
    if settings.api_key is not None:
        key = key or GENERATED_KEY
    elif wanted.foreign and key == GENERATED_KEY:
        key = ""  # the key of an external server is unknown here
    project = replace(project, server=replace(project.server, api_key_env=key))
    return replace(project, build_args=_build_args(settings.variant.value, settings.spec))


def _build_args(variant: str, spec: str) -> tuple[str, ...]:
    if variant and spec:
        raise UsageError("--variant and --spec both name an image spec", remedy="pass only one of them")
    # A path is relative to the checkout, which has another path in the builder.
    name = variant or (f"{{in.source}}/{spec}" if spec else "")
    return ("--image", name) if name else ()


async def _source(engine: DaggerEngine, loaded: Loaded, settings: Settings, project: Project, *, model: bool) -> Source:
    root = DaggerDirectory(settings.source)
    folder = posixpath.dirname(settings.config)
    compared = folder or "." if any(stage.changed for stage in project.stages) else ""
    seen = await checkout.look(engine, root, compared, settings.base)
    if seen.commit.dirty:
        note(_DIRTY)
    if seen.empty and engine.tool is not None:
        note(_EMPTY.format(volume=engine.tool.volume))
    return Source(
        commit=seen.commit,
        checkout=root,
        project=DaggerDirectory(settings.source.directory(folder)) if folder else root,
        model=_model(loaded, settings, folder) if model else None,
        changed=seen.changed,
    )


def _model(loaded: Loaded, settings: Settings, folder: str) -> DaggerDirectory | None:
    if settings.checkpoint is not None:
        return DaggerDirectory(settings.checkpoint)
    if loaded.config.model.ref:
        raise ConfigError(
            f"model.ref: {loaded.config.model.ref} is not pulled by this function",
            why="it has no credentials for the models' repository and its ledger",
            remedy="pull the model first (vllm-ci model pull, or the function `model pull`), and pass its folder: --checkpoint",
        )
    if not loaded.config.model.path:
        return None
    path = posixpath.normpath(posixpath.join(folder, loaded.config.model.path))
    if path.startswith(("/", "..")):
        raise ConfigError(
            f"model.path: {path} is outside the source",
            why="a function can read only the directories that are passed to it",
            remedy="pass the directory: --checkpoint /path/to/model",
        )
    return DaggerDirectory(settings.source.directory(path))
