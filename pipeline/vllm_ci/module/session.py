"""What the module's functions have in common: an open engine, a project, and endings that a shell understands."""

from __future__ import annotations

import contextlib
import json
import posixpath
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import dagger
from dagger import dag

from vllm_ci.cli import progress
from vllm_ci.config.load import GENERATED_KEY, Loaded, Override, load
from vllm_ci.config.stages import BUDGETED
from vllm_ci.domain.changes import Changes
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ConfigError, UsageError, VllmCiError
from vllm_ci.domain.events import Emit
from vllm_ci.domain.program import Program, refusal_of_secret
from vllm_ci.domain.project import Project
from vllm_ci.engines.dagger import DaggerDirectory, DaggerEngine
from vllm_ci.engines.dagger_caller import Function
from vllm_ci.engines.dagger_tool import Tool
from vllm_ci.pipeline.steps import Source
from vllm_ci.stages import reading
from vllm_ci.system import scratch
from vllm_ci.system.base_branch import of_mapping


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a call asks for.

    Attributes:
        source: The checkout, with its ``.git``.
        config: Path of the configuration file in it.
        stages: Which stages; none means those that the configuration enables.
        variant: Image spec that goes over the configuration's.
        gpus: Likewise.
        checkpoint: Model that goes over the configuration's.
        secrets: Those that the configuration names.
        api_key: The server's, over the configuration's.
        foreign: The server is somebody else's.
        deep: No stage has a budget.
    """

    source: dagger.Directory
    config: str
    stages: tuple[str, ...] = ()
    variant: str = ""
    gpus: str = ""
    checkpoint: dagger.Directory | None = None
    secrets: Sequence[dagger.Secret] = ()
    api_key: dagger.Secret | None = None
    foreign: bool = False
    deep: bool = False


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a function works on.

    Attributes:
        engine: Open.
        project: What the configuration asks for.
        source: Its files.
        hidden: Values that may stand in no report.
    """

    engine: DaggerEngine
    project: Project
    source: Source
    hidden: tuple[str, ...] = field(default=(), repr=False)


@dataclass(kw_only=True)
class Call:
    """A call of a function: opens what it works on, and ends as the command line does, with a message and an exit code.

    Attributes:
        asked: What it asks for.
        tool: The tool's own environment.
        equipped: Gives another one, by what the configuration says.
    """

    asked: Asked
    tool: Tool
    equipped: Callable[[Loaded], Awaitable[Tool]] | None = None
    _stack: contextlib.AsyncExitStack = field(init=False, default_factory=contextlib.AsyncExitStack)

    async def __aenter__(self) -> Work:
        try:
            return await self._open()
        except VllmCiError as error:
            await end(self.tool.python_image, f"vllm-ci: {error}\n", error.exit_code)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)
        if isinstance(error, VllmCiError):
            await end(self.tool.python_image, f"vllm-ci: {error}\n", error.exit_code)

    async def _open(self) -> Work:
        asked = self.asked
        if not await asked.source.exists(".git", expected_type=dagger.ExistsType.DIRECTORY_TYPE):
            raise UsageError(
                "the source has no folder .git",
                why="it is a part of a checkout, or a git worktree, whose repository lies in another folder",
                remedy="name the root of a checkout or a clone: --source .",
            )
        loaded = await configuration(asked)
        tool = await self.equipped(loaded) if self.equipped is not None else self.tool
        project = _project(loaded, asked)
        key = project.server.api_key_env
        given = {await name_of(secret): secret for secret in asked.secrets}
        if asked.api_key is not None:
            given[key] = asked.api_key
        elif key == GENERATED_KEY:
            given[key] = dag.set_secret(GENERATED_KEY, secrets.token_urlsafe(24))
        _check_names(given)
        hidden = [await secret.plaintext() for secret in given.values()]
        engine = DaggerEngine(caller=Function(package=tool.package, secrets=given), tool=tool)
        await self._stack.enter_async_context(engine)
        return Work(
            engine=engine,
            project=project,
            # The security stage looks for the key in what the server logged.
            source=replace(await _source(engine, loaded, asked, project), secrets=dict(zip(given, hidden, strict=True))),
            hidden=tuple(hidden),
        )


def _check_names(names: Iterable[str]) -> None:
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


async def configuration(asked: Asked) -> Loaded:
    """The configuration of the source, with what was asked for over it."""
    overrides: dict[str, Override] = {}
    if asked.gpus:
        overrides["server.gpus"] = Override(value=asked.gpus, origin="argument --gpus")
    if asked.deep:
        origin = "argument --deep"
        overrides |= {f"stages.{name}.budget_s": Override(value=0.0, origin=origin) for name in BUDGETED}
    if not await asked.source.exists(asked.config):
        raise ConfigError(
            f"the source has no {asked.config}", remedy="name the configuration file: --config path/to/vllm-ci.yaml"
        )
    with scratch.folder("configuration-") as folder:
        path = Path(folder, asked.config)
        await asked.source.file(asked.config).export(str(path))
        return load(path, overrides)


def _project(loaded: Loaded, asked: Asked) -> Project:
    project = loaded.project(asked.config, asked.stages)
    key = project.server.api_key_env
    if asked.api_key is not None:
        key = key or GENERATED_KEY
    elif asked.foreign and key == GENERATED_KEY:
        key = ""  # nobody here knows the key of a server that somebody else runs
    project = replace(project, server=replace(project.server, api_key_env=key))
    if not asked.variant:
        return project
    # A path is one of the checkout, which the builder has elsewhere.
    place = f"{{in.source}}/{asked.variant}" if "/" in asked.variant else asked.variant
    return replace(project, build_args=("--image", place))


async def _source(engine: DaggerEngine, loaded: Loaded, asked: Asked, project: Project) -> Source:
    checkout = DaggerDirectory(asked.source)
    folder = posixpath.dirname(asked.config)
    return Source(
        commit=await _commit(engine, checkout),
        checkout=checkout,
        project=DaggerDirectory(asked.source.directory(folder)) if folder else checkout,
        model=_model(loaded, asked, folder),
        changed=await _changes(engine, checkout, folder) if any(stage.changed for stage in project.stages) else None,
    )


async def _commit(engine: DaggerEngine, checkout: DaggerDirectory) -> Commit:
    """As git says, which a container has and a function has not."""
    argv = ("python", "-m", "vllm_ci.system.vcs", "{in.source}", "{out}/commit.json")
    outcome = await engine.run(Program(name="commit", argv=argv, inputs={"source": checkout}))
    if not outcome:
        raise UsageError("the source has no commit", why=reading.tail(outcome.log), remedy="git status, in the checkout")
    return Commit(**json.loads(await outcome.output.read("commit.json")))


async def _changes(engine: DaggerEngine, checkout: DaggerDirectory, folder: str) -> Changes:
    """Since the base branch that the clone itself knows: a function sees nothing of its caller's environment."""
    argv = ("python", "-m", "vllm_ci.system.base_branch", "{in.source}", folder or ".", "{out}/changes.json")
    outcome = await engine.run(Program(name="changes", argv=argv, inputs={"source": checkout}))
    if not outcome:
        return Changes(unknown=reading.tail(outcome.log))
    return of_mapping(json.loads(await outcome.output.read("changes.json")))


def _model(loaded: Loaded, asked: Asked, folder: str) -> DaggerDirectory | None:
    if asked.checkpoint is not None:
        return DaggerDirectory(asked.checkpoint)
    if not loaded.config.model.path:
        return None
    path = posixpath.normpath(posixpath.join(folder, loaded.config.model.path))
    if path.startswith(("/", "..")):
        raise ConfigError(
            f"model.path: {path} lies outside of the source",
            why="a function sees only what it is given",
            remedy="pass the folder: --checkpoint /path/to/model",
        )
    return DaggerDirectory(asked.source.directory(path))


async def name_of(secret: dagger.Secret) -> str:
    """The name of a variable, from ``env://NAME``, ``file://.../NAME`` and the like."""
    uri = await secret.uri()
    return uri.rpartition("/")[2]


async def end(image: str, text: str, exit_code: int) -> NoReturn:
    """End the call with this text and this exit code: ``dagger call`` takes on that of a command that failed."""
    said = dag.container().from_(image).with_new_file("/said", text)
    await said.with_exec(["sh", "-c", 'cat /said; exit "$0"', str(exit_code)]).sync()
    raise AssertionError(text)
