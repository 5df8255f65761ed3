"""A hostile request must not make the server unavailable for others.

Each is refused with 4xx or answered within limits, in time, and a valid request works afterwards.
"""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from vllm_ci.suites.client import ApiClient, shown
from vllm_ci.suites.findings import Finding
from vllm_ci.suites.raw import send
from vllm_ci.suites.security.hostile import ATTACKS, Attack
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.verdicts import inconclusive

Judge = Callable[[Iterable[Finding]], None]

# Time limit for a hostile request; generous, because CI machines are slow.
_BOUND_S = 20.0
_SLOW_CLIENTS = 50
_NO_ANSWER, _HUNG_UP = -1, 0


@pytest.fixture(scope="module")
def bound_s(patience: Callable[[float], float]) -> float:
    """Time limit for a hostile request, and for a valid one afterwards."""
    return patience(_BOUND_S)


@pytest.fixture(scope="module")
def victims() -> list[str]:
    """Names of the attacks after which the server did not work."""
    return []


@pytest.mark.requires_capability("chat", "completions")
@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_a_hostile_request_does_no_harm(
    client: ApiClient,
    judge: Judge,
    metric: Callable[[str, object], None],
    victims: list[str],
    attack: Attack,
    bound_s: float,
) -> None:
    """The request is refused or answered within limits, in time, and the server works afterwards."""
    if victims and _trouble(client, bound_s):
        inconclusive(f"the server has not worked since {victims[-1]}")
    body = attack.make(client.model)
    begun = time.monotonic()
    try:
        answer = client.http.post(attack.path, content=body, headers={"content-type": "application/json"}, timeout=bound_s)
        status = answer.status_code
    except httpx.TimeoutException:
        status = _NO_ANSWER
    except httpx.TransportError:
        status = _HUNG_UP
    took_s = time.monotonic() - begun
    metric("took_s", round(took_s, 3))
    found = [verdict] if (verdict := _verdict(attack, status, took_s, bound_s)) else []
    if trouble := _trouble(client, bound_s):
        victims.append(attack.name)
        message = f"answered {status} after {took_s:.1f} s, and afterwards {trouble}"
        found.append(Finding(id=f"harm:{attack.name}", severity="critical", message=message))
    judge(found)


def _verdict(attack: Attack, status: int, took_s: float, bound_s: float) -> Finding | None:
    name = attack.name
    if status == _NO_ANSWER or took_s > bound_s:
        return Finding(id=f"slow:{name}", severity="high", message=f"keeps the server busy for more than {bound_s:.0f} s")
    if status >= 500:
        return Finding(id=f"server-error:{name}", severity="medium", message=f"is answered {status} instead of 4xx")
    if status == 200 and attack.refused:
        return Finding(id=f"accepted:{name}", severity="medium", message="is accepted instead of refused")
    return None


def _trouble(client: ApiClient, bound_s: float) -> str:
    """The problem with a valid request now; empty if it succeeds in time."""
    good = {"model": client.model, "prompt": "hello", "max_tokens": 1}
    try:
        answer = client.post("/v1/completions", good, timeout=bound_s)
    except httpx.HTTPError as error:
        return f"a valid request fails: {type(error).__name__}"
    return "" if answer.status_code == 200 else f"a valid request is answered {shown(answer)}"


@pytest.mark.requires_capability("completions")
@pytest.mark.parametrize("size", [70_000, 1_000_000], ids=["70kB", "1MB"])
def test_giant_headers_are_refused(client: ApiClient, server: ServerFacts, judge: Judge, size: int) -> None:
    """Servers read headers before they authenticate the client."""
    answer = send(server.url, "/health", headers={"x-large": "x" * size})
    taken = answer.status == 200 and size >= 1_000_000
    message = f"accepts a header of {size:,} bytes from anyone"
    judge([Finding(id="giant-header", severity="medium", message=message)] if taken else [])
    client.works()


@pytest.mark.requires_capability("completions")
def test_slow_clients_do_not_hold_the_server(client: ApiClient, server: ServerFacts, bound_s: float) -> None:
    """Connections that never finish their request must not delay other clients."""
    begun = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    with ExitStack() as stack:
        for _ in range(_SLOW_CLIENTS):
            stack.enter_context(connection(server.url)).sendall(begun)
        # There is no way to know when the server has accepted all of them, so several requests are sent.
        waited_s = _longest_wait_s(client, 5, bound_s)
    assert waited_s < bound_s, f"with {_SLOW_CLIENTS} slow clients a valid request takes {waited_s:.1f} s"


@pytest.mark.requires_capability("completions")
def test_a_client_that_does_not_read_holds_nobody_up(
    client: ApiClient, server: ServerFacts, api_key: str, bound_s: float
) -> None:
    """Streams that a client does not read fill buffers, but must not delay other clients."""
    request = streaming(server, api_key, max_tokens=1900, logprobs=5)
    with ExitStack() as stack:
        for _ in range(4):
            line = stack.enter_context(connection(server.url, receive_bytes=4096))
            line.sendall(request)
            assert line.recv(64), "the server closed the connection of a stream"
        waited_s = _longest_wait_s(client, 3, bound_s)
    assert waited_s < bound_s, f"with streams that are not read a valid request takes {waited_s:.1f} s"


@pytest.mark.requires_capability("completions", "metrics")
def test_clients_that_hang_up_leave_nothing_running(
    client: ApiClient, server: ServerFacts, api_key: str, bound_s: float
) -> None:
    """Requests of disconnected clients are aborted."""
    request = streaming(server, api_key, max_tokens=1500)
    for _ in range(8):
        with connection(server.url) as line:
            line.sendall(request)
            line.recv(64)
    deadline = time.monotonic() + bound_s
    while (running := client.metrics().total("vllm:num_requests_running")) and time.monotonic() < deadline:
        time.sleep(0.05)  # the server notices a closed connection when it next writes to it
    assert not running, f"{running:.0f} requests are still running {bound_s:.0f} s after their clients disconnected"


def _longest_wait_s(client: ApiClient, times: int, bound_s: float) -> float:
    """Seconds of the slowest of several valid requests; stops at the first one that takes too long."""
    longest_s = 0.0
    for _ in range(times):
        started = time.monotonic()
        client.works()
        longest_s = max(longest_s, time.monotonic() - started)
        if longest_s > bound_s:
            break
    return longest_s


def streaming(server: ServerFacts, api_key: str, **fields: int) -> bytes:
    """The raw bytes of a request for a long stream."""
    asked = {"model": server.model, "prompt": "x", "ignore_eos": True, "stream": True, **fields}
    body = json.dumps(asked).encode()
    lines = ["POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    if api_key:
        lines.append(f"Authorization: Bearer {api_key}")
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def connection(url: str, receive_bytes: int = 0) -> Iterator[socket.socket]:
    """A plain connection to the server, optionally with a small receive buffer."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((host, port), timeout=30) as line:
        if receive_bytes:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        if parts.scheme == "https":
            with ssl.create_default_context().wrap_socket(line, server_hostname=host) as secured:
                yield secured
        else:
            yield line
