"""A request that is under way while others are sent, and that can be given up at any time."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from vllm_ci.suites.raw import Line, RawResponse
from vllm_ci.suites.security.door import Door
from vllm_ci.suites.verdicts import Errored, Inconclusive

_JSON = ("Content-Type", "application/json")
_END_S = 5.0


class Pending:
    """A POST with the key, on a connection of its own; it runs while the context lasts.

    Args:
        door: The server.
        path: Path.
        body: Body.
        limit_s: Time limit for the response as a whole.
    """

    def __init__(self, door: Door, path: str, body: bytes, limit_s: float) -> None:
        self._door, self._path, self._limit_s = door, path, limit_s
        self._body = door.traffic.spoken(path, body)
        self._line: Line | None = None
        self._begun = time.monotonic()
        self._ended = 0.0
        self._error: Inconclusive | Errored | None = None
        self._thread = threading.Thread(target=self._run, name="pending-request", daemon=True)
        self.given_up = threading.Event()
        self._answer = RawResponse(status=0, problem="given up")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.give_up()

    @property
    def seconds(self) -> float:
        """Time since it was sent, or that it took."""
        return (self._ended or time.monotonic()) - self._begun

    def ended(self, wait_s: float) -> bool:
        """Whether it has ended, after waiting at most some seconds."""
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def give_up(self) -> None:
        """Close the connection, if it has not ended."""
        if self._thread.is_alive():
            self.given_up.set()
            if self._line is not None:
                self._line.hang_up()
            self._thread.join(_END_S)

    def answer(self) -> RawResponse:
        """The response; without a status if there is none.

        Raises:
            RateLimitedError: The server limits the rate of requests for longer than a run waits.
            NoConnectionError: The server accepts no connection.
        """
        if self._error is not None:
            raise self._error
        return self._answer

    def _run(self) -> None:
        try:
            self._ask()
        except (Inconclusive, Errored) as error:
            self._error = error
        self._ended = time.monotonic()

    def _ask(self) -> None:
        refusals = self._door.traffic.sent("POST", self._path, self._body)
        while not self.given_up.is_set():
            answer = self._once()
            pause_s = refusals.pause_s(answer.status, answer.headers.get("retry-after"))
            if pause_s is None or self.given_up.wait(pause_s):
                self._answer = answer
                return

    def _once(self) -> RawResponse:
        with Line(self._door.server.url, timeout_s=self._limit_s) as line:
            self._line = line
            self._begun = time.monotonic()  # the wait for a rate limit is no time of the request
            headers = [*self._door.with_key, _JSON]
            broken = line.write(line.request(line.prefix + self._path, method="POST", headers=headers, body=self._body))
            answer = line.response("POST")
        return RawResponse(status=0, problem=broken) if broken and not answer.status else answer
