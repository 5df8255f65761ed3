"""The transport of the suites' HTTP client, with real sockets."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator

import httpx
import pytest

from unit.loadgen.conftest import Peer, ScriptedServer
from unit.loadgen.test_patience import after_first, limits, reset
from unit.loadgen.test_recorder import answer
from vllm_ci.suites.traffic import RateLimitedError, Traffic
from vllm_ci.suites.transport import PatientTransport

Serve = Callable[[Callable[[Peer], None]], ScriptedServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    started: list[ScriptedServer] = []

    def start(script: Callable[[Peer], None]) -> ScriptedServer:
        started.append(ScriptedServer(script, None))
        return started[-1]

    yield start
    for server in started:
        server.close()


def client(server: ScriptedServer, traffic: Traffic, waits: list[float] | None = None) -> httpx.Client:
    slept: list[float] = [] if waits is None else waits
    transport = PatientTransport(traffic, tls=ssl.create_default_context(), sleep=slept.append)
    return httpx.Client(base_url=server.url, transport=transport, trust_env=False, timeout=5)


@pytest.mark.parametrize("then", [reset, lambda peer: peer.sock.close()], ids=["reset", "closed without announcement"])
def test_a_kept_connection_that_ends_before_any_byte_is_tried_again(serve: Serve, then: Callable[[Peer], None]) -> None:
    traffic = Traffic()
    server = serve(after_first(then))
    with client(server, traffic) as http:
        http.get("/1")
        assert http.post("/2", json={"a": 1}).text == "ok"
    assert traffic.resets == ["POST /2"]
    assert traffic.facts == {"reset_connections": 1}


def test_a_body_that_ends_early_is_an_error(serve: Serve) -> None:
    def half(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        peer.sock.close()

    traffic = Traffic()
    with client(serve(after_first(half)), traffic) as http:
        http.get("/1")
        with pytest.raises(httpx.RemoteProtocolError):
            http.get("/2")
    assert traffic.resets == []


def test_a_new_connection_that_is_reset_is_an_error(serve: Serve) -> None:
    def never(peer: Peer) -> None:
        peer.request()
        reset(peer)

    traffic = Traffic()
    server = serve(never)
    with client(server, traffic) as http, pytest.raises(httpx.TransportError):
        http.get("/")
    assert (server.connections, traffic.resets) == (1, [])


def test_a_connection_that_is_announced_to_close_is_no_reset(serve: Serve) -> None:
    def closing(peer: Peer) -> None:
        peer.request()
        peer.send(answer(extra=b"connection: close\r\n"))

    traffic = Traffic()
    with client(serve(closing), traffic) as http:
        assert [http.get("/").text for _ in range(3)] == ["ok"] * 3
    assert traffic.resets == []


def test_a_rate_limit_is_waited_for_and_the_same_body_is_sent_again(serve: Serve) -> None:
    bodies: list[bytes] = []

    def script(peer: Peer) -> None:
        while request := peer.request():
            bodies.append(request.partition(b"\r\n\r\n")[2])
            limited = answer(b"wait", status=b"429 Too Many Requests", extra=b"retry-after: 3\r\n")
            peer.send(limited if len(bodies) < 3 else answer())

    waits: list[float] = []
    with client(serve(script), Traffic(), waits) as http:
        assert http.post("/", json={"a": 1}).status_code == 200
    assert bodies == [b'{"a":1}'] * 3
    assert waits == [3, 3]


def test_a_wait_that_is_too_long_is_not_begun(serve: Serve) -> None:
    waits: list[float] = []
    with client(serve(limits(9, b"retry-after: 86400\r\n")), Traffic(), waits) as http, pytest.raises(RateLimitedError):
        http.get("/")
    assert waits == []


def test_a_body_in_chunks_that_is_changed_stays_in_chunks(serve: Serve) -> None:
    received: list[bytes] = []

    def read(peer: Peer) -> None:
        while b"0\r\n\r\n" not in b"".join(received):
            received.append(peer.sock.recv(65536))
        peer.send(answer())

    traffic = Traffic()
    traffic.dialect.newer_limit = True
    with client(serve(read), traffic) as http:
        http.post("/v1/chat/completions", content=iter((b'{"max_tok', b'ens": 1}'))).raise_for_status()
    sent = b"".join(received)
    assert b'{"max_completion_tokens": 1}' in sent
    assert b"transfer-encoding: chunked" in sent.lower()
    assert b"content-length" not in sent.lower()
