"""Streams have the structure that the wire format defines and that clients rely on.

The rules are those of the OpenAI API reference ("Chat completion chunk object", "stream_options"); what several servers
document beside it is allowed.
"""

from __future__ import annotations

from typing import Any

import pytest

from vllm_ci.loadgen.chunk import Chunk, Json
from vllm_ci.loadgen.recorder import Recorder
from vllm_ci.loadgen.stream import NO_DONE, NO_USAGE, Stream
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.streaming.asking import Asking, Endpoint, tokens_of, usage_of
from vllm_ci.suites.streaming.causes import CHOICES, COUNTED, USAGE_PLACE, cause_of, fatal, holds

_TOKENS = 12
_PROMPT = "Tell me about the weather."
_ON_CHAT = [pytest.param("chat", marks=pytest.mark.requires_capability("chat"))]
_ON_COMPLETIONS = [pytest.param("completions", marks=pytest.mark.requires_capability("completions"))]


@pytest.fixture(scope="module")
def stream(everything: Asking, endpoint: Endpoint) -> Stream:
    """One stream of known length that several cases check."""
    found = everything.attempt(endpoint, endpoint.exactly(_PROMPT, _TOKENS, temperature=0))
    if found.exchange.status != 200 or not _with_choices(found):
        cause_of(found, "")
    return found


def test_is_announced_as_an_event_stream(stream: Stream) -> None:
    """EventSource in browsers and unbuffered delivery in proxies depend on the content type."""
    announced = stream.exchange.headers.get("content-type", "")
    assert announced.partition(";")[0].strip().lower() == "text/event-stream", f"content-type is {announced!r}"


def test_arrives_whole(stream: Stream) -> None:
    """The body ends as its framing defines, not with a broken connection."""
    cause_of(stream, "stream-incomplete:connection")
    cause_of(stream, "stream-invalid-http")
    assert stream.exchange.failure is None, str(stream.exchange.failure)


def test_every_event_is_a_json_object(stream: Stream) -> None:
    """Clients parse every event except the last as JSON."""
    cause_of(stream, "stream-malformed")


def test_holds_no_error_object(stream: Stream) -> None:
    """A stream with status 200 can still contain an error."""
    cause_of(stream, "stream-error-object")


def test_ends_with_done_once(stream: Stream) -> None:
    """`data: [DONE]` terminates a stream, so there is exactly one, at the end."""
    cause_of(stream, NO_DONE)


def test_chunks_say_what_they_are(stream: Stream, endpoint: Endpoint) -> None:
    """Clients dispatch on the object type."""
    kinds = {str(chunk.body.get("object")) for chunk in stream.chunks if "error" not in chunk.body}
    assert kinds == {endpoint.chunk_object}, f"object is {sorted(kinds)}, not {endpoint.chunk_object}"


def test_chunks_carry_the_same_id(stream: Stream) -> None:
    """Each chunk has the same id; one with another id belongs to another response."""
    ids = {str(chunk.body.get("id")) for chunk in _with_choices(stream)}
    assert len(ids) == 1, f"the chunks have the ids {sorted(ids)}"
    assert ids != {"None"}, "the chunks have no id"


def test_chunks_name_the_model_that_was_asked_for(stream: Stream, ask: Asking, endpoint: Endpoint) -> None:
    """Routing and billing depend on the model's name: it is the one that an answer in one piece has, or that was requested.

    A server may name a dated snapshot, or the model behind an alias, but then in both.
    """
    names = {str(chunk.body.get("model")) for chunk in _with_choices(stream)}
    if names == {endpoint.model}:
        return
    whole: Any = ask.whole(endpoint, endpoint.exactly(_PROMPT, 1)).json()
    said = str(whole.get("model"))
    assert names <= {endpoint.model, said}, (
        f"requested {endpoint.model}; the chunks name {sorted(names)}, an answer in one piece names {said}"
    )


def test_chunks_were_made_at_the_same_time(stream: Stream) -> None:
    """Each chunk has the same `created`."""
    times = {str(chunk.body.get("created")) for chunk in _with_choices(stream)}
    assert len(times) == 1, f"created in the chunks is {sorted(times)}"


@pytest.mark.parametrize("endpoint", _ON_CHAT, indirect=True)
def test_the_role_comes_first_and_once(stream: Stream, server: ServerFacts) -> None:
    """The role is in the first chunk with a choice, alone or with content; clients concatenate a repeated role.

    Servers other than vLLM may repeat it in every chunk, as several do; it is the same then.
    """
    roles = stream.answers[0].roles if stream.answers else ()
    first = next((choice.get("delta") for chunk in stream.chunks for choice in chunk.choices), None)
    role = first.get("role") if isinstance(first, dict) else None
    assert role == "assistant", f"the role in the first chunk is {role!r}"
    allowed = {("assistant",), *([roles] if set(roles) == {"assistant"} and not server.is_vllm else [])}
    assert roles in allowed, f"the stream announces the roles {roles}"


def test_choices_have_the_index_of_their_answer(stream: Stream) -> None:
    """A request for one answer has only choices with index 0; clients collect chunks by their index."""
    indices = [choice.get("index") for chunk in stream.chunks for choice in chunk.choices]
    wrong = [index for index in indices if index != 0 or isinstance(index, bool)]
    assert not wrong, f"{len(wrong)} of {len(indices)} choices have another index than 0: {wrong[0]!r}"


def test_the_finish_reason_comes_once(stream: Stream) -> None:
    """Without a finish reason a stream may be truncated; with two it may contain two answers."""
    cause_of(stream, "stream-incomplete:no-finish-reason")
    reasons = stream.answers[0].finish_reasons if stream.answers else ()
    assert len(reasons) == 1, f"finish reasons are {reasons}"


def test_nothing_is_said_after_the_finish_reason(stream: Stream) -> None:
    """Clients stop reading at the finish reason, so later content would be lost."""
    cause_of(stream, "stream-incomplete:no-finish-reason")
    ends = [
        number for number, chunk in enumerate(stream.chunks) if any(choice.get("finish_reason") for choice in chunk.choices)
    ]
    # Of a chunk with usage and an empty choice, another case says that it has one.
    late = [chunk.body for chunk in stream.chunks[ends[0] + 1 :] if chunk.choices and chunk.usage is None]
    assert not late, f"{len(late)} chunks with a choice follow the finish reason: {late[0]}"


def test_max_tokens_ends_a_stream_with_length(stream: Stream, endpoint: Endpoint) -> None:
    """At max_tokens the stream has exactly this many tokens and the finish reason `length`."""
    if (problem := fatal(stream)) is not None:
        cause_of(stream, problem.id)
    if endpoint.exact or tokens_of(stream) == _TOKENS:
        assert stream.finish_reason == "length", f"finish reason is {stream.finish_reason!r} after {_TOKENS} tokens"
    wrong = endpoint.wrong_counts([stream], [_TOKENS])
    assert not wrong, wrong


def test_usage_comes_last_and_without_choices(ask: Asking, endpoint: Endpoint, server: ServerFacts) -> None:
    """Usage that was requested comes once: in a last chunk without choices, or with the finish reason as some servers send it.

    A server that refuses `stream_options`, or ignores it and is not vLLM, which documents it, has none.
    """
    body = endpoint.exactly(_PROMPT, _TOKENS, temperature=0, stream_options={"include_usage": True})
    stream = ask.attempt(endpoint, body)
    if not server.can("stream_usage") and not server.is_vllm:
        pytest.skip(f"the server has no usage in streams: {server.absent['stream_usage']}")
    cause_of(stream, NO_USAGE)
    carrying = [chunk for chunk in stream.chunks if chunk.usage is not None]
    last = stream.chunks[-1]
    holds(USAGE_PLACE, right=carrying[-1] is last, message=f"the last chunk has no usage: {last.body}")
    holds(USAGE_PLACE, right=_ends(last), message=f"the usage chunk has choices: {last.body}")
    # Some servers count in every chunk; vLLM does so only on request.
    again = [chunk.body for chunk in carrying[:-1] if server.is_vllm or _ends(chunk)]
    holds(USAGE_PLACE, right=not again, message=f"usage comes {len(again) + 1} times, first in {again[:1]}")


def _ends(chunk: Chunk) -> bool:
    """Whether a chunk has no choices, or only some that end the answer."""
    return all(choice.get("finish_reason") for choice in chunk.choices)


@pytest.mark.requires_capability("stream_usage")
def test_usage_adds_up(stream: Stream) -> None:
    """Billing depends on usage."""
    cause_of(stream, NO_USAGE)
    last = [chunk for chunk in stream.chunks if chunk.usage is not None][-1]
    prompt, completion, total = (last.counted(f"{name}_tokens") for name in ("prompt", "completion", "total"))
    assert (prompt or 0) + (completion or 0) == total, f"prompt, completion and total are {prompt}, {completion}, {total}"


@pytest.mark.requires_capability("token_ids", "stream_usage")
def test_usage_counts_the_tokens_that_came(stream: Stream) -> None:
    """The count matches the token ids of all chunks."""
    came = len(stream.token_ids or ())
    counted = (stream.usage or {}).get("completion_tokens")
    holds(COUNTED, right=counted == came, message=f"usage counts {counted} tokens, but the chunks have {came} token ids")


@pytest.mark.compares_answers
@pytest.mark.requires_capability("usage", "stream_usage")
def test_prompt_tokens_are_those_of_an_answer_in_one_piece(stream: Stream, ask: Asking, endpoint: Endpoint) -> None:
    """Streaming does not change the number of prompt tokens."""
    expected = usage_of(ask.whole(endpoint, endpoint.body(_PROMPT, max_tokens=1)), "prompt_tokens")
    counted = (stream.usage or {}).get("prompt_tokens")
    holds(COUNTED, right=counted == expected, message=f"{counted} prompt tokens streamed, {expected} without streaming")


@pytest.mark.requires_capability("stream_usage")
def test_counts_in_every_chunk_grow_to_the_total(stream: Stream, sse: Recorder) -> None:
    """Metering and rate limits use vLLM's continuous usage during a stream."""
    if not sse.continuous_usage:
        pytest.skip("the server does not offer continuous_usage_stats")
    counts = [count for chunk in stream.chunks if (count := chunk.counted("completion_tokens")) is not None]
    assert len(counts) == len(stream.chunks), f"{len(stream.chunks) - len(counts)} chunks have no count"
    assert counts == sorted(counts), f"the counts are not ascending: {counts}"
    total = (stream.usage or {}).get("completion_tokens")
    assert counts[-1] == total, f"the last count is {counts[-1]}, but usage has {total}"
    # A server or client that was late gets several tokens at once, and may get all of them.
    assert len(set(counts)) > 1 or len([chunk for chunk in stream.chunks if _says(chunk)]) < 3, (
        f"the counts do not grow: {counts}"
    )


def _says(chunk: Chunk) -> bool:
    """Whether a chunk has text."""
    deltas = [delta if isinstance(delta := choice.get("delta"), dict) else choice for choice in chunk.choices]
    return any(delta.get("content") or delta.get("text") for delta in deltas)


def test_usage_is_not_sent_unless_asked(ask: Asking, endpoint: Endpoint, server: ServerFacts) -> None:
    """A usage chunk without choices breaks clients that did not request it.

    vLLM's --enable-force-include-usage and some servers send it always; then it must be complete, or beside choices.
    """
    stream = ask.attempt(endpoint, endpoint.exactly("hello", 4, stream_options=None))
    if (problem := fatal(stream)) is not None:
        cause_of(stream, problem.id)
    carrying = [chunk for chunk in stream.chunks if chunk.usage is not None]
    whole = len(carrying) == 1 and carrying[0] is stream.chunks[-1]
    beside = not server.is_vllm and all(chunk.choices or chunk is stream.chunks[-1] for chunk in carrying)
    assert not carrying or whole or beside, (
        f"usage was not requested, but {len(carrying)} of {len(stream.chunks)} chunks have it: {carrying[0].body}"
    )


@pytest.mark.compares_answers
@pytest.mark.requires_capability("choices")
def test_several_choices_are_streamed_side_by_side(ask: Asking, endpoint: Endpoint) -> None:
    """With n, each choice has its own index, finish reason and tokens."""
    stream = ask.stream(endpoint, endpoint.exactly("hello", 6, n=2, temperature=1, seed=3))
    indices, ends = [answer.index for answer in stream.answers], [answer.finish_reasons for answer in stream.answers]
    holds(CHOICES, right=indices == [0, 1], message=f"choices are {indices}")
    right = all(each == ("length",) if endpoint.exact else len(each) == 1 for each in ends)
    holds(CHOICES, right=right, message=f"finish reasons by choice are {ends}")
    counted = stream.metrics.output_tokens
    right = counted is None or (counted == 12 if endpoint.exact else counted <= 12)
    holds(COUNTED, right=right, message=f"2 choices of 6 tokens are counted as {stream.usage}")
    prompt = stream.metrics.prompt_tokens
    alone = ask.stream(endpoint, endpoint.exactly("hello", 1)).metrics.prompt_tokens
    holds(COUNTED, right=prompt == alone, message=f"the prompt has {prompt} tokens with n=2, and {alone} with n=1")


@pytest.mark.requires_capability("logprobs")
@pytest.mark.parametrize("endpoint", _ON_CHAT, indirect=True)
def test_every_token_brings_its_logprob(ask: Asking, endpoint: Endpoint) -> None:
    """Every token has its own logprob, even if several tokens share a chunk or a token has no text."""
    body = endpoint.exactly("hello", 8, temperature=0, logprobs=True, top_logprobs=1)
    stream = ask.stream(endpoint, body)
    entries = _entries(stream)
    tokens = tokens_of(stream)
    assert tokens is None or len(entries) == tokens, f"{tokens} tokens have {len(entries)} logprobs"
    values = [entry.get("logprob") for entry in entries]
    above = [value for value in values if not isinstance(value, int | float) or value > 0]
    assert not above, f"log probabilities above 0, or none: {above}"
    raw = [entry.get("bytes") for entry in entries]
    if all(isinstance(each, list) for each in raw):
        text = b"".join(bytes(each) for each in raw if isinstance(each, list)).decode("utf-8", "replace")
        assert _spells(text, stream.text), f"the logprobs are of the tokens {text!r}, but the text is {stream.text!r}"


@pytest.mark.requires_capability("completion_logprobs")
@pytest.mark.parametrize("endpoint", _ON_COMPLETIONS, indirect=True)
def test_every_token_of_a_completion_brings_its_logprob(ask: Asking, endpoint: Endpoint, server: ServerFacts) -> None:
    """The lists of the completions format have an entry for every token, in streams, too."""
    stream = ask.stream(endpoint, endpoint.exactly("hello", 8, temperature=0, logprobs=1))
    held = [choice.get("logprobs") for chunk in stream.chunks for choice in chunk.choices]
    lists = [each["token_logprobs"] for each in held if isinstance(each, dict) and isinstance(each.get("token_logprobs"), list)]
    if not lists and not server.is_vllm:
        pytest.skip("the server has no log probabilities of this format in streams of completions")
    values, tokens = [value for each in lists for value in each], tokens_of(stream)
    # The token that ends an answer may be left out.
    fits = tokens is None or (len(values) == tokens if endpoint.exact else tokens - 1 <= len(values) <= tokens)
    assert fits, f"{tokens} tokens have {len(values)} log probabilities"
    wrong = [value for value in values if not isinstance(value, int | float) or value > 0]
    assert not wrong, f"log probabilities above 0, or none: {wrong}"


def _entries(stream: Stream) -> list[Json]:
    held = [choice.get("logprobs") for chunk in stream.chunks for choice in chunk.choices]
    return [entry for each in held if isinstance(each, dict) for entry in each.get("content") or [] if isinstance(entry, dict)]


def _spells(tokens: str, text: str) -> bool:
    """Whether the letters and digits of a text are those of its tokens, in this order.

    Tokens may be more: special ones that the text leaves out, and an end that was not shown. Where a character is incomplete,
    text and tokens may be decoded differently (OpenAI API reference, ``bytes``), so only ASCII is compared.
    """
    ascii_only = "\ufffd" in tokens + text
    wanted, left = ([char for char in each if char.isalnum() and (char.isascii() or not ascii_only)] for each in (text, tokens))
    rest = iter(left)
    return all(char in rest for char in wanted)


def _with_choices(stream: Stream) -> list[Chunk]:
    """Chunks with a choice: others, as those with usage or the results of a filter, may lack common fields."""
    return [chunk for chunk in stream.chunks if chunk.choices]
