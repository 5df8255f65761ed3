"""A gateway with a stand-in behind it, and what got through to the server."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from standin.deployment import Place, revision
from vllm_ci.deploy.target import Route
from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.targets.local.keys import KeyFile
from vllm_ci.targets.local.target import LocalTarget

ASK = {"model": "m", "prompt": "a secret prompt"}
_SLASHES = ("..", "%2f", "%5c", "//", "\\")


async def served(place: Place, given: GatewaySettings) -> LocalTarget:
    """One replica behind a gateway with these settings."""
    target = place.target(given)
    await target.start(revision("a"), 1)
    await target.route(Route(weights={revision("a").name: 100}))
    return target


async def answered(target: LocalTarget) -> str:
    """The text of a completion that came through the gateway."""
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{(await target.current()).address}/v1/completions", json=ASK)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def key_file(place: Place) -> KeyFile:
    """The keys of a deployment."""
    return KeyFile(path=place.folder / "target" / "keys.json")


def reached(seen: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Requests that reached the server, other than those of the gateway's health checks and of this tool."""
    for line in seen.read_text(encoding="utf-8").splitlines():
        method, target, headers = json.loads(line)
        if target not in ("/health", "/metrics") or headers.get("host") == "x":
            yield method, target, headers


def forbidden(seen: Path) -> list[tuple[str, str]]:
    """Requests that must not have got through."""
    return [(method, target) for method, target, _ in reached(seen) if not _allowed(target)]


def _allowed(target: str) -> bool:
    path = target.partition("?")[0].lower()
    return target.startswith("/v1/") and not any(each in path for each in _SLASHES) and "lora_adapter" not in path


@contextmanager
def no_space() -> Iterator[None]:
    """Files that are written in the context cannot have a byte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
