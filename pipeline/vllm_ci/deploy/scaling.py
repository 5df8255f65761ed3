"""How many servers a channel needs, from what its servers have to do. Pure.

The rule: servers needed are the requests that run or wait, divided by those that one server should have. More servers are
started at once, at most twice as many as answer: a queue that grew while servers start says little about the load after it.
Fewer are kept only when fewer were enough for the whole time ``down_s``, at most a tenth at a time, for a start takes minutes.
Differences below a tenth change nothing.

To zero is a rule of its own: when nothing was open and no request came for ``idle_s``, and for no less time than the last start
took, so that a server is not started for longer than it is there. The first request starts one server again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
_TOLERANCE = 0.1
_MOST_DOWN = 0.1
_KEPT = 10_000
_AGAIN_S, _LONGEST_S = 10.0, 300.0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Bounds and rule.

    Attributes:
        least: Servers; 0: none while no requests come.
        most: Servers.
        requests: That one server should have, running and waiting.
        down_s: For how long fewer servers must have been enough, in seconds.
        idle_s: For how long no request must have come before the last server is ended, in seconds.
    """

    least: int
    most: int
    requests: float = 16.0
    down_s: float = 300.0
    idle_s: float = 600.0

    @property
    def zero(self) -> bool:
        """Whether no server runs while no requests come."""
        return self.least == 0

    def within(self, count: int) -> int:
        """The number, or the bound that it is beyond; one at least, for the load alone ends no last server."""
        return min(max(count, self.least, 1), self.most)


@dataclass(frozen=True, kw_only=True)
class Need:
    """How many servers were needed at a moment.

    Attributes:
        at: Seconds since 1970.
        servers: So many.
    """

    at: float
    servers: int


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A decision.

    Attributes:
        servers: So many should run.
        needs: What to remember for the next one.
        reason: Why.
    """

    servers: int
    needs: tuple[Need, ...]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Use:
    """When a deployment was last used.

    Attributes:
        at: Seconds since 1970.
        requests: How many had come until then, by a counter of the gateway.
    """

    at: float
    requests: int


def used(before: Use | None, *, requests: int, still_open: int, now: float) -> Use:
    """When a deployment was last used, by what its gateway counts now; a gateway that was started again counts from zero."""
    if before is None or still_open or requests != before.requests:
        return Use(at=now, requests=requests)
    return before


def idle(scale: Scale, use: Use, *, ready_at: float, start_s: float, now: float) -> bool:
    """Whether the last server may be ended.

    Args:
        scale: The rule.
        use: When it was last used.
        ready_at: When its servers last became ready, in seconds since 1970.
        start_s: How long that took, in seconds.
        now: Seconds since 1970.
    """
    return scale.zero and now - max(use.at, ready_at) >= max(scale.idle_s, start_s)


def again_s(failures: int) -> float:
    """How long requests are refused after so many starts in a row that failed, before one is tried again, in seconds."""
    return min(_AGAIN_S * 2.0 ** min(failures - 1, 10), _LONGEST_S)


def open_requests(values: Mapping[str, float]) -> float | None:
    """Requests that run or wait at all servers; ``None`` where they do not tell."""
    found = [values[name] for name in (RUNNING, WAITING) if math.isfinite(values.get(name, math.nan))]
    return sum(found) if len(found) == 2 else None


def decide(scale: Scale, requests: float | None, *, ready: int, wanted: int, needs: Sequence[Need], now: float) -> Scaled:
    """How many servers should run from now on.

    Args:
        scale: The rule.
        requests: That run or wait at all servers; ``None``: not known, and nothing changes.
        ready: Servers that answer.
        wanted: Servers that should run until now.
        needs: From the decision before.
        now: Seconds since 1970.
    """
    recent = tuple(each for each in needs if now - scale.down_s <= each.at <= now)[-_KEPT:]
    if requests is None:
        held = scale.within(wanted)
        return Scaled(servers=held, needs=recent, reason="the servers do not say how many requests they have")
    needed = scale.within(math.ceil(requests / scale.requests))
    recent = (*recent, Need(at=now, servers=needed))
    told = f"{requests:g} requests run or wait, {scale.requests:g} are fine for one server"
    if needed > wanted and (needed > wanted * (1 + _TOLERANCE) or needed == scale.most):
        servers = max(wanted, min(needed, 2 * max(ready, 1)))
    elif needed < wanted:
        servers = _fewer(scale, recent, needs, wanted=wanted, now=now)
    else:
        servers = wanted
    return Scaled(servers=scale.within(servers), needs=recent, reason=told)


def _fewer(scale: Scale, recent: Sequence[Need], before: Sequence[Need], *, wanted: int, now: float) -> int:
    """Fewer servers, if they were enough for the whole time."""
    enough = max(each.servers for each in recent)
    if enough >= wanted * (1 - _TOLERANCE) or not _watched(before, now, scale.down_s):
        return wanted
    return max(enough, wanted - max(1, math.floor(wanted * _MOST_DOWN)))


def _watched(before: Sequence[Need], now: float, seconds: float) -> bool:
    """Whether decisions were made all that time: an agent that was away knows nothing about it."""
    times = [*(each.at for each in before), now]
    first = max((at for at in times if at <= now - seconds), default=math.inf)
    inside = [at for at in times if at >= first]
    return bool(inside) and all(after - earlier <= max(seconds / 2, 1.0) for earlier, after in itertools.pairwise(inside))
