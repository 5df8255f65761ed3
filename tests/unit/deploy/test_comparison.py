"""How far two answers to the same request agree."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.deploy import answers, comparison_report
from vllm_ci.deploy.answers import Said
from vllm_ci.deploy.comparison import KEPT, Comparison, Pair, Side


def pair(number: int = 0, *, status: int = 200, agreed: int = 10, greedy: bool = True, cut: bool = False) -> Pair:
    return Pair(
        request_id=f"id-{number}",
        path="/v1/completions",
        old=Side(status=200, finish=("length",), tokens=10, latency_ms=100),
        new=Side(status=status, finish=("length",), tokens=10, latency_ms=150),
        greedy=greedy,
        cut=cut,
        agreed=agreed,
    )


def events(*parts: dict[str, object]) -> bytes:
    return b"".join(b"data: " + json.dumps(each, ensure_ascii=False).encode() + b"\n\n" for each in parts) + b"data: [DONE]\n\n"


def test_a_stream_says_the_same_as_the_object() -> None:
    streamed = events(
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"index": 0, "delta": {"content": "Hello wor"}}]},
        {"choices": [{"index": 0, "delta": {"content": "ld"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"completion_tokens": 2}},
    )
    plain = json.dumps({"choices": [{"index": 0, "message": {"content": "Hello world"}, "finish_reason": "stop"}]}).encode()
    assert answers.said(streamed) == answers.said(plain) == Said(finish=("stop",), tokens=("Hello", " world"), whole=True)


def test_no_character_of_a_text_ends_a_line_of_a_stream() -> None:
    text = "one\u0085two\u2028three"
    streamed = events({"choices": [{"index": 0, "text": text, "finish_reason": "stop"}]})
    plain = json.dumps({"choices": [{"index": 0, "text": text, "finish_reason": "stop"}]}).encode()
    assert answers.said(streamed) == answers.said(plain)
    assert answers.said(streamed).tokens


def test_tokens_are_ids_where_the_server_sends_them() -> None:
    body = {"choices": [{"index": 0, "text": "one two", "token_ids": [7, 8, 9], "finish_reason": "length"}]}
    assert answers.said(json.dumps(body).encode()).tokens == ("7", "8", "9")


@pytest.mark.parametrize(
    "body", [b"", b"nothing", b'{"choices": 3}', b"[]", b"data: x\n\n", b'data: {"choices": [{"delta": 3}]}\n\n', b"\xff\xfe"]
)
def test_a_body_that_was_cut_off_or_is_of_another_kind_is_not_compared(body: bytes) -> None:
    found = answers.said(body)
    assert found.finish == found.tokens == ()
    assert not found.whole or body == b'{"choices": 3}'


_NAMES = st.sampled_from(["choices", "delta", "text", "message", "index", "tool_calls", "function", "token_ids"])
_VALUES = st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(_NAMES, inner) | st.lists(inner))


@pytest.mark.slow
@given(st.binary() | _VALUES.map(lambda value: json.dumps(value).encode()))
def test_no_body_breaks_the_comparison(body: bytes) -> None:
    answers.said(body)
    answers.said(b"data: " + body)
    answers.greedy(body)


@pytest.mark.parametrize(
    ("asked", "is_greedy"),
    [
        ({"temperature": 0}, True),
        ({"temperature": 0.0, "n": 1}, True),
        ({}, False),
        ({"temperature": 0, "n": 2}, False),
        ({"temperature": 0.7}, False),
        ({"temperature": "0"}, False),
    ],
)
def test_only_greedy_requests_must_have_the_same_text(asked: dict[str, object], is_greedy: bool) -> None:
    assert answers.greedy(json.dumps(asked).encode()) is is_greedy


def test_agreement_is_measured_up_to_the_first_difference() -> None:
    assert answers.agreed("abcd", "abxd") == 2
    found = Comparison().having([pair(agreed=10), pair(agreed=5)])
    assert found.values(2) == {"shadow.status": 1, "shadow.finish": 1, "shadow.tokens": 0.75, "shadow.latency": 1.5}
    assert [each.agreed for each in found.differing] == [5]


def test_too_few_pairs_say_nothing() -> None:
    found = Comparison().having([pair(), pair(greedy=False), pair(cut=True)])
    assert found.values(4) == {}
    assert set(found.values(3)) == {"shadow.status"}
    assert found.compared == 1


def test_another_status_is_a_difference_and_its_text_is_not_compared() -> None:
    found = Comparison().having([pair(status=500), pair(status=0)])
    assert (found.same_status, found.compared, len(found.differing)) == (0, 0, 2)


def test_what_is_kept_is_bounded() -> None:
    found = Comparison().having(pair(number, agreed=0) for number in range(KEPT + 50))
    assert (found.pairs, len(found.differing), len(found.old_ms)) == (KEPT + 50, KEPT, KEPT)
    assert found.differing[-1].request_id == f"id-{KEPT + 49}"


def test_a_report_names_the_requests_that_differ() -> None:
    found = Comparison().having([pair(1), pair(2, agreed=3), pair(3, status=500)])
    told = "\n".join(comparison_report.lines(found))
    assert "same status             2 of 3 (66.7 %)" in told
    assert "id-2  /v1/completions  token 4 of 10" in told
    assert "id-3  /v1/completions  status 200, copy 500" in told
    assert "| `id-2` | `/v1/completions` | token 4 of 10 |" in comparison_report.markdown(found, "Answers")
    assert comparison_report.to_json(found)["metrics"] == dict(found.values(1))
    assert "not known" in "\n".join(comparison_report.lines(Comparison()))
