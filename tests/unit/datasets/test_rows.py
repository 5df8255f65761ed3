"""Rows of all shapes are read, and whatever else a line holds becomes a reason."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from standin.rows import Write, chat
from vllm_ci.datasets import lines, shapes
from vllm_ci.datasets.lines import Unusable
from vllm_ci.datasets.record import Limits
from vllm_ci.domain.errors import ErroredError, UsageError

COMPLETION = {
    "object": "chat.completion",
    "created": 1_700_000_000,
    "choices": [{"message": {"role": "assistant", "content": "a"}}],
}
REQUEST = {"model": "m", "messages": [{"role": "user", "content": "q"}], "user": "alice"}
LOGGED = {"time": "2026-01-02T03:04:05Z", "key": "team-7", "consent": True, "request": REQUEST, "response": COMPLETION}


def said(row: shapes.Row) -> list[tuple[str, str]]:
    return [(each["role"], each["content"]) for each in row.conversation.messages]


def called(arguments: str) -> dict[str, Any]:
    """A row whose answer is a tool call."""
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [call]}]}


def reason(found: Mapping[str, Any], requests: Mapping[str, Any] | None = None) -> str:
    with pytest.raises(Unusable) as caught:
        shapes.row(found, requests or {}, Limits())
    return caught.value.reason


@pytest.mark.parametrize(
    "row",
    [
        chat("q", "a"),
        {"prompt": "q", "completion": "a"},
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {**COMPLETION, "request": REQUEST},
        {**COMPLETION, "messages": REQUEST["messages"]},
        LOGGED,
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "assistant", "content": "a"}]},
    ],
)
def test_every_shape_is_a_conversation(row: dict[str, Any]) -> None:
    assert said(shapes.row(row, {}, Limits())) == [("user", "q"), ("assistant", "a")]


def test_a_batch_output_gets_its_question_from_the_input() -> None:
    output = {"custom_id": "1", "response": {"status_code": 200, "body": COMPLETION}, "error": None}
    requests = {"1": {"custom_id": "1", "body": REQUEST}}
    made = shapes.row(output, requests, Limits())
    assert said(made) == [("user", "q"), ("assistant", "a")]
    assert made.owners == {shapes.owner("alice")}
    assert reason(output) == "no-question"
    assert reason({**output, "response": {"status_code": 500, "body": {}}}, requests) == "failed-request"


@pytest.mark.parametrize("consent", [False, None, "true", 1, "yes"])
def test_a_logged_request_without_consent_is_not_taken(consent: object) -> None:
    assert reason({**LOGGED, "consent": consent}) == "no-consent"


def test_a_logged_request_belongs_to_its_key_and_its_user() -> None:
    assert shapes.row(LOGGED, {}, Limits()).owners == {shapes.owner("team-7"), shapes.owner("alice")}
    assert reason({name: value for name, value in LOGGED.items() if name != "consent"}) == "no-consent"
    assert reason({**LOGGED, "key": ""}) == "no-owner"
    assert reason({**LOGGED, "time": None}) == "bad-time"
    assert reason({**LOGGED, "time": "yesterday"}) == "bad-time"
    assert reason({**LOGGED, "response": {"error": "x"}}) == "no-answer"


def test_the_age_of_a_row_is_what_the_row_says_and_not_what_the_answer_in_it_says() -> None:
    said_time = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert shapes.row(LOGGED, {}, Limits()).time == said_time
    answer = {**COMPLETION, "request": REQUEST}
    assert shapes.row(answer, {}, Limits()).time == datetime.fromtimestamp(1_700_000_000, UTC)
    assert shapes.row({**answer, "time": "2026-01-02T03:04:05Z"}, {}, Limits()).time == datetime(
        2026, 1, 2, 3, 4, 5, tzinfo=UTC
    )
    batch = {"custom_id": "1", "response": {"status_code": 200, "body": COMPLETION}}
    assert shapes.row(batch, {"1": {"body": REQUEST}}, Limits()).time == datetime.fromtimestamp(1_700_000_000, UTC)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": []}, "bad-messages"),
        ({"messages": 5}, "bad-messages"),
        ({"messages": [5]}, "bad-messages"),
        ({"messages": [{"role": "user", "content": "q"}]}, "no-answer"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "no-question"),
        ({"messages": [{"role": ["user"], "content": "q"}]}, "bad-role"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "bad-messages"),
        (chat("q", " \n"), "empty"),
        (chat("", "a"), "empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "not-text"),
        ({"messages": chat("q")["messages"] * 400}, "too-many-messages"),
        ({**COMPLETION, "request": REQUEST, "choices": [{"message": {}, "finish_reason": "length"}]}, "cut"),
        ({"text": "only text"}, "unknown-shape"),
        (chat("q", "a", tools=3), "bad-tools"),
        (chat("q", "a", time=True), "bad-time"),
        (chat("q", "a", time=1e300), "bad-time"),
        ({"prompt": "q", "chosen": [], "rejected": []}, "empty"),
        ({"conversations": [{"from": "alien", "value": "q"}]}, "bad-role"),
        ({"conversations": "x"}, "bad-messages"),
        ({**COMPLETION, "choices": []}, "no-question"),
        (called("{broken"), "bad-messages"),
        (called('{"a": NaN}'), "bad-messages"),
        (called('{"a": 1e999}'), "bad-messages"),
        (called('{"a": "\\ud800"}'), "bad-messages"),
        (called('{"a": "\\u0000"}'), "bad-messages"),
        (called('{"a": 1, "a": 2}'), "bad-messages"),
        (called("[" * 200 + "]" * 200), "bad-messages"),
        ({"prompt": "q", "chosen": "a", "rejected": called('{"a": Infinity}')["messages"][1:]}, "bad-messages"),
    ],
)
def test_a_row_that_is_no_conversation_has_a_reason(row: dict[str, Any], expected: str) -> None:
    assert reason(row) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{broken", "not-json"),
        (b"[1]", "not-object"),
        (b"[" * 200_000, "too-deep"),
        (b'{"a": ' * 100 + b"1" + b"}" * 100, "too-deep"),
        (b'{"a": "\\u0000"}', "bad-text"),
        (b'{"a": "\\ud800"}', "bad-text"),
        (b'{"\\udc00": 1}', "bad-text"),
        (b'{"a": "\xff"}', "not-utf-8"),
        (b'{"a": NaN}', "not-json"),
        (b'{"a": [-1e999]}', "not-json"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not-json"),
        (b'{"consent": false, "consent": true}', "repeated-key"),
        (b'{"a": "' + b"x" * (2 << 20) + b'"}', "too-long"),
    ],
)
def test_a_hostile_line_is_a_reason_and_the_next_line_is_read(write: Write, line: bytes, expected: str) -> None:
    path = write("a.jsonl", [line, "", chat("q")])
    (_, first), (number, last) = lines.read(path, Limits(), expected=lines.digest_of(path))
    assert isinstance(first, Unusable)
    assert first.reason == expected
    assert (number, last) == (3, chat("q"))


def test_a_byte_order_mark_is_no_part_of_the_first_row(write: Write) -> None:
    path = write("a.jsonl", [b"\xef\xbb\xbf" + json.dumps(chat("q")).encode()])
    assert list(lines.read(path, Limits(), expected=lines.digest_of(path))) == [(1, chat("q"))]


def test_a_file_that_changes_while_it_is_read_is_refused(write: Write) -> None:
    path = write("a.jsonl", [chat("q")])
    with pytest.raises(ErroredError, match="changed while it was read"):
        list(lines.read(path, Limits(), expected="sha256:0"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b" [{}]", "one JSON array, not JSON lines"), (b"\x1f\x8b\x08", "compressed"), (b"x" * 101, "more than 100")],
)
def test_a_file_of_another_kind_is_refused_with_a_remedy(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        lines.check(path, Limits(file_bytes=100))
    assert caught.value.remedy


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["messages", "role", "content", "choices", "custom_id", "consent", "key"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
KEYS = ["messages", "prompt", "completion", "conversations", "chosen", "rejected", "choices", "custom_id", "consent", "request",
        "response", "key", "time", "tools", "user", "metadata"]  # fmt: skip


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5))
def test_any_object_is_a_row_or_a_reason(found: dict[str, Any]) -> None:
    with contextlib.suppress(Unusable):
        assert shapes.row(found, {}, Limits()).conversation.identity


@pytest.mark.slow
@given(st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_any_bytes_are_rows_or_reasons(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    for number, found in lines.read(path, Limits(line_bytes=20), expected=lines.digest_of(path)):
        assert number
        assert isinstance(found, dict | Unusable)
