"""A stand-in of a model hub's HTTP API (as Hugging Face's client uses it), on a free port of this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "1234567890123456789012345678901234567890"
# These are kept with Git LFS.
LARGE = (".safetensors", ".bin")


@dataclass
class Hub:
    """One model, `org/name`, with a branch `main`.

    Attributes:
        folder: Its files.
        url: Of the hub.
        altered: Files that are sent with other bytes than the listing says.
        cut_once: Files whose first answer breaks in the middle.
        gated: The listing is refused.
        outside: A path that is listed and leads out of the model's folder; empty for none.
        asked: Paths of the files that were sent.
    """

    folder: Path
    url: str = ""
    altered: set[str] = field(default_factory=set)
    cut_once: set[str] = field(default_factory=set)
    gated: bool = False
    outside: str = ""
    asked: list[str] = field(default_factory=list)

    def files(self) -> list[str]:
        return sorted(str(each.relative_to(self.folder)) for each in self.folder.rglob("*") if each.is_file())

    def listing(self) -> dict[str, object]:
        siblings = []
        for path in self.files():
            content = (self.folder / path).read_bytes()
            sibling: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": _git_id(content)}
            if path.endswith(LARGE):
                sibling["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
        if self.outside:
            siblings.append({"rfilename": self.outside, "size": 2, "blobId": _git_id(b"{}")})
        facts = {"_id": "1", "id": "org/name", "modelId": "org/name", "private": False, "tags": [], "downloads": 0, "likes": 0}
        return {**facts, "sha": COMMIT, "siblings": siblings, "cardData": {"license": "apache-2.0"}}


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Server(ThreadingHTTPServer):
    hub: Hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        name = path.removeprefix(f"/org/name/resolve/{COMMIT}/")
        if path in (f"/api/models/org/name/revision/{each}" for each in ("main", COMMIT)):
            if hub.gated:
                self._refuse(403, "GatedRepo", body=body)
            else:
                self._send(200, json.dumps(hub.listing()).encode(), {"Content-Type": "application/json"}, body=body)
        elif path != name and (hub.folder / name).is_file():
            self._file(hub, name, body=body)
        else:
            known = path.startswith("/api/models/org/name/")
            self._refuse(404, "RevisionNotFound" if known else "RepoNotFound", body=body)

    def _file(self, hub: Hub, name: str, *, body: bool) -> None:
        content = (hub.folder / name).read_bytes()
        etag = hashlib.sha256(content).hexdigest() if name.endswith(LARGE) else _git_id(content)
        if name in hub.altered:
            content = content[:-1] + bytes([content[-1] ^ 1])
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start, status, cut = 0, 200, False
        if body:
            if asked := self.headers.get("Range"):
                start, status = int(asked.removeprefix("bytes=").partition("-")[0]), 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            hub.asked.append(name)
            cut = name in hub.cut_once
            hub.cut_once.discard(name)
        self._send(status, content[start:], headers, body=body, cut=cut)

    def _refuse(self, status: int, code: str, *, body: bool) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "not for you"}, body=body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, body: bool, cut: bool = False) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """The hub, while the context lasts."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.hub = Hub(folder, url=f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server.hub
        finally:
            server.shutdown()
            thread.join()
