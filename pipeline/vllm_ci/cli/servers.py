"""The servers that ``vllm-ci serve`` runs on this machine: one file each, locked for as long as its process lives."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import anyio

from vllm_ci.domain.errors import ServiceError, UsageError
from vllm_ci.domain.program import Service
from vllm_ci.engine import is_gone
from vllm_ci.home import home

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_STOP_WITHIN_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A registered server.

    Attributes:
        name: Its name.
        file: Where its facts stand; our lock is on it.
    """

    name: str
    file: TextIO

    def announce(self, facts: dict[str, Any]) -> None:
        """Write what others may know of it."""
        self.file.seek(0)
        self.file.truncate()
        json.dump({"name": self.name, "pid": os.getpid(), **facts}, self.file)
        self.file.flush()

    def write_key(self, variable: str) -> Path:
        """Put the server's API key into a file that only its user can read, gone with the server; the file's path."""
        path = _folder() / f"{self.name}.key"
        path.touch(mode=0o600)
        path.write_text(os.environ[variable] + "\n")
        return path


@contextmanager
def register(name: str) -> Iterator[Entry]:
    """Hold the name for as long as the context lasts.

    Raises:
        UsageError: The name cannot be one, or a running server has it.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a server", remedy="use a-z, 0-9, dots and dashes")
    path = _folder() / f"{name}.json"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"a server named {name} runs already", remedy=f"give this one a --name, or: vllm-ci server stop {name}"
            ) from error
        entry = Entry(name=name, file=file)
        entry.announce({})
        try:
            yield entry
        finally:
            path.with_suffix(".key").unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def running() -> list[dict[str, Any]]:
    """Facts of the servers that run; files of dead ones are removed."""
    found = []
    for path in sorted(_folder().glob("*.json")):
        with contextlib.suppress(FileNotFoundError), path.open("r+") as file:
            if _held(file):
                with contextlib.suppress(ValueError):
                    found.append(json.load(file))
            else:
                path.with_suffix(".key").unlink(missing_ok=True)
                path.unlink(missing_ok=True)
    return found


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
    raise ServiceError(f"{service.name} ended by itself", why=f"the end of its log:\n{tail}", remedy="mend what the log names")


def _folder() -> Path:
    folder = home() / "servers"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _held(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
