"""Two hours of a channel's metrics around a release, as vLLM and Envoy export them, in OpenMetrics with timestamps."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

SCRAPE_S = 30
TTFT = (0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
TPOT = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What a server does; one for the time before a release and one for that after.

    Attributes:
        rate: Requests per second.
        errors: Share of them that gets a 500.
        refused: Share that gets a 400.
        ttft_s: Median time to first token.
        tpot_s: Time per output token.
        tokens: Of an answer.
        waiting: Requests in the queue.
        growth: Of memory, share in an hour.
        restart_s: Seconds between restarts; 0: none.
        down: Share of the time in which it cannot be scraped.
        gone: Nothing is scraped at all.
        idle: No requests come.
    """

    rate: float = 6.0
    errors: float = 0.0
    refused: float = 0.01
    ttft_s: float = 0.2
    tpot_s: float = 0.03
    tokens: float = 100.0
    waiting: float = 0.5
    growth: float = 0.0
    restart_s: float = 0.0
    down: float = 0.0
    gone: bool = False
    idle: bool = False


def openmetrics(channel: str, before: Traffic, after: Traffic, *, released: float, gateway: bool, hours: float = 1.4) -> str:
    """All samples of a channel; without the ``# EOF`` of a file."""
    noise = random.Random(channel)
    counters: dict[str, float] = {}
    lines: list[str] = []
    start, end = released - hours * 3600, released + hours * 3600
    born = start
    for number in range(int((end - start) / SCRAPE_S) + 1):
        at = start + number * SCRAPE_S
        now = after if at > released else before
        if now.gone:
            continue
        hidden = noise.random() < now.down
        lines.append(f'up{{channel="{channel}"}} {0 if hidden else 1} {at:.3f}')
        if now.restart_s and at - born >= now.restart_s:
            counters, born = {}, at
        _count(counters, now, noise, gateway=gateway)
        if not hidden:
            memory = 2e9 * (1 + now.growth * max(0.0, at - released) / 3600) + noise.gauss(0, 1e6)
            lines += [f"{name} {value:.9g} {at:.3f}" for name, value in _labelled(channel, counters, now, noise, memory, born)]
    return "\n".join(lines) + "\n"


def _count(counters: dict[str, float], now: Traffic, noise: random.Random, *, gateway: bool) -> None:
    count = 0 if now.idle else max(0, round(noise.gauss(now.rate * SCRAPE_S, (now.rate * SCRAPE_S) ** 0.5)))
    codes = {"5": _drawn(noise, count, now.errors), "4": _drawn(noise, count, now.refused)}
    codes["2"] = count - sum(codes.values())
    for digit, each in codes.items():
        name = (
            f'envoy_http_downstream_rq_xx|envoy_http_conn_manager_prefix="gateway",envoy_response_code_class="{digit}"'
            if gateway
            else f'http_requests_total|status="{digit}xx"'
        )
        counters[name] = counters.get(name, 0) + each
    done = codes["2"]
    load = noise.gauss(1, 0.05)
    _observe(
        counters,
        "vllm:time_to_first_token_seconds",
        [noise.gauss(now.ttft_s, now.ttft_s / 4) * load for _ in range(done)],
        TTFT,
    )
    _observe(
        counters,
        "vllm:request_time_per_output_token_seconds",
        [noise.gauss(now.tpot_s, now.tpot_s / 6) for _ in range(done)],
        TPOT,
    )
    for name, more in (
        ('vllm:request_success_total|finished_reason="stop"', done),
        ('vllm:request_success_total|finished_reason="abort"', 0),
        ("vllm:generation_tokens_total|", done * noise.gauss(now.tokens, now.tokens / 30)),
        ("vllm:num_preemptions_total|", 0),
        ("vllm:prefix_cache_queries_total|", done * 200),
        ("vllm:prefix_cache_hits_total|", done * noise.gauss(80, 4)),
    ):
        counters[name] = counters.get(name, 0) + more


def _drawn(noise: random.Random, count: int, share: float) -> int:
    return sum(noise.random() < share for _ in range(count))


def _observe(counters: dict[str, float], metric: str, values: list[float], bounds: tuple[float, ...]) -> None:
    for bound in (*bounds, float("inf")):
        name = f'{metric}_bucket|le="{"+Inf" if bound == float("inf") else bound}"'
        counters[name] = counters.get(name, 0) + sum(each <= bound for each in values)
    counters[f"{metric}_count|"] = counters.get(f"{metric}_count|", 0) + len(values)


def _labelled(
    channel: str, counters: dict[str, float], now: Traffic, noise: random.Random, memory: float, born: float
) -> Iterator[tuple[str, float]]:
    own = f'channel="{channel}"'
    for name, value in counters.items():
        metric, _, labels = name.partition("|")
        yield f"{metric}{{{own}{',' if labels else ''}{labels}}}", value
    yield f"vllm:num_requests_waiting{{{own}}}", max(0.0, noise.gauss(now.waiting, 0.3))
    yield f"vllm:num_requests_running{{{own}}}", 8.0
    yield f"vllm:kv_cache_usage_perc{{{own}}}", min(1.0, max(0.0, noise.gauss(0.4, 0.03)))
    yield f"process_resident_memory_bytes{{{own}}}", memory
    yield f"process_start_time_seconds{{{own}}}", born
