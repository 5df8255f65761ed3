"""Serves a folder of reports on this machine: a dashboard of them that is made anew when they change, and their pages."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

HOST = "127.0.0.1"
# By name: pages of others, whose names lead to this address, are not answered.
_NAMES = (HOST, "localhost")
# Beside the policy of our own pages: HTML of others, in a folder of collected reports, cannot request or frame other reports.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {".log": "text/plain; charset=utf-8", ".md": "text/plain; charset=utf-8", ".html": "text/html; charset=utf-8"}


class Reports(ThreadingHTTPServer):
    """The server; :meth:`serve_forever` answers until it is shut down.

    Args:
        folder: Folder with a folder for each run.
        port: Port; 0 for any free one.
        index: Gives the page of all reports.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int, index: Callable[[], str]) -> None:
        self.folder = folder.resolve()
        self.index = index
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: Reports

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in _NAMES:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        path = unquote(urlsplit(self.path).path)
        if path == "/":
            self._send(self.server.index().encode(errors="backslashreplace"), "text/html; charset=utf-8")
            return
        file = self._file(path)
        if file is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self._send(file.read_bytes(), _TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "text/plain")

    do_HEAD = do_GET  # noqa: N815 - the name that the library calls

    def _file(self, path: str) -> Path | None:
        """The file of a run; never one outside the folder, also not through links."""
        try:
            file = (self.server.folder / path.lstrip("/")).resolve()
            return file if file.is_relative_to(self.server.folder) and file.is_file() else None
        except (OSError, ValueError):
            return None

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", _POLICY)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing for each request."""
