"""A stream is delivered while it is generated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vllm_ci.loadgen.stream import Stream
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.streaming.asking import Asking, Endpoint
from vllm_ci.suites.verdicts import inconclusive
from vllm_ci.suites.work import Sizes

_SHORTEST_MS = 60.0
"""An answer that takes less time than this may arrive at once because of the network, not the server."""
_AIM_MS = 4 * _SHORTEST_MS
"""Target time of an answer, if the context has room, to be well above the limit."""
_PROGRESSIVE = 0.5
_BURST = 0.2
_TRIES = 8
"""A server without enough processor time delivers late for a second or two. The best of these streams is used: a server that
holds chunks back does so in all of them."""


def _spread(stream: Stream) -> float:
    """(last token chunk - first) / (last token chunk - request sent): about 1 for a stream, 0 for a burst."""
    arrivals = stream.tally.token_chunks_ns
    return (arrivals[-1] - arrivals[0]) / (arrivals[-1] - stream.exchange.sent_ns) if arrivals else 0.0


def _room(server: ServerFacts) -> int:
    """Maximum number of tokens to request."""
    return min(1024, (server.max_model_len or 1024) // 2)


def _long_enough(ask: Asking, endpoint: Endpoint, first: int, limit: int) -> tuple[Stream, int]:
    """A stream that takes long enough to measure, and its number of tokens."""
    tokens = min(first, limit)
    while True:
        stream = ask.stream(endpoint, endpoint.body("Tell me a long story.", max_tokens=tokens, ignore_eos=True))
        if (stream.metrics.e2e_ms or 0) >= _AIM_MS or tokens >= limit:
            return stream, tokens
        tokens = min(tokens * 4, limit)


@pytest.mark.sized(tokens=(64, 16))
def test_chunks_arrive_over_time(
    ask: Asking, endpoint: Endpoint, server: ServerFacts, metric: Callable[[str, Any], None], size: Sizes
) -> None:
    """Tokens arrive during generation, not in one burst at the end (because of buffering in a proxy or the server).

    Measured as the share of the total time over which token chunks arrive. The best of several attempts is used: a busy machine
    can make a stream look like a burst, but not the reverse.
    """
    stream, tokens = _long_enough(ask, endpoint, size.tokens, _room(server))
    tries = [stream]
    while _spread(tries[-1]) < _PROGRESSIVE and len(tries) < _TRIES:
        tries.append(ask.stream(endpoint, endpoint.body("Tell me a long story.", max_tokens=tokens, ignore_eos=True)))
    best = max(tries, key=_spread)
    share, took_ms = _spread(best), best.metrics.e2e_ms or 0.0
    metric("spread", round(share, 3))
    metric("tokens", tokens)
    seen = f"{tokens} tokens arrived in {best.metrics.chunks} chunks over {share:.0%} of {took_ms:.0f} ms"
    if share >= _PROGRESSIVE:
        return
    if took_ms < _SHORTEST_MS:
        inconclusive(f"{seen}: too fast to distinguish a stream from a burst")
    assert share > _BURST, f"{seen}: the answer was buffered and arrived in one burst"
    inconclusive(f"{seen}: neither clearly a stream nor clearly a burst; the machine may be busy")


@pytest.mark.sized(tokens=(64, 16))
def test_the_first_chunk_comes_before_a_whole_answer_would(
    ask: Asking, endpoint: Endpoint, server: ServerFacts, metric: Callable[[str, Any], None], size: Sizes
) -> None:
    """Time to first token is shorter than the time of a complete response of the same length.

    The answers are sampled: the greedy one may consist of tokens that are only parts of a character, which a server may hold
    back. The best of several streams is used, because a busy machine can delay some.
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
        inconclusive(f"a complete response of {tokens} tokens takes {whole_ms:.0f} ms: too fast to compare")
    assert first_ms < whole_ms, f"the first token took {first_ms:.0f} ms, a complete response takes {whole_ms:.0f} ms"


@pytest.mark.requires_capability("token_ids")
@pytest.mark.sized(tokens=(48, 24), streams=(16, 12))
def test_tokens_that_share_a_chunk_are_all_there(
    ask: Asking, endpoint: Endpoint, metric: Callable[[str, Any], None], size: Sizes
) -> None:
    """Under load a server sends several tokens in one chunk; none may be lost, and usage counts tokens, not chunks."""
    bodies = [endpoint.body(f"story number {n}", max_tokens=size.tokens, ignore_eos=True) for n in range(size.streams)]
    streams = ask.streams(endpoint, bodies)
    held = [choice.get("token_ids") for stream in streams for chunk in stream.chunks for choice in chunk.choices]
    ids = [len(found) for found in held if isinstance(found, list)]
    metric("most_tokens_in_a_chunk", max(ids, default=0))
    came = [len(stream.token_ids or ()) for stream in streams]
    counted = [stream.metrics.output_tokens for stream in streams]
    asked = [size.tokens] * size.streams
    assert came == counted == asked, f"requested {size.tokens} tokens each; got {came}, usage counts {counted}"


@pytest.mark.deep
def test_a_long_response_comes_whole(ask: Asking, endpoint: Endpoint, server: ServerFacts) -> None:
    """A response up to the end of the context (or 2000 tokens) is complete; long ones may hit buffer limits or timeouts."""
    room = (server.max_model_len or 2048) - 64
    tokens = min(room, 2000)
    stream = ask.stream(endpoint, endpoint.body("Tell me everything.", max_tokens=tokens, ignore_eos=True))
    assert stream.finish_reason == "length", f"finish reason is {stream.finish_reason!r}"
    assert stream.metrics.output_tokens == tokens, f"requested {tokens} tokens, got {stream.metrics.output_tokens}"


@pytest.mark.sized(tokens=(32, 12), times=(10, 3))
def test_speed_is_measured(ask: Asking, endpoint: Endpoint, metric: Callable[[str, Any], None], size: Sizes) -> None:
    """Sequential streams: the report gets distributions of time to first token, time per token and rate."""
    bodies = [endpoint.body(f"hello {n}", max_tokens=size.tokens, ignore_eos=True) for n in range(size.times)]
    streams = [ask.stream(endpoint, body) for body in bodies]
    unmeasured = [stream.describe() for stream in streams if stream.metrics.ttft_ms is None]
    assert not unmeasured, f"streams without a token chunk: {unmeasured[0]}"
    out_of_order = [stream.metrics for stream in streams if (stream.metrics.ttft_ms or 0) > (stream.metrics.e2e_ms or 0)]
    assert not out_of_order, f"the first token is later than the end of the stream: {out_of_order[0]}"
    metric("server_reports_counts_per_chunk", ask.recorder.continuous_usage)
