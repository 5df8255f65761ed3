"""Servers as processes: started on a free port, awaited, and ended with everything that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY = "key-of-the-test-0123456789"
_READY_S = 600.0
_END_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that answers.

    Attributes:
        url: What is given to ``vllm-ci test --url``.
        log: Its log.
        key: Its API key; empty for a server without one.
        model: Model to test; empty for the first that it lists.
        env: Environment variables for ``vllm-ci test``.
        version: Its version, where only the machine knows it.
        again: It is started again when it dies.
    """

    url: str
    log: Path
    key: str = KEY
    model: str = ""
    env: Mapping[str, str] | None = None
    version: str = ""
    again: bool = False


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def program(
    argv: Sequence[str | Path],
    log: Path,
    ready: Callable[[], bool],
    *,
    env: Mapping[str, str] | None = None,
    again: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the context ends; it must become ready.

    Args:
        argv: Its command line.
        log: Gets its output.
        ready: Whether it answers.
        env: Environment variables beside those of this process.
        again: Start it again whenever it ends, as a supervisor does.
    """
    with log.open("wb") as output:

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [str(word) for word in argv],
                env={**os.environ, **(env or {})},
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        process = start()
        try:
            _await(process, log, ready)
            with _supervised(process, start) if again else contextlib.nullcontext():
                yield process
        finally:
            _end(process)


@contextmanager
def _supervised(process: subprocess.Popen[bytes], start: Callable[[], subprocess.Popen[bytes]]) -> Iterator[None]:
    """Start a program again whenever it ends; what is left of its process group is ended first."""
    over, current = threading.Event(), [process]

    def watch() -> None:
        while not over.wait(0.5):
            if current[0].poll() is not None:
                _end(current[0])
                current[0] = start()

    thread = threading.Thread(target=watch, name="supervisor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _end(current[0])


def _await(process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    end = time.monotonic() + _READY_S
    while not ready():
        assert process.poll() is None, f"it ended with {process.returncode}; the end of its log:\n{tail(log)}"
        assert time.monotonic() < end, f"it is not ready after {_READY_S:.0f} s; the end of its log:\n{tail(log)}"
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)


def tail(log: Path, lines: int = 40) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def answers(url: str, *, key: str = KEY, ca_file: Path | None = None) -> Callable[[], bool]:
    """Whether a GET of the URL is answered with 200."""
    context = ssl.create_default_context(cafile=str(ca_file)) if ca_file else None
    asked = urllib.request.Request(url, headers={"authorization": f"Bearer {key}"} if key else {})

    def look() -> bool:
        try:
            with urllib.request.urlopen(asked, timeout=5, context=context) as answer:
                return int(answer.status) == 200
        except OSError:
            return False

    return look
