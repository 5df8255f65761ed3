"""Clients go away in the middle: what they had is freed, and nobody else notices."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from vllm_ci.suites.client import Client
from vllm_ci.suites.server import Server
from vllm_ci.suites.streaming.asking import Asking, Endpoint
from vllm_ci.suites.verdicts import inconclusive
from vllm_ci.suites.work import Sizes

_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_GENERATED = "vllm:generation_tokens_total"
_PATIENCE_S = 10.0
_TOO_FAST_S = 0.25
_TRIES = 3


@pytest.fixture
def long_tokens(server: Server) -> int:
    """Enough tokens that a stream is still under way when its client goes."""
    return min((server.max_model_len or 2048) - 64, 16_000)


def _busy(client: Client) -> float:
    samples = client.metrics()
    return samples.total(_RUNNING) + samples.total(_WAITING)


@pytest.fixture
def idle_within_s(patience: Callable[[float], float]) -> float:
    """How long a server may take to notice that its clients have gone."""
    return patience(_PATIENCE_S)


def _seconds_until_idle(client: Client, within_s: float) -> float | None:
    """How long until nothing runs or waits; ``None`` when that does not come."""
    begun = time.monotonic()
    while time.monotonic() - begun < within_s:
        if _busy(client) == 0:
            return time.monotonic() - begun
        time.sleep(0.02)
    return None


@pytest.fixture
def idle(client: Client, idle_within_s: float) -> None:
    """The cases here judge gauges, so nobody else may use the server meanwhile."""
    if _seconds_until_idle(client, idle_within_s) is None:
        inconclusive("somebody else uses the server, so its gauges do not tell what became of our requests")


@pytest.mark.requires_capability("metrics")
@pytest.mark.usefixtures("idle")
def test_a_client_that_hangs_up_frees_its_slot(
    ask: Asking,
    endpoint: Endpoint,
    client: Client,
    long_tokens: int,
    metric: Callable[[str, Any], None],
    idle_within_s: float,
) -> None:
    """A request that nobody listens to stops being computed: otherwise every closed browser tab costs a full answer.

    The best of three tries counts: on a busy machine a small model may have made everything before its server gets to notice.
    """
    body = endpoint.body("Tell me a long story.", max_tokens=long_tokens, ignore_eos=True)
    tries: list[tuple[float, float]] = []
    while len(tries) < _TRIES:
        before = client.metrics().total(_GENERATED)
        left = ask.recorder.stream(endpoint.path, body, stop_after_events=4)
        if not left.exchange.stopped:
            inconclusive(f"all {long_tokens} tokens came before we could hang up: {left.describe()}")
        seconds = _seconds_until_idle(client, idle_within_s)
        assert seconds is not None, (
            f"{_busy(client):.0f} requests still run or wait {idle_within_s:.0f} s after their client has gone"
        )
        generated = client.metrics().total(_GENERATED) - before
        metric("freed_after_s", round(seconds, 3))
        metric("tokens_generated", generated)
        if generated < long_tokens:
            return
        tries.append((seconds, generated))
    seconds, generated = min(tries)
    if seconds < _TOO_FAST_S:
        inconclusive(f"all {generated:.0f} tokens were there {seconds:.2f} s after we had hung up: too fast to tell")
    pytest.fail(f"all {generated:.0f} tokens were generated for clients that left after 4 events", pytrace=False)


@pytest.mark.requires_capability("metrics")
@pytest.mark.usefixtures("idle")
def test_many_clients_that_hang_up_leave_nothing_behind(
    ask: Asking, endpoint: Endpoint, client: Client, long_tokens: int, idle_within_s: float
) -> None:
    """A slot lost with every tenth client stops a server within a day; three rounds of sixteen show it."""
    for _ in range(3):
        requests = [
            ask.recorder.streaming(
                endpoint.path, endpoint.body(f"story {n}", max_tokens=long_tokens), stop_after_events=1 + n % 5
            )
            for n in range(16)
        ]
        ask.recorder.gather(requests)
    seconds = _seconds_until_idle(client, idle_within_s)
    assert seconds is not None, (
        f"{_busy(client):.0f} requests still run or wait {idle_within_s:.0f} s after their clients have gone"
    )
    streams = ask.streams(endpoint, [endpoint.body(f"hello {n}", max_tokens=8, ignore_eos=True) for n in range(16)])
    assert [stream.metrics.output_tokens for stream in streams] == [8] * 16, "the streams afterwards are not whole"


@pytest.mark.requires_capability("metrics")
@pytest.mark.usefixtures("idle")
def test_clients_that_leave_before_the_first_token_free_their_place(
    ask: Asking, endpoint: Endpoint, client: Client, long_tokens: int, idle_within_s: float
) -> None:
    """Also while a request is queued or its prompt is being read."""
    prompt = "the quick brown fox jumps over the lazy dog " * 8
    requests = [
        ask.recorder.streaming(
            endpoint.path, endpoint.body(f"{n} {prompt}", max_tokens=long_tokens // 2), stop_after_s=0.002 * n
        )
        for n in range(16)
    ]
    ask.recorder.gather(requests)
    seconds = _seconds_until_idle(client, idle_within_s)
    assert seconds is not None, (
        f"{_busy(client):.0f} requests still run or wait {idle_within_s:.0f} s after their clients have gone"
    )
    ask.stream(endpoint, endpoint.body("hello", max_tokens=4, ignore_eos=True))


@pytest.mark.sized(tokens=(60, 20))
def test_a_neighbour_does_not_notice(ask: Asking, endpoint: Endpoint, size: Sizes) -> None:
    """Streams that share a batch with one that is broken off come whole."""
    leaving = [
        ask.recorder.streaming(endpoint.path, endpoint.body(f"leave {n}", max_tokens=200, ignore_eos=True), stop_after_events=3)
        for n in range(4)
    ]
    staying = [
        ask.recorder.streaming(endpoint.path, endpoint.body(f"stay {n}", max_tokens=size.tokens, ignore_eos=True))
        for n in range(4)
    ]
    streams = ask.recorder.streams_of([*leaving, *staying])[len(leaving) :]
    broken = [stream.describe() for stream in streams if not stream.complete]
    assert not broken, f"{len(broken)} streams broke because others were left: {broken[0]}"
    counted = [stream.metrics.output_tokens for stream in streams]
    assert counted == [size.tokens] * 4, f"asked for {size.tokens} tokens each, got {counted}"
