"""The routes of a server: which may be open, and which must not exist."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from vllm_ci.suites.findings import Finding
from vllm_ci.suites.server import ServerFacts

_UNKNOWN = {"why": "is not on the list of open routes"}


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
    unlisted: tuple[str, ...]
    always: tuple[str, ...]
    development: Mapping[str, str]

    def routes(self, server: ServerFacts) -> tuple[Route, ...]:
        """Routes of the server's OpenAPI document and known routes that are not in it, except development routes."""
        live = [f"{method} {path}" for path, methods in server.routes.items() for method in methods]
        named = dict.fromkeys((*live, *self.unlisted, *self.always))
        found = (Route(method=name.split(" ", 1)[0], path=name.split(" ", 1)[1]) for name in named)
        return tuple(route for route in found if route.path not in self.development)

    def finding(self, route: Route, said: str, *, unknown: str = "high") -> Finding | None:
        """The finding for a route that serves without the key; ``None`` if it may be open.

        Args:
            route: The route.
            said: What it returned.
            unknown: Severity if the route is not known.
        """
        known = self.open.get(str(route), {"severity": unknown, **_UNKNOWN})
        if known["severity"] is None:
            return None
        message = f"serves without the key: {known['why']}; it returns {said}"
        return Finding(id=f"open-route:{route}", severity=known["severity"], message=message)


def catalogue() -> Catalogue:
    """Read ``routes.json``."""
    data = json.loads(resources.files(__package__).joinpath("routes.json").read_text(encoding="utf-8"))
    return Catalogue(
        open=data["open"],
        unlisted=tuple(data["unlisted"]),
        always=tuple(data["always"]),
        development=data["development"],
    )


def spellings(path: str) -> Iterator[str]:
    """Other spellings of a path, which an access check may parse differently than the router."""
    head, slash, tail = path.lstrip("/").partition("/")
    rest = slash + tail
    yield f"//{head}{rest}"
    yield f"/{head}/{rest or '/'}"
    yield f"/{head}{rest}/"
    yield f"/./{head}{rest}"
    yield f"/x/../{head}{rest}"
    yield f"/health/../{head}{rest}"
    yield f"/health/..;/{head}{rest}"
    yield f"/{head.upper()}{rest}"
    yield f"/{head}{rest.upper()}" if rest else f"/{head.capitalize()}/"
    yield f"/%{ord(head[0]):02x}{head[1:]}{rest}"
    yield f"/%25{ord(head[0]):02x}{head[1:]}{rest}"
    yield f"/{head}{rest.replace('/', '%2f') or '%2f'}"
    yield f"/{head};x=y{rest}"
    yield f"/{head}{rest};"
    yield f"/{head}{rest};a=b"
    yield f"/{head}{rest}?x=/health"
    yield f"/{head}{rest}#/health"
    yield f"/{head}{rest}%3fx=/health"
    yield f"/{head}{rest}%23/health"
    yield f"/{head}{rest}%00"
    yield f"/{head}{rest}%09"
    yield f"/{head}{rest}/."
    yield f"/{head}{rest}."
    yield f"/{head}{rest}%20"
    yield f"/{head}{rest}.json"
    yield f"/health%2f..%2f{head}{rest}"
    yield f"/{head}{rest.replace('/', chr(92)) or chr(92)}"
