"""What strangers send: only allowed paths reach a server, in both versions of HTTP, and limits are kept."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.hostile import PATHS, PSEUDO, SMUGGLING
from standin import h2
from standin.deployment import Place
from standin.gateway import ASK, forbidden, reached, served
from vllm_ci.domain.gateway import GatewaySettings

pytestmark = pytest.mark.gateway


def raw(address: str, content: bytes) -> bytes:
    """Send bytes as they are; the first answer, and what follows it at once."""
    parts = urlsplit(address)
    found = b""
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2) as connection, suppress(OSError):
        connection.sendall(content)
        while more := connection.recv(65536):
            found += more
            if b"\r\n\r\n" in found:
                connection.settimeout(0.05)
    return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, str]]:
    """A gateway without keys: what gets through here, gets through for whoever has one."""
    place = Place(folder=tmp_path_factory.mktemp("hardening"))

    async def start() -> str:
        return (await (await served(place, GatewaySettings(max_body_bytes=100_000))).current()).address

    yield place, anyio.run(start)
    anyio.run(place.target().close)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_outside_the_allowed_ones_reaches_no_server(path: str, shared: tuple[Place, str]) -> None:
    place, address = shared
    for method in ("GET", "POST"):
        raw(address, f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode("latin-1"))
        parts = urlsplit(address)
        pseudo = [(":method", method), (":scheme", "http"), (":authority", "x"), (":path", path)]
        h2.ask(parts.hostname or "", parts.port or 0, pseudo)
    assert not forbidden(place.seen)


pieces = st.lists(
    st.sampled_from(
        ["/", "//", "v1", "V1", "..", ".", "%2e", "%2f", "%5c", "\\", ";", "?", "#", "metrics", "models", "%00", "%25", "a:b@"]
    ),
    max_size=8,
).map("".join)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.sampled_from(["/", "/v1/", "/v1", ""]), rest=pieces)
def test_no_made_up_path_reaches_what_is_not_allowed(start: str, rest: str, shared: tuple[Place, str]) -> None:
    place, address = shared
    raw(address, f"GET {start}{rest} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode("latin-1"))
    assert not forbidden(place.seen)


@pytest.mark.parametrize("shape", SMUGGLING)
def test_a_request_inside_a_request_reaches_no_server(shape: str, shared: tuple[Place, str]) -> None:
    place, address = shared
    raw(address, SMUGGLING[shape])
    assert not forbidden(place.seen)
    assert b"vllm:" not in raw(address, SMUGGLING[shape])


@pytest.mark.parametrize("number", range(len(PSEUDO)))
def test_odd_pseudo_headers_reach_no_server(number: int, shared: tuple[Place, str]) -> None:
    place, address = shared
    parts = urlsplit(address)
    h2.ask(parts.hostname or "", parts.port or 0, PSEUDO[number])
    assert not forbidden(place.seen)


def test_plain_requests_get_through_in_both_versions_of_http(shared: tuple[Place, str]) -> None:
    """So that the cases above do not pass because nothing gets through."""
    place, address = shared
    before = len(list(reached(place.seen)))
    assert b" 200 " in raw(address, b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    parts = urlsplit(address)
    asked = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/v1/models")]
    assert h2.ask(parts.hostname or "", parts.port or 0, asked) == "headers"
    assert len(list(reached(place.seen))) == before + 2


def test_large_and_many_headers_and_large_bodies_are_refused(shared: tuple[Place, str]) -> None:
    _, address = shared
    with httpx.Client(base_url=address) as client:
        assert client.get("/v1/models", headers={"x": "y" * 20_000}).status_code == 431
        assert client.get("/v1/models", headers={f"x-{number}": "y" for number in range(80)}).status_code == 431
        large = client.post("/v1/completions", content=b"{" + b" " * 200_000)
        assert large.status_code == 413
        assert client.post("/v1/completions", json=ASK).status_code == 200


def test_errors_of_the_gateway_have_the_form_of_the_api(shared: tuple[Place, str]) -> None:
    _, address = shared
    answer = httpx.get(f"{address}/invocations")
    assert answer.status_code == 404
    assert answer.json() == {"error": {"message": "no such path", "type": "gateway_error", "param": None, "code": 404}}
    assert answer.headers["content-type"] == "application/json"
