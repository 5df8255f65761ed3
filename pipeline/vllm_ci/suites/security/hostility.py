"""Sends a hostile request, watches what it does to others meanwhile, and judges it.

A finding is harm that was measured (others wait, or a valid request fails afterwards), a server error, or a success where a
rule demands a refusal. A request that asks for much work may take its time, as long as others are served.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_ci.suites.findings import INVALID_REQUESTS, Finding
from vllm_ci.suites.raw import RawResponse
from vllm_ci.suites.security.bystander import Bystander, Reply
from vllm_ci.suites.security.door import Door
from vllm_ci.suites.security.hostile import Attack
from vllm_ci.suites.security.pending import Pending

_FIRST_S = 0.25
_BETWEEN_S = 1.0
_EXCERPT = 120
_OF_GATEWAYS = (502, 503, 504)
_GATEWAY_TIMEOUT = 504
_IN_FLIGHT = 65_536
"""Size from which a server can answer and close before it has read the whole body, which gateways report as 502 or 503."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a hostile request, and of others meanwhile.

    Attributes:
        answer: The response; without a status if there is none.
        took_s: Time until it, or until it was given up.
        size_bytes: Size of the request's body.
        given_up: It was given up without a response.
        others_s: The longest time that another request took meanwhile.
        delayed: Another request was not answered within its limit.
    """

    answer: RawResponse
    took_s: float
    size_bytes: int
    given_up: bool = False
    others_s: float = 0.0
    delayed: bool = False

    def __str__(self) -> str:
        how = "no answer" if not self.answer.status else f"{self.answer.status} {self.answer.text[:_EXCERPT]}"
        if not self.answer.status and not self.given_up:
            how = f"the connection ends without an answer ({self.answer.problem})"
        return f"{how} after {self.took_s:.1f} s"

    @property
    def is_refused_by_closing(self) -> bool:
        """Whether a gateway reports that the server closed the connection, as it may to refuse a large body."""
        return self.answer.status in _OF_GATEWAYS and self.size_bytes >= _IN_FLIGHT


def outcome(door: Door, path: str, body: bytes, bystander: Bystander) -> Outcome:
    """Send a request, wait for it as long as others are served, and give it up otherwise."""
    others_s, delayed, pause_s = 0.0, False, _FIRST_S
    with Pending(door, path, body, bystander.longest_s) as pending:
        while not pending.ended(pause_s) and not delayed and pending.seconds < bystander.longest_s:
            reply, pause_s = bystander.asks(), _BETWEEN_S
            others_s, delayed = max(others_s, reply.took_s), reply.late
            if reply.trouble and not reply.late:
                break  # the server is in trouble: more requests say no more
        pending.ended(0)
        pending.give_up()
        answer, given_up = pending.answer(), pending.given_up.is_set() or pending.answer().problem == "timeout"
    return Outcome(
        answer=answer,
        took_s=pending.seconds,
        size_bytes=len(body),
        given_up=given_up and not answer.status,
        others_s=others_s,
        delayed=delayed,
    )


def verdict(attack: Attack, seen: Outcome, after: Reply, bystander: Bystander, *, documented: bool) -> list[Finding]:
    """Findings about a request.

    Args:
        attack: The request.
        seen: What became of it.
        after: What became of a valid request afterwards.
        bystander: Its limits.
        documented: The server documents the checks that :attr:`Attack.rule` is about.
    """
    name = attack.name
    if after.trouble:
        return [Finding(id=f"harm:{name}", severity="critical", message=f"answered {seen}, and afterwards {after.trouble}")]
    waited_s = max(seen.others_s, after.took_s)
    if seen.delayed or waited_s > bystander.bound_s:
        message = f"delays everybody: another request waits for {waited_s:.0f} s or more; answered {seen}"
        return [Finding(id=f"slow:{name}", severity="high", message=message)]
    if seen.given_up:
        message = f"keeps the server busy for more than {seen.took_s:.0f} s, while others are served"
        return [Finding(id=f"slow:{name}", severity="low" if attack.large else "medium", message=message)]
    status = seen.answer.status
    if status >= 500 and status != _GATEWAY_TIMEOUT and not seen.is_refused_by_closing:
        message = f"is answered {status} instead of 4xx"
        return [Finding(id=f"server-error:{name}", severity="medium", message=message, cause=INVALID_REQUESTS)]
    if status == 200 and attack.rule and documented:
        message = f"is accepted instead of refused: {attack.rule}"
        return [Finding(id=f"accepted:{name}", severity="medium", message=message, rule=attack.rule)]
    return []
