"""What the module's functions have in common: an open engine, a project, and endings that a shell understands."""

import contextlib
import hashlib
import posixpath
import secrets
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import dagger
from dagger import dag

from vllm_ci.cli import progress
from vllm_ci.config.load import GENERATED_KEY, Loaded, Override, load
from vllm_ci.config.stages import BUDGETED
from vllm_ci.domain.errors import ConfigError, UsageError, VllmCiError
from vllm_ci.domain.events import Emit
from vllm_ci.domain.program import refusal_of_secret
from vllm_ci.domain.project import Project
from vllm_ci.engines.dagger import DaggerDirectory, DaggerEngine
from vllm_ci.engines.dagger_caller import Function
from vllm_ci.engines.dagger_tool import Tool
from vllm_ci.module import checkout
from vllm_ci.module.arguments import Settings
from vllm_ci.module.endings import end
from vllm_ci.module.own import pipeline as own_pipeline
from vllm_ci.pipeline.loading import OwnPipeline
from vllm_ci.pipeline.steps import Source
from vllm_ci.stages import needs_server
from vllm_ci.system import scratch

_EMPTY = (
    "the cache volume {volume} holds no image: this is the first build with it, or the engine's garbage collection removed it "
    "(docs/dagger.md, Disk space)"
)
_DIRTY = "the tree is dirty: this image holds changes that are not committed, and cannot be published"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a call wants of a project.

    Attributes:
        stages: Which stages; none means those that the configuration enables.
        serves: It runs the project's pipeline, whose server is started where its stages need one.
        holds: It starts the server, whatever the stages need.
        foreign: It tests a server that was given.
        deep: No stage has a budget.
        shared: Other functions of the session may want the same server at the same time.
    """

    stages: tuple[str, ...] = ()
    serves: bool = False
    holds: bool = False
    foreign: bool = False
    deep: bool = False
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a function works on.

    Attributes:
        engine: Open.
        project: What the configuration asks for.
        source: Its files.
        own: The pipeline of the user's own; ``None`` is the default one.
        hidden: Values that may stand in no report.
    """

    engine: DaggerEngine
    project: Project
    source: Source
    own: OwnPipeline | None = None
    hidden: tuple[str, ...] = field(default=(), repr=False)


@asynccontextmanager
async def ending_well() -> AsyncIterator[None]:
    """Errors of ours end the call with their message and their exit code."""
    try:
        yield
    except VllmCiError as error:
        caught = error
    else:
        return
    await end(f"vllm-ci: {caught}", caught.exit_code)


@asynccontextmanager
async def opened(settings: Settings, wanted: Wanted, tool: Tool | None = None) -> AsyncIterator[Work]:
    """What a function works on, with all that can be known checked before anything is built.

    Args:
        settings: Of the module's object.
        wanted: What the call wants.
        tool: The tool's environment; by default that of the settings.
    """
    async with ending_well(), contextlib.AsyncExitStack() as stack:
        loaded = await configuration(settings, deep=wanted.deep)
        own = await stack.enter_async_context(own_pipeline(settings, loaded)) if wanted.serves else None
        project = _project(loaded, settings, wanted, own=own.stages if own is not None else ())
        given = await _given(settings, project, wanted)
        made = tool or await tool_of(settings)
        engine = DaggerEngine(
            caller=Function(package=made.package, secrets={name: secret for name, (secret, _) in given.items()}),
            tool=made,
            session=await _session(),
            shares_services=wanted.shared,
        )
        async with engine:
            if _serves(project, wanted):
                await engine.check_gpus(project.server.gpus)
            yield Work(
                engine=engine,
                project=project,
                # The security stage looks for the key in what the server logged.
                source=replace(
                    await _source(engine, loaded, settings, project), secrets={name: text for name, (_, text) in given.items()}
                ),
                own=own,
                hidden=tuple(text for _, text in given.values()),
            )


async def configuration(settings: Settings, *, deep: bool = False) -> Loaded:
    """The configuration of the source, with the settings over it. Messages name the file as the user does.

    Raises:
        UsageError: The source is no checkout, or the module's own.
        ConfigError: There is none, or it is not valid.
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
            f"the source has no {settings.config}", remedy="name the configuration file: --config path/to/vllm-ci.yaml"
        )
    return _loaded(settings.config, await settings.source.file(settings.config).contents(), overrides)


def _loaded(config: str, text: str, overrides: Mapping[str, Override]) -> Loaded:
    """The configuration, read in a folder of its own, so that every message names the path in the checkout."""
    with scratch.folder("configuration-") as folder, contextlib.chdir(folder):
        path = Path(config)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return load(path, overrides)


async def tool_of(settings: Settings) -> Tool:
    """The tool's environment, as the settings want it.

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


async def plaintexts(given: Iterable[dagger.Secret | None]) -> list[str]:
    """Values of secrets.

    Raises:
        UsageError: One has none; the message names it.
    """
    return [await _plaintext(each) for each in given if each is not None]


async def _plaintext(secret: dagger.Secret) -> str:
    try:
        return await secret.plaintext()
    except dagger.DaggerError as error:
        uri = await secret.uri()
        raise UsageError(
            f"the secret {uri or 'that was given'} has no value",
            why=str(error).splitlines()[0],
            remedy=f"export {await name_of(secret)}=... before the call" if uri.startswith("env://") else "check its address",
        ) from error


async def name_of(secret: dagger.Secret) -> str:
    """The name of a variable, from ``env://NAME``, ``file://.../NAME`` and the like, or as a module set it."""
    return (await secret.uri()).rpartition("/")[2] or await secret.name()


async def _given(settings: Settings, project: Project, wanted: Wanted) -> dict[str, tuple[dagger.Secret, str]]:
    """Secrets by the name of the variable that would hold them, each with its value.

    Raises:
        UsageError: One has no value or a name that programs need, or the server wants one that was not given.
    """
    key = project.server.api_key_env
    named = {await name_of(secret): secret for secret in settings.secrets or ()}
    if settings.api_key is not None:
        named[key] = settings.api_key
    elif key == GENERATED_KEY:
        named[key] = dag.set_secret(GENERATED_KEY, await _generated_key(shared=wanted.shared))
    check_names(named)
    needed = [name.rpartition("=")[2] for name in _needed(project, wanted)]
    if missing := [name for name in needed if name not in named]:
        raise UsageError(
            f"no secret {missing[0]} was given",
            why=f"{settings.config} names it",
            remedy=f"pass it: --secrets env://{missing[0]}",
        )
    return {name: (secret, await _plaintext(secret)) for name, secret in named.items()}


def _serves(project: Project, wanted: Wanted) -> bool:
    return wanted.holds or (wanted.serves and any(needs_server(spec) for spec in project.stages))


def _needed(project: Project, wanted: Wanted) -> list[str]:
    """Secrets that the server and the stages of the user's own are started with."""
    key = [project.server.api_key_env] if project.server.api_key_env else []
    server = [*project.server.secrets, *key] if _serves(project, wanted) else key if wanted.foreign else []
    runs = wanted.serves or wanted.foreign
    return server + [name for spec in project.stages if runs and spec.own is not None for name in spec.own.secrets]


async def _generated_key(*, shared: bool) -> str:
    """A key that nobody knows; the same for all functions that share a server."""
    return hashlib.sha256(f"key {await _session()}".encode()).hexdigest()[:32] if shared else secrets.token_urlsafe(24)


def check_names(names: Iterable[str]) -> None:
    """Refuse secrets under names that programs need.

    Raises:
        UsageError: There is one.
    """
    for name in names:
        if name and (reason := refusal_of_secret(name, ours=True)):
            raise UsageError(f"the secret {name} cannot be used", why=reason, remedy="rename its variable or file")


def package() -> dagger.Directory:
    """This package with what the builder needs, from the module's own source."""
    source = dag.current_module().source()
    made = dag.directory().with_file("requirements.lock", source.file("requirements.lock"))
    for name in ("pipeline/vllm_ci", "images"):
        made = made.with_directory(name, source.directory(name))
    return made


@contextmanager
def watched(hidden: Sequence[str] = ()) -> Iterator[Emit]:
    """One line at each start and end of a step, in the function's log, without the secrets ``hidden``."""
    with progress.watch(progress.console(), hidden) as emit:
        yield emit


def note(text: str) -> None:
    """Say something in the function's log that is no error."""
    print(f"note: {text}", file=sys.stderr, flush=True)  # noqa: T201 - Dagger shows it at the function


def _project(loaded: Loaded, settings: Settings, wanted: Wanted, *, own: Iterable[str] = ()) -> Project:
    project = loaded.project(settings.config, wanted.stages, own=own)
    key = project.server.api_key_env
    if settings.api_key is not None:
        key = key or GENERATED_KEY
    elif wanted.foreign and key == GENERATED_KEY:
        key = ""  # nobody here knows the key of a server that somebody else runs
    project = replace(project, server=replace(project.server, api_key_env=key))
    return replace(project, build_args=_build_args(settings.variant.value, settings.spec))


def _build_args(variant: str, spec: str) -> tuple[str, ...]:
    if variant and spec:
        raise UsageError("--variant and --spec both name an image spec", remedy="leave one out")
    # A path is one of the checkout, which the builder has elsewhere.
    name = variant or (f"{{in.source}}/{spec}" if spec else "")
    return ("--image", name) if name else ()


async def _session() -> str:
    """Identity of the session, the same for all functions that are called in it, and known to nobody outside."""
    return hashlib.sha256((await dag.current_workspace().client_id()).encode()).hexdigest()


async def _source(engine: DaggerEngine, loaded: Loaded, settings: Settings, project: Project) -> Source:
    root = DaggerDirectory(settings.source)
    folder = posixpath.dirname(settings.config)
    seen = await checkout.look(engine, root, folder or "." if any(stage.changed for stage in project.stages) else "")
    if seen.commit.dirty:
        note(_DIRTY)
    if seen.empty and engine.tool is not None:
        note(_EMPTY.format(volume=engine.tool.volume))
    return Source(
        commit=seen.commit,
        checkout=root,
        project=DaggerDirectory(settings.source.directory(folder)) if folder else root,
        model=_model(loaded, settings, folder),
        changed=seen.changed,
    )


def _model(loaded: Loaded, settings: Settings, folder: str) -> DaggerDirectory | None:
    if settings.checkpoint is not None:
        return DaggerDirectory(settings.checkpoint)
    if not loaded.config.model.path:
        return None
    path = posixpath.normpath(posixpath.join(folder, loaded.config.model.path))
    if path.startswith(("/", "..")):
        raise ConfigError(
            f"model.path: {path} lies outside of the source",
            why="a function sees only what it is given",
            remedy="pass the folder: --checkpoint /path/to/model",
        )
    return DaggerDirectory(settings.source.directory(path))
