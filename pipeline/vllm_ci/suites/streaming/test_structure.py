"""Streams have the structure that the wire format defines and that clients rely on."""

from __future__ import annotations

import pytest

from vllm_ci.loadgen.recorder import Recorder
from vllm_ci.loadgen.stream import Stream
from vllm_ci.suites.streaming.asking import Asking, Endpoint

_TOKENS = 12


@pytest.fixture(scope="module")
def stream(sse: Recorder, endpoint: Endpoint) -> Stream:
    """One stream of known length that several cases check."""
    body = endpoint.body("Tell me about the weather.", max_tokens=_TOKENS, ignore_eos=True, temperature=0)
    found = sse.stream(endpoint.path, body)
    assert found.exchange.status == 200, found.describe()
    assert found.chunks, f"the stream has no chunks: {found.exchange.describe()}"
    return found


def test_is_announced_as_an_event_stream(stream: Stream) -> None:
    """EventSource in browsers and unbuffered delivery in proxies depend on the content type."""
    announced = stream.exchange.headers.get("content-type", "")
    assert announced.partition(";")[0].strip() == "text/event-stream", f"content-type is {announced!r}"


def test_arrives_whole(stream: Stream) -> None:
    """The body ends as its framing defines, not with a broken connection."""
    assert stream.exchange.failure is None, str(stream.exchange.failure)


def test_every_event_is_a_json_object(stream: Stream) -> None:
    """Clients parse every event except the last as JSON."""
    assert not stream.malformed, f"{len(stream.malformed)} events are not JSON objects: {stream.malformed[0][:200]!r}"


def test_holds_no_error_object(stream: Stream) -> None:
    """A stream with status 200 can still contain an error."""
    assert stream.error is None, f"the stream with status 200 contains an error: {stream.error}"


def test_ends_with_done_once(stream: Stream) -> None:
    """`[DONE]` shows that the stream is complete, so there is exactly one, at the end."""
    ends = [number for number, event in enumerate(stream.events) if event.data == "[DONE]"]
    assert ends == [len(stream.events) - 1], f"of {len(stream.events)} events these are [DONE]: {ends}"


def test_chunks_say_what_they_are(stream: Stream, endpoint: Endpoint) -> None:
    """Clients dispatch on the object type."""
    kinds = {str(chunk.body.get("object")) for chunk in stream.chunks}
    assert kinds == {endpoint.chunk_object}, f"object is {sorted(kinds)}, not {endpoint.chunk_object}"


def test_chunks_carry_the_same_id(stream: Stream) -> None:
    """Chunks with another id belong to another response."""
    ids = {chunk.body.get("id") for chunk in stream.chunks}
    assert len(ids) == 1, f"the chunks have the ids {sorted(map(str, ids))}"
    assert ids != {None}, "the chunks have no id"


def test_chunks_name_the_model_that_was_asked_for(stream: Stream, endpoint: Endpoint) -> None:
    """Routing and billing depend on the model's name."""
    names = {chunk.body.get("model") for chunk in stream.chunks}
    assert names == {endpoint.model}, f"requested {endpoint.model}, but the chunks name {sorted(map(str, names))}"


def test_chunks_were_made_at_the_same_time(stream: Stream) -> None:
    """`created` is the same in every chunk."""
    times = {chunk.body.get("created") for chunk in stream.chunks}
    assert len(times) == 1, f"created in the chunks is {sorted(map(str, times))}"


@pytest.mark.parametrize("endpoint", [pytest.param("chat", marks=pytest.mark.requires_capability("chat"))], indirect=True)
def test_the_role_comes_first_and_once(stream: Stream) -> None:
    """The role is in the first chunk only; clients would concatenate a repeated role."""
    first = stream.chunks[0].choices
    assert first, "the first chunk has no choice"
    delta = first[0].get("delta")
    role = delta.get("role") if isinstance(delta, dict) else None
    assert role == "assistant", f"the role in the first chunk is {role!r}"
    assert stream.answers[0].roles == ("assistant",), f"the stream announces the roles {stream.answers[0].roles}"


def test_the_finish_reason_comes_once(stream: Stream) -> None:
    """Without a finish reason a stream may be truncated; with two it may contain two answers."""
    reasons = stream.answers[0].finish_reasons
    assert len(reasons) == 1, f"finish reasons are {reasons}"


def test_nothing_is_said_after_the_finish_reason(stream: Stream) -> None:
    """Clients stop reading at the finish reason, so later content would be lost."""
    ends = [
        number for number, chunk in enumerate(stream.chunks) if any(choice.get("finish_reason") for choice in chunk.choices)
    ]
    assert ends, "there is no finish reason"
    late = [chunk.body for chunk in stream.chunks[ends[0] + 1 :] if chunk.choices]
    assert not late, f"{len(late)} chunks with a choice follow the finish reason: {late[0]}"


def test_max_tokens_ends_a_stream_with_length(stream: Stream) -> None:
    """At max_tokens the stream has exactly this many tokens and the finish reason `length`."""
    assert stream.finish_reason == "length", f"finish reason is {stream.finish_reason!r}"
    counted = (stream.usage or {}).get("completion_tokens")
    assert counted == _TOKENS, f"requested {_TOKENS} tokens, usage counts {counted}"


def test_usage_comes_last_and_without_choices(stream: Stream) -> None:
    """The last chunk has the usage and an empty list of choices, which clients check."""
    last = stream.chunks[-1]
    assert last.usage is not None, f"the last chunk has no usage: {last.body}"
    assert list(last.choices) == [], f"the usage chunk has choices: {last.body}"
    assert last.body.get("choices") == [], "the usage chunk has no empty list of choices"


def test_usage_adds_up(stream: Stream) -> None:
    """Billing depends on usage."""
    assert stream.usage is not None, "there is no usage"
    last = stream.chunks[-1]
    prompt, completion, total = (last.counted(f"{name}_tokens") for name in ("prompt", "completion", "total"))
    assert (prompt or 0) + (completion or 0) == total, f"prompt, completion and total are {prompt}, {completion}, {total}"


@pytest.mark.requires_capability("token_ids")
def test_usage_counts_the_tokens_that_came(stream: Stream) -> None:
    """The count matches the token ids of all chunks."""
    came = len(stream.token_ids or ())
    counted = (stream.usage or {}).get("completion_tokens")
    assert counted == came, f"usage counts {counted} tokens, but the chunks have {came} token ids"


def test_prompt_tokens_are_those_of_an_answer_in_one_piece(stream: Stream, ask: Asking, endpoint: Endpoint) -> None:
    """Streaming does not change the number of prompt tokens."""
    answer = ask.whole(endpoint, endpoint.body("Tell me about the weather.", max_tokens=1)).json()
    expected = answer["usage"]["prompt_tokens"] if isinstance(answer, dict) else None
    counted = (stream.usage or {}).get("prompt_tokens")
    assert counted == expected, f"{counted} prompt tokens streamed, {expected} without streaming"


def test_counts_in_every_chunk_grow_to_the_total(stream: Stream, sse: Recorder) -> None:
    """Metering and rate limits use vLLM's continuous usage during a stream."""
    if not sse.continuous_usage:
        pytest.skip("the server does not offer continuous_usage_stats")
    counts = [count for chunk in stream.chunks if (count := chunk.counted("completion_tokens")) is not None]
    assert len(counts) == len(stream.chunks), f"{len(stream.chunks) - len(counts)} chunks have no count"
    assert counts == sorted(counts), f"the counts are not ascending: {counts}"
    assert counts[-1] == _TOKENS, f"the last count is {counts[-1]}, not {_TOKENS}"


def test_usage_is_not_sent_unless_asked(sse: Recorder, endpoint: Endpoint) -> None:
    """A usage chunk without choices breaks clients that did not request it.

    vLLM's --enable-force-include-usage sends it always; then it must be complete.
    """
    body = endpoint.body("hello", max_tokens=4, ignore_eos=True, stream_options=None)
    stream = sse.stream(endpoint.path, body)
    assert stream.problems in ((), ("no usage",)), stream.describe()
    carrying = [number for number, chunk in enumerate(stream.chunks) if chunk.usage is not None]
    whole = carrying == [len(stream.chunks) - 1] and stream.chunks[-1].body.get("choices") == []
    assert not carrying or whole, f"usage was not requested, but chunks {carrying} of {len(stream.chunks)} have it"


def test_several_choices_are_streamed_side_by_side(ask: Asking, endpoint: Endpoint) -> None:
    """With n, each choice has its own index, finish reason and tokens."""
    stream = ask.stream(endpoint, endpoint.body("hello", n=2, max_tokens=6, ignore_eos=True, temperature=1, seed=3))
    assert [answer.index for answer in stream.answers] == [0, 1], f"choices are {[answer.index for answer in stream.answers]}"
    ends = [answer.finish_reasons for answer in stream.answers]
    assert ends == [("length",), ("length",)], f"finish reasons by choice are {ends}"
    assert (stream.usage or {}).get("completion_tokens") == 12, f"2 choices of 6 tokens are counted as {stream.usage}"


@pytest.mark.requires_capability("logprobs")
@pytest.mark.parametrize("endpoint", [pytest.param("chat", marks=pytest.mark.requires_capability("chat"))], indirect=True)
def test_every_token_brings_its_logprob(ask: Asking, endpoint: Endpoint) -> None:
    """Every token has a logprob, even if several tokens share a chunk or a token has no text."""
    body = endpoint.body("hello", max_tokens=8, ignore_eos=True, temperature=0, logprobs=True, top_logprobs=1)
    stream = ask.stream(endpoint, body)
    held = [choice.get("logprobs") for chunk in stream.chunks for choice in chunk.choices]
    entries = [entry for each in held if isinstance(each, dict) for entry in each.get("content") or []]
    assert len(entries) == 8, f"8 tokens have {len(entries)} logprobs"
    above = [entry["logprob"] for entry in entries if entry["logprob"] > 0]
    assert not above, f"log probabilities above 0: {above}"
