"""The routes of vLLM: which may be open, and how to request them without side effects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from vllm_ci.suites.findings import Finding
from vllm_ci.suites.raw import RawResponse, send
from vllm_ci.suites.server import ServerFacts

# Statuses of a refused request; gateways answer 404 or 405 for routes that they do not forward.
CLOSED = (401, 403, 404, 405)
_JSON = {"content-type": "application/json"}
# Invalid JSON, so that no handler with a body runs.
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
        """A request target, with values for the parameters of the path."""
        parts = ["none" if part.startswith("{") else part for part in self.path.split("/")]
        return "/".join(parts)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Known routes of vLLM (``routes.json``)."""

    open: Mapping[str, Mapping[str, Any]]
    probe: Mapping[str, Any]
    unlisted: tuple[str, ...]
    always: tuple[str, ...]
    development: Mapping[str, str]

    def routes(self, server: ServerFacts) -> tuple[Route, ...]:
        """Routes of the server's OpenAPI document and known routes that are not in it, except development routes."""
        live = [f"{method} {path}" for path, methods in server.routes.items() for method in methods]
        named = dict.fromkeys((*live, *self.unlisted, *self.always))
        found = (Route(method=name.split(" ", 1)[0], path=name.split(" ", 1)[1]) for name in named)
        return tuple(route for route in found if route.path not in self.development)

    def request(self, server: ServerFacts, route: Route, headers: Mapping[str, str]) -> RawResponse:
        """Send a harmless request to a route."""
        body = b""
        if route.method in ("POST", "PUT", "PATCH"):
            known = self.probe.get(str(route))
            body = json.dumps({"model": server.model, **known}).encode() if known else _NO_JSON
        sent = {**headers, **(_JSON if body else {})}
        return send(server.url, route.target, method=route.method, headers=sent, body=body)

    def finding(self, route: Route, status: int) -> Finding | None:
        """The finding for a route that answered without the key; ``None`` if it may be open."""
        known = self.open.get(str(route), {"severity": "high", "why": "is not on the list of open routes"})
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


def spellings(path: str) -> Iterator[str]:
    """Other spellings of a path, which an access check may parse differently than the router."""
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
