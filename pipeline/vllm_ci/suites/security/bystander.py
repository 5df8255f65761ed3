"""Another user of the server, who sends small valid requests: what a hostile request does to others is measured with these."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import httpx

from vllm_ci.suites.client import ApiClient, shown
from vllm_ci.suites.machine import Seen, Watch
from vllm_ci.suites.verdicts import Inconclusive, inconclusive

_SAMPLES = 3
_BETWEEN_S = 0.5
_ORDINARY = 0.1
"""Share of the limit within which an idle server answers a small request, and a machine can judge the time of others."""
_SLOWER = 3.0
"""How much longer than at the start a small request may take on an idle server, where that is more."""
_BUSIEST = 4.0
"""How many times as long a server on a busy machine is waited for."""


class StillBusyError(Inconclusive):
    """The server is still busy with an earlier request, so that the time of another one would say nothing."""

    cause: ClassVar[Mapping[str, str]] = {"id": "still-busy", "title": "the server is still busy with an earlier request"}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What became of a small request.

    Attributes:
        took_s: Time until its response, or until it was given up.
        trouble: Why it failed; empty if it was answered.
        late: It was not answered within the limit, so that nothing else is known.
    """

    took_s: float
    trouble: str = ""
    late: bool = False


@dataclass(kw_only=True)
class Bystander:
    """Sends small valid requests.

    Attributes:
        client: The client.
        bound_s: Time limit for a small request.
        longest_s: How long to wait for the server to be idle.
    """

    client: ApiClient
    bound_s: float
    longest_s: float
    _idle: bool = False
    _usual_s: float | None = field(default=None)

    def asks(self) -> Reply:
        """Send one; a response that is not 200 is trouble."""
        begun = time.monotonic()
        try:
            answer = self.client.smallest(timeout=self.bound_s)
        except httpx.TimeoutException:
            trouble = f"a valid request is not answered within {self.bound_s:.0f} s"
            return self._seen(Reply(took_s=time.monotonic() - begun, trouble=trouble, late=True))
        except httpx.HTTPError as error:
            return Reply(took_s=time.monotonic() - begun, trouble=f"a valid request fails: {type(error).__name__}")
        trouble = "" if answer.status_code == 200 else f"a valid request is answered {shown(answer)}"
        return self._seen(Reply(took_s=time.monotonic() - begun, trouble=trouble))

    @property
    def usual_s(self) -> float:
        """How long a small request takes: the fastest of some, before the first hostile request."""
        if self._usual_s is None:
            self._usual_s = 0.0
            self._usual_s = min(self.asks().took_s for _ in range(_SAMPLES))
        return self._usual_s

    @property
    def promptly_s(self) -> float:
        """The longest time of a small request on an idle server."""
        return max(self.bound_s * _ORDINARY, self.usual_s * _SLOWER)

    def wait_until_idle(self) -> None:
        """Wait until a small request is answered promptly, which the last one may have been already.

        Raises:
            StillBusyError: None is.
        """
        limit_s = self.promptly_s
        begun = time.monotonic()
        while not self._idle:
            reply = self.asks()
            if not self._idle and time.monotonic() - begun > self.longest_s:
                how = reply.trouble or f"a small request takes {reply.took_s:.1f} s"
                raise StillBusyError(
                    f"{how}, {self.longest_s:.0f} s after the request before (at first: {limit_s:.1f} s at most)"
                )
            if not self._idle:
                time.sleep(_BETWEEN_S)
        self._idle = False  # whoever waited sends something now

    def recovers(self, machine: Watch) -> Reply:
        """The first reply that is not late, or the last one after :attr:`longest_s`.

        On a busy machine that is the time that the server would have had with a processor of its own.

        Raises:
            Inconclusive: No reply came, and the machine is too busy for the server to have had that time.
        """
        begun = time.monotonic()
        while (reply := self.asks()).late:
            waited_s = time.monotonic() - begun
            if fair_s(waited_s, machine.seen) >= self.longest_s:
                break
            if waited_s >= _BUSIEST * self.longest_s:
                inconclusive(f"{reply.trouble}, but {machine.seen.starved}")
        return Reply(took_s=time.monotonic() - begun, trouble=reply.trouble, late=reply.late)

    def require_a_working_machine(self, machine: Watch, waited_s: float, message: str) -> None:
        """End the case as inconclusive if the machine, not the server, may have been slow.

        It may if it is starved, and either small requests are slow as well while the server has nothing else to do, or the
        server would have been within the limit with a processor of its own.
        """
        seen = machine.seen
        if not seen.starved:
            return
        if fair_s(waited_s, seen) < self.bound_s:
            inconclusive(f"{message}, but {seen.starved}")
        usual_s = min(self.asks().took_s for _ in range(_SAMPLES))
        if usual_s > self.bound_s * _ORDINARY:
            inconclusive(f"{message}, but {seen.starved}, and an ordinary request takes {usual_s:.1f} s")

    def _seen(self, reply: Reply) -> Reply:
        limit_s = max(self.bound_s * _ORDINARY, (self._usual_s or 0.0) * _SLOWER)
        self._idle = not reply.trouble and reply.took_s <= limit_s
        return reply


def fair_s(waited_s: float, seen: Seen) -> float:
    """The time that it would have taken if each runnable task had a processor of its own."""
    return waited_s / max(1.0, seen.queue or 1.0)
