"""The request log: answers are put together, and rows are kept within their bounds."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.datasets import answers
from vllm_ci.datasets.lines import Unusable
from vllm_ci.datasets.record import Limits
from vllm_ci.datasets.request_log import Bounds, RequestLog
from vllm_ci.datasets.shapes import owner

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)


def streamed(events: list[Any], end: str = "\n\n") -> bytes:
    return "".join(f"data: {each if isinstance(each, str) else json.dumps(each)}{end}" for each in events).encode()


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"id": "c1", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def whole(body: bytes, *, stream: bool = True) -> dict[str, Any]:
    return answers.whole(body, streamed=stream, limits=Limits())


@pytest.mark.slow
@given(st.lists(_TEXT, min_size=1, max_size=8), st.sampled_from(["\n\n", "\r\n\r\n", "\r\r"]))
def test_pieces_of_a_stream_make_one_answer(pieces: list[str], end: str) -> None:
    events = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": each}) for each in pieces), chunk({}, "stop")]
    body = streamed([*events, {"choices": [], "usage": {"total_tokens": 3}}, "[DONE]"], end)
    found = whole(body)
    assert found["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "".join(pieces)}, "finish_reason": "stop"}
    ]
    assert found["usage"] == {"total_tokens": 3}
    assert found["id"] == "c1"


@pytest.mark.slow
@given(st.data())
def test_a_stream_that_broke_off_anywhere_is_never_an_answer(data: st.DataObject) -> None:
    body = streamed([chunk({"content": "[DONE] ü"}), chunk({}, "stop"), "[DONE]"])
    cut = data.draw(st.integers(0, len(body) - 2))
    with pytest.raises(Unusable):
        whole(body[:cut])


def test_calls_of_tools_reasoning_and_several_choices_are_joined_by_their_index() -> None:
    call = {"index": 1, "id": "b", "function": {"name": "f", "arguments": '{"a"'}}
    other = {"index": 0, "id": "a", "function": {"name": "g", "arguments": "{}"}}
    body = streamed([
        chunk({"reasoning_content": "hm", "tool_calls": [call]}),
        chunk({"content": "second"}, "stop", index=1),
        chunk({"reasoning_content": "m", "tool_calls": [{"index": 1, "function": {"arguments": ": 1}"}}, other]}, "tool_calls"),
        "[DONE]",
    ])  # fmt: skip
    first, second = whole(body)["choices"]
    assert first["message"]["reasoning_content"] == "hmm"
    assert [(each["id"], each["function"]) for each in first["message"]["tool_calls"]] == [
        ("a", {"name": "g", "arguments": "{}"}),
        ("b", {"name": "f", "arguments": '{"a": 1}'}),
    ]
    assert second["message"]["content"] == "second"


@pytest.mark.parametrize(
    ("body", "stream", "reason"),
    [
        (b"", True, "incomplete"),
        (b"", False, "not-json"),
        (b"[]", False, "not-object"),
        (b"\xff", False, "not-utf-8"),
        (b"[" * 100_000, False, "too-deep"),
        (b'{"choices": []}', False, "no-answer"),
        (b'{"choices": 7}', False, "no-answer"),
        (b'{"error": {"message": "x"}}', False, "failed-request"),
        (b'{"choices": [{"message": {"content": "half"}}]}', False, "incomplete"),
        (streamed([{"error": {"message": "x"}}, "[DONE]"]), True, "failed-request"),
        (streamed([chunk({"content": "no reason"}), "[DONE]"]), True, "incomplete"),
        (streamed(["{", "[DONE]"]), True, "not-json"),
        (streamed([chunk({"content": 7}, "stop"), "[DONE]"]), True, "bad-messages"),
        (streamed([{"choices": {"a": 1}}, "[DONE]"]), True, "bad-messages"),
        (streamed([{"choices": [{"index": "x", "delta": {}}]}, "[DONE]"]), True, "bad-messages"),
        (streamed([chunk({"tool_calls": [{"function": "x"}]}, "stop"), "[DONE]"]), True, "bad-messages"),
        (streamed([chunk({"content": "nul \0"}, "stop"), "[DONE]"]), True, "bad-text"),
    ],
)
def test_what_is_no_whole_answer_is_refused_with_a_reason(body: bytes, stream: bool, reason: str) -> None:
    with pytest.raises(Unusable) as refused:
        whole(body, stream=stream)
    assert refused.value.reason == reason


def row(key: str = "team-a", text: str = "x", **request: Any) -> dict[str, Any]:
    return {"key": key, "consent": True, "time": NOW.isoformat(), "request": {"messages": [text], **request}}


def add(log: RequestLog, *rows: dict[str, Any], bounds: Bounds | None = None, now: datetime = NOW) -> None:
    for each in rows:
        log.append(each, bounds or Bounds(), consents=lambda: True, now=now)


@pytest.mark.slow
def test_rows_are_deleted_when_they_are_too_old_or_too_many(tmp_path: Path) -> None:
    log, bounds = RequestLog(folder=tmp_path / "log"), Bounds(keep=timedelta(days=10), size_bytes=100_000)
    for day in range(30):
        add(log, row(text=f"day {day}"), row("team-b"), bounds=bounds, now=NOW + timedelta(days=day))
    texts = [each["request"]["messages"][0] for each in log.rows(keys=["team-a"])]
    assert texts == [f"day {day}" for day in range(20, 30)]
    for each in range(300):
        add(log, row(text=f"{each} " + "y" * 1000), bounds=bounds, now=NOW + timedelta(days=30))
        assert sum(file.stat().st_size for file in log.folder.glob("*/*.jsonl")) <= 100_000
    assert [each["request"]["messages"][0] for each in log.rows(keys=["team-a"])][-1].startswith("299 ")
    log.prune(bounds, now=NOW + timedelta(days=41))
    assert not list(log.folder.glob("*/*.jsonl"))


def test_a_row_without_consent_or_that_is_too_long_is_not_written(tmp_path: Path) -> None:
    log = RequestLog(folder=tmp_path / "log")
    with pytest.raises(Unusable, match="consent"):
        log.append(row(), Bounds(), consents=lambda: False, now=NOW)
    with pytest.raises(Unusable, match="bytes"):
        add(log, row(text="z" * (1 << 20)))
    assert log.summaries() == []


def test_rows_of_a_user_are_removed_from_the_rows_of_every_key(tmp_path: Path) -> None:
    log = RequestLog(folder=tmp_path / "log")
    add(log, row(user="alice"), row(), row("team-b", metadata={"user_id": "alice"}), row("alice"))
    assert log.remove(frozenset({owner("alice")}), dry_run=True) == 3
    assert sum(each.rows for each in log.summaries()) == 4
    assert log.remove(frozenset({owner("alice")}), dry_run=False) == 3
    assert [(each.key, each.rows) for each in log.summaries() if each.rows] == [("team-a", 1)]
    assert {file.stat().st_mode & 0o777 for file in log.folder.glob("*/*.jsonl")} == {0o600}


def test_what_a_killed_removal_left_is_neither_kept_nor_older_than_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RequestLog(folder=tmp_path / "log")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for clean in (lambda: log.remove(frozenset({owner("bob")}), dry_run=False), lambda: log.prune(Bounds(), now=NOW)):
        add(log, row(user="alice"), row(user="bob"))
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", killed)
            with pytest.raises(KeyboardInterrupt):
                log.remove(frozenset({owner("alice")}), dry_run=False)
        assert list(log.folder.glob("*/.*"))
        clean()
        assert not list(log.folder.glob("*/.*"))


def test_a_copy_holds_only_the_rows_of_the_keys_that_are_named(tmp_path: Path) -> None:
    log = RequestLog(folder=tmp_path / "log")
    add(log, row(), row("team-b"), row())
    assert log.copy(tmp_path / "copy", keys=["team-a", "unknown"]) == 2
    assert b"team-b" not in (tmp_path / "copy").read_bytes()
