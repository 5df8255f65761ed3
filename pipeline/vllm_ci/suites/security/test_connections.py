"""Each request is checked, however it arrives: on a kept connection, pipelined, in another framing or version."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import pytest

from vllm_ci.suites.findings import Finding
from vllm_ci.suites.raw import Line, RawResponse
from vllm_ci.suites.security import evidence
from vllm_ci.suites.security.door import Door, together
from vllm_ci.suites.security.ways import WAYS, Way

Judge = Callable[[Iterable[Finding]], None]

pytestmark = pytest.mark.requires_capability("auth")

_QUIET_S = 0.7
_ASKED = ("models", "chat", "chat-stream", "completions", "completions-stream")


@pytest.fixture(scope="module")
def refused(door: Door) -> list[Way]:
    """Common ways that are served with the key and refused without it; the others have a case of their own."""
    ways = [way for way in WAYS if way.name in _ASKED]
    return [way for way in ways if door.opens(way, door.with_the_key(way)) and not door.opens(way, door.ask(way))]


def _bytes(line: Line, way: Way, door: Door, headers: Iterable[tuple[str, str]] = (), **options: str) -> bytes:
    own, body = door.content(way)
    return line.request(line.prefix + way.path, method=way.method, headers=[*headers, *own.items()], body=body, **options)


def _findings(kind: str, opened: Iterable[tuple[Way, RawResponse]], message: str) -> list[Finding]:
    """One finding for one hole, however many ways lead through it; none if nothing was opened."""
    found = {way.name: " ".join(str(answer).split())[:100] for way, answer in opened}
    if not found:
        return []
    first, *others = found
    more = f"; so do {', '.join(others)}" if others else ""
    return [Finding(id=kind, severity="critical", message=f"{message}, it answers: {first} returns {found[first]}{more}")]


@pytest.mark.parametrize("later", ["no key", "a wrong key"])
def test_a_kept_connection_does_not_keep_the_key(door: Door, refused: list[Way], judge: Judge, later: str) -> None:
    """After a request with the key, the next one on the same connection needs it again."""
    if not door.key:
        pytest.skip("the API key was not given (--vllm-api-key-env)")
    wrong = [("Authorization", "Bearer not-the-key")] if later == "a wrong key" else []
    opened = []
    for first in refused[:2]:
        for way in refused:
            with Line(door.server.url, timeout_s=door.timeout_s) as line:
                line.write(_bytes(line, first, door, door.with_key))
                line.response(first.method)
                line.write(_bytes(line, way, door, wrong))
                answer = line.response(way.method)
            if door.opens(way, answer):
                opened.append((way, answer))
    judge(_findings("kept-connection", opened, f"with {later}, after a request with the key on the same connection"))


def test_a_pipelined_request_needs_the_key(door: Door, refused: list[Way], judge: Judge) -> None:
    """Requests that are sent together (RFC 9112, section 9.3.2) are checked one by one."""
    opened = []
    for way in refused:
        with Line(door.server.url, timeout_s=door.timeout_s) as line:
            first = _bytes(line, way, door, door.with_key)
            line.write(first + _bytes(line, way, door) * 2)
            answers = [line.response(way.method) for _ in range(3)]
        opened += [(way, answer) for answer in answers[1 if door.key else 0 :] if door.opens(way, answer)]
    judge(_findings("pipelined", opened, "pipelined after a request with the key, without one"))


@pytest.mark.parametrize(
    "form", ["HTTP/1.0", "absolute-form", "local-host", "expect", "chunked", "upgrade-h2c", "upgrade-websocket"]
)
def test_no_form_of_a_request_gets_past_the_guard(door: Door, refused: list[Way], judge: Judge, form: str) -> None:
    """Other versions, targets, framings and upgrades are guarded as well."""

    def answered(way: Way) -> RawResponse:
        with Line(door.server.url, timeout_s=door.timeout_s) as line:
            line.write(_formed(line, way, door, form))
            answer = line.response(way.method)
            return line.response(way.method) if answer.status == 100 else answer

    # At once: a server may leave each of them without an answer until the time is over.
    found = zip(refused, together(answered, refused), strict=True)
    opened = [(way, answer) for way, answer in found if door.opens(way, answer)]
    judge(_findings(f"request-form:{form}", opened, f"as {form}, without a key"))


def _formed(line: Line, way: Way, door: Door, form: str) -> bytes:
    own, body = door.content(way)
    headers, target = list(own.items()), line.prefix + way.path
    if form == "HTTP/1.0":
        return line.request(target, method=way.method, headers=headers, body=body, version="HTTP/1.0")
    if form == "absolute-form":
        return line.request(f"http://{line.authority}{target}", method=way.method, headers=headers, body=body)
    if form == "chunked" and body:
        framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        return line.request(target, method=way.method, headers=[*headers, ("Transfer-Encoding", "chunked")], body=framed)
    added = {
        "local-host": [("Host", "localhost")],
        "expect": [("Expect", "100-continue")],
        "upgrade-h2c": [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")],
        "upgrade-websocket": _WEBSOCKET,
    }
    return line.request(target, method=way.method, headers=[*headers, *added.get(form, [])], body=body)


_WEBSOCKET = [
    *(("Connection", "Upgrade"), ("Upgrade", "websocket")),
    *(("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")),
]


@pytest.mark.parametrize("path", ["/v1/realtime", "/v1/chat/completions", "/v1/models", "/ws", "/v1/responses"])
def test_no_websocket_opens_without_the_key(door: Door, judge: Judge, path: str) -> None:
    """A websocket is opened by a request like any other, but often by code of its own."""
    with Line(door.server.url, timeout_s=door.timeout_s) as line:
        line.write(line.request(line.prefix + path, headers=_WEBSOCKET))
        answer = line.response()
    message = f"{path} opens a websocket without a key (101 Switching Protocols)"
    judge([Finding(id=f"open-websocket:{path}", severity="critical", message=message)] if answer.status == 101 else [])


_SMUGGLED = {
    "length-and-chunked": "Content-Length: {length}\r\nTransfer-Encoding: chunked",
    "chunked-and-length": "Transfer-Encoding: chunked\r\nContent-Length: {length}",
    "two-lengths": "Content-Length: 5\r\nContent-Length: {length}",
    "two-lengths-reversed": "Content-Length: {length}\r\nContent-Length: 5",
    "list-of-lengths": "Content-Length: 5, {length}",
    "signed-length": "Content-Length: +5",
    "chunked-with-a-blank": "Content-Length: {length}\r\nTransfer-Encoding : chunked",
    "chunked-with-a-tab": "Content-Length: {length}\r\nTransfer-Encoding:\tchunked",
    "chunked-in-quotes": 'Content-Length: {length}\r\nTransfer-Encoding: "chunked"',
    "unknown-and-chunked": "Content-Length: {length}\r\nTransfer-Encoding: xchunked",
    "chunked-and-identity": "Content-Length: {length}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "chunked-folded": "Content-Length: {length}\r\nTransfer-Encoding:\r\n chunked",
    "bare-line-feed": "Content-Length: {length}\nTransfer-Encoding: chunked",
    "body-of-a-get": "Content-Length: 5",
}


@pytest.fixture(scope="module")
def hidden(door: Door, refused: list[Way]) -> dict[str, list[str]]:
    """Requests that were served although they were hidden in another one, by the shape of the framing; all tried at once."""
    tried = [(shape, way, outer) for shape in _SMUGGLED for way in refused[:1] for outer in ("GET /health", f"POST {way.path}")]

    def look(each: tuple[str, Way, str]) -> bool:
        shape, way, outer = each
        with Line(door.server.url, timeout_s=door.timeout_s) as line:
            line.write(_hiding(line, way, door, outer, _SMUGGLED[shape]))
            return _served(line.rest(_QUIET_S), way)

    found: dict[str, list[str]] = {}
    for (shape, way, outer), served in zip(tried, together(look, tried), strict=True):
        if served:
            found.setdefault(shape, []).append(
                f"a request for {way.path} without a key, hidden in the body of {outer}, is served"
            )
    return found


@pytest.mark.parametrize("shape", _SMUGGLED)
def test_a_request_inside_another_is_not_served(hidden: dict[str, list[str]], judge: Judge, shape: str) -> None:
    """Where a body ends is not ambiguous (RFC 9112, section 6.3), so that no request hides in it from an access check."""
    said = hidden.get(shape, [])
    judge([Finding(id=f"smuggling:{shape}", severity="critical", message="; ".join(said))] if said else [])


def _hiding(line: Line, way: Way, door: Door, outer: str, framing: str) -> bytes:
    """A request whose body is another request, depending on how its framing is read."""
    inner = _bytes(line, way, door)
    method, _, path = outer.partition(" ")
    body = b"0\r\n\r\n" + inner
    head = f"{method} {line.prefix}{path} HTTP/1.1\r\nHost: {line.authority}\r\nContent-Type: application/json\r\n"
    return f"{head}{framing.format(length=len(body))}\r\n\r\n".encode() + body


def _served(said: bytes, way: Way) -> bool:
    """Whether any of the responses in these bytes holds content of a way."""
    for part in said.split(b"HTTP/1.")[1:]:
        head, _, body = part.partition(b"\r\n\r\n")
        status = head[2:5].decode("latin-1")
        text = body[body.find(b"{") :] if b"{" in body else body
        whole = text[: text.rfind(b"}") + 1]
        if status == "200" and evidence.served(RawResponse(status=200, body=whole), way.shows):
            return True
        if status == "200" and any(json.dumps(name).encode() + b":" in body.replace(b" ", b"") for name in way.shows):
            return b'"error"' not in body
    return False
