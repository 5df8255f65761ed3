"""What counts as a successful stream, and what is legal variation."""

import pytest

from unit.loadgen.wire import DONE, GOOD, HEAD, LAST, ROLE, USAGE, chat, event, http_chunk, recorded, stream_of, usage
from vllm_ci.loadgen.stream import Stream

TRUNCATED = b'{"id": "c", "cho'


def test_a_good_stream_is_complete_and_put_together() -> None:
    stream = stream_of(*GOOD)
    assert stream.complete, stream.problems
    assert (stream.text, stream.finish_reason, stream.usage) == ("ab", "stop", usage(3, 2))
    assert stream.answers[0].roles == ("assistant",)
    assert stream.token_ids is None
    metrics = stream.metrics
    assert (metrics.ttft_ms, metrics.tpot_ms, metrics.e2e_ms, metrics.chunks) == (3, 1, 6, 2)


@pytest.mark.parametrize(
    ("bodies", "problem"),
    [
        (GOOD[:-1], "does not end with one [DONE]"),
        ([*GOOD, DONE], "does not end with one [DONE]"),
        ([*GOOD, USAGE], "does not end with one [DONE]"),
        ([*GOOD[:3], DONE], "no usage"),
        ([ROLE, chat({"content": "a"}), USAGE, DONE], "no finish reason for choice 0"),
        ([*GOOD[:3], {"error": {"message": "boom"}}, USAGE, DONE], "error: {'message': 'boom'}"),
        ([*GOOD[:2], TRUNCATED, *GOOD[2:]], "1 events that are not JSON objects"),
        ([b"[1]", *GOOD], "1 events that are not JSON objects"),
        ([USAGE, DONE], "no choices"),
        ([ROLE, chat({"content": "b"}, index=1, finish="stop"), USAGE, DONE], "no finish reason for choice 0"),
    ],
)
def test_anything_less_is_no_success_and_says_why(bodies: list[object], problem: str) -> None:
    stream = stream_of(*bodies)
    assert not stream.complete
    assert any(problem in found for found in stream.problems), stream.problems
    assert problem in stream.describe()


def test_a_stream_whose_connection_ended_early_is_no_success() -> None:
    pieces = [http_chunk(event(body)) for body in GOOD]
    assert "disconnected" in Stream(exchange=recorded(HEAD, *pieces, closed=True)).problems[0]
    assert Stream(exchange=recorded(HEAD, *pieces, stopped=True)).problems == ("the client disconnected",)


@pytest.mark.parametrize("more", [b"Content-Length: 10\r\n", b"Bad Header\r\n"])
def test_invalid_http_is_not_taken_for_a_lost_connection(more: bytes) -> None:
    pieces = [http_chunk(event(body)) for body in GOOD]
    problem = Stream(exchange=recorded(HEAD.replace(b"\r\n", b"\r\n" + more, 1), *pieces)).defects[0]
    assert problem.id == "stream-invalid-http"
    assert "protocol" in problem.text


def test_an_error_before_the_stream_is_the_error_of_the_stream() -> None:
    body = b'{"error":{"message":"no such model"}}'
    stream = Stream(exchange=recorded(b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)))
    assert stream.events == ()
    assert "no such model" in str(stream.error)
    assert "status 404" in stream.problems


@pytest.mark.parametrize(
    "bodies",
    [
        [chat({"role": "assistant", "content": "a"}), *GOOD[1:]],
        [ROLE, chat({}), *GOOD[1:]],
        [ROLE, chat({"content": "a"}, x_vendor={"any": 1}), *GOOD[2:]],
        [*GOOD[:2], chat({"content": None}, finish="length"), USAGE, DONE],
        [*GOOD[:3], USAGE | {"system_fingerprint": "fp"}, DONE],
        [chat({"content": "a"}, finish="stop", usage=usage(3, 2)), DONE],
    ],
    ids=["role with content", "empty delta", "unknown fields", "null content", "fingerprint", "usage on the last chunk"],
)
def test_legal_variation_is_complete(bodies: list[object]) -> None:
    assert stream_of(*bodies).problems == ()


def test_comments_between_events_are_legal() -> None:
    pieces = [http_chunk(b": keep-alive\n\n" + event(body)) for body in GOOD]
    assert Stream(exchange=recorded(HEAD, *pieces, LAST)).complete


def test_token_chunks_are_found_by_the_servers_own_count() -> None:
    stream = stream_of(
        ROLE | {"usage": usage(3, 0)},
        chat({"content": ""}, usage=usage(3, 1)),
        chat({"content": "late text, no token"}, usage=usage(3, 1)),
        chat({}, usage=usage(3, 4), finish="stop"),
        {"choices": [], "usage": usage(3, 4)},
        DONE,
    )
    assert stream.tally.token_chunks_ns == [3_000_000, 5_000_000]
    assert stream.metrics.tpot_ms == 2 / 3


def test_token_chunks_are_found_by_token_ids() -> None:
    stream = stream_of(ROLE, chat({}, token_ids=[5]), chat({"content": "ab"}, token_ids=[6, 7], finish="length"), USAGE, DONE)
    assert stream.token_ids == (5, 6, 7)
    assert stream.metrics.chunks == 2


def test_text_completions_are_streams_too() -> None:
    stream = stream_of(
        {"choices": [{"index": 0, "text": "a", "finish_reason": None}]},
        {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]},
        USAGE,
        DONE,
    )
    assert stream.complete
    assert (stream.text, stream.metrics.chunks) == ("a", 2)


def test_each_choice_is_put_together_for_itself() -> None:
    stream = stream_of(
        chat({"content": "a"}, index=1),
        chat({"content": "x"}, index=0),
        chat({"content": "b"}, index=1, finish="stop"),
        chat({"content": "y"}, index=0, finish="length"),
        USAGE,
        DONE,
    )
    assert [(answer.text, answer.finish_reasons) for answer in stream.answers] == [("xy", ("length",)), ("ab", ("stop",))]
    assert stream.metrics.tpot_ms is None


def test_a_lone_surrogate_is_still_json() -> None:
    assert stream_of(ROLE, b'{"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}', *GOOD[2:]).malformed == ()


def test_an_infinite_number_is_not_json() -> None:
    event = b'{"choices":[{"index":0,"delta":{"content":"x"},"logprobs":{"content":[{"logprob":-Infinity}]}}]}'
    assert stream_of(ROLE, event, *GOOD[2:]).malformed == (event.decode(),)


def test_odd_shapes_do_not_break_the_reading() -> None:
    stream = stream_of({"choices": "none"}, {"choices": [1, {"delta": 7, "index": "x"}]}, {"usage": 3}, {"error": None}, DONE)
    assert stream.text == ""
    assert not stream.complete


def test_arrivals_are_those_of_content_where_nobody_counts_tokens() -> None:
    stream = stream_of(
        chat({"content": ""}),
        chat({"role": "assistant", "content": "a"}),
        chat({"content": None, "reasoning_content": "b"}),
        chat({"tool_calls": [{"index": 0}]}),
        chat({}, finish="stop"),
        DONE,
    )
    assert stream.tally.arrivals_ns == [3_000_000, 4_000_000, 5_000_000]


def test_usage_on_the_last_chunk_does_not_count_tokens_of_the_others() -> None:
    stream = stream_of(ROLE, chat({"content": "a"}), chat({"content": "b"}, finish="stop", usage=usage(3, 2)), DONE)
    assert stream.tally.arrivals_ns == [3_000_000, 4_000_000]


def test_an_empty_finish_reason_is_none() -> None:
    stream = stream_of(chat({"content": "a"}, finish=""), chat({"content": "b"}, finish="stop"), USAGE, DONE)
    assert stream.answers[0].finish_reasons == ("stop",)


def test_each_problem_has_an_id_that_does_not_depend_on_the_stream() -> None:
    one = stream_of(ROLE, chat({"content": "a"}), DONE)
    other = stream_of(ROLE, chat({"content": "b"}, index=1), DONE)
    assert {problem.id for problem in one.defects} == {problem.id for problem in other.defects}
    assert {"stream-incomplete:no-finish-reason", "stream-usage:none"} == {problem.id for problem in one.defects}
