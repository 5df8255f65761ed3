"""Prometheus, Alertmanager and a receiver of webhooks, each on a free port of this machine for as long as a context lasts."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

DEADLINE_S = 60.0


def program(*names: str) -> str:
    """Path of a program that may have several names; the test is skipped where it is absent."""
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"{names[0]} is not on PATH (Debian: apt-get install prometheus prometheus-alertmanager)")


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        port: int = each.getsockname()[1]
        return port


def until(condition: Callable[[], Any], what: str, *, log: Path | None = None) -> Any:
    """The first true result of a condition; fails with the end of a log at the deadline."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            if found := condition():
                return found
        time.sleep(0.1)
    tail = log.read_text(errors="replace")[-2000:] if log else ""
    pytest.fail(f"{what} did not happen in {DEADLINE_S:.0f} s\n{tail}")


@contextlib.contextmanager
def running(argv: list[str], url: str, log: Path) -> Iterator[str]:
    """A program that answers ``/-/ready``."""
    with log.open("wb") as out, subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent) as process:
        try:
            until(lambda: httpx.get(f"{url}/-/ready").status_code == 200, f"{argv[0]} being ready", log=log)
            yield url
        finally:
            process.terminate()


@contextlib.contextmanager
def prometheus(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """A server with the data in ``folder/data``."""
    found, port = program("prometheus"), free_port()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    argv = [
        found,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(argv, f"http://127.0.0.1:{port}", folder / "prometheus.log") as url:
        yield url


@contextlib.contextmanager
def alertmanager(folder: Path, receiver: str) -> Iterator[str]:
    """A server that sends everything to one webhook, at once."""
    found, port = program("alertmanager", "prometheus-alertmanager"), free_port()
    config = {
        "route": {"receiver": "hook", "group_by": ["alertname"], "group_wait": "0s", "group_interval": "1s"},
        "receivers": [{"name": "hook", "webhook_configs": [{"url": receiver}]}],
    }
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    argv = [
        found,
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alerts'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with running(argv, f"http://127.0.0.1:{port}", folder / "alertmanager.log") as url:
        yield url


class Receiver:
    """A webhook: keeps what it got, and answers with ``statuses`` in turn, then with 200."""

    def __init__(self, *statuses: int) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.statuses = list(statuses)
        self.url = ""


@contextlib.contextmanager
def receiver(*statuses: int) -> Iterator[Receiver]:
    """A receiver that listens."""
    state = Receiver(*statuses)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = state.statuses.pop(0) if state.statuses else 200
            state.bodies.append(json.loads(body))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        state.url = f"{url}/hook/secret-path"
        yield state


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """An HTTP server on a free port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
