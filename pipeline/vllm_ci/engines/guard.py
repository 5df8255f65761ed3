"""Stands beside one command in a container, because a container engine alone does not tell all that an engine here promises.

Standard library only, any Python 3.8 or newer (it is run by the image's own); started by its path:

``guard.py run RESULT TIMEOUT_S ARGV``
    runs ARGV and writes to the file RESULT, as JSON: ``exit_code``, ``seconds``, ``timed_out``, ``log`` (both streams,
    interleaved), ``run`` (the value of VLLM_CI_THIS_RUN: another one means that the file is of an earlier run) and ``missing``
    (there is no such command). Ends with the command's own code, or 1 where that is 128 or more.
``guard.py serve PORT GRACE_S READY ARGV``
    runs ARGV and answers on PORT, to who knows the token in VLLM_CI_GUARD_TOKEN, ``/alive`` and ``/log``; to who asks from
    inside the container also ``/ready``, for which it runs READY (a command line as JSON). When the command dies before it
    was ever ready, so does the guard; afterwards it stays, to tell what happened, if there is a token to ask with.
``guard.py ready PORT``
    asks the guard on PORT whether its command is ready: a container engine's health check has no secrets in its environment,
    the guard has. Prints what the check said and the end of the log when it is not.
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
UNIQUE = "VLLM_CI_UNIQUE"  # makes a command a new one to the engine's cache
TOKEN = "VLLM_CI_GUARD_TOKEN"  # noqa: S105 - the name of a variable
_STOP_GRACE_S = 5.0
_LAST_WORDS_S = 2.0
_TAIL_CHARACTERS = 4000
_NOT_FOUND = 127


class Command:
    """A command in a session of its own; its output is kept and, unless it shall be quiet, copied to ours."""

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
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        while piece := os.read(self._process.stdout.fileno(), 1 << 16):
            self._kept += piece
            if not self._quiet:
                with contextlib.suppress(OSError):
                    os.write(1, piece)

    def log(self) -> str:
        """All it wrote so far; of one that has ended, its last words too, which may still be on their way."""
        if not self.alive():
            self._copier.join(_LAST_WORDS_S)
        return bytes(self._kept).decode(errors="replace")

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Its exit code; 128 + N when signal N ended it."""
        code = self._process.wait()
        self.send(signal.SIGKILL)  # what it left behind holds the pipe open
        self._copier.join(_STOP_GRACE_S)
        return 128 - code if code < 0 else code

    def end(self, grace_s: float) -> None:
        """Ask it to end, and make it after ``grace_s`` seconds; does not wait, so that a signal's handler may call it."""
        self.send(signal.SIGTERM)
        killer = threading.Timer(grace_s, self.send, (signal.SIGKILL,))
        killer.daemon = True
        killer.start()

    def send(self, number: int) -> None:
        """Signal it and all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _environment() -> dict[str, str]:
    """Ours without what the engine put there for itself, which is no part of what the command was promised."""
    foreign = ("TRACEPARENT", "TRACESTATE", "BAGGAGE", TOKEN, THIS_RUN, UNIQUE)
    return {name: value for name, value in os.environ.items() if name not in foreign and not name.startswith("OTEL_")}


def run(result: str, timeout_s: float, argv: list[str]) -> int:
    """Run ``argv`` to its end; see above."""
    if argv[0] != "python" and shutil.which(argv[0]) is None:
        _write(result, {"run": os.environ[THIS_RUN], "missing": argv[0]})
        return _NOT_FOUND
    command = Command(argv)
    signal.signal(signal.SIGTERM, lambda *_: command.end(_STOP_GRACE_S))
    late = threading.Event()

    def give_up() -> None:
        late.set()
        command.end(_STOP_GRACE_S)

    watch = threading.Timer(timeout_s, give_up)
    watch.daemon = True
    watch.start()
    code = command.wait()
    seconds = time.monotonic() - command.begun
    found = {"exit_code": code, "seconds": seconds, "timed_out": late.is_set(), "log": command.log()}
    _write(result, {"run": os.environ[THIS_RUN], **found})
    return code if code < 128 else 1  # Dagger takes what is above for a failure of its own, whatever it was told to expect


def _write(path: str, value: dict[str, object]) -> None:
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 - nothing is imported that is not needed
        json.dump(value, file)


class _Control(BaseHTTPRequestHandler):
    watched: Command
    check: list[str]
    was_ready = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/ready" and self.client_address[0] == "127.0.0.1":
            self._answer(*self._ready())
        elif TOKEN not in os.environ or self.headers.get("Authorization") != f"Bearer {os.environ[TOKEN]}":
            self._answer(401, "who are you?")
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
    """Run the service ``argv`` and answer about it; see above."""
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
    server = ThreadingHTTPServer(("0.0.0.0", port), _Control)  # noqa: S104 - reached from beside the container, with a token
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
        sys.stderr.write(f"the guard does not answer: {error}")
        return 1
    return 0


def main(arguments: list[str]) -> int:
    """Take the command line apart."""
    verb, *rest = arguments
    if verb == "run":
        return run(rest[0], float(rest[1]), rest[2:])
    if verb == "serve":
        return serve(int(rest[0]), float(rest[1]), json.loads(rest[2]), rest[3:])
    return ready(int(rest[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
