"""How many servers a channel needs: single decisions, and a day of traffic in virtual time."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.deploy.scaling import Need, Scale, decide, open_requests

SCALE = Scale(least=1, most=10, requests=8, down_s=300)


def needs(*servers: int, every: float = 30.0, until: float = 1000.0) -> tuple[Need, ...]:
    count = len(servers)
    return tuple(Need(at=until - every * (count - index), servers=each) for index, each in enumerate(servers))


def test_more_servers_are_started_at_once_and_at_most_twice_as_many_as_answer() -> None:
    assert decide(SCALE, 30, ready=2, wanted=2, needs=(), now=1000).servers == 4
    assert decide(SCALE, 800, ready=2, wanted=2, needs=(), now=1000).servers == 4
    assert decide(SCALE, 800, ready=2, wanted=4, needs=(), now=1000).servers == 4, "those that start are not doubled again"
    assert decide(SCALE, 800, ready=8, wanted=8, needs=(), now=1000).servers == 10


def test_fewer_servers_are_kept_only_when_fewer_were_enough_for_the_whole_time() -> None:
    quiet = needs(*[2] * 12)
    assert decide(SCALE, 10, ready=6, wanted=6, needs=quiet, now=1000).servers == 5
    assert decide(SCALE, 10, ready=6, wanted=6, needs=quiet[3:], now=1000).servers == 6
    assert decide(SCALE, 10, ready=6, wanted=6, needs=(*quiet[:-3], Need(at=950, servers=6)), now=1000).servers == 6


def test_an_agent_that_was_away_does_not_stop_servers_at_once() -> None:
    assert decide(SCALE, 0, ready=6, wanted=6, needs=needs(*[1] * 12, until=700), now=1000).servers == 6


def test_nothing_changes_when_the_servers_tell_nothing() -> None:
    assert decide(SCALE, None, ready=3, wanted=3, needs=needs(*[1] * 12), now=1000).servers == 3
    assert open_requests({"vllm:num_requests_running": 3.0}) is None
    assert open_requests({"vllm:num_requests_running": math.nan, "vllm:num_requests_waiting": 1.0}) is None
    assert open_requests({"vllm:num_requests_running": 3.0, "vllm:num_requests_waiting": 1.0}) == 4


def test_small_differences_change_nothing() -> None:
    scale = replace(SCALE, most=100)
    assert decide(scale, 8 * 21, ready=20, wanted=20, needs=(), now=1000).servers == 20
    assert decide(scale, 8 * 19, ready=20, wanted=20, needs=needs(*[19] * 12), now=1000).servers == 20


@given(
    st.floats(0, 1e6) | st.none(),
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.lists(st.tuples(st.floats(0, 2000), st.integers(1, 1000)), max_size=20),
)
def test_the_number_is_always_within_the_bounds(
    requests: float | None, ready: int, wanted: int, before: list[tuple[float, int]]
) -> None:
    found = decide(
        SCALE,
        requests,
        ready=ready,
        wanted=wanted,
        needs=sorted((Need(at=at, servers=servers) for at, servers in before), key=lambda each: each.at),
        now=1000,
    )
    assert SCALE.least <= found.servers <= SCALE.most


@dataclass
class Day:
    """What came of a day.

    Attributes:
        requests: All of them.
        late: Those that waited for more than two seconds.
        turns: How often the number of servers changed its direction.
        peak: The most servers.
        server_hours: Together.
    """

    requests: float = 0.0
    late: float = 0.0
    turns: int = 0
    peak: int = 0
    server_hours: float = 0.0


def lived(rule: Scale, rate: Callable[[float], float], *, start_s: float = 120.0, tick: float = 5.0) -> Day:
    """A day with servers that have 32 slots and take a second for a request, and two minutes to start; in virtual time."""
    day, running, starting = Day(), rule.within(60), list[float]()
    waiting, before, wanted, trend = 0.0, tuple[Need, ...](), running, 0
    for now in itertools.takewhile(lambda at: at < 86_400, itertools.count(0.0, tick)):
        running += sum(at <= now for at in starting)
        starting = [at for at in starting if at > now]
        arriving, can = rate(now) * tick, 32.0 * running * tick
        served = min(waiting + arriving, can)
        waiting += arriving - served
        day.requests += arriving
        day.late += arriving if waiting > 32.0 * running * 2 else 0
        if now % 30 == 0:
            found = decide(rule, served / tick + waiting, ready=running, wanted=wanted, needs=before, now=now)
            before, change = found.needs, found.servers - wanted
            starting += [now + start_s] * max(change, 0)
            running = min(running, found.servers) if change < 0 else running
            starting = starting[: found.servers - running]
            wanted = found.servers
            turned = (change > 0) - (change < 0)
            day.turns += bool(turned and trend and turned != trend)
            trend = turned or trend
        day.peak = max(day.peak, running)
        day.server_hours += running * tick / 3600
    return day


def traffic(seed: int) -> Callable[[float], float]:
    """Requests a second: quiet at night, 10,000 at the peak, noise, and two bursts."""
    noise = random.Random(seed)

    def rate(at: float) -> float:
        wave = 1000 + 8000 * math.pow(max(0.0, math.sin(math.pi * (at / 3600 - 6) / 16)), 1.5)
        burst = 1000 if 43_200 <= at < 45_000 or 60_000 <= at < 60_600 else 0
        return (wave + burst) * noise.uniform(0.9, 1.1)

    return rate


FLEET = Scale(least=20, most=500, requests=22, down_s=600)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_day_of_10_000_requests_a_second_passes_with_few_late_ones_and_without_oscillation(seed: int) -> None:
    day = lived(FLEET, traffic(seed))
    assert 300 < day.peak <= 500
    assert day.late / day.requests < 0.001
    assert day.turns <= 8, "up in the morning and at a burst, down in the evening"
    assert day.server_hours < 0.75 * day.peak * 24, "and at night few servers run"


def test_without_waiting_before_it_stops_servers_the_rule_would_oscillate() -> None:
    hasty = lived(replace(FLEET, down_s=0), traffic(1))
    assert hasty.turns > 5 * max(1, lived(FLEET, traffic(1)).turns)


def test_a_sudden_burst_is_caught_up_and_counted() -> None:
    def rate(at: float) -> float:
        return 9000.0 if 36_000 <= at < 40_000 else 1000.0

    day = lived(FLEET, rate)
    assert day.late > 0, "servers take two minutes to start"
    assert day.late < 9000 * 900, "a quarter of an hour"
    assert day.peak <= 500
