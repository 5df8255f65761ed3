"""The API for comments of GitHub and of GitLab, as a server on a free port."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "t0ken-of-the-job"
_GITHUB = re.compile(r"/repos/team/serving/issues/(?:7/comments|comments/(?P<id>\d+))")
_GITLAB = re.compile(r"/projects/1/merge_requests/7/notes(?:/(?P<id>\d+))?")


@dataclass
class Forge:
    """A pull request with comments. ``answers`` are given instead of its own, one for each request.

    The token is of a user, or of a job of GitHub, which may not ask who it is.
    """

    url: str = ""
    of_job: bool = False
    comments: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)

    def add(self, body: str, *, bot: bool = True, author: int = 5) -> dict[str, Any]:
        made = {
            "id": 100 + len(self.comments),
            "body": body,
            "user": {"type": "Bot" if bot else "User", "id": author},
            "author_association": "NONE" if bot else "MEMBER",
            "html_url": f"https://forge.example.com/comment/{100 + len(self.comments)}",
        }
        self.comments.append(made)
        return made

    @property
    def bodies(self) -> list[str]:
        return [each["body"] for each in self.comments]


class _Handler(BaseHTTPRequestHandler):
    forge: Forge

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        sent = json.loads(self.rfile.read(size)) if size else {}
        parts = urlsplit(self.path)
        token = self.headers.get("PRIVATE-TOKEN") or self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.forge.asked.append((self.command, parts.path, token))
        if self.forge.answers:
            self._send(*self.forge.answers.pop(0))
        elif token != TOKEN:
            self._send(401, {}, b'{"message": "Bad credentials"}')
        elif parts.path == "/user":
            said = b'{"message": "Resource not accessible by integration"}' if self.forge.of_job else b'{"id": 5}'
            self._send(403 if self.forge.of_job else 200, {}, said)
        elif found := _GITHUB.fullmatch(parts.path) or _GITLAB.fullmatch(parts.path):
            self._comments(
                found["id"],
                sent,
                parts.path.startswith("/projects"),
                {name: values[0] for name, values in parse_qs(parts.query).items()},
            )
        else:
            self._send(404, {}, b'{"message": "Not Found"}')

    def _comments(self, which: str | None, sent: dict[str, Any], gitlab: bool, query: dict[str, str]) -> None:
        comments = self.forge.comments
        if self.command == "GET":
            size, page = int(query["per_page"]), int(query["page"])
            listed = comments[size * (page - 1) : size * page]
            if gitlab:
                listed = [{"id": each["id"], "body": each["body"], "author": {"id": each["user"]["id"]}} for each in listed]
            self._send(200, {}, json.dumps(listed).encode())
        elif self.command == "POST":
            self._send(201, {}, json.dumps(self.forge.add(sent["body"])).encode())
        elif found := next((each for each in comments if str(each["id"]) == which), None):
            found["body"] = sent["body"]
            self._send(200, {}, json.dumps(found).encode())
        else:
            self._send(404, {}, b'{"message": "Not Found"}')

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = do_PUT = _answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


@contextmanager
def forge() -> Iterator[Forge]:
    made = Forge()
    handler = type("Handler", (_Handler,), {"forge": made})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        made.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield made
        server.shutdown()
        thread.join()
