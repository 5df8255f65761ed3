"""Clients disconnect during a stream: their slots are freed, and other clients are not affected."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.machine import Watch
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.streaming.asking import Asking, Endpoint
from vllm_ci.suites.verdicts import inconclusive
from vllm_ci.suites.work import Sizes

_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_GENERATED = "vllm:generation_tokens_total"
_PATIENCE_S = 10.0
_STARVED = 4.0
"""On a starved machine, a server gets this many times as long."""
_STILL_S = 1.0
_TOO_FAST_S = 0.25
_TRIES = 3
_LEAVES_S = 0.3


@pytest.fixture
def long_tokens(server: ServerFacts) -> int:
    """Enough tokens that a stream is still running when its client disconnects."""
    return min((server.max_model_len or 2048) - 64, 16_000)


def _busy(client: ApiClient) -> float:
    samples = client.metrics()
    return samples.total(_RUNNING) + samples.total(_WAITING)


@pytest.fixture
def idle_within_s(patience: Callable[[float], float]) -> float:
    """How long a server may take to notice that its clients have disconnected."""
    return patience(_PATIENCE_S)


def _seconds_until_idle(client: ApiClient, within_s: float) -> float | None:
    """Seconds until no request is running or waiting; ``None`` after the timeout."""
    begun = time.monotonic()
    while time.monotonic() - begun < within_s:
        if _busy(client) == 0:
            return time.monotonic() - begun
        time.sleep(0.02)
    return None


def _freed(client: ApiClient, within_s: float, machine: Watch) -> float:
    """Seconds until the server is idle after its clients disconnected; the case fails if it does not become idle.

    A server that was starved of processor time may be late. It gets longer, and if it is not idle then, the case fails only if
    it does not generate any more: requests that run but do nothing are slots that are lost, on any machine.
    """
    begun = time.monotonic()
    seconds = _seconds_until_idle(client, within_s)
    if seconds is None and machine.seen.starved:
        seconds = _seconds_until_idle(client, (_STARVED - 1) * within_s)
    if seconds is not None:
        return time.monotonic() - begun
    took_s = time.monotonic() - begun
    said = f"{_busy(client):.0f} requests are still running or waiting {took_s:.0f} s after their clients disconnected"
    if machine.seen.starved and _generates(client):
        inconclusive(f"{said}, but the machine was busy: {machine.seen.starved}")
    pytest.fail(said, pytrace=False)


def _generates(client: ApiClient) -> bool:
    """Whether the number of generated tokens grows."""
    before = client.metrics().total(_GENERATED)
    time.sleep(_STILL_S)
    return client.metrics().total(_GENERATED) > before


@pytest.fixture
def idle(client: ApiClient, idle_within_s: float) -> None:
    """Wait until the server is idle: these cases check gauges, so no other client may use the server."""
    if _seconds_until_idle(client, idle_within_s) is None:
        inconclusive("another client uses the server, so its gauges do not show the state of our requests")


@pytest.mark.requires_capability("metrics")
@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    "choices", [pytest.param(1, id="one"), pytest.param(2, id="two", marks=pytest.mark.requires_capability("choices"))]
)
def test_a_client_that_hangs_up_frees_its_slot(
    *,
    ask: Asking,
    endpoint: Endpoint,
    client: ApiClient,
    long_tokens: int,
    metric: Callable[[str, Any], None],
    idle_within_s: float,
    machine: Watch,
    choices: int,
) -> None:
    """A request without a client is aborted, with all its choices; otherwise every closed browser tab would cost full answers.

    The best of three attempts is used: on a busy machine a small model may finish before its server notices, so there the case
    is inconclusive.
    """
    several = {"n": choices, "temperature": 1} if choices > 1 else {}
    body = endpoint.exactly("Tell me a long story.", long_tokens, **several)
    tries: list[tuple[float, float]] = []
    while len(tries) < _TRIES:
        before = client.metrics().total(_GENERATED)
        left = ask.attempt(endpoint, body, stop_after_events=4)
        if not left.exchange.stopped:
            inconclusive(f"all {long_tokens} tokens arrived before the client could disconnect: {left.describe()}")
        seconds = _freed(client, idle_within_s, machine)
        generated = client.metrics().total(_GENERATED) - before
        metric("freed_after_s", round(seconds, 3))
        metric("tokens_generated", generated)
        if generated < choices * long_tokens:
            return
        tries.append((seconds, generated))
    seconds, generated = min(tries)
    said = f"all {generated:.0f} tokens were generated for clients that disconnected after 4 events, in {seconds:.2f} s"
    _not_aborted(said, seconds, machine)


def _not_aborted(said: str, seconds: float, machine: Watch) -> None:
    """End a case in which a whole answer was generated for nobody; it has failed if the server had time to notice."""
    if seconds < _TOO_FAST_S:
        inconclusive(f"{said}: too fast to tell")
    if machine.seen.starved:
        inconclusive(f"{said}, but the machine was busy: {machine.seen.starved}")
    pytest.fail(said, pytrace=False)


@pytest.mark.requires_capability("metrics")
@pytest.mark.usefixtures("idle")
def test_a_client_that_does_not_wait_for_its_answer_frees_its_slot(
    *, ask: Asking, endpoint: Endpoint, client: ApiClient, long_tokens: int, idle_within_s: float, machine: Watch
) -> None:
    """A request without streaming is aborted as well when its client disconnects: many have a timeout, and try again."""
    body = {**endpoint.exactly("Tell me a long story.", long_tokens), "stream": False, "stream_options": None}
    before = client.metrics().total(_GENERATED)
    left = ask.attempts_of(endpoint, [ask.recorder.streaming(endpoint.path, body, stop_after_s=_LEAVES_S)])[0]
    if not left.exchange.stopped:
        inconclusive(f"all {long_tokens} tokens arrived before the client could disconnect: {left.describe()}")
    seconds = _freed(client, idle_within_s, machine)
    generated = client.metrics().total(_GENERATED) - before
    if generated < long_tokens:
        return
    said = f"all {generated:.0f} tokens were generated for a client that disconnected after {_LEAVES_S:g} s"
    _not_aborted(said, seconds, machine)


@pytest.mark.requires_capability("metrics")
@pytest.mark.usefixtures("idle")
def test_many_clients_that_hang_up_leave_nothing_behind(
    *, ask: Asking, endpoint: Endpoint, client: ApiClient, long_tokens: int, idle_within_s: float, machine: Watch
) -> None:
    """Detects slots that are lost when clients disconnect, with three rounds of sixteen clients."""
    for _ in range(3):
        requests = [
            ask.recorder.streaming(
                endpoint.path, endpoint.body(f"story {n}", max_tokens=long_tokens), stop_after_events=1 + n % 5
            )
            for n in range(16)
        ]
        ask.attempts_of(endpoint, requests)
    _freed(client, idle_within_s, machine)
    streams = ask.streams(endpoint, [endpoint.exactly(f"hello {n}", 8) for n in range(16)])
    wrong = endpoint.wrong_counts(streams, [8] * 16)
    assert not wrong, f"streams afterwards: {wrong}"


@pytest.mark.requires_capability("metrics")
@pytest.mark.usefixtures("idle")
def test_clients_that_leave_before_the_first_token_free_their_place(
    *, ask: Asking, endpoint: Endpoint, client: ApiClient, long_tokens: int, idle_within_s: float, machine: Watch
) -> None:
    """Requests are aborted also while they are queued or their prompt is processed."""
    prompt = "the quick brown fox jumps over the lazy dog " * 8
    requests = [
        ask.recorder.streaming(
            endpoint.path, endpoint.body(f"{n} {prompt}", max_tokens=long_tokens // 2), stop_after_s=0.002 * n
        )
        for n in range(16)
    ]
    ask.attempts_of(endpoint, requests)
    _freed(client, idle_within_s, machine)
    ask.stream(endpoint, endpoint.exactly("hello", 4))


@pytest.mark.compares_answers
@pytest.mark.sized(tokens=(60, 20))
def test_a_neighbour_does_not_notice(ask: Asking, endpoint: Endpoint, size: Sizes) -> None:
    """Streams in the same batch as streams of disconnected clients are complete."""
    leaving = [
        ask.recorder.streaming(endpoint.path, endpoint.exactly(f"leave {n}", 200), stop_after_events=3) for n in range(4)
    ]
    staying = [ask.recorder.streaming(endpoint.path, endpoint.exactly(f"stay {n}", size.tokens)) for n in range(4)]
    streams = ask.attempts_of(endpoint, [*leaving, *staying])[len(leaving) :]
    ask.need(streams)
    wrong = endpoint.wrong_counts(streams, [size.tokens] * 4)
    assert not wrong, wrong
