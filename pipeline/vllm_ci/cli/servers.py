"""Registry of the servers that ``vllm-ci serve`` runs on this machine; each holds a lock file while its process runs."""

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
class RegisteredServer:
    """A registered server; its lock file is held.

    Attributes:
        name: Its name.
    """

    name: str

    def announce(self, facts: dict[str, Any]) -> None:
        """Publish facts about the server; written atomically, because readers take no lock."""
        _write(_file(self.name, "json"), json.dumps({"name": self.name, "pid": os.getpid(), **facts}))

    def write_key(self, variable: str) -> Path:
        """Write the server's API key to a file that only its user can read; it is removed with the server. Returns the path."""
        path = _file(self.name, "key")
        _write(path, os.environ[variable] + "\n")
        return path


@contextmanager
def register(name: str) -> Iterator[RegisteredServer]:
    """Reserve the name for as long as the context lasts.

    Raises:
        UsageError: The name is not valid, or a running server has it.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"invalid server name: {name!r}", remedy="use a-z, 0-9, dots, dashes and underscores")
    with ExitStack() as stack:
        try:
            # A process that lists the servers holds the lock of a free name for a moment.
            stack.enter_context(hold(_file(name, "lock"), timeout_s=_FREE_WITHIN_S))
        except LockedError as error:
            raise UsageError(
                f"a server named {name} is already running",
                remedy=f"choose another name with --name, or run vllm-ci server stop {name}",
            ) from error
        stack.callback(_remove, name)
        entry = RegisteredServer(name=name)
        entry.announce({})
        yield entry


def running() -> list[dict[str, Any]]:
    """Facts of the running servers; removes the files of dead ones."""
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
    """Remove the files of a server; the lock file last, because its removal frees the name."""
    for kind in ("key", "json", "lock"):
        _file(name, kind).unlink(missing_ok=True)


def stop(name: str) -> None:
    """Stop the server, and wait until it has stopped.

    Raises:
        UsageError: No server with that name is running.
        ServiceError: It did not stop.
    """
    facts = next((each for each in running() if each["name"] == name), None)
    if facts is None:
        names = ", ".join(each["name"] for each in running()) or "none"
        raise UsageError(f"no server named {name} is running", remedy=f"running servers: {names}")
    os.kill(facts["pid"], signal.SIGTERM)
    end = time.monotonic() + _STOP_WITHIN_S
    while any(each["name"] == name for each in running()):
        if time.monotonic() > end:
            raise ServiceError(
                f"{name} (pid {facts['pid']}) did not stop within {_STOP_WITHIN_S:.0f} s",
                why="it may still be finishing open streams",
                remedy=f"wait, or run kill -9 {facts['pid']}, which also stops the processes that it started",
            )
        time.sleep(0.05)


async def until_gone(service: Service) -> None:
    """Wait until the service ends.

    Raises:
        ServiceError: It ended; the message has the end of its log.
    """
    while not await is_gone(service):
        await anyio.sleep(0.5)
    tail = "\n".join((await service.log()).splitlines()[-25:])
    raise ServiceError(
        f"{service.name} ended unexpectedly",
        why=f"the end of its log:\n{tail}",
        remedy="fix the error in the log, then start it again",
    )


def _folder() -> Path:
    folder = home() / "servers"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _file(name: str, kind: str) -> Path:
    return _folder() / f"{name}.{kind}"


def _write(path: Path, text: str) -> None:
    """Atomically write a file that only its user can read."""
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
