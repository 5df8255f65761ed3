"""A read-only distribution server straight over an image layout: what was built can be pulled before it is pushed anywhere.

``python -m vllm_ci.registry.server --layout DIR --port 5000`` answers GET and HEAD of manifests (by digest or tag) and blobs,
under any repository name: the digest says which. Standard library only, so that it starts in a tenth of a second anywhere.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from vllm_ci.domain.errors import RegistryError
from vllm_ci.registry.errors import NotFoundError
from vllm_ci.registry.layout import Layout
from vllm_ci.registry.manifest import OCI_INDEX

_ROUTE = re.compile(r"/v2/(?P<name>[a-z0-9._/-]+)/(?P<kind>manifests|blobs|referrers|tags)/(?P<reference>[^/?]+)(?:\?.*)?")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: ReadOnlyRegistry

    def do_GET(self) -> None:
        try:
            self._answer()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_GET  # noqa: N815 - the base class calls it by this name

    def _answer(self) -> None:
        if self.path.rstrip("/") == "/v2":
            self._send_json({})
            return
        route = _ROUTE.fullmatch(self.path)
        if route is None:
            self._refuse(HTTPStatus.NOT_FOUND, "UNSUPPORTED", f"no such path: {self.path}")
            return
        try:
            getattr(self, f"_{route['kind']}")(route["name"], route["reference"])
        except NotFoundError as error:
            code = "BLOB_UNKNOWN" if route["kind"] == "blobs" else "MANIFEST_UNKNOWN"
            self._refuse(HTTPStatus.NOT_FOUND, code, error.message)
        except RegistryError as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "UNKNOWN", error.message)

    def _manifests(self, _name: str, reference: str) -> None:
        manifest = self.server.layout.manifest(reference)
        self._send_bytes(manifest.content, manifest.media_type, {"Docker-Content-Digest": manifest.digest})

    def _blobs(self, _name: str, digest: str) -> None:
        with self.server.layout.open(digest) as stream:
            size = stream.seek(0, 2)
            start, stop = self._range(size)
            if start >= stop and size:
                self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "SIZE_INVALID", f"the blob has {size} bytes")
                return
            partial = (start, stop) != (0, size)
            self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
            if partial:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(stop - start))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Docker-Content-Digest", digest)
            self.end_headers()
            self.wfile.flush()
            if self.command == "GET" and stop > start:
                self.connection.sendfile(stream, start, stop - start)

    def _range(self, size: int) -> tuple[int, int]:
        """Start and stop of the one range asked for; the whole where none, several or a malformed one is (RFC 9110, 14.2)."""
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked is None or not any(asked.groups()):
            return 0, size
        first, last = asked.groups()
        if not first:
            return max(0, size - int(last)), size
        return int(first), min(size, int(last) + 1) if last else size

    def _referrers(self, _name: str, digest: str) -> None:
        found = [each.to_json() for each in self.server.layout.referrers(digest)]
        self._send_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}, OCI_INDEX)

    def _tags(self, name: str, _list: str) -> None:
        self._send_json({"name": name, "tags": self.server.layout.tags()})

    def _send_json(self, value: object, media_type: str = "application/json", status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send_bytes(json.dumps(value).encode(), media_type, {}, status)

    def _send_bytes(self, content: bytes, media_type: str, more: dict[str, str], status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": media_type,
            "Content-Length": str(len(content)),
            "Docker-Distribution-Api-Version": "registry/2.0",
        }
        for name, value in (headers | more).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _refuse(self, status: HTTPStatus, code: str, message: str) -> None:
        self._send_json({"errors": [{"code": code, "message": message}]}, status=status)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        if self.server.verbose:
            sys.stderr.write(f"{self.log_date_time_string()} {format % args}\n")


class ReadOnlyRegistry(ThreadingHTTPServer):
    """The server; a thread per connection.

    Args:
        layout: What it serves; read anew with every request, so that later builds into it are served too.
        host: Address to listen on.
        port: 0 takes a free one, see ``server_port``.
        verbose: One line per request on standard error.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, layout: Layout, *, host: str = "127.0.0.1", port: int = 0, verbose: bool = False) -> None:
        self.layout = layout
        self.verbose = verbose
        super().__init__((host, port), _Handler)


def main(arguments: list[str] | None = None) -> None:
    """Serve until asked to stop; the first line of standard output says where."""
    parser = argparse.ArgumentParser(
        prog="python -m vllm_ci.registry.server", description="read-only OCI registry over an image layout"
    )
    parser.add_argument("--layout", type=Path, required=True, help="folder with oci-layout, index.json and blobs/")
    parser.add_argument("--blobs", type=Path, action="append", default=[], help="another folder with blobs/sha256 (repeatable)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for other machines and containers")
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free port")
    parser.add_argument("--verbose", action="store_true", help="one line per request on standard error")
    options = parser.parse_args(arguments)
    layout = Layout(options.layout, stores=options.blobs)
    with ReadOnlyRegistry(layout, host=options.host, port=options.port, verbose=options.verbose) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            # shutdown() waits for serve_forever(), so it must not run on this thread.
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
        sys.stdout.write(f"listening on {options.host}:{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
