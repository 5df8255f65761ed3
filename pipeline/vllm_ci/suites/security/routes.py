"""Which routes there are, which may be open, and how to knock without breaking anything."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from vllm_ci.suites.findings import Finding
from vllm_ci.suites.raw import Answer, send
from vllm_ci.suites.server import Server

# What a server says to somebody whom it does not let in; 404 and 405 are what a gateway says of routes that it hides.
CLOSED = (401, 403, 404, 405)
_JSON = {"content-type": "application/json"}
# Stops at the parser: no handler that takes a body ever runs.
_NO_JSON = b"{"


@dataclass(frozen=True, kw_only=True)
class Route:
    """A method and a path, as in an OpenAPI document."""

    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def target(self) -> str:
        """A request target: parameters of the path get a value."""
        parts = ["none" if part.startswith("{") else part for part in self.path.split("/")]
        return "/".join(parts)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """What is known about vLLM's routes (``routes.json``)."""

    open: Mapping[str, Mapping[str, Any]]
    probe: Mapping[str, Any]
    unlisted: tuple[str, ...]
    always: tuple[str, ...]
    development: Mapping[str, str]

    def routes(self, server: Server) -> tuple[Route, ...]:
        """Routes of the live OpenAPI document, and those that exist without being in it; none that is only looked for."""
        live = [f"{method} {path}" for path, methods in server.routes.items() for method in methods]
        named = dict.fromkeys((*live, *self.unlisted, *self.always))
        found = (Route(method=name.split(" ", 1)[0], path=name.split(" ", 1)[1]) for name in named)
        return tuple(route for route in found if route.path not in self.development)

    def knock(self, server: Server, route: Route, headers: Mapping[str, str]) -> Answer:
        """Ask a route for something harmless."""
        body = b""
        if route.method in ("POST", "PUT", "PATCH"):
            known = self.probe.get(str(route))
            body = json.dumps({"model": server.model, **known}).encode() if known else _NO_JSON
        sent = {**headers, **(_JSON if body else {})}
        return send(server.url, route.target, method=route.method, headers=sent, body=body)

    def finding(self, route: Route, status: int) -> Finding | None:
        """What it means that a route answered somebody without the key."""
        known = self.open.get(str(route), {"severity": "high", "why": "is on no list of what may be open"})
        if known["severity"] is None:
            return None
        message = f"answers {status} without the key: {known['why']}"
        return Finding(id=f"open-route:{route}", severity=known["severity"], message=message)


def catalogue() -> Catalogue:
    """Read ``routes.json``."""
    data = json.loads(resources.files(__package__).joinpath("routes.json").read_text(encoding="utf-8"))
    return Catalogue(
        open=data["open"],
        probe=data["probe"],
        unlisted=tuple(data["unlisted"]),
        always=tuple(data["always"]),
        development=data["development"],
    )


def tricks(path: str) -> Iterator[str]:
    """Spellings of a path that a guard may read differently from the router behind it."""
    head, _, tail = path.lstrip("/").partition("/")
    yield f"//{head}/{tail}"
    yield f"/{head}//{tail}"
    yield f"/{head}/{tail}/"
    yield f"/./{head}/{tail}"
    yield f"/x/../{head}/{tail}"
    yield f"/health/../{head}/{tail}"
    yield f"/{head.upper()}/{tail}"
    yield f"/%{ord(head[0]):02x}{head[1:]}/{tail}"
    yield f"/{head}%2f{tail}"
    yield f"/{head};x=y/{tail}"
    yield f"/{head}/{tail}?x=/health"
    yield f"/{head}/{tail}%00"
    yield f"/health%2f..%2f{head}/{tail}"
    yield f"/{head}\\{tail}"
