"""The servers that ``vllm-ci serve`` runs on this machine: a lock file each, held for as long as its process lives."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from vllm_ci.domain.errors import ServiceError, UsageError
from vllm_ci.domain.program import Service
from vllm_ci.engine import is_gone
from vllm_ci.system.filelock import LockedError, hold
from vllm_ci.system.home import home

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_STOP_WITHIN_S = 120.0
_FREE_WITHIN_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A registered server; its lock file is held.

    Attributes:
        name: Its name.
    """

    name: str

    def announce(self, facts: dict[str, Any]) -> None:
        """Write what others may know of it, in one step: readers take no lock."""
        _write(_file(self.name, "json"), json.dumps({"name": self.name, "pid": os.getpid(), **facts}))

    def write_key(self, variable: str) -> Path:
        """Put the server's API key into a file that only its user can read, gone with the server; the file's path."""
        path = _file(self.name, "key")
        _write(path, os.environ[variable] + "\n")
        return path


@contextmanager
def register(name: str) -> Iterator[Entry]:
    """Hold the name for as long as the context lasts.

    Raises:
        UsageError: The name cannot be one, or a running server has it.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a server", remedy="use a-z, 0-9, dots and dashes")
    with ExitStack() as stack:
        try:
            # Whoever looks which servers run holds the lock of a free name for a moment.
            stack.enter_context(hold(_file(name, "lock"), timeout_s=_FREE_WITHIN_S))
        except LockedError as error:
            raise UsageError(
                f"a server named {name} is already running",
                remedy=f"give this one another name (--name), or: vllm-ci server stop {name}",
            ) from error
        stack.callback(_remove, name)
        entry = Entry(name=name)
        entry.announce({})
        yield entry


def running() -> list[dict[str, Any]]:
    """Facts of the servers that run; files of dead ones are removed."""
    found = []
    for path in sorted(_folder().glob("*.lock")):
        try:
            with hold(path, shared=True, timeout_s=0):
                pass
        except LockedError:
            with contextlib.suppress(FileNotFoundError):
                facts = json.loads(_file(path.stem, "json").read_bytes())
                if _lives(facts["pid"]):
                    found.append(facts)
        else:
            with contextlib.suppress(LockedError), hold(path, timeout_s=0):
                _remove(path.stem)
    return found


def _remove(name: str) -> None:
    """The lock file last: it is held, and the name is free when it is gone."""
    for kind in ("key", "json", "lock"):
        _file(name, kind).unlink(missing_ok=True)


def stop(name: str) -> None:
    """Ask the server to stop, and wait until it has.

    Raises:
        UsageError: No server of that name runs.
        ServiceError: It did not stop.
    """
    facts = next((each for each in running() if each["name"] == name), None)
    if facts is None:
        names = ", ".join(each["name"] for each in running()) or "none"
        raise UsageError(f"no server named {name} runs", remedy=f"running: {names}")
    os.kill(facts["pid"], signal.SIGTERM)
    end = time.monotonic() + _STOP_WITHIN_S
    while any(each["name"] == name for each in running()):
        if time.monotonic() > end:
            raise ServiceError(
                f"{name} (pid {facts['pid']}) did not stop within {_STOP_WITHIN_S:.0f} s",
                why="streams in flight may still be running",
                remedy=f"wait, or kill -9 {facts['pid']}: what it started goes with it",
            )
        time.sleep(0.05)


async def until_gone(service: Service) -> None:
    """Wait for as long as the service lives.

    Raises:
        ServiceError: It ended by itself; the message carries the end of its log.
    """
    while not await is_gone(service):
        await anyio.sleep(0.5)
    tail = "\n".join((await service.log()).splitlines()[-25:])
    raise ServiceError(
        f"{service.name} ended by itself", why=f"the end of its log:\n{tail}", remedy="repair what the log names"
    )


def _folder() -> Path:
    folder = home() / "servers"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _file(name: str, kind: str) -> Path:
    return _folder() / f"{name}.{kind}"


def _write(path: Path, text: str) -> None:
    """A file that only its user can read, there as a whole or not at all."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(part).replace(path)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
