"""Who has no key gets nothing, whatever the way of asking; who has it gets in.

Every route of the live OpenAPI document is asked, and those that are known to exist without being in it.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pytest

from vllm_ci.suites.client import at_once
from vllm_ci.suites.findings import Finding
from vllm_ci.suites.raw import send
from vllm_ci.suites.security.routes import CLOSED, Catalogue, Route, catalogue, tricks
from vllm_ci.suites.server import Server

Judge = Callable[[Iterable[Finding]], None]

with_key = pytest.mark.requires_capability("auth")


@dataclass(frozen=True, kw_only=True)
class House:
    """A server with its doors.

    Attributes:
        server: It.
        key: The right one; empty when it is not known here.
        known: What is known about vLLM's routes.
        guarded: Routes that do not let everybody in.
    """

    server: Server
    key: str
    known: Catalogue
    guarded: tuple[Route, ...]

    def entered(self, routes: Iterable[Route], headers: dict[str, str]) -> list[tuple[Route, int]]:
        """Routes that let in somebody with these headers, with the status they gave."""
        answers = self.answers(routes, headers)
        return [(route, status) for route, status in answers if status and status not in CLOSED]

    def answers(self, routes: Iterable[Route], headers: dict[str, str]) -> list[tuple[Route, int]]:
        """Status of every route for somebody with these headers."""
        todo = tuple(routes)
        return list(zip(todo, at_once(lambda route: self.known.knock(self.server, route, headers).status, todo), strict=True))


@pytest.fixture(scope="module")
def house(server: Server, api_key: str) -> House:
    """The server with its doors, each of which was tried once."""
    outside = House(server=server, key=api_key, known=catalogue(), guarded=())
    answers = outside.answers(outside.known.routes(server), {})
    return replace(outside, guarded=tuple(route for route, status in answers if status in (401, 403)))


def test_asks_for_a_key(server: Server, judge: Judge) -> None:
    """A server that serves whoever finds it will be found."""
    message = "lists its models and completes prompts for anyone; start it with VLLM_API_KEY set, or put a gateway before it"
    judge([] if server.can("auth") else [Finding(id="no-authentication", severity="medium", message=message)])


@with_key
def test_nothing_is_open_that_should_not_be(house: House, judge: Judge) -> None:
    """Without a key only what is on the list of open routes answers."""
    opened = house.entered(house.known.routes(house.server), {})
    judge(finding for route, status in opened if (finding := house.known.finding(route, status)))


def wrong_keys(key: str) -> dict[str, dict[str, str]]:
    """Headers that are not the right key, by what is wrong with them."""
    basic = base64.b64encode(key.encode()).decode()
    return {
        "another-key": {"authorization": "Bearer not-the-key"},
        "empty-key": {"authorization": "Bearer "},
        "beginning-of-the-key": {"authorization": f"Bearer {key[:-1]}"},
        "more-than-the-key": {"authorization": f"Bearer {key}x"},
        "upper-case-key": {"authorization": f"Bearer {key.swapcase()}"},
        "without-a-scheme": {"authorization": key},
        "basic-scheme": {"authorization": f"Basic {basic}"},
        "token-scheme": {"authorization": f"Token {key}"},
        "another-header": {"x-api-key": key},
        "a-cookie": {"cookie": f"authorization=Bearer {key}; api_key={key}"},
        "forwarded-from-localhost": {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1", "forwarded": "for=127.0.0.1"},
        "rewritten-url": {"x-original-url": "/health", "x-rewrite-url": "/health", "x-forwarded-prefix": "/health"},
        "overridden-method": {"x-http-method-override": "OPTIONS"},
    }


@with_key
@pytest.mark.parametrize("mistake", wrong_keys("key"))
def test_a_wrong_key_opens_nothing(house: House, judge: Judge, mistake: str) -> None:
    """Nearly right is wrong: only the whole key, in the documented header and scheme."""
    if not house.key:
        pytest.skip("the right key is not known here (--vllm-api-key-env), so nothing can be nearly right")
    opened = house.entered(house.guarded, wrong_keys(house.key)[mistake])
    judge(
        Finding(id=f"wrong-key:{mistake}:{route}", severity="critical", message=f"lets {mistake} in, with status {status}")
        for route, status in opened
    )


@with_key
def test_the_right_key_opens_every_guarded_route(house: House) -> None:
    """A guard that keeps the owner out is no guard."""
    if not house.key:
        pytest.skip("the right key is not known here (--vllm-api-key-env)")
    with_it = house.answers(house.guarded, {"authorization": f"Bearer {house.key}"})
    without = house.answers(house.guarded, {})
    # A feature that is switched off may answer 403 to its owner; one that refuses the key answers what it answers strangers.
    refused = [str(route) for (route, yes), (_, no) in zip(with_it, without, strict=True) if yes == no]
    assert not refused, f"the right key is refused by {refused}"


@with_key
@pytest.mark.parametrize("path", ["/v1/models", "/v1/completions"])
def test_no_spelling_of_a_path_gets_past_the_guard(server: Server, judge: Judge, path: str) -> None:
    """A guard and a router that read a path differently leave a gap between them."""
    method = "GET" if path == "/v1/models" else "POST"
    body = b"" if method == "GET" else known_body(server)
    headers = {"content-type": "application/json"} if body else {}
    found = []
    for target in tricks(path):
        answer = send(server.url, target, method=method, headers=headers, body=body)
        if answer.status == 200 and (b'"data"' in answer.body or b'"choices"' in answer.body):
            found.append(Finding(id=f"path-trick:{target}", severity="critical", message=f"gets past the guard of {path}"))
    judge(found)


@with_key
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PATCH"])
def test_no_other_method_gets_past_the_guard(server: Server, judge: Judge, method: str) -> None:
    """What answers another method with content, or reflects the request (TRACE), lets in whom GET keeps out."""
    answer = send(server.url, "/v1/models", method=method)
    leaks = answer.status == 200 and (server.model.encode() in answer.body or method == "TRACE")
    message = f"{method} /v1/models answers 200 with content without a key"
    judge([Finding(id=f"method-trick:{method}", severity="high", message=message)] if leaks else [])


@with_key
def test_a_refusal_tells_nothing(server: Server, api_key: str) -> None:
    """No part of the key, no hint at what was nearly right, no trace of the code."""
    key = api_key or os.urandom(8).hex()
    answer = send(server.url, "/v1/models", headers={"authorization": f"Bearer {key[:-1]}"})
    assert answer.status in (401, 403), f"status is {answer.status}"
    text = answer.body.decode(errors="replace")
    assert len(key) < 4 or key[:-1] not in text, "the refusal repeats the key that was sent"
    assert "Traceback" not in text, "the refusal shows where in the code it was made"


def known_body(server: Server) -> bytes:
    """A small good request for a completion."""
    return f'{{"model": "{server.model}", "prompt": "x", "max_tokens": 1}}'.encode()
