"""Many sequential and concurrent streams: each is complete and separate from the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vllm_ci.loadgen.stream import Stream
from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.streaming.asking import Asking, Endpoint
from vllm_ci.suites.work import Sizes


def test_streams_in_rapid_succession(ask: Asking, endpoint: Endpoint) -> None:
    """Thirty short streams over kept-alive connections: no data of one stream appears in the next."""
    streams = [ask.stream(endpoint, endpoint.body(f"hello {n}", max_tokens=1 + n % 4, ignore_eos=True)) for n in range(30)]
    counted = [stream.metrics.output_tokens for stream in streams]
    expected = [1 + n % 4 for n in range(30)]
    assert counted == expected, f"requested {expected} tokens, got {counted}"
    ids = {chunk.body.get("id") for stream in streams for chunk in stream.chunks}
    assert len(ids) == 30, f"30 streams have {len(ids)} different ids"


@pytest.mark.sized(tokens=(53, 23), streams=(16, 8))
def test_concurrent_streams_are_kept_apart(ask: Asking, endpoint: Endpoint, size: Sizes) -> None:
    """Concurrent streams request different numbers of tokens; each gets exactly that number, with its own id."""
    expected = [8 + (size.tokens - 8) * n // (size.streams - 1) for n in range(size.streams)]
    streams = ask.streams(
        endpoint, [endpoint.body(f"story number {n}", max_tokens=count, ignore_eos=True) for n, count in enumerate(expected)]
    )
    counted = [stream.metrics.output_tokens for stream in streams]
    assert counted == expected, f"requested {expected} tokens, got {counted}"
    ids = [{str(chunk.body.get("id")) for chunk in stream.chunks} for stream in streams]
    mixed = [sorted(each) for each in ids if len(each) != 1]
    assert not mixed, f"{len(mixed)} streams contain chunks of others: {mixed[0]}"
    assert len(set.union(*ids)) == size.streams, f"{size.streams} streams have {len(set.union(*ids))} different ids"


@pytest.mark.requires_capability("token_ids", "tokenize")
def test_concurrent_streams_answer_their_own_question(
    ask: Asking, endpoint: Endpoint, client: ApiClient, canary: Callable[[], str]
) -> None:
    """The prompt token ids in the stream are those of the prompt that was sent on this connection."""
    words = [canary() for _ in range(8)]
    streams = ask.streams(endpoint, [endpoint.body(f"The word is {word}.", max_tokens=16, ignore_eos=True) for word in words])
    prompts = [client.text(found) for stream in streams if (found := _prompt_ids(stream)) is not None]
    assert len(prompts) == 8, f"only {len(prompts)} of 8 streams contain the ids of their prompt"
    wrong = [number for number, prompt in enumerate(prompts) if [word for word in words if word in prompt] != [words[number]]]
    assert not wrong, f"streams {wrong} answer the prompt of another stream"


def _prompt_ids(stream: Stream) -> list[int] | None:
    """Token ids of the prompt, from one of the first chunks: next to the choices (chat) or in a choice (completions)."""
    for chunk in stream.chunks:
        for place in (chunk.body, *chunk.choices):
            found = place.get("prompt_token_ids")
            if isinstance(found, list):
                return found
    return None


@pytest.mark.sized(tokens=(24, 8))
def test_concurrent_greedy_streams_are_not_swapped(ask: Asking, endpoint: Endpoint, size: Sizes) -> None:
    """No concurrent stream gets the answer of another; each prompt was sent alone before.

    Batches may round differently than single requests, so an answer that equals none of the earlier ones is not a swap.
    """
    bodies = [endpoint.body(f"question {n}", max_tokens=size.tokens, temperature=0, ignore_eos=True) for n in range(8)]
    alone = [ask.stream(endpoint, body) for body in bodies]
    told = [stream.token_ids or stream.text for stream in alone]
    together = [stream.token_ids or stream.text for stream in ask.streams(endpoint, bodies)]
    swapped = [
        (number, told.index(answer))
        for number, answer in enumerate(together)
        if answer != told[number] and answer and answer in told
    ]
    assert not swapped, f"stream {swapped[0][0]} got the answer of stream {swapped[0][1]} ({len(swapped)} of 8 are swapped)"


@pytest.mark.sized(tokens=(8, 3))
def test_more_streams_than_slots_all_come_to_their_end(ask: Asking, endpoint: Endpoint, size: Sizes) -> None:
    """Of forty concurrent streams, those that do not fit are queued, and none is refused or lost."""
    bodies = [endpoint.body(f"hello {n}", max_tokens=size.tokens, ignore_eos=True) for n in range(40)]
    counted = [stream.metrics.output_tokens for stream in ask.streams(endpoint, bodies)]
    assert counted == [size.tokens] * 40, f"requested {size.tokens} tokens each, got {counted}"


def test_streams_and_whole_answers_do_not_disturb_each_other(ask: Asking, endpoint: Endpoint) -> None:
    """Concurrent requests with and without streaming get the correct responses."""
    bodies = [endpoint.body(f"hello {n}", max_tokens=8 + n, ignore_eos=True) for n in range(12)]
    streamed = [ask.recorder.streamed(body) if n % 2 else body for n, body in enumerate(bodies)]
    answers = ask.recorder.posts(endpoint.path, streamed)
    kinds = [answer.headers.get("content-type", "").partition(";")[0] for answer in answers]
    expected = ["text/event-stream" if n % 2 else "application/json" for n in range(12)]
    assert kinds == expected, f"content types are {kinds}"
    counted = [answer.json()["usage"]["completion_tokens"] for answer in answers[::2]]  # type: ignore[index]
    assert counted == [8 + n for n in range(0, 12, 2)], f"the responses without streaming have {counted} tokens"
