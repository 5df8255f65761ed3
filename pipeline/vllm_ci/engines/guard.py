"""Runs one command in a container and reports its exit code, log and readiness, which container engines report only in part.

Standard library only, Python 3.8 or newer (it runs with the image's Python); started by its path:

``guard.py run RESULT TIMEOUT_S ARGV``
    runs ARGV and writes to the file RESULT, as JSON: ``exit_code``, ``seconds``, ``timed_out``, ``log`` (both streams,
    interleaved), ``run`` (the value of VLLM_CI_THIS_RUN: another value means that an earlier run wrote the file) and
    ``missing`` (the command does not exist). Exits with the command's exit code, or with 1 if that is 128 or more.
``guard.py serve PORT GRACE_S READY ARGV``
    runs ARGV and serves ``/alive`` and ``/log`` on PORT to clients with the token in VLLM_CI_GUARD_TOKEN, and ``/ready`` to
    clients inside the container, for which it runs READY (a command line as JSON). If the command ends before it was ready,
    the guard exits too; if it ends later, the guard keeps serving its log, provided that there is a token.
``guard.py ready PORT``
    asks the guard on PORT whether its command is ready; a container engine's health check has no secrets in its environment,
    but the guard has. If not ready, prints the output of the check and the end of the log.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

THIS_RUN = "VLLM_CI_THIS_RUN"
UNIQUE = "VLLM_CI_UNIQUE"  # a new value makes the engine's cache miss
TOKEN = "VLLM_CI_GUARD_TOKEN"  # noqa: S105 - the name of a variable
_STOP_GRACE_S = 5.0
_LAST_WORDS_S = 2.0
_TAIL_CHARACTERS = 4000
_NOT_FOUND = 127


class Command:
    """A command in its own session; its output is kept and, unless ``quiet``, copied to standard output."""

    def __init__(self, argv: list[str], *, quiet: bool = False) -> None:
        self.begun = time.monotonic()
        self._kept = bytearray()
        self._quiet = quiet
        self._process = subprocess.Popen(
            [sys.executable if argv[0] == "python" else argv[0], *argv[1:]],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._copier = threading.Thread(target=self._copy, daemon=True)
        self._copier.start()

    def _copy(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        while piece := os.read(self._process.stdout.fileno(), 1 << 16):
            self._kept += piece
            if not self._quiet:
                with contextlib.suppress(OSError):
                    os.write(1, piece)

    def log(self) -> str:
        """Its output so far; if it has ended, waits for the rest of its output."""
        if not self.alive():
            self._copier.join(_LAST_WORDS_S)
        return bytes(self._kept).decode(errors="replace")

    def alive(self) -> bool:
        """Whether it is still running."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Its exit code; 128 + N when signal N ended it."""
        code = self._process.wait()
        self.send(signal.SIGKILL)  # children that are left would keep the pipe open
        self._copier.join(_STOP_GRACE_S)
        return 128 - code if code < 0 else code

    def end(self, grace_s: float) -> None:
        """Send SIGTERM now and SIGKILL after ``grace_s`` seconds; does not wait, so signal handlers can call it."""
        self.send(signal.SIGTERM)
        killer = threading.Timer(grace_s, self.send, (signal.SIGKILL,))
        killer.daemon = True
        killer.start()

    def send(self, number: int) -> None:
        """Signal the command and its process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _environment() -> dict[str, str]:
    """This process's environment without the variables that the engine sets for itself."""
    foreign = ("TRACEPARENT", "TRACESTATE", "BAGGAGE", TOKEN, THIS_RUN, UNIQUE)
    return {name: value for name, value in os.environ.items() if name not in foreign and not name.startswith("OTEL_")}


def run(result: str, timeout_s: float, argv: list[str]) -> int:
    """Run ``argv`` until it exits; see above."""
    if argv[0] != "python" and shutil.which(argv[0]) is None:
        _write(result, {"run": os.environ[THIS_RUN], "missing": argv[0]})
        return _NOT_FOUND
    command = Command(argv)
    signal.signal(signal.SIGTERM, lambda *_: command.end(_STOP_GRACE_S))
    late = threading.Event()

    def time_out() -> None:
        late.set()
        command.end(_STOP_GRACE_S)

    watch = threading.Timer(timeout_s, time_out)
    watch.daemon = True
    watch.start()
    code = command.wait()
    seconds = time.monotonic() - command.begun
    found = {"exit_code": code, "seconds": seconds, "timed_out": late.is_set(), "log": command.log()}
    _write(result, {"run": os.environ[THIS_RUN], **found})
    return code if code < 128 else 1  # Dagger treats higher codes as its own failure, even with expect=ANY


def _write(path: str, value: dict[str, object]) -> None:
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 - avoids importing pathlib
        json.dump(value, file)


class _Control(BaseHTTPRequestHandler):
    watched: Command
    check: list[str]
    was_ready = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/ready" and self.client_address[0] == "127.0.0.1":
            self._answer(*self._ready())
        elif TOKEN not in os.environ or self.headers.get("Authorization") != f"Bearer {os.environ[TOKEN]}":
            self._answer(401, "invalid or missing token")
        elif self.path == "/log":
            self._answer(200, self.watched.log())
        else:
            self._answer(200, json.dumps({"alive": self.watched.alive()}))

    def _ready(self) -> tuple[int, str]:
        check = Command(self.check, quiet=True)
        if check.wait() == 0 and self.watched.alive():
            self.was_ready.set()
            return 200, ""
        return 503, f"{check.log()}\n{self.watched.log()[-_TAIL_CHARACTERS:]}"

    def _answer(self, status: int, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def serve(port: int, grace_s: float, check: list[str], argv: list[str]) -> int:
    """Run the service ``argv`` and serve its state; see above."""
    if argv[0] != "python" and shutil.which(argv[0]) is None:
        sys.stderr.write(f"{argv[0]} was not found\n")
        return _NOT_FOUND
    watched = _Control.watched = Command(argv)
    _Control.check = check
    stopping = threading.Event()

    def stop(*_: object) -> None:
        stopping.set()
        watched.end(grace_s)

    signal.signal(signal.SIGTERM, stop)
    server = ThreadingHTTPServer(("0.0.0.0", port), _Control)  # noqa: S104 - the engine connects from outside, with a token
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = watched.wait()
    if _Control.was_ready.is_set() and TOKEN in os.environ:
        stopping.wait()
    return code


def ready(port: int) -> int:
    """Ask the guard whether its command is ready; see above."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(f"http://127.0.0.1:{port}/ready").close()
    except urllib.error.HTTPError as error:
        sys.stderr.write(error.read().decode(errors="replace"))
        return 1
    except OSError as error:
        sys.stderr.write(f"the guard does not respond: {error}")
        return 1
    return 0


def main(arguments: list[str]) -> int:
    """Parse the command line and run the subcommand."""
    verb, *rest = arguments
    if verb == "run":
        return run(rest[0], float(rest[1]), rest[2:])
    if verb == "serve":
        return serve(int(rest[0]), float(rest[1]), json.loads(rest[2]), rest[3:])
    return ready(int(rest[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
