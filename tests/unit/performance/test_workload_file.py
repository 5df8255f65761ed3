"""Workload files: what is read from each form, and that a wrong line is refused with its number."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.domain.errors import UsageError
from vllm_ci.performance import workload_file
from vllm_ci.performance.recorded import Recorded
from vllm_ci.performance.turns import conversations
from vllm_ci.performance.workload import WORDS, Ask


def read(folder: Path, text: str | bytes, name: str = "file.jsonl") -> Recorded:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return workload_file.load(path)


def asks(found: Recorded, count: int = 100) -> list[Ask]:
    return list(itertools.islice(found.asks(seed=1, words=WORDS), count))


def hello(**fields: Any) -> str:
    return json.dumps({"messages": [{"role": "user", "content": "hello"}], **fields})


def test_requests_keep_their_fields_and_start_over_at_the_end(tmp_path: Path) -> None:
    found = read(
        tmp_path, f'{hello(max_tokens=7, top_p=0.5, model="other")}\n\n{{"prompt": "b", "max_completion_tokens": 2}}\n'
    )
    first, second, third = asks(found, 3)
    assert (first.output_tokens, first.fields) == (7, {"top_p": 0.5})
    assert (second.output_tokens, second.messages) == (2, ({"role": "user", "content": "b"},))
    assert third.messages == first.messages
    assert not found.timed
    assert not found.fixed_length, "answers to a user's prompts end where the model ends them"


def test_the_batch_format_of_openai_is_read(tmp_path: Path) -> None:
    line = json.dumps(
        {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": json.loads(hello(max_tokens=3))}
    )
    assert asks(read(tmp_path, line), 1)[0].output_tokens == 3


def test_arrival_times_are_counted_from_the_first_request_and_sent_once(tmp_path: Path) -> None:
    found = read(tmp_path, f"{hello(at_s=100)}\n{hello(at_s=100.5)}\n{hello(timestamp=103)}")
    assert found.timed
    assert [ask.at_s for ask in asks(found)] == [0, 0.5, 3]


def test_conversations_of_sharegpt_become_turns_that_follow_one_another(tmp_path: Path) -> None:
    said = [
        {"from": "system", "value": "be brief"},
        {"from": "human", "value": "one"},
        {"from": "gpt", "value": "x" * 40},
        {"from": "human", "value": "two"},
        {"from": "gpt", "value": "y" * 400},
    ]
    found = read(
        tmp_path, json.dumps([{"id": "a", "conversations": said}, {"id": "b", "conversations": said[1:3]}], indent=1), "s.json"
    )
    first, second, third = list(itertools.islice(found.asks(seed=1, words=WORDS), 3))
    assert [message["role"] for message in second.messages] == ["system", "user", "assistant", "user"]
    assert (first.output_tokens, second.output_tokens) == (10, 100)
    assert (first.follows, second.follows, third.follows) == (None, 0, None)
    groups = list(itertools.islice(conversations(found.asks(seed=1, words=WORDS)), 4))
    assert [len(group.asks) for group in groups] == [2, 1, 2, 1], "the file starts over with new conversations"


AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,374,44
2023-11-16 18:17:04.0319600,396,109
"""
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,374,44,418,Conversation log
5.052,GPT-4,396,109,505,API log
"""
MOONCAKE = """{"timestamp": 5000, "input_length": 374, "output_length": 44, "hash_ids": [7]}
{"timestamp": 5052, "input_length": 396, "output_length": 109, "hash_ids": [7]}
"""


@pytest.mark.parametrize(("text", "name"), [(AZURE, "azure.csv"), (BURST, "burstgpt.csv"), (MOONCAKE, "mooncake.jsonl")])
def test_lengths_and_times_of_production_traces_are_read(tmp_path: Path, text: str, name: str) -> None:
    found = read(tmp_path, text, name)
    first, second = asks(found)
    assert [(ask.prompt_tokens, ask.output_tokens) for ask in (first, second)] == [(374, 44), (396, 109)]
    assert first.at_s == 0
    assert second.at_s == pytest.approx(0.052, abs=1e-4)
    assert len(first.messages[0]["content"].split()) == 374
    scaled, factor = found.fitting(300)
    assert factor < 1
    assert all(ask.prompt_tokens + ask.output_tokens <= 300 for ask in asks(scaled))


def test_requests_of_a_mooncake_trace_share_the_text_of_their_blocks(tmp_path: Path) -> None:
    line = {"timestamp": 0, "output_length": 1}
    lines = [{**line, "input_length": 700, "hash_ids": ids} for ids in ([1, 2], [1, 3], [4, 2])]
    texts = [ask.messages[0]["content"].split() for ask in asks(read(tmp_path, "\n".join(map(json.dumps, lines))))]
    assert [len(text) for text in texts] == [700] * 3
    assert texts[0][:512] == texts[1][:512]
    assert texts[0][512:] != texts[1][512:]
    assert texts[0][:512] != texts[2][:512]


GOOD = hello()


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (f"{GOOD}\n{{broken\n", 2, "not JSON"),
        (f"{GOOD}\n\n[1]\n", 3, "a JSON object is needed"),
        (f"{GOOD}\n{hello(max_tokens=0)}", 2, "`max_tokens` must be an integer from 1"),
        (f"{GOOD}\n{hello(max_tokens=True)}", 2, "`max_tokens` must be"),
        (f"{GOOD}\n{hello(max_tokens=1e300)}", 2, "`max_tokens` must be"),
        (f'{GOOD}\n{{"messages": []}}', 2, "not empty"),
        (f'{GOOD}\n{{"messages": [{{"role": "user"}}]}}', 2, "`role` and `content`"),
        (f'{GOOD}\n{{"prompt": 3}}', 2, "`prompt` must be a string"),
        (f'{GOOD}\n{{"unknown": 3}}', 2, "no prompt tokens"),
        (f'{GOOD}\n{{"prompt": "x", "max_tokens": NaN}}', 2, "NaN"),
        (f"{GOOD}\n{'[' * 100_000}", 2, "not JSON that can be read"),
        (f"{hello(at_s=2)}\n{hello(at_s=1)}", 2, "arrives 1 s before"),
        (f"{hello(at_s=2)}\n{GOOD}", 2, "some requests have an arrival time"),
        (f"{hello(at_s=-1)}", 1, "a time of 0 or more"),
        (f"{hello(at_s='soon')}", 1, "neither seconds nor a date"),
        (f'{GOOD}\n{{"input_length": 1, "output_length": 1}}', 2, "some requests have text"),
        ('[\n{"conversations": []},\n{"other": 1}]', 3, "`conversations`"),
        ('[\n{"conversations": []},\n{"conversations": [}]', 3, "not JSON"),
        ('[{"conversations": [{"from": "robot", "value": "x"}]}]', 1, "human, gpt, system"),
        ('[\n{"conversations": []}\n] x', 3, "text after the end"),
        ('[\n{"conversations": []}\n{"conversations": []}]', 3, "`,` or `]`"),
        ("a,b\n1,2", 1, "no column for prompt tokens"),
        ("input_tokens,output_tokens\n1,2\n1\n", 3, "1 columns instead of 2"),
        ("input_tokens,output_tokens\n1,2\nx,2\n", 3, "`input_tokens` must be"),
        ("input_tokens,output_tokens\n1,2.5\n", 2, "`output_tokens` must be"),
        ('{"input_length": 9000, "output_length": 1, "hash_ids": [1]}', 1, "do not hold 9000 tokens"),
        ("", 0, "no requests"),
        ("[]", 0, "no requests"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_refused_with_its_number(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(UsageError) as error:
        read(tmp_path, text)
    place = f"file.jsonl:{line}: " if line else "file.jsonl: "
    assert place in str(error.value)
    assert said in str(error.value)


def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path: Path) -> None:
    for text in (GOOD.encode() + b'\n{"prompt": "\xff"}', b'[\n"\xff"]'):
        with pytest.raises(UsageError, match=r"file\.jsonl:2: not UTF-8"):
            read(tmp_path, text)


def test_a_file_or_a_line_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload_file, "LARGEST_LINE", 100)
    with pytest.raises(UsageError, match=r":2: the line is longer"):
        read(tmp_path, f"{GOOD}\n{hello(x='y' * 200)}")
    monkeypatch.setattr(workload_file, "MOST_REQUESTS", 2)
    with pytest.raises(UsageError, match=r":3: more than 2 requests"):
        read(tmp_path, f"{GOOD}\n" * 3)
    monkeypatch.setattr(workload_file, "LARGEST_FILE", 10)
    with pytest.raises(UsageError, match="larger than"):
        read(tmp_path, GOOD)
    with pytest.raises(UsageError, match="cannot read"):
        workload_file.load(tmp_path / "none")


@pytest.mark.slow
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        found = read(folder, raw, "any")
    except UsageError:
        return
    assert asks(found, 3)


_INNER = ["from", "role", "content", "value"]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_INNER), inner, max_size=3),
    max_leaves=8,
)
_KEYS = [
    "messages",
    "prompt",
    "max_tokens",
    "conversations",
    "at_s",
    "timestamp",
    "input_length",
    "output_length",
    "hash_ids",
    "body",
]


@pytest.mark.slow
@given(st.lists(st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=5), min_size=1, max_size=3), st.booleans())
def test_whatever_json_a_file_holds_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, found: list[Any], array: bool
) -> None:
    text = json.dumps(found) if array else "\n".join(map(json.dumps, found))
    try:
        loaded = read(tmp_path_factory.getbasetemp(), text, "any")
    except UsageError:
        return
    assert len(asks(loaded, 3)) >= 1
