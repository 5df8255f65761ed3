"""Both answers to copied requests, as Envoy's tap filter sends them to whoever listens at its admin interface.

Nothing is written to a disk on the way, and what nobody listens to is not recorded: when this process ends, so does the
recording. Envoy keeps the beginning of a body up to a limit; what is longer is counted, and not compared.
"""

from __future__ import annotations

import base64
import codecs
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from vllm_ci.deploy import answers
from vllm_ci.deploy.comparison import Pair, Side
from vllm_ci.system import filelock
from vllm_ci.targets.envoy import files
from vllm_ci.targets.envoy.tap import SHADOW_HEADER, TAP

COMPARING = ".comparing"
"""Locked in Envoy's folder while answers are compared: Envoy has one listener at a time, and the request log gives way."""
_MOST_WAITING = 2000
_MOST_TAKEN = 10_000
_AGAIN_S = 0.5
_ASKED_BYTES = 256 * 1024
_ANSWER_BYTES = 512 * 1024


@dataclass(frozen=True, kw_only=True)
class Half:
    """One of two answers, as it was recorded.

    Attributes:
        request_id: Of both.
        copy: It is the answer to the copy.
        path: Of the request.
        greedy: The request asks for the most likely tokens.
        status: Of HTTP; 0: none came.
        said: What the body says.
        latency_ms: From the request to the end of the answer.
    """

    request_id: str
    copy: bool
    path: str
    greedy: bool
    status: int
    said: answers.Said
    latency_ms: float

    @property
    def side(self) -> Side:
        """For a pair."""
        return Side(
            status=self.status, finish=self.said.finish, tokens=len(self.said.tokens), latency_ms=round(self.latency_ms, 1)
        )


@dataclass(kw_only=True)
class Recorder:
    """Puts the two answers to each request together; it forgets those whose other half does not come."""

    waiting: dict[str, Half] = field(default_factory=dict)
    found: list[Pair] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, half: Half) -> None:
        """Take an answer."""
        with self.lock:
            other = self.waiting.pop(half.request_id, None)
            if other is None or other.copy == half.copy:
                self.waiting[half.request_id] = half
                while len(self.waiting) > _MOST_WAITING:
                    del self.waiting[next(iter(self.waiting))]
            elif len(self.found) < _MOST_TAKEN:
                self.found.append(_pair(other, half) if half.copy else _pair(half, other))

    def taken(self) -> tuple[Pair, ...]:
        """The pairs since the last call."""
        with self.lock:
            found, self.found = tuple(self.found), []
        return found


@contextmanager
def recording(folder: Path) -> Iterator[Recorder]:
    """Record for the duration of the context, in a thread.

    Args:
        folder: Working directory of Envoy.
    """
    recorder, ended = Recorder(), threading.Event()
    connections: list[socket.socket] = []
    thread = threading.Thread(target=_listen, args=(folder, recorder, ended, connections), daemon=True)
    with filelock.hold(folder / COMPARING, shared=True):
        thread.start()
        try:
            yield recorder
        finally:
            ended.set()
            for each in connections:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=5)


def _listen(folder: Path, recorder: Recorder, ended: threading.Event, connections: list[socket.socket]) -> None:
    """Listen until it is ended; again where Envoy was started anew, or still holds a listener that was killed."""
    while not ended.is_set():
        with suppress(OSError, http.client.HTTPException), connected(folder, connections) as connection:
            if ended.is_set():
                return
            answer = asked(connection, TAP, {"any_match": True}, (_ASKED_BYTES, _ANSWER_BYTES))
            if answer.status == 200:
                for trace in traces(answer):
                    half = half_of(trace, now=time.time())
                    if half is not None:
                        recorder.add(half)
        ended.wait(_AGAIN_S)


@contextmanager
def connected(folder: Path, connections: list[socket.socket]) -> Iterator[socket.socket]:
    """Connect to the admin interface of the Envoy in ``folder``; ``connections`` holds the connection, for who ends it."""
    # The path of a socket has 107 bytes at most (unix(7)), and that of the folder may be longer.
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"/proc/self/fd/{handle}/{files.ADMIN_SOCKET}")
            connections[:] = [connection]
            yield connection
    finally:
        os.close(handle)


def asked(connection: socket.socket, name: str, match: Mapping[str, Any], limits: tuple[int, int]) -> http.client.HTTPResponse:
    """Listen to a tap filter.

    Args:
        connection: To the admin interface.
        name: Of the filter.
        match: What is recorded, a ``MatchPredicate`` of Envoy.
        limits: Most bytes of a request and of an answer that are recorded.
    """
    sink = {"format": "JSON_BODY_AS_BYTES", "streaming_admin": {}}
    bounds = {"max_buffered_rx_bytes": limits[0], "max_buffered_tx_bytes": limits[1]}
    config = {"match": match, "output_config": {"sinks": [sink], **bounds}}
    body = json.dumps({"config_id": name, "tap_config": config}).encode()
    head = f"POST /tap HTTP/1.1\r\nhost: envoy\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    answer = http.client.HTTPResponse(connection, method="POST")
    answer.begin()
    return answer


def traces(answer: http.client.HTTPResponse) -> Iterator[Mapping[str, Any]]:
    """Objects of JSON, one after the other without a separator."""
    decoder, text = json.JSONDecoder(), ""
    characters = codecs.getincrementaldecoder("utf-8")("replace")
    pieces: list[str] = []
    while part := answer.read1(65536):
        pieces.append(characters.decode(part))
        if b"}" not in part:
            continue  # inside of a body, which is base64: no object ends here
        text += "".join(pieces)
        pieces.clear()
        while text := text.lstrip():
            try:
                found, end = decoder.raw_decode(text)
            except ValueError:
                break  # the rest is on its way
            text = text[end:]
            yield found


def half_of(trace: Mapping[str, Any], *, now: float) -> Half | None:
    """What a trace of Envoy tells; ``None`` where it has no request id."""
    content = trace.get("http_buffered_trace", {})
    request, response = content.get("request", {}), content.get("response", {})
    wanted, told = headers(request), headers(response)
    if not wanted.get("x-request-id"):
        return None
    body, cut = body_of(response)
    words = answers.said(body)
    try:
        begun = datetime.fromisoformat(request.get("headers_received_time", "")).timestamp()
    except ValueError:
        begun = now
    return Half(
        request_id=wanted["x-request-id"],
        copy=SHADOW_HEADER in wanted,
        path=wanted.get(":path", "").partition("?")[0],
        greedy=answers.greedy(body_of(request)[0]),
        status=int(told[":status"]) if told.get(":status", "").isdecimal() else 0,
        said=answers.Said(finish=words.finish, tokens=words.tokens, whole=words.whole and not cut),
        latency_ms=max(now - begun, 0.0) * 1000,
    )


def headers(message: Mapping[str, Any]) -> dict[str, str]:
    """Headers of a request or an answer of a trace."""
    return {each.get("key", "").lower(): each.get("value", "") for each in message.get("headers", ())}


def body_of(message: Mapping[str, Any]) -> tuple[bytes, bool]:
    """The body of a request or an answer of a trace, and whether it was cut."""
    found = message.get("body") or {}
    return base64.b64decode(found.get("as_bytes") or ""), bool(found.get("truncated"))


def _pair(old: Half, new: Half) -> Pair:
    return Pair(
        request_id=old.request_id,
        path=old.path,
        old=old.side,
        new=new.side,
        cut=not (old.said.whole and new.said.whole),
        greedy=old.greedy,
        agreed=answers.agreed(old.said.tokens, new.said.tokens),
    )
