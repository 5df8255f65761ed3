"""Requests as they are given: what happens to a connection is a fact, and a server that is gone has refused nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from doubles.running import running
from doubles.server import Double
from vllm_ci.suites import raw
from vllm_ci.suites.raw import Line, NoConnectionError, send
from vllm_ci.suites.traffic import RateLimitedError, Traffic


@contextmanager
def answering(act: Callable[[socket.socket, int], None]) -> Iterator[str]:
    """A server that does this with each connection, which it counts from 0; yields its base URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def live() -> None:
            server.settimeout(0.05)
            number = 0
            while not stop.is_set():
                try:
                    line, _ = server.accept()
                except TimeoutError:
                    continue
                with line:
                    line.settimeout(5)
                    act(line, number)
                number += 1

        thread = threading.Thread(target=live, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        stop.set()
        thread.join()


def says(text: bytes) -> Callable[[socket.socket, int], None]:
    def act(line: socket.socket, _number: int) -> None:
        line.recv(65536)
        line.sendall(text)

    return act


def test_a_server_that_accepts_no_connection_is_an_error_and_no_refusal() -> None:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        port = line.getsockname()[1]
    with pytest.raises(NoConnectionError, match=f"127.0.0.1:{port} accepts no connection"):
        send(f"http://127.0.0.1:{port}", "/")


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (b"", "closed"),
        (b"HTP nonsense\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 two hundred\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000, "not HTTP"),
    ],
)
def test_what_is_no_response_is_status_zero_with_the_reason(said: bytes, problem: str) -> None:
    with answering(says(said)) as url:
        answer = send(url, "/")
    assert (answer.status, answer.problem) == (0, problem)


def test_a_response_that_ends_early_is_kept_with_the_reason() -> None:
    with answering(says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")) as url:
        answer = send(url, "/")
    assert (answer.status, answer.body, answer.problem) == (200, b"hello", "") or answer.problem == "closed"


@pytest.mark.slow
def test_a_timeout_is_a_fact_about_the_whole_response() -> None:
    def drip(line: socket.socket, _number: int) -> None:
        line.recv(65536)
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        until = time.monotonic() + 3
        while time.monotonic() < until:
            try:
                line.sendall(b"x")
            except OSError:
                return
            time.sleep(0.05)

    with answering(drip) as url:
        begun = time.monotonic()
        answer = send(url, "/", timeout_s=0.5)
        took_s = time.monotonic() - begun
    assert answer.status == 200
    assert answer.problem == "timeout"
    assert took_s < 2.5


def test_a_body_without_end_is_read_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "MOST_BYTES", 100_000)

    def flood(line: socket.socket, _number: int) -> None:
        line.recv(65536)
        try:
            line.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10_000_000)
        except OSError:
            return

    with answering(flood) as url:
        answer = send(url, "/")
    assert 100_000 <= len(answer.body) < 300_000


def test_a_rate_limit_is_waited_for() -> None:
    def limited(line: socket.socket, number: int) -> None:
        line.recv(65536)
        again = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n"
        line.sendall(again if number == 0 else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    waited: list[float] = []
    traffic = Traffic()
    with answering(limited) as url:
        answer = send(url, "/", traffic=traffic, sleep=waited.append)
    assert (answer.status, answer.body) == (200, b"ok")
    assert waited == [3.0]
    assert traffic.refused == 1


def test_a_rate_limit_beyond_the_bound_is_inconclusive() -> None:
    limited = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 600\r\nContent-Length: 0\r\n\r\n"
    with answering(says(limited)) as url, pytest.raises(RateLimitedError):
        send(url, "/", traffic=Traffic(total_wait_s=10))


def test_a_connection_is_kept_for_several_requests_and_pipelines_them() -> None:
    with running(lambda: Double(key="k")) as (url, _), Line(url) as line:
        good = line.request("/v1/models", headers=[("Authorization", "Bearer k")])
        line.write(good)
        assert line.response().status == 200
        line.write(good + line.request("/v1/models") + good)
        assert [line.response().status for _ in range(3)] == [200, 401, 200]


def test_headers_are_sent_in_order_and_repeated_ones_are_kept() -> None:
    seen: list[bytes] = []

    def keep(line: socket.socket, _number: int) -> None:
        seen.append(line.recv(65536))
        line.sendall(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 0\r\n\r\n")

    with answering(keep) as url:
        answer = send(f"{url}/prefix", "//a?b", headers=[("X-B", "1"), ("X-B", "2"), ("Host", "other")])
    assert seen[0] == b"GET /prefix//a?b HTTP/1.1\r\nX-B: 1\r\nX-B: 2\r\nHost: other\r\n\r\n"
    assert answer.headers["x-a"] == "1, 2"
