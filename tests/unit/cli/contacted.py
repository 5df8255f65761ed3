"""Servers with fixed answers, and the first contact with them."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from vllm_ci.domain.stage import StageSpec
from vllm_ci.stages.stage import StageContext

LISTED = {"object": "list", "data": [{"id": "m", "object": "model", "created": 1}]}
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]}


@dataclass(kw_only=True)
class Scripted:
    """A server with fixed answers: ``(status, headers, body)`` by method and path; 404 for all others."""

    answers: Mapping[str, tuple[int, Mapping[str, str], Any]] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None

    @contextmanager
    def running(self) -> Iterator[int]:
        """Serve on a port of this machine."""
        answers = self.answers

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                status, headers, body = answers.get(f"{self.command} {self.path}", (404, {}, {"detail": "Not Found"}))
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers, "content-length": str(len(raw))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = answer  # noqa: N815 - the names that the standard library calls

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A handshake that fails is expected."""

        with Quiet(("127.0.0.1", 0), Handler) as server:
            if self.tls is not None:
                server.socket = self.tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            try:
                yield server.server_address[1]
            finally:
                server.shutdown()
                thread.join()


def of(url: str, *, model: str = "", key: str = "") -> StageContext:
    return StageContext(spec=StageSpec(name=""), url=url, model=model, api_key_env=key)


def html(status: int) -> tuple[int, Mapping[str, str], bytes]:
    return status, {"content-type": "text/html"}, b"<html><body>\n<h1>Welcome</h1>\n</body></html>"


def models(*cards: Any, **more: Any) -> dict[str, Any]:
    answers: dict[str, Any] = {"GET /v1/models": (200, {}, {"object": "list", "data": list(cards)})}
    return {**answers, "POST /v1/chat/completions": (200, {}, ANSWER), **more}


def closed_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "VLLM_CI_HOME": str(folder / "home"), "NO_COLOR": "1", **environment}
    argv = [sys.executable, "-m", "vllm_ci", "test", "--engine", "host", "--report-dir", str(folder / "reports"), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, cwd=folder, env=env, timeout=120, check=False)
