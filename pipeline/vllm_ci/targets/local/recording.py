"""The process that keeps the request log: it listens to the gateway's tap filter for keys that consent, and writes their rows.

It is beside the users' way: where it is slow, cannot write or has died, rows are missing and requests are served as ever.
Envoy is told which keys to record, so that what others say never leaves it.

Usage: ``python -m vllm_ci.targets.local.recording FOLDER``; FOLDER is that of the deployment's target.
"""

from __future__ import annotations

import http.client
import json
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from vllm_ci.datasets import answers
from vllm_ci.datasets.lines import Unusable
from vllm_ci.datasets.record import Limits
from vllm_ci.datasets.request_log import Bounds, RequestLog
from vllm_ci.domain.errors import ErroredError
from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.system import filelock
from vllm_ci.targets.envoy.authentication import KEY_HEADER
from vllm_ci.targets.envoy.tap import REQUESTS
from vllm_ci.targets.local import tapping
from vllm_ci.targets.local.keys import KEY_FILE, KeyFile
from vllm_ci.targets.local.state import Store, write

LOG_FOLDER = "requests"
COUNTS = "counts.json"
_PATH = "/v1/chat/completions"
_LOOK_S = 0.25
_PRUNE_S = 60.0
_END_S = 3.0
_ASKED_BYTES = 1 << 20
# A stream has some 250 bytes for a token.
_ANSWER_BYTES = 4 << 20
_WAITING_BYTES = 64 << 20


def bounds(settings: GatewaySettings) -> Bounds:
    """How much is kept."""
    return Bounds(keep=timedelta(days=settings.log_keep_days), size_bytes=settings.log_max_bytes)


def row_of(trace: Mapping[str, Any], limits: Limits) -> tuple[dict[str, Any], datetime]:
    """The row that a trace of Envoy gives, and when its request began.

    Raises:
        Unusable: It is no whole answer to a chat request.
    """
    content = trace.get("http_buffered_trace", {})
    request, response = content.get("request", {}), content.get("response", {})
    asked, told = tapping.headers(request), tapping.headers(response)
    (body, long), (answer, cut) = tapping.body_of(request), tapping.body_of(response)
    if told.get(":status") != "200":
        failed = bool(told.get(":status"))
        raise Unusable(reason="failed-request" if failed else "incomplete", detail=f"status {told.get(':status') or 'none'}")
    if long or cut:
        raise Unusable(reason="too-long", detail="the request or the answer is too long")
    if told.get("content-encoding", "identity") != "identity":
        raise Unusable(reason="encoded", detail="the answer is compressed")
    streamed = told.get("content-type", "").lower().startswith("text/event-stream")
    row = {
        "key": asked.get(KEY_HEADER, ""),
        "consent": True,
        "request_id": asked.get("x-request-id", ""),
        "request": answers.parsed(body, limits),
        "response": answers.whole(answer, streamed=streamed, limits=limits),
    }
    begun = _time(request.get("headers_received_time"))
    return {"time": begun.isoformat(), **row}, begun


def _time(value: Any) -> datetime:
    try:
        return datetime.fromisoformat(str(value)).astimezone(UTC)
    except ValueError as error:
        raise Unusable(reason="bad-time", detail="the gateway tells no time") from error


@dataclass(kw_only=True)
class Recording:
    """What the threads of the process share.

    Attributes:
        folder: Of the target.
        ended: Somebody ends it.
    """

    folder: Path
    ended: threading.Event = field(default_factory=threading.Event)
    _waiting: SimpleQueue[Mapping[str, Any]] = field(default_factory=SimpleQueue)
    _waiting_bytes: int = 0
    _counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _connections: list[socket.socket] = field(default_factory=list)
    _listened: frozenset[str] = frozenset()
    _listener: threading.Thread | None = None
    _settings: GatewaySettings = field(default_factory=GatewaySettings)

    def run(self) -> None:
        """Record until it is ended, or the settings say so."""
        with suppress(OSError, ValueError):
            self._counts.update(json.loads((self._log.folder / COUNTS).read_bytes()))
        writer = threading.Thread(target=self._write, daemon=True)
        writer.start()
        pruned = 0.0
        while not self.ended.is_set() and self._goes_on():
            wanted = self._wanted()
            if wanted != self._listened:
                self._listened = wanted
                self._hang_up()
            if wanted and (self._listener is None or not self._listener.is_alive()):
                self._listener = threading.Thread(target=self._listen, args=(wanted,), daemon=True)
                self._listener.start()
            if time.monotonic() - pruned > _PRUNE_S:
                pruned = time.monotonic()
                with suppress(OSError, ErroredError):
                    self._log.prune(bounds(self._settings), now=datetime.now(UTC))
            self._tell()
            self.ended.wait(_LOOK_S)
        self.ended.set()
        self._listened = frozenset()
        self._hang_up()
        writer.join(timeout=_END_S)
        self._tell()

    @property
    def _log(self) -> RequestLog:
        return RequestLog(folder=self.folder / LOG_FOLDER)

    @property
    def _keys(self) -> KeyFile:
        return KeyFile(path=self.folder / KEY_FILE)

    def _goes_on(self) -> bool:
        with suppress(ErroredError):
            self._settings = Store(folder=self.folder).load().settings
        return self._settings.log_requests

    def _wanted(self) -> frozenset[str]:
        """Keys that consent; none while answers are compared: Envoy has one listener at a time."""
        try:
            with filelock.hold(self.folder / "gateway" / tapping.COMPARING, timeout_s=0):
                return frozenset(self._keys.consents())
        except (ErroredError, OSError):
            return frozenset()

    def _hang_up(self) -> None:
        for each in self._connections:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        if self._listener is not None:
            self._listener.join(timeout=_END_S)

    def _listen(self, keys: frozenset[str]) -> None:
        with (
            suppress(OSError, http.client.HTTPException),
            tapping.connected(self.folder / "gateway", self._connections) as connection,
        ):
            if keys != self._listened:  # others consent by now, and this connection came too late to be ended
                return
            answer = tapping.asked(connection, REQUESTS, _match(keys), (_ASKED_BYTES, _ANSWER_BYTES))
            if answer.status != 200:
                return
            for trace in tapping.traces(answer):
                size = _size(trace)
                with self._lock:
                    fits = self._waiting_bytes + size <= _WAITING_BYTES
                    self._waiting_bytes += size if fits else 0
                if fits:
                    self._waiting.put(trace)
                else:
                    self._count("too-many")

    def _write(self) -> None:
        while not (self.ended.is_set() and self._waiting.empty()):
            try:
                trace = self._waiting.get(timeout=_LOOK_S)
            except Empty:
                continue
            try:
                self._count(self._written(trace))
            finally:
                with self._lock:
                    self._waiting_bytes -= _size(trace)

    def _written(self, trace: Mapping[str, Any]) -> str:
        """What became of a request: ``recorded``, or why it was dropped."""
        try:
            row, begun = row_of(trace, Limits())
            self._log.append(
                row, bounds(self._settings), consents=lambda: self._consents(row["key"], begun), now=datetime.now(UTC)
            )
        except Unusable as error:
            return error.reason
        except ValueError:  # a number that JSON cannot hold
            return "not-json"
        except (OSError, ErroredError):
            return "not-written"
        return "recorded"

    def _consents(self, key: str, begun: datetime) -> bool:
        try:
            since = self._keys.consents().get(key)
        except ErroredError:
            return False
        return since is not None and since <= begun

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _tell(self) -> None:
        with self._lock:
            content = json.dumps(dict(sorted(self._counts.items()))).encode()
        place = self._log.folder / COUNTS
        with suppress(OSError, ErroredError):
            if content != b"{}" and (not place.exists() or place.read_bytes() != content):
                write(place, content)


def _size(trace: Mapping[str, Any]) -> int:
    content = trace.get("http_buffered_trace", {})
    return sum(len((content.get(part, {}).get("body") or {}).get("as_bytes") or "") for part in ("request", "response"))


def _match(keys: frozenset[str]) -> dict[str, Any]:
    """Chat requests of these keys; a name of a key has nothing that means more than itself in a regular expression."""
    key = {"name": KEY_HEADER, "string_match": {"safe_regex": {"regex": "|".join(sorted(keys))}}}
    method = {"name": ":method", "string_match": {"exact": "POST"}}
    path = {"name": ":path", "string_match": {"safe_regex": {"regex": rf"{_PATH}/?(\?.*)?"}}}
    return {"http_request_headers_match": {"headers": [key, method, path]}}


if __name__ == "__main__":
    recording = Recording(folder=Path(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: recording.ended.set())
    recording.run()
