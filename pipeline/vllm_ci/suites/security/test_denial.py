"""A hostile request must not make the server unavailable for others.

Each is refused with 4xx or answered within limits; valid requests are answered meanwhile and afterwards.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.findings import INVALID_REQUESTS, Finding
from vllm_ci.suites.machine import Watch
from vllm_ci.suites.plugins import exchanges
from vllm_ci.suites.raw import Line
from vllm_ci.suites.security.bystander import Bystander
from vllm_ci.suites.security.door import Door
from vllm_ci.suites.security.hostile import ATTACKS, Attack
from vllm_ci.suites.security.hostility import Outcome, outcome, verdict
from vllm_ci.suites.security.listener import is_local
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.verdicts import inconclusive

Judge = Callable[[Iterable[Finding]], None]

# Time limit for a valid request; generous, because CI machines are slow.
_BOUND_S = 20.0
# How long a hostile request is waited for while others are served: an engine may crash of it after half a minute.
_LONGEST_S = 60.0
_SLOW_CLIENTS = 50
_GIANT_HEADER = 1_000_000
_MANY_HEADERS = 20_000
_PIECE, _GIANT_BODY = 1_000_000, 100


@pytest.fixture(scope="module")
def bound_s(patience: Callable[[float], float]) -> float:
    """Time limit for a valid request, while and after a hostile one is sent."""
    return patience(_BOUND_S)


@pytest.fixture(scope="module")
def bystanders(bound_s: float, patience: Callable[[float], float]) -> Callable[[ApiClient], Bystander]:
    """Makes the other user of the server; the same one for all cases."""
    made: dict[str, Bystander] = {}

    def bystander(client: ApiClient) -> Bystander:
        longest_s = max(bound_s, patience(_LONGEST_S))
        known = made.setdefault("", Bystander(client=client, bound_s=bound_s, longest_s=longest_s))
        known.client = client
        return known

    return bystander


@pytest.fixture
def bystander(client: ApiClient, bystanders: Callable[[ApiClient], Bystander]) -> Bystander:
    """Another user of the server."""
    return bystanders(client)


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_a_hostile_request_does_no_harm(
    client: ApiClient,
    door: Door,
    judge: Judge,
    metric: Callable[[str, object], None],
    machine: Watch,
    attack: Attack,
    bystander: Bystander,
    record_property: Callable[[str, object], None],
) -> None:
    """The request is refused or answered, others are served meanwhile, and the server works afterwards."""
    surface = attack.on(chat=client.server.can("chat"), completions=client.server.can("completions"))
    if not surface:
        pytest.skip(f"it makes sense for {attack.surface or 'chat and completions'} only, which the server lacks")
    path = "/v1/chat/completions" if surface == "chat" else "/v1/completions"
    body = attack.make(client.model, surface == "chat")
    bystander.wait_until_idle()  # who waits behind another request is not slow
    seen = outcome(door, path, body, bystander)
    after = bystander.recovers(machine)
    _note(metric, seen)
    found = verdict(attack, seen, after, bystander, documented=client.server.is_vllm)
    if found:
        record_property(exchanges.KEY, exchanges.sent("POST", path, body, str(seen)))
    if any(each.id.startswith("slow:") for each in found):
        bystander.require_a_working_machine(machine, max(seen.others_s, after.took_s), found[0].message)
    judge(found)


def _note(metric: Callable[[str, object], None], seen: Outcome) -> None:
    metric("took_s", round(seen.took_s, 3))
    if seen.others_s:
        metric("longest_wait_of_others_s", round(seen.others_s, 3))
    if seen.is_refused_by_closing:
        metric("refused_by_closing", f"the gateway answers {seen.answer.status}, and a valid request works afterwards")


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
    client.works()
    if answer.status >= 500 and answer.status not in (502, 503, 504):  # a gateway whose server refuses by closing
        message = f"{_MANY_HEADERS:,} headers: {answer}"
        found = [Finding(id="server-error:many-headers", severity="medium", message=message, cause=INVALID_REQUESTS)]
    judge(found)


def test_a_giant_body_is_refused_or_bounded(
    client: ApiClient,
    door: Door,
    server: ServerFacts,
    judge: Judge,
    machine: Watch,
    metric: Callable[[str, object], None],
    bystander: Bystander,
    bound_s: float,
) -> None:
    """A body of 100 MB is refused, or read in time, and the server works afterwards; it is sent in pieces and not kept here."""
    pieces = _GIANT_BODY if is_local(urlsplit(server.url).hostname or "") else _GIANT_BODY // 10  # a slow line is no finding
    small = json.dumps({**client.body("x", max_tokens=1), "x": ""}).encode()
    head, tail = door.traffic.spoken(client.path, small)[:-2], b'"}'
    length = len(head) + pieces * _PIECE + len(tail)
    headers = [*door.with_key, ("Content-Type", "application/json"), ("Content-Length", str(length))]
    with Line(server.url, timeout_s=bound_s) as line:
        begun = time.monotonic()
        data = (line.request(line.prefix + client.path, method="POST", headers=headers), head, *[b"a" * _PIECE] * pieces, tail)
        for piece in data:
            if line.write(piece):
                break  # refused before the end (RFC 9110, section 15.5.14)
        answer = line.response("POST")
    took_s = time.monotonic() - begun
    slow, found = answer.problem == "timeout" or took_s > 2 * bound_s, []
    if slow:
        message = f"a body of {length:,} bytes is not answered in time"
        bystander.require_a_working_machine(machine, took_s, message)
        found.append(Finding(id="slow:giant-body", severity="high", message=message))
    client.works()
    if answer.status in (502, 503, 504):
        metric("refused_by_closing", f"the gateway answers {answer.status}, and a valid request works afterwards")
    elif answer.status >= 500:
        message = f"a body of {length:,} bytes is answered {answer} instead of 413"
        found.append(Finding(id="server-error:giant-body", severity="medium", message=message, cause=INVALID_REQUESTS))
    judge(found)


def test_slow_clients_do_not_hold_the_server(
    client: ApiClient, server: ServerFacts, machine: Watch, bystander: Bystander, bound_s: float
) -> None:
    """Connections that never finish their request must not delay other clients."""
    with ExitStack() as stack:
        for _ in range(_SLOW_CLIENTS):
            line = stack.enter_context(Line(server.url))
            framing = [("Content-Type", "application/json"), ("Content-Length", "1000")]
            line.write(line.request(line.prefix + client.path, method="POST", headers=framing) + b"{")
        # There is no way to know when the server has accepted all of them, so several requests are sent.
        waited_s = _longest_wait_s(client, 5, bound_s)
    _in_time(bystander, machine, waited_s, f"with {_SLOW_CLIENTS} slow clients")


def test_a_client_that_does_not_read_holds_nobody_up(
    client: ApiClient, text_server: ServerFacts, door: Door, machine: Watch, bystander: Bystander, bound_s: float
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
    _in_time(bystander, machine, waited_s, "with streams that are not read")


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


def _in_time(bystander: Bystander, machine: Watch, waited_s: float, when: str) -> None:
    message = f"{when} a valid request takes {waited_s:.1f} s"
    if waited_s >= bystander.bound_s:
        bystander.require_a_working_machine(machine, waited_s, message)
    assert waited_s < bystander.bound_s, message


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
    asked = json.dumps(client.body("x", stream=True, **client.exactly(max(fits, 16)), **fields)).encode()
    body = door.traffic.spoken(client.path, asked)
    headers = [*door.with_key, ("Content-Type", "application/json")]
    return line.request(line.prefix + client.path, method="POST", headers=headers, body=body)
