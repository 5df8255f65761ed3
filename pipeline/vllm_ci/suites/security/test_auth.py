"""Requests without the key are refused, in all variants; requests with the key are accepted.

All routes of the server's OpenAPI document are requested, and known routes that are not in it.
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
from vllm_ci.suites.security.routes import CLOSED, Catalogue, Route, catalogue, spellings
from vllm_ci.suites.server import ServerFacts

Judge = Callable[[Iterable[Finding]], None]

with_key = pytest.mark.requires_capability("auth")


@dataclass(frozen=True, kw_only=True)
class ProtectedServer:
    """A server and its protected routes.

    Attributes:
        server: The server.
        key: The API key; empty if it was not given.
        known: Known routes of vLLM.
        guarded: Routes that refuse requests without a key.
    """

    server: ServerFacts
    key: str
    known: Catalogue
    guarded: tuple[Route, ...]

    def accepted(self, routes: Iterable[Route], headers: dict[str, str]) -> list[tuple[Route, int]]:
        """Routes that accept requests with these headers, and their statuses."""
        answers = self.answers(routes, headers)
        return [(route, status) for route, status in answers if status and status not in CLOSED]

    def answers(self, routes: Iterable[Route], headers: dict[str, str]) -> list[tuple[Route, int]]:
        """Status of every route for requests with these headers."""
        todo = tuple(routes)
        return list(zip(todo, at_once(lambda route: self.known.request(self.server, route, headers).status, todo), strict=True))


@pytest.fixture(scope="module")
def protected(server: ServerFacts, api_key: str) -> ProtectedServer:
    """The server with its protected routes, found by one request to each route without a key."""
    unprobed = ProtectedServer(server=server, key=api_key, known=catalogue(), guarded=())
    answers = unprobed.answers(unprobed.known.routes(server), {})
    return replace(unprobed, guarded=tuple(route for route, status in answers if status in (401, 403)))


def test_asks_for_a_key(server: ServerFacts, judge: Judge) -> None:
    """A server without a key serves everybody who can reach it."""
    message = "lists its models and completes prompts for anyone; start it with VLLM_API_KEY set, or use a gateway"
    judge([] if server.can("auth") else [Finding(id="no-authentication", severity="medium", message=message)])


@with_key
def test_nothing_is_open_that_should_not_be(protected: ProtectedServer, judge: Judge) -> None:
    """Without a key, only routes on the list of open routes answer."""
    opened = protected.accepted(protected.known.routes(protected.server), {})
    judge(finding for route, status in opened if (finding := protected.known.finding(route, status)))


def wrong_keys(key: str) -> dict[str, dict[str, str]]:
    """Headers with an invalid key, by name."""
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
def test_a_wrong_key_opens_nothing(protected: ProtectedServer, judge: Judge, mistake: str) -> None:
    """Only the exact key in the documented header and scheme is accepted."""
    if not protected.key:
        pytest.skip("the API key was not given (--vllm-api-key-env), so no similar keys can be tried")
    opened = protected.accepted(protected.guarded, wrong_keys(protected.key)[mistake])
    judge(
        Finding(id=f"wrong-key:{mistake}:{route}", severity="critical", message=f"accepts {mistake}, with status {status}")
        for route, status in opened
    )


@with_key
def test_the_right_key_opens_every_guarded_route(protected: ProtectedServer) -> None:
    """Every protected route accepts the key."""
    if not protected.key:
        pytest.skip("the API key was not given (--vllm-api-key-env)")
    with_it = protected.answers(protected.guarded, {"authorization": f"Bearer {protected.key}"})
    without = protected.answers(protected.guarded, {})
    # A disabled feature may answer 403 even with the key; a route that refuses the key answers the same with and without it.
    refused = [str(route) for (route, yes), (_, no) in zip(with_it, without, strict=True) if yes == no]
    assert not refused, f"these routes refuse the correct key: {refused}"


@with_key
@pytest.mark.parametrize("path", ["/v1/models", "/v1/completions"])
def test_no_spelling_of_a_path_gets_past_the_guard(server: ServerFacts, judge: Judge, path: str) -> None:
    """An access check that parses a path differently than the router can be bypassed."""
    method = "GET" if path == "/v1/models" else "POST"
    body = b"" if method == "GET" else known_body(server)
    headers = {"content-type": "application/json"} if body else {}
    found = []
    for target in spellings(path):
        answer = send(server.url, target, method=method, headers=headers, body=body)
        if answer.status == 200 and (b'"data"' in answer.body or b'"choices"' in answer.body):
            found.append(
                Finding(id=f"path-trick:{target}", severity="critical", message=f"bypasses the access check of {path}")
            )
    judge(found)


@with_key
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PATCH"])
def test_no_other_method_gets_past_the_guard(server: ServerFacts, judge: Judge, method: str) -> None:
    """No other method returns content without a key, or reflects the request (TRACE)."""
    answer = send(server.url, "/v1/models", method=method)
    leaks = answer.status == 200 and (server.model.encode() in answer.body or method == "TRACE")
    message = f"{method} /v1/models returns content without a key"
    judge([Finding(id=f"method-trick:{method}", severity="high", message=message)] if leaks else [])


@with_key
def test_a_refusal_tells_nothing(server: ServerFacts, api_key: str) -> None:
    """The error contains no part of the key and no traceback."""
    key = api_key or os.urandom(8).hex()
    answer = send(server.url, "/v1/models", headers={"authorization": f"Bearer {key[:-1]}"})
    assert answer.status in (401, 403), f"status is {answer.status}"
    text = answer.body.decode(errors="replace")
    assert len(key) < 4 or key[:-1] not in text, "the error repeats the key that was sent"
    assert "Traceback" not in text, "the error contains a traceback"


def known_body(server: ServerFacts) -> bytes:
    """A small valid request for a completion."""
    return f'{{"model": "{server.model}", "prompt": "x", "max_tokens": 1}}'.encode()
