"""A hostile request must not make the server unavailable for others.

Each is refused with 4xx or answered within limits, in time, and a valid request works afterwards.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import pytest

from vllm_ci.suites.client import ApiClient, shown
from vllm_ci.suites.findings import Finding
from vllm_ci.suites.machine import Watch
from vllm_ci.suites.raw import Line
from vllm_ci.suites.security.door import Door
from vllm_ci.suites.security.hostile import ATTACKS, Attack
from vllm_ci.suites.security.listener import is_local
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.verdicts import inconclusive

Judge = Callable[[Iterable[Finding]], None]

# Time limit for a hostile request; generous, because CI machines are slow.
_BOUND_S = 20.0
_SLOW_CLIENTS = 50
_GIANT_HEADER = 1_000_000
_MANY_HEADERS = 20_000
_PIECE, _GIANT_BODY = 1_000_000, 100
_ORDINARY = 0.1
"""Share of the limit that an ordinary request may take on a machine that can judge the time of others."""
_NO_ANSWER = "no answer in time"


@pytest.fixture(scope="module")
def bound_s(patience: Callable[[float], float]) -> float:
    """Time limit for a hostile request, and for a valid one afterwards."""
    return patience(_BOUND_S)


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_a_hostile_request_does_no_harm(
    client: ApiClient,
    judge: Judge,
    metric: Callable[[str, object], None],
    machine: Watch,
    attack: Attack,
    bound_s: float,
) -> None:
    """The request is refused or answered within limits, in time, and the server works afterwards."""
    surface = attack.on(chat=client.server.can("chat"), completions=client.server.can("completions"))
    if not surface:
        pytest.skip(f"it makes sense for {attack.surface or 'chat and completions'} only, which the server lacks")
    path = "/v1/chat/completions" if surface == "chat" else "/v1/completions"
    sent = _sent(client, path, attack.make(client.model, surface == "chat"), bound_s)
    metric("took_s", round(sent.took_s, 3))
    found = _verdict(attack, sent, bound_s, documented=client.server.is_vllm)
    if found is not None and found.id.startswith("slow:"):
        _require_a_working_machine(client, machine, bound_s, found.message)
    trouble = _trouble(client, bound_s)
    harm = Finding(id=f"harm:{attack.name}", severity="critical", message=f"answered {sent}, and afterwards {trouble}")
    judge([*([found] if found else []), *([harm] if trouble else [])])


@dataclass(frozen=True, kw_only=True)
class _Sent:
    """What became of a hostile request: its status, or why there is none."""

    status: int = 0
    text: str = ""
    problem: str = ""
    took_s: float

    def __str__(self) -> str:
        return f"{self.problem or f'{self.status} {self.text}'} after {self.took_s:.1f} s"


def _sent(client: ApiClient, path: str, body: bytes, bound_s: float) -> _Sent:
    begun = time.monotonic()
    try:
        answer = client.http.post(path, content=body, headers={"content-type": "application/json"}, timeout=bound_s)
    except httpx.TimeoutException:
        return _Sent(problem=_NO_ANSWER, took_s=time.monotonic() - begun)
    except httpx.TransportError as error:
        return _Sent(problem=f"the connection ends without an answer ({type(error).__name__})", took_s=time.monotonic() - begun)
    return _Sent(status=answer.status_code, text=answer.text[:120], took_s=time.monotonic() - begun)


def _verdict(attack: Attack, sent: _Sent, bound_s: float, *, documented: bool) -> Finding | None:
    name = attack.name
    if sent.problem == _NO_ANSWER or sent.took_s > bound_s:
        return Finding(id=f"slow:{name}", severity="high", message=f"keeps the server busy for more than {bound_s:.0f} s")
    if sent.status >= 500:
        return Finding(id=f"server-error:{name}", severity="medium", message=f"is answered {sent.status} instead of 4xx")
    if sent.status == 200 and attack.refused and documented:
        return Finding(id=f"accepted:{name}", severity="medium", message="is accepted instead of refused, as vLLM documents")
    return None


def _trouble(client: ApiClient, bound_s: float) -> str:
    """The problem with a valid request now; empty if it succeeds in time."""
    try:
        answer = client.smallest(timeout=bound_s)
    except httpx.HTTPError as error:
        return f"a valid request fails: {type(error).__name__}"
    return "" if answer.status_code == 200 else f"a valid request is answered {shown(answer)}"


def test_giant_headers_are_refused(client: ApiClient, door: Door, judge: Judge) -> None:
    """Servers read headers before they authenticate the client."""
    answer = door.send("/health", headers=[("X-Large", "x" * _GIANT_HEADER)])
    message = f"accepts a header of {_GIANT_HEADER:,} bytes from anyone"
    judge([Finding(id="giant-header", severity="medium", message=message)] if answer.status == 200 else [])
    client.works()


def test_many_headers_do_no_harm(client: ApiClient, door: Door, judge: Judge) -> None:
    """Thousands of headers are refused, or read in time."""
    answer = door.send("/health", headers=[(f"X-{number}", "x") for number in range(_MANY_HEADERS)])
    found = []
    if answer.problem == "timeout":
        found = [
            Finding(id="slow:many-headers", severity="high", message=f"{_MANY_HEADERS:,} headers are not answered in time")
        ]
    if answer.status >= 500:
        found = [Finding(id="server-error:many-headers", severity="medium", message=f"{_MANY_HEADERS:,} headers: {answer}")]
    judge(found)
    client.works()


def test_a_giant_body_is_refused_or_bounded(
    client: ApiClient, door: Door, server: ServerFacts, judge: Judge, machine: Watch, bound_s: float
) -> None:
    """A body of 100 MB is refused, or read in time, and the server works afterwards; it is sent in pieces and not kept here."""
    pieces = _GIANT_BODY if is_local(urlsplit(server.url).hostname or "") else _GIANT_BODY // 10  # a slow line is no finding
    head, tail = json.dumps({**client.body("x", max_tokens=1), "x": ""}).encode()[:-2], b'"}'
    length = len(head) + pieces * _PIECE + len(tail)
    headers = [*door.with_key, ("Content-Type", "application/json"), ("Content-Length", str(length))]
    with Line(server.url, timeout_s=bound_s) as line:
        begun = time.monotonic()
        data = (line.request(line.prefix + client.path, method="POST", headers=headers), head, *[b"a" * _PIECE] * pieces, tail)
        for piece in data:
            if line.write(piece):
                break  # refused before the end (RFC 9110, section 15.5.14)
        answer = line.response("POST")
    slow = answer.problem == "timeout" or time.monotonic() - begun > 2 * bound_s
    if slow:
        _require_a_working_machine(client, machine, bound_s, f"a body of {length:,} bytes is not answered in time")
    found = []
    if slow:
        found.append(
            Finding(id="slow:giant-body", severity="high", message=f"a body of {length:,} bytes is not answered in time")
        )
    if answer.status >= 500:
        message = f"a body of {length:,} bytes is answered {answer} instead of 413"
        found.append(Finding(id="server-error:giant-body", severity="medium", message=message))
    judge(found)
    client.works()


def test_slow_clients_do_not_hold_the_server(client: ApiClient, server: ServerFacts, machine: Watch, bound_s: float) -> None:
    """Connections that never finish their request must not delay other clients."""
    with ExitStack() as stack:
        for _ in range(_SLOW_CLIENTS):
            line = stack.enter_context(Line(server.url))
            framing = [("Content-Type", "application/json"), ("Content-Length", "1000")]
            line.write(line.request(line.prefix + client.path, method="POST", headers=framing) + b"{")
        # There is no way to know when the server has accepted all of them, so several requests are sent.
        waited_s = _longest_wait_s(client, 5, bound_s)
    _in_time(client, machine, waited_s, bound_s, f"with {_SLOW_CLIENTS} slow clients")


def test_a_client_that_does_not_read_holds_nobody_up(
    client: ApiClient, text_server: ServerFacts, door: Door, machine: Watch, bound_s: float
) -> None:
    """Streams that a client does not read fill buffers, but must not delay other clients."""
    server = text_server
    logprobs = {"logprobs": 5} if server.can("completion_logprobs") and not client.is_chat else {}
    with ExitStack() as stack:
        for _ in range(4):
            line = stack.enter_context(Line(server.url, timeout_s=bound_s, receive_bytes=4096))
            line.write(streaming(line, client, door, 1900, **logprobs))
            begun = _begun(line)
            if b" 429" in begun[:20]:
                inconclusive("the server limits the rate of requests, so that streams cannot be left unread")
            assert b" 200" in begun[:20], f"a stream begins with {begun!r}"
        waited_s = _longest_wait_s(client, 3, bound_s)
    _in_time(client, machine, waited_s, bound_s, "with streams that are not read")


@pytest.mark.requires_capability("metrics")
def test_clients_that_hang_up_leave_nothing_running(
    client: ApiClient, text_server: ServerFacts, door: Door, bound_s: float
) -> None:
    """Requests of disconnected clients are aborted."""
    for _ in range(8):
        with Line(text_server.url, timeout_s=bound_s) as line:
            line.write(streaming(line, client, door, 1500))
            _begun(line)
    deadline = time.monotonic() + bound_s
    while (running := client.metrics().total("vllm:num_requests_running")) and time.monotonic() < deadline:
        time.sleep(0.05)  # the server notices a closed connection when it next writes to it
    assert not running, f"{running:.0f} requests are still running {bound_s:.0f} s after their clients disconnected"


def _begun(line: Line) -> bytes:
    """The first bytes of a response; empty if the connection was closed or nothing came."""
    try:
        return line.socket.recv(64)
    except OSError:
        return b""


def _in_time(client: ApiClient, machine: Watch, waited_s: float, bound_s: float, when: str) -> None:
    message = f"{when} a valid request takes {waited_s:.1f} s"
    if waited_s >= bound_s:
        _require_a_working_machine(client, machine, bound_s, message)
    assert waited_s < bound_s, message


def _require_a_working_machine(client: ApiClient, machine: Watch, bound_s: float, message: str) -> None:
    """End the case as inconclusive if the machine is starved, and ordinary requests are slow on it, too."""
    reason = machine.seen.starved
    ordinary_s = min(_took_s(client, bound_s) for _ in range(3)) if reason else 0.0
    if ordinary_s > bound_s * _ORDINARY:
        inconclusive(f"{message}, but {reason}, and an ordinary request takes {ordinary_s:.1f} s")


def _took_s(client: ApiClient, bound_s: float) -> float:
    begun = time.monotonic()
    _trouble(client, bound_s)
    return time.monotonic() - begun


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


def streaming(line: Line, client: ApiClient, door: Door, tokens: int, **fields: int) -> bytes:
    """The bytes of a request for a long stream, within the model's length."""
    fits = min(tokens, (client.server.max_model_len or 2048) - 100)
    body = json.dumps(client.body("x", stream=True, **client.exactly(max(fits, 16)), **fields)).encode()
    headers = [*door.with_key, ("Content-Type", "application/json")]
    return line.request(line.prefix + client.path, method="POST", headers=headers, body=body)
