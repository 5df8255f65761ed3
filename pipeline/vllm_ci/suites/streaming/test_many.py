"""Many sequential and concurrent streams: each is complete and separate from the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from vllm_ci.loadgen.stream import Stream
from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.mixing import SWAPPED, MixedUpError
from vllm_ci.suites.streaming.asking import Asking, Endpoint, not_refused_alone, usage_of
from vllm_ci.suites.work import Sizes

pytestmark = pytest.mark.compares_answers

_STREAMS = 16
_ENOUGH = 3
_TOLD = 8
_LARGEST_PART = 6


def test_streams_in_rapid_succession(ask: Asking, endpoint: Endpoint) -> None:
    """Thirty short streams over kept-alive connections: no data of one stream appears in the next."""
    expected = [1 + n % 4 for n in range(30)]
    streams = [ask.stream(endpoint, endpoint.exactly(f"hello {n}", tokens)) for n, tokens in enumerate(expected)]
    wrong = endpoint.wrong_counts(streams, expected)
    assert not wrong, wrong
    _own_ids(streams)


def _own_ids(streams: Sequence[Stream]) -> None:
    """Check that each stream has its own id, as far as it has one; a case of the structure checks that."""
    ids = [{str(chunk.body["id"]) for chunk in stream.chunks if chunk.body.get("id")} for stream in streams]
    mixed = [sorted(each) for each in ids if len(each) > 1]
    assert not mixed, f"{len(mixed)} streams contain chunks with other ids: {mixed[0][:5]}"
    known = [each for each in ids if each]
    assert len(set().union(*known)) == len(known), f"{len(known)} streams have {len(set().union(*known))} different ids"


@pytest.mark.sized(tokens=(53, 23), streams=(16, 8))
def test_concurrent_streams_are_kept_apart(ask: Asking, endpoint: Endpoint, size: Sizes) -> None:
    """Concurrent streams request different numbers of tokens; each gets exactly that number, with its own id."""
    expected = [8 + (size.tokens - 8) * n // (size.streams - 1) for n in range(size.streams)]
    streams = ask.streams(endpoint, [endpoint.exactly(f"story number {n}", count) for n, count in enumerate(expected)])
    wrong = endpoint.wrong_counts(streams, expected)
    assert not wrong, wrong
    came = [(len(ids), stream.metrics.output_tokens) for stream in streams if (ids := stream.token_ids) is not None]
    off = [pair for pair in came if pair[1] is not None and pair[0] != pair[1]]
    assert not off, f"{len(off)} streams have another number of token ids than usage counts: {off[0][0]}, not {off[0][1]}"
    _own_ids(streams)


@pytest.mark.requires_capability("token_ids", "tokenize")
def test_concurrent_streams_answer_their_own_question(
    ask: Asking, endpoint: Endpoint, client: ApiClient, canary: Callable[[], str]
) -> None:
    """The prompt token ids in the stream are those of the prompt that was sent on this connection."""
    words = [canary() for _ in range(8)]
    streams = ask.streams(endpoint, [endpoint.exactly(f"The word is {word}.", 16) for word in words])
    prompts = [client.text(found) for stream in streams if (found := _prompt_ids(stream)) is not None]
    assert len(prompts) == 8, f"only {len(prompts)} of 8 streams contain the ids of their prompt"
    wrong = [number for number, prompt in enumerate(prompts) if [word for word in words if word in prompt] != [words[number]]]
    foreign = [number for number in wrong if any(word in prompts[number] for word in words)]
    if foreign:
        raise MixedUpError(SWAPPED, f"streams {foreign} answer the prompt of another stream")
    assert not wrong, f"streams {wrong} do not answer the prompt that was sent"


def _prompt_ids(stream: Stream) -> list[int] | None:
    """Token ids of the prompt, from one of the first chunks: next to the choices (chat) or in a choice (completions)."""
    for chunk in stream.chunks:
        for place in (chunk.body, *chunk.choices):
            found = place.get("prompt_token_ids")
            if isinstance(found, list):
                return found
    return None


@pytest.mark.requires_capability("temperature")
@pytest.mark.sized(tokens=(24, 8))
def test_concurrent_greedy_streams_are_not_swapped(ask: Asking, endpoint: Endpoint, size: Sizes) -> None:
    """No concurrent stream gets the answer of another; each prompt was sent alone before.

    Batches may round differently than single requests, so an answer that equals none of the earlier ones is not a swap.
    """
    bodies = [endpoint.exactly(f"question {n}", size.tokens, temperature=0) for n in range(8)]
    told = [_said(ask.stream(endpoint, body)) for body in bodies]
    together = [_said(stream) for stream in ask.streams(endpoint, bodies)]
    swapped = [
        (number, told.index(answer))
        for number, answer in enumerate(together)
        if answer != told[number] and answer and answer in told
    ]
    if swapped:
        number, other = swapped[0]
        raise MixedUpError(SWAPPED, f"stream {number} got the answer of stream {other} ({len(swapped)} of 8 are swapped)")


@pytest.mark.requires_capability("temperature")
def test_concurrent_streams_lose_and_repeat_no_token(ask: Asking, endpoint: Endpoint) -> None:
    """The answers of sixteen concurrent streams are not those of the same prompts alone with a part left out or repeated.

    Rounding in batches changes a token and all that follow; it hardly ever leaves out a word and goes on as before (with a
    probability of 1 % for each stream, three of sixteen do with one of 0.05 %).
    """
    bodies = [endpoint.exactly(f"Question {n}: why?", 16, temperature=0) for n in range(_STREAMS)]
    alone = [_said(ask.stream(endpoint, body)) for body in bodies]
    together = [_said(stream) for stream in ask.streams(endpoint, bodies)]
    found = [(number, how) for number, pair in enumerate(zip(alone, together, strict=True)) if (how := _shifted(*pair))]
    if len(found) >= _ENOUGH:
        number, how = found[0]
        pytest.fail(
            f"{len(found)} of {_STREAMS} concurrent streams {how} a part of the answer that they give alone: "
            f"stream {number} says {str(together[number])[:100]!r}, alone {str(alone[number])[:100]!r}",
            pytrace=False,
        )


def _said(stream: Stream) -> tuple[int, ...] | str:
    return stream.token_ids or stream.text


def _shifted(alone: Sequence[object], together: Sequence[object]) -> str:
    """``lose`` or ``repeat`` if ``together`` is ``alone`` with one part left out or repeated; empty if not."""
    differs = next((at for at, (one, other) in enumerate(zip(alone, together, strict=False)) if one != other), None)
    if differs is None:
        return ""
    for size in range(1, _LARGEST_PART + 1):
        if size <= differs and _continues(alone[differs - size :], together[differs:]):
            return "repeat"
        if _continues(together[differs:], alone[differs + size :]):
            return "lose"
    return ""


def _continues(one: Sequence[object], other: Sequence[object]) -> bool:
    """Whether two sequences are the same, as far as both go, and long and varied enough to tell."""
    told = min(len(one), len(other))
    return told >= _TOLD and one[:told] == other[:told] and len(set(one[:told])) >= _TOLD // 2


@pytest.mark.sized(tokens=(8, 3))
def test_more_streams_than_slots_all_come_to_their_end(ask: Asking, endpoint: Endpoint, size: Sizes) -> None:
    """Of forty concurrent streams, those that do not fit are queued, and none is refused or lost."""
    streams = ask.streams(endpoint, [endpoint.exactly(f"hello {n}", size.tokens) for n in range(40)])
    wrong = endpoint.wrong_counts(streams, [size.tokens] * 40)
    assert not wrong, wrong


def test_streams_and_whole_answers_do_not_disturb_each_other(ask: Asking, endpoint: Endpoint) -> None:
    """Concurrent requests with and without streaming get the correct responses."""
    bodies = [endpoint.exactly(f"hello {n}", 8 + n) for n in range(12)]
    streamed = [ask.recorder.streamed(body) if n % 2 else body for n, body in enumerate(bodies)]
    answers = ask.recorder.posts(endpoint.path, streamed)
    not_refused_alone(answers)
    failed = [answer.describe() for answer in answers if not answer.ok]
    assert not failed, f"{len(failed)} of 12 requests failed: {failed[0]}"
    kinds = [answer.headers.get("content-type", "").partition(";")[0].strip().lower() for answer in answers]
    expected = ["text/event-stream" if n % 2 else "application/json" for n in range(12)]
    assert kinds == expected, f"content types are {kinds}"
    pairs = [(usage_of(answer, "completion_tokens"), 8 + n) for n, answer in zip(range(0, 12, 2), answers[::2], strict=True)]
    wrong = [pair for pair in pairs if pair[0] is not None and not endpoint.counts(pair[0], pair[1])]
    assert not wrong, f"the responses without streaming have other lengths than requested: {pairs}"
