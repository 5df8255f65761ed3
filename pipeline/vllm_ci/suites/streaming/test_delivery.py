"""A stream is delivered while it is generated."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest

from vllm_ci.loadgen.exchange import Headers
from vllm_ci.loadgen.stream import Stream
from vllm_ci.suites.machine import Watch
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.streaming import timing
from vllm_ci.suites.streaming.asking import Asking, Endpoint
from vllm_ci.suites.streaming.timing import Arrival, Outcome, Pair
from vllm_ci.suites.verdicts import Fault, inconclusive
from vllm_ci.suites.work import Sizes

_PROMPT = "Count from 1 to 1000, in words."
_LATENCIES = 3
_SHOWN_CHUNKS = 400  # of one stream, for the plot in the report
_OFFER = "Accept-Encoding: gzip, deflate"
_AS_THE_OFFICIAL_CLIENT = {"accept-encoding": "gzip, deflate"}


class HeldBackError(Fault):
    """Streams are delivered late to clients that accept compression."""

    cause: ClassVar[Mapping[str, str]] = {
        "id": "stream-held-back:compression",
        "title": "streams are held back when compression is offered",
        "rule": "a stream is delivered during generation (OpenAI API reference, stream); nginx: gzip_types, X-Accel-Buffering",
    }


def _room(server: ServerFacts) -> int:
    """Maximum number of tokens to request."""
    return min(1024, (server.max_model_len or 1024) // 2)


def _latency_ms(ask: Asking, endpoint: Endpoint) -> float:
    """Time that an answer of one token takes: network, queue and prompt."""
    streams = [ask.stream(endpoint, endpoint.exactly(_PROMPT, 1)) for _ in range(_LATENCIES)]
    return min(stream.metrics.e2e_ms or 0.0 for stream in streams)


def _arrival(stream: Stream, latency_ms: float) -> Arrival:
    sent_ns = stream.exchange.sent_ns
    return Arrival(at_ms=[(at_ns - sent_ns) / 1e6 for at_ns in stream.tally.arrivals_ns], latency_ms=latency_ms)


def _long_enough(
    ask: Asking, endpoint: Endpoint, first: int, limit: int, machine: Watch, headers: Headers | None = None
) -> tuple[Arrival, int]:
    """A stream whose generation takes long enough to measure, and its number of tokens."""
    latency_ms = _latency_ms(ask, endpoint)
    tokens = min(first, limit)
    while True:
        found = _arrival(ask.stream(endpoint, endpoint.exactly(_PROMPT, tokens), headers=headers), latency_ms)
        aim_ms = timing.aim_ms(machine.seen.starved)
        if found.generation_ms >= aim_ms or tokens >= limit:
            return found, tokens
        tokens = _more(tokens, aim_ms / max(found.generation_ms, 1.0), limit)


def _more(tokens: int, factor: float, limit: int) -> int:
    """A number of tokens that takes longer by a factor, and at least twice as long."""
    return min(max(math.ceil(1.1 * tokens * factor), 2 * tokens), limit)


def _delivery(
    ask: Asking, endpoint: Endpoint, first: int, limit: int, machine: Watch, headers: Headers | None = None
) -> tuple[Outcome, dict[str, Any]]:
    """Whether streams are delivered during generation, and figures for the report."""
    found, tokens = _long_enough(ask, endpoint, first, limit, machine, headers)
    tries = [found]
    while not (outcome := timing.delivered(tries, machine.seen.starved)).verdict:
        if machine.seen.starved and tries[-1].generation_ms < timing.STARVED_AIM_MS and tokens < limit:
            tokens = _more(tokens, timing.STARVED_AIM_MS / max(tries[-1].generation_ms, 1.0), limit)
            tries.clear()
        tries.append(_arrival(ask.stream(endpoint, endpoint.exactly(_PROMPT, tokens), headers=headers), found.latency_ms))
    spread, groups = max(each.share for each in tries), max(each.moments for each in tries)
    return outcome, {"spread": round(spread, 3), "groups": groups, "tokens": tokens}


def _decide(outcome: Outcome) -> None:
    if outcome.verdict == "inconclusive":
        inconclusive(outcome.reason)
    assert outcome.verdict == "passed", outcome.reason


@pytest.mark.sized(tokens=(64, 16))
def test_chunks_arrive_over_time(
    *,
    ask: Asking,
    endpoint: Endpoint,
    server: ServerFacts,
    metric: Callable[[str, Any], None],
    size: Sizes,
    machine: Watch,
) -> None:
    """Tokens arrive during generation, not in a burst at the end or in groups (because of buffering in a proxy or the server).

    The rule and its error rates: :func:`vllm_ci.suites.streaming.timing.delivered`.
    """
    outcome, figures = _delivery(ask, endpoint, size.tokens, _room(server), machine)
    for name, value in figures.items():
        metric(name, value)
    _decide(outcome)


@pytest.mark.sized(tokens=(64, 16))
def test_chunks_arrive_over_time_when_compression_is_offered(
    *,
    ask: Asking,
    endpoint: Endpoint,
    server: ServerFacts,
    metric: Callable[[str, Any], None],
    size: Sizes,
    machine: Watch,
) -> None:
    """The same for a request with `Accept-Encoding: gzip, deflate`, as the official client sends it.

    A proxy that compresses may hold back the whole stream; one that compresses each event, or does not compress, is right.
    Where chunks are held back anyway, the case without compression names it.
    """
    outcome, figures = _delivery(ask, endpoint, size.tokens, _room(server), machine, _AS_THE_OFFICIAL_CLIENT)
    for name, value in figures.items():
        metric(name, value)
    if outcome.verdict == "failed" and _delivery(ask, endpoint, size.tokens, _room(server), machine)[0].verdict == "passed":
        raise HeldBackError(f"held back when compression is offered ({_OFFER}): {outcome.reason}")
    _decide(outcome)


@pytest.mark.sized(tokens=(64, 16))
def test_the_first_chunk_comes_before_a_whole_answer_would(
    *,
    ask: Asking,
    endpoint: Endpoint,
    server: ServerFacts,
    metric: Callable[[str, Any], None],
    size: Sizes,
    machine: Watch,
) -> None:
    """Time to first token is shorter than the time of a complete response of the same length.

    The answers are sampled: the greedy one may consist of tokens that are only parts of a character, which a server may hold
    back. The rule and its error rates: :func:`vllm_ci.suites.streaming.timing.first_came`.
    """
    first, tokens = _long_enough(ask, endpoint, size.tokens, _room(server), machine)
    body = endpoint.exactly(_PROMPT, tokens)
    pairs: list[Pair] = []
    while not pairs or not (outcome := timing.first_came(pairs, machine.seen.starved)).verdict:
        whole_ms = ask.whole(endpoint, body).seconds * 1000
        came = _arrival(ask.stream(endpoint, body), first.latency_ms).at_ms
        if not came:
            inconclusive("the streams have no content, so there is no first chunk to measure")
        pairs.append(Pair(whole_ms=whole_ms, first_ms=came[0], latency_ms=first.latency_ms))
    metric("whole_ms", round(min(pair.whole_ms for pair in pairs), 3))
    metric("first_ms", round(min(pair.first_ms for pair in pairs), 3))
    metric("chunks_at_ms", [round(at_ms, 1) for at_ms in came[:_SHOWN_CHUNKS]])
    _decide(outcome)


@pytest.mark.sized(tokens=(96, 48), streams=(16, 12))
def test_concurrent_chunks_arrive_over_time(
    *,
    ask: Asking,
    endpoint: Endpoint,
    server: ServerFacts,
    metric: Callable[[str, Any], None],
    size: Sizes,
    machine: Watch,
) -> None:
    """Streams are delivered during generation also when many run at once: a proxy may buffer those beyond a limit.

    The rule and its error rates: :func:`vllm_ci.suites.streaming.timing.delivered_together`.
    """
    tokens = size.tokens
    rounds: list[list[Arrival]] = []
    while not rounds or not (outcome := timing.delivered_together(rounds, machine.seen.starved)).verdict:
        bodies = [endpoint.exactly(f"{n}. {_PROMPT}", tokens) for n in range(size.streams)]
        found = [_arrival(stream, 0.0) for stream in ask.streams(endpoint, bodies)]
        longest_ms = max(each.span_ms for each in found)
        aim_ms = timing.aim_ms(machine.seen.starved)
        if longest_ms < aim_ms and tokens < _room(server):
            tokens = _more(tokens, aim_ms / max(longest_ms, 1.0), _room(server))
        else:
            rounds.append(found)
    metric("rounds", len(rounds))
    metric("tokens", tokens)
    _decide(outcome)


@pytest.mark.requires_capability("token_ids")
@pytest.mark.sized(tokens=(48, 24), streams=(16, 12))
def test_tokens_that_share_a_chunk_are_all_there(
    ask: Asking, endpoint: Endpoint, metric: Callable[[str, Any], None], size: Sizes
) -> None:
    """Under load a server sends several tokens in one chunk; none may be lost, and usage counts tokens, not chunks."""
    bodies = [endpoint.exactly(f"story number {n}", size.tokens) for n in range(size.streams)]
    streams = ask.streams(endpoint, bodies)
    held = [choice.get("token_ids") for stream in streams for chunk in stream.chunks for choice in chunk.choices]
    ids = [len(found) for found in held if isinstance(found, list)]
    metric("most_tokens_in_a_chunk", max(ids, default=0))
    came = [len(stream.token_ids or ()) for stream in streams]
    counted = [stream.metrics.output_tokens or len(stream.token_ids or ()) for stream in streams]
    assert came == counted, f"the chunks have {came} tokens, usage counts {counted}"
    wrong = endpoint.wrong_counts(streams, [size.tokens] * size.streams)
    assert not wrong, wrong


@pytest.mark.deep
def test_a_long_response_comes_whole(ask: Asking, endpoint: Endpoint, server: ServerFacts) -> None:
    """A response up to the end of the context (or 2000 tokens) is complete; long ones may hit buffer limits or timeouts."""
    room = (server.max_model_len or 2048) - 64
    tokens = min(room, 2000)
    stream = ask.stream(endpoint, endpoint.exactly(_PROMPT, tokens))
    if endpoint.exact:
        assert stream.finish_reason == "length", f"finish reason is {stream.finish_reason!r}"
    wrong = endpoint.wrong_counts([stream], [tokens])
    assert not wrong, wrong


@pytest.mark.sized(tokens=(32, 12), times=(10, 3))
def test_speed_is_measured(ask: Asking, endpoint: Endpoint, metric: Callable[[str, Any], None], size: Sizes) -> None:
    """Sequential streams: the report gets distributions of time to first token, time per token and rate."""
    bodies = [endpoint.exactly(f"hello {n}", size.tokens) for n in range(size.times)]
    streams = [ask.stream(endpoint, body) for body in bodies]
    measured = [stream for stream in streams if stream.metrics.ttft_ms is not None]
    if not measured:
        inconclusive(f"the streams have no chunk with a token: {streams[0].describe()}, text {streams[0].text[:100]!r}")
    out_of_order = [stream.metrics for stream in measured if (stream.metrics.ttft_ms or 0) > (stream.metrics.e2e_ms or 0)]
    assert not out_of_order, f"the first token is later than the end of the stream: {out_of_order[0]}"
    metric("server_reports_counts_per_chunk", ask.recorder.continuous_usage)
