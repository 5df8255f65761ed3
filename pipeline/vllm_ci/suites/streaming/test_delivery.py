"""A stream is delivered while it is made: that is what people stream for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vllm_ci.loadgen.stream import Stream
from vllm_ci.suites.server import Server
from vllm_ci.suites.streaming.asking import Asking, Endpoint
from vllm_ci.suites.verdicts import inconclusive
from vllm_ci.suites.work import Sizes

_SHORTEST_MS = 60.0
"""An answer that is made faster than this comes in one piece for a network's reasons, not for the server's."""
_AIM_MS = 4 * _SHORTEST_MS
"""What is asked for is made to take this long, where the context has room: near the bound nothing could be told."""
_PROGRESSIVE = 0.5
_BURST = 0.2
_TRIES = 3


def _spread(stream: Stream) -> float:
    """(last token chunk - first) / (last token chunk - request sent): about 1 when tokens flow, 0 when they come in a burst."""
    arrivals = stream.tally.token_chunks_ns
    return (arrivals[-1] - arrivals[0]) / (arrivals[-1] - stream.exchange.sent_ns) if arrivals else 0.0


def _room(server: Server) -> int:
    """Most tokens that are asked for to see them come."""
    return min(1024, (server.max_model_len or 1024) // 2)


def _long_enough(ask: Asking, endpoint: Endpoint, first: int, limit: int) -> tuple[Stream, int]:
    """A stream that takes some time to make, and its number of tokens."""
    tokens = min(first, limit)
    while True:
        stream = ask.stream(endpoint, endpoint.body("Tell me a long story.", max_tokens=tokens, ignore_eos=True))
        if (stream.metrics.e2e_ms or 0) >= _AIM_MS or tokens >= limit:
            return stream, tokens
        tokens = min(tokens * 4, limit)


@pytest.mark.sized(tokens=(64, 16))
def test_chunks_arrive_over_time(
    ask: Asking, endpoint: Endpoint, server: Server, metric: Callable[[str, Any], None], size: Sizes
) -> None:
    """Tokens come while the answer is made, not in one burst at the end (a proxy that buffers, a server that collects).

    Measured as the share of the whole time over which token chunks arrive; the best of three tries, since a busy machine makes
    a stream look like a burst, but nothing makes a burst look like a stream.
    """
    stream, tokens = _long_enough(ask, endpoint, size.tokens, _room(server))
    tries = [stream]
    while _spread(tries[-1]) < _PROGRESSIVE and len(tries) < _TRIES:
        tries.append(ask.stream(endpoint, endpoint.body("Tell me a long story.", max_tokens=tokens, ignore_eos=True)))
    best = max(tries, key=_spread)
    share, took_ms = _spread(best), best.metrics.e2e_ms or 0.0
    metric("spread", round(share, 3))
    metric("tokens", tokens)
    seen = f"{tokens} tokens came in {best.metrics.chunks} chunks over {share:.0%} of {took_ms:.0f} ms"
    if share >= _PROGRESSIVE:
        return
    if took_ms < _SHORTEST_MS:
        inconclusive(f"{seen}: too fast to tell a stream from a burst")
    assert share > _BURST, f"{seen}: the answer was held back and came in one burst"
    inconclusive(f"{seen}: neither clearly a stream nor clearly a burst; is the machine busy?")


@pytest.mark.sized(tokens=(64, 16))
def test_the_first_chunk_comes_before_a_whole_answer_would(
    ask: Asking, endpoint: Endpoint, server: Server, metric: Callable[[str, Any], None], size: Sizes
) -> None:
    """Time to first token is less than the time of an answer of this length in one piece, which a user waits for otherwise.

    The answers are sampled: the most probable one may be tokens that make no text before the last of them (pieces of a
    character), and a server may hold those back. The best of three streams counts, as a busy machine delays one.
    """
    _, tokens = _long_enough(ask, endpoint, size.tokens, _room(server))
    body = endpoint.body("Tell me a long story.", max_tokens=tokens, ignore_eos=True)
    whole_ms = min(ask.whole(endpoint, body).seconds for _ in range(2)) * 1000
    tries: list[float] = []
    while len(tries) < _TRIES and min(tries, default=whole_ms) > whole_ms / 2:
        tries.append(ask.stream(endpoint, body).metrics.ttft_ms or 0.0)
    first_ms = min(tries)
    metric("whole_ms", round(whole_ms, 3))
    metric("first_ms", round(first_ms, 3))
    if first_ms > whole_ms / 2 and whole_ms < _SHORTEST_MS:
        inconclusive(f"a whole answer of {tokens} tokens takes {whole_ms:.0f} ms: too fast to tell who is earlier")
    assert first_ms < whole_ms, f"the first token came after {first_ms:.0f} ms, a whole answer takes {whole_ms:.0f} ms"


@pytest.mark.requires_capability("token_ids")
@pytest.mark.sized(tokens=(48, 24), streams=(16, 12))
def test_tokens_that_share_a_chunk_are_all_there(
    ask: Asking, endpoint: Endpoint, metric: Callable[[str, Any], None], size: Sizes
) -> None:
    """Under load a server puts several tokens into one chunk; none may get lost, and usage counts tokens, not chunks."""
    bodies = [endpoint.body(f"story number {n}", max_tokens=size.tokens, ignore_eos=True) for n in range(size.streams)]
    streams = ask.streams(endpoint, bodies)
    held = [choice.get("token_ids") for stream in streams for chunk in stream.chunks for choice in chunk.choices]
    ids = [len(found) for found in held if isinstance(found, list)]
    metric("most_tokens_in_a_chunk", max(ids, default=0))
    came = [len(stream.token_ids or ()) for stream in streams]
    counted = [stream.metrics.output_tokens for stream in streams]
    asked = [size.tokens] * size.streams
    assert came == counted == asked, f"{size.tokens} tokens each were asked for; {came} came, usage counts {counted}"


@pytest.mark.deep
def test_a_long_response_comes_whole(ask: Asking, endpoint: Endpoint, server: Server) -> None:
    """Up to the end of the context (or 2000 tokens): long answers are where buffers overflow and connections time out."""
    room = (server.max_model_len or 2048) - 64
    tokens = min(room, 2000)
    stream = ask.stream(endpoint, endpoint.body("Tell me everything.", max_tokens=tokens, ignore_eos=True))
    assert stream.finish_reason == "length", f"finish reason is {stream.finish_reason!r}"
    assert stream.metrics.output_tokens == tokens, f"{tokens} tokens were asked for, {stream.metrics.output_tokens} came"


@pytest.mark.sized(tokens=(32, 12), times=(10, 3))
def test_speed_is_measured(ask: Asking, endpoint: Endpoint, metric: Callable[[str, Any], None], size: Sizes) -> None:
    """Some streams one after the other: time to first token, time per token and rate stand in the report as distributions."""
    bodies = [endpoint.body(f"hello {n}", max_tokens=size.tokens, ignore_eos=True) for n in range(size.times)]
    streams = [ask.stream(endpoint, body) for body in bodies]
    unmeasured = [stream.describe() for stream in streams if stream.metrics.ttft_ms is None]
    assert not unmeasured, f"streams without a token chunk: {unmeasured[0]}"
    out_of_order = [stream.metrics for stream in streams if (stream.metrics.ttft_ms or 0) > (stream.metrics.e2e_ms or 0)]
    assert not out_of_order, f"tokens after the end: {out_of_order[0]}"
    metric("server_reports_counts_per_chunk", ask.recorder.continuous_usage)
