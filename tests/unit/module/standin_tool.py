"""A stand-in for the tool's container: the same command line runs on this machine, with directories of this machine."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import anyio
import pytest
from click.testing import CliRunner

from vllm_ci.cli import interruptible, root
from vllm_ci.domain.errors import VllmCiError
from vllm_ci.domain.program import Outcome, Program, fill
from vllm_ci.engines.dagger_tool import Tool
from vllm_ci.module import endings, model_verbs, session, verb, verbs
from vllm_ci.module.wanted import Wanted


class Ended(Exception):
    """A call that ended with a message and an exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class Folder:
    """A directory or a file of Dagger's, on this machine; `called` is its name."""

    place: Path
    called: str = ""

    async def name(self) -> str:
        return self.called or self.place.name

    async def exists(self, path: str, **_: Any) -> bool:
        return (self.place / path).exists()

    async def contents(self) -> str:
        return self.place.read_text()

    def directory(self, path: str) -> Folder:
        return Folder(self.place / path)

    file = directory

    def with_directory(self, name: str, other: Folder) -> Folder:
        shutil.copytree(other.place, self.place / name)
        return self

    def with_file(self, name: str, other: Folder) -> Folder:
        shutil.copyfile(other.place, self.place / name)
        return self


@dataclass
class Secret:
    """A secret of the caller's environment."""

    called: str
    value: str

    async def uri(self) -> str:
        return f"env://{self.called}"

    async def plaintext(self) -> str:
        return self.value


@dataclass
class Output:
    """What a program wrote."""

    handle: Folder

    async def read(self, name: str) -> bytes:
        return (self.handle.place / name).read_bytes()

    async def names(self) -> tuple[str, ...]:
        return tuple(sorted(each.name for each in self.handle.place.iterdir()))


@dataclass
class Machine:
    """Runs the tool's programs here; keeps what was asked of it."""

    folder: Path
    session: str = "of the session"
    nests: bool = False
    programs: list[Program] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    wanted: list[Wanted] = field(default_factory=list)
    checked_only: bool = False

    def new(self, name: str) -> Path:
        place = self.folder / f"{len(list(self.folder.iterdir()))}-{name}"
        place.mkdir()
        return place

    @property
    def words(self) -> list[str]:
        """The last command, with its placeholders."""
        return list(self.programs[-1].argv[4:])

    async def run(self, program: Program) -> Outcome:
        assert not self.session, "never answered from the cache"
        self.programs.append(program)
        out = self.new("out")
        places: dict[str, Any] = dict(program.inputs)
        values = {"out": str(out), **{f"in.{name}": str(each.handle.place) for name, each in places.items()}}
        if self.checked_only:
            (out / verb.PRINTED).touch()
            return Outcome(exit_code=0, seconds=0.0, output=Output(Folder(out)), log="")
        words, tool = [fill(word, values) for word in self.words], self.tools[-1]
        secrets = {name: await each.plaintext() for name, each in tool.secrets.items()}
        code, printed, log = await anyio.to_thread.run_sync(_called, words, {**tool.variables, **secrets})
        (out / verb.PRINTED).write_text(printed)
        return Outcome(exit_code=code, seconds=0.0, output=Output(Folder(out)), log=log)


def _called(words: list[str], variables: Mapping[str, str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command line."""
    result = CliRunner().invoke(root, words, standalone_mode=False, env=dict(variables))
    if isinstance(result.exception, VllmCiError):
        return result.exception.exit_code, result.stdout, f"{result.stderr}vllm-ci: {result.exception}\n"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.return_value or result.exit_code, result.stdout, result.stderr


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, *, servers: bool = False) -> Machine:
    """Run the commands of the module's functions on this machine, and let calls end with :class:`Ended`.

    Without servers everything is in the project's own folder, which a container could not keep.
    """
    folder.mkdir()
    machine = Machine(folder)

    async def ended(text: str, exit_code: int) -> NoReturn:
        raise Ended(endings.for_the_user(text), exit_code)

    @asynccontextmanager
    async def opened(_: Any, wanted: Wanted, tool: Tool) -> AsyncIterator[Any]:
        machine.session = "of the session"
        machine.wanted.append(wanted)
        machine.tools.append(tool)
        yield SimpleNamespace(engine=machine)

    here: Any = SimpleNamespace(directory=lambda: Folder(machine.new("given")))
    for module in (model_verbs, verb):
        monkeypatch.setattr(module, "dag", here)
        monkeypatch.setattr(module, "DaggerDirectory", Output)
    for module in (verbs, session):
        monkeypatch.setattr(module, "end", ended)
    monkeypatch.setattr(verbs, "opened", opened)
    if not servers:
        monkeypatch.setattr(verbs, "_require_servers", lambda *_: None)
    # Handlers of signals belong to the main thread, which the function has.
    monkeypatch.setattr(interruptible, "run", anyio.run)
    return machine
