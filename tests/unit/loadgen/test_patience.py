"""Resets of kept connections and rate limits, with real sockets."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from email.utils import formatdate

import pytest

from unit.loadgen.conftest import Peer, ScriptedServer
from unit.loadgen.test_recorder import answer
from vllm_ci.loadgen.exchange import FailureKind, Request
from vllm_ci.loadgen.recorder import Recorder
from vllm_ci.suites.traffic import RateLimitedError, Traffic

Serve = Callable[..., ScriptedServer]
LIMITED = b"429 Too Many Requests"


def reset(peer: Peer) -> None:
    """Close with a reset instead of an orderly end."""
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.sock.close()


def after_first(then: Callable[[Peer], None]) -> Callable[[Peer], None]:
    """The first connection answers once, and does ``then`` with its second request; other connections answer always."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer())
        while peer.request():
            if peer.number == 1:
                then(peer)
                return
            peer.send(answer())

    return script


@pytest.mark.parametrize("then", [reset, lambda peer: peer.sock.close()], ids=["reset", "closed without announcement"])
def test_a_kept_connection_that_ends_before_any_byte_is_tried_again_on_a_new_one(
    serve: Serve, then: Callable[[Peer], None]
) -> None:
    traffic = Traffic()
    server = serve(after_first(then))
    with Recorder(server.url, patience=traffic) as recorder:
        assert recorder.get("/1").ok
        second = recorder.get("/2")
    assert second.ok, second.describe()
    assert not second.reused
    assert traffic.resets == ["GET /2"]
    assert server.connections == 2


def test_a_kept_connection_that_ends_within_an_answer_is_a_failure_of_the_answer(serve: Serve) -> None:
    def half(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        peer.sock.close()

    traffic = Traffic()
    with Recorder(serve(after_first(half)).url, patience=traffic) as recorder:
        recorder.get("/1")
        second = recorder.get("/2")
    assert second.failure is not None
    assert second.failure.kind is FailureKind.DISCONNECTED
    assert traffic.resets == []


def test_a_new_connection_that_is_reset_is_not_tried_again(serve: Serve) -> None:
    def never(peer: Peer) -> None:
        peer.request()
        reset(peer)

    traffic = Traffic()
    server = serve(never)
    with Recorder(server.url, patience=traffic) as recorder:
        failed = recorder.get("/")
    assert failed.failure is not None
    assert (server.connections, traffic.resets) == (1, [])


def test_a_connection_that_is_announced_to_close_is_no_reset(serve: Serve) -> None:
    def closing(peer: Peer) -> None:
        peer.request()
        peer.send(answer(extra=b"connection: close\r\n"))

    traffic = Traffic()
    with Recorder(serve(closing).url, patience=traffic) as recorder:
        assert all(recorder.get("/").ok for _ in range(3))
    assert traffic.resets == []


def limits(times: int, header: bytes, *, status: bytes = LIMITED, bytewise: bool = False) -> Callable[[Peer], None]:
    """The first requests of a connection are refused for being too many."""

    def script(peer: Peer) -> None:
        for number in range(1000):
            if not peer.request():
                return
            reply = answer(b"slow down", status=status, extra=header) if number < times else answer()
            for byte in [reply] if not bytewise else [reply[at : at + 1] for at in range(len(reply))]:
                peer.send(byte)
                time.sleep(0.002 if bytewise else 0)

    return script


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "least_s"),
    [
        (b"retry-after: 1\r\n", 1.0),
        (b"Retry-After: " + formatdate(time.time() + 1, usegmt=True).encode() + b"\r\n", 0.0),
        (b"", 1.0),
        (b"retry-after: 0\r\n", 0.05),
        (b"retry-after: soon\r\n", 1.0),
    ],
    ids=["seconds", "date", "none", "zero", "invalid"],
)
def test_a_rate_limit_is_waited_for(serve: Serve, header: bytes, least_s: float) -> None:
    traffic = Traffic()
    begun = time.monotonic()
    with Recorder(serve(limits(1, header)).url, patience=traffic) as recorder:
        found = recorder.get("/")
    assert found.ok
    assert time.monotonic() - begun >= least_s
    assert traffic.facts["rate_limited_requests"] == 1
    assert found.seconds < 1, "the wait is part of the measured time"


@pytest.mark.slow
def test_a_rate_limit_whose_status_line_comes_byte_by_byte_is_waited_for(serve: Serve) -> None:
    with Recorder(serve(limits(1, b"retry-after: 0\r\n", bytewise=True)).url, patience=Traffic()) as recorder:
        assert recorder.get("/").ok


@pytest.mark.parametrize("header", [b"retry-after: 86400\r\n", b"Retry-After: Fri, 31 Dec 2999 23:59:59 GMT\r\n"])
def test_a_wait_that_is_too_long_ends_at_once_with_the_cause(serve: Serve, header: bytes) -> None:
    begun = time.monotonic()
    with Recorder(serve(limits(9, header)).url, patience=Traffic()) as recorder, pytest.raises(RateLimitedError) as raised:
        recorder.get("/")
    assert time.monotonic() - begun < 5
    assert raised.value.cause["id"] == "rate-limit"


def test_concurrent_requests_raise_the_rate_limit_itself(serve: Serve) -> None:
    with (
        Recorder(serve(limits(9, b"retry-after: 86400\r\n")).url, patience=Traffic()) as recorder,
        pytest.raises(RateLimitedError),
    ):
        recorder.gather([Request(path="/")] * 4)


def test_an_unavailable_server_is_waited_for_only_if_it_says_how_long(serve: Serve) -> None:
    status = b"503 Service Unavailable"
    with Recorder(serve(limits(1, b"", status=status)).url, patience=Traffic()) as recorder:
        assert recorder.get("/").status == 503
    with Recorder(serve(limits(1, b"retry-after: 0\r\n", status=status)).url, patience=Traffic()) as recorder:
        assert recorder.get("/").ok
