"""A stream is built as the wire format says; clients of every language take it apart by these rules."""

from __future__ import annotations

import pytest

from vllm_ci.loadgen.recorder import Recorder
from vllm_ci.loadgen.stream import Stream
from vllm_ci.suites.streaming.asking import Asking, Endpoint

_TOKENS = 12


@pytest.fixture(scope="module")
def stream(sse: Recorder, endpoint: Endpoint) -> Stream:
    """One stream of known length, looked at from several sides; whether it is well is for the cases to say."""
    body = endpoint.body("Tell me about the weather.", max_tokens=_TOKENS, ignore_eos=True, temperature=0)
    found = sse.stream(endpoint.path, body)
    assert found.exchange.status == 200, found.describe()
    assert found.chunks, f"no chunk came: {found.exchange.describe()}"
    return found


def test_is_announced_as_an_event_stream(stream: Stream) -> None:
    """Browsers' EventSource and proxies that would otherwise buffer go by the content type."""
    announced = stream.exchange.headers.get("content-type", "")
    assert announced.partition(";")[0].strip() == "text/event-stream", f"content-type is {announced!r}"


def test_arrives_whole(stream: Stream) -> None:
    """The body ends where its framing says, not with a connection that breaks."""
    assert stream.exchange.failure is None, str(stream.exchange.failure)


def test_every_event_is_a_json_object(stream: Stream) -> None:
    """A client parses every event but the last as JSON; half an object raises in the middle of an answer."""
    assert not stream.malformed, f"{len(stream.malformed)} events are no JSON object: {stream.malformed[0][:200]!r}"


def test_holds_no_error_object(stream: Stream) -> None:
    """An error can hide inside a stream that began with 200; such a stream is no answer."""
    assert stream.error is None, f"an error came inside a stream with status 200: {stream.error}"


def test_ends_with_done_once(stream: Stream) -> None:
    """`[DONE]` is the only proof that nothing is missing, so it comes once and last."""
    ends = [number for number, event in enumerate(stream.events) if event.data == "[DONE]"]
    assert ends == [len(stream.events) - 1], f"of {len(stream.events)} events these are [DONE]: {ends}"


def test_chunks_say_what_they_are(stream: Stream, endpoint: Endpoint) -> None:
    """Clients dispatch on the object type."""
    kinds = {str(chunk.body.get("object")) for chunk in stream.chunks}
    assert kinds == {endpoint.chunk_object}, f"object is {sorted(kinds)}, not {endpoint.chunk_object}"


def test_chunks_carry_the_same_id(stream: Stream) -> None:
    """Chunks that carry another id belong to somebody else's answer."""
    ids = {chunk.body.get("id") for chunk in stream.chunks}
    assert len(ids) == 1, f"one stream carries the ids {sorted(map(str, ids))}"
    assert ids != {None}, "the chunks have no id"


def test_chunks_name_the_model_that_was_asked_for(stream: Stream, endpoint: Endpoint) -> None:
    """Routers and bills go by the model's name."""
    names = {chunk.body.get("model") for chunk in stream.chunks}
    assert names == {endpoint.model}, f"{endpoint.model} was asked for, the chunks name {sorted(map(str, names))}"


def test_chunks_were_made_at_the_same_time(stream: Stream) -> None:
    """`created` is that of the answer, the same in every chunk."""
    times = {chunk.body.get("created") for chunk in stream.chunks}
    assert len(times) == 1, f"one stream was created at {sorted(map(str, times))}"


@pytest.mark.parametrize("endpoint", [pytest.param("chat", marks=pytest.mark.requires_capability("chat"))], indirect=True)
def test_the_role_comes_first_and_once(stream: Stream) -> None:
    """The first chunk says who speaks, with or without content; a role that is repeated is added up by clients."""
    first = stream.chunks[0].choices
    assert first, "the first chunk has no choice"
    delta = first[0].get("delta")
    role = delta.get("role") if isinstance(delta, dict) else None
    assert role == "assistant", f"the role in the first chunk is {role!r}"
    assert stream.answers[0].roles == ("assistant",), f"the stream announces the roles {stream.answers[0].roles}"


def test_the_finish_reason_comes_once(stream: Stream) -> None:
    """An answer ends once; a stream without a finish reason may be cut off, one with two may be two answers."""
    reasons = stream.answers[0].finish_reasons
    assert len(reasons) == 1, f"finish reasons are {reasons}"


def test_nothing_is_said_after_the_finish_reason(stream: Stream) -> None:
    """A client stops listening at the finish reason, so what follows would be lost."""
    ends = [
        number for number, chunk in enumerate(stream.chunks) if any(choice.get("finish_reason") for choice in chunk.choices)
    ]
    assert ends, "there is no finish reason"
    late = [chunk.body for chunk in stream.chunks[ends[0] + 1 :] if chunk.choices]
    assert not late, f"{len(late)} chunks with a choice follow the finish reason: {late[0]}"


def test_max_tokens_ends_a_stream_with_length(stream: Stream) -> None:
    """Whoever asked for so many tokens gets them, is told that more would have come, and is charged for no more."""
    assert stream.finish_reason == "length", f"finish reason is {stream.finish_reason!r}"
    counted = (stream.usage or {}).get("completion_tokens")
    assert counted == _TOKENS, f"{_TOKENS} tokens were asked for, usage counts {counted}"


def test_usage_comes_last_and_without_choices(stream: Stream) -> None:
    """The usage chunk follows the answer: clients that take the first choice of every chunk look at `choices` first."""
    last = stream.chunks[-1]
    assert last.usage is not None, f"the last chunk carries no usage: {last.body}"
    assert list(last.choices) == [], f"the usage chunk carries choices: {last.body}"
    assert last.body.get("choices") == [], "the usage chunk has no empty list of choices"


def test_usage_adds_up(stream: Stream) -> None:
    """Bills are made from it."""
    assert stream.usage is not None, "there is no usage"
    last = stream.chunks[-1]
    prompt, completion, total = (last.counted(f"{name}_tokens") for name in ("prompt", "completion", "total"))
    assert (prompt or 0) + (completion or 0) == total, f"prompt, completion and total are {prompt}, {completion}, {total}"


@pytest.mark.requires_capability("token_ids")
def test_usage_counts_the_tokens_that_came(stream: Stream) -> None:
    """Counted from the token ids of all chunks: none is charged that did not come."""
    came = len(stream.token_ids or ())
    counted = (stream.usage or {}).get("completion_tokens")
    assert counted == came, f"usage counts {counted} tokens, {came} token ids came"


def test_prompt_tokens_are_those_of_an_answer_in_one_piece(stream: Stream, ask: Asking, endpoint: Endpoint) -> None:
    """Streaming costs nothing extra."""
    answer = ask.whole(endpoint, endpoint.body("Tell me about the weather.", max_tokens=1)).json()
    expected = answer["usage"]["prompt_tokens"] if isinstance(answer, dict) else None
    counted = (stream.usage or {}).get("prompt_tokens")
    assert counted == expected, f"{counted} prompt tokens streamed, {expected} in one piece"


def test_counts_in_every_chunk_grow_to_the_total(stream: Stream, sse: Recorder) -> None:
    """Continuous usage (of vLLM) is what meters and rate limits see while an answer is still coming."""
    if not sse.continuous_usage:
        pytest.skip("the server does not offer continuous_usage_stats")
    counts = [count for chunk in stream.chunks if (count := chunk.counted("completion_tokens")) is not None]
    assert len(counts) == len(stream.chunks), f"{len(stream.chunks) - len(counts)} chunks carry no count"
    assert counts == sorted(counts), f"counts do not grow: {counts}"
    assert counts[-1] == _TOKENS, f"the last count is {counts[-1]}, not {_TOKENS}"


def test_usage_is_not_sent_unless_asked(sse: Recorder, endpoint: Endpoint) -> None:
    """A chunk without choices breaks clients that did not ask for one.

    vLLM's --enable-force-include-usage sends it to everyone; that is the operator's wish, and then it has to be whole.
    """
    body = endpoint.body("hello", max_tokens=4, ignore_eos=True, stream_options=None)
    stream = sse.stream(endpoint.path, body)
    assert stream.problems in ((), ("no usage",)), stream.describe()
    carrying = [number for number, chunk in enumerate(stream.chunks) if chunk.usage is not None]
    whole = carrying == [len(stream.chunks) - 1] and stream.chunks[-1].body.get("choices") == []
    assert not carrying or whole, f"usage was not asked for, and still chunks {carrying} of {len(stream.chunks)} carry it"


def test_several_choices_are_streamed_side_by_side(ask: Asking, endpoint: Endpoint) -> None:
    """With n each choice has its own index, its own end and all of its tokens."""
    stream = ask.stream(endpoint, endpoint.body("hello", n=2, max_tokens=6, ignore_eos=True, temperature=1, seed=3))
    assert [answer.index for answer in stream.answers] == [0, 1], f"choices are {[answer.index for answer in stream.answers]}"
    ends = [answer.finish_reasons for answer in stream.answers]
    assert ends == [("length",), ("length",)], f"finish reasons by choice are {ends}"
    assert (stream.usage or {}).get("completion_tokens") == 12, f"2 choices of 6 tokens are counted as {stream.usage}"


@pytest.mark.requires_capability("logprobs")
@pytest.mark.parametrize("endpoint", [pytest.param("chat", marks=pytest.mark.requires_capability("chat"))], indirect=True)
def test_every_token_brings_its_logprob(ask: Asking, endpoint: Endpoint) -> None:
    """Also where several tokens share a chunk, or a token decodes to no text."""
    body = endpoint.body("hello", max_tokens=8, ignore_eos=True, temperature=0, logprobs=True, top_logprobs=1)
    stream = ask.stream(endpoint, body)
    held = [choice.get("logprobs") for chunk in stream.chunks for choice in chunk.choices]
    entries = [entry for each in held if isinstance(each, dict) for entry in each.get("content") or []]
    assert len(entries) == 8, f"8 tokens brought {len(entries)} logprobs"
    above = [entry["logprob"] for entry in entries if entry["logprob"] > 0]
    assert not above, f"logarithms of probabilities above 0: {above}"
