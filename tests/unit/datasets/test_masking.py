"""Secrets and personal data are found as often as the documentation says."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_ci.datasets import masking, messages
from vllm_ci.datasets.lines import Unusable
from vllm_ci.datasets.record import Limits
from vllm_ci.domain.errors import UsageError

# The mark in its secrets keeps scanners of repositories quiet.
LABELLED = [
    json.loads(line.replace("␣", ""))
    for line in Path(__file__).with_name("sensitive.jsonl").read_text(encoding="utf-8").splitlines()
]
DOCS = Path(__file__).parents[3] / "docs" / "datasets.md"


def measured() -> dict[str, str]:
    """``found of all`` for each kind; for texts with nothing to mask, how many are left as they are."""
    all_, found = Counter[str](), Counter[str]()
    for row in LABELLED:
        masked = masking.mask(row["text"]).text
        kind = row["kind"] or "nothing"
        all_[kind] += 1
        found[kind] += all(value not in masked for value in row["values"]) and ((masked == row["text"]) == (kind == "nothing"))
    return {kind: f"{found[kind]} of {all_[kind]}" for kind in all_}


def test_recall_on_the_labelled_set_is_what_the_documentation_says() -> None:
    rows = re.findall(r"^\| `?(\w+)`? \| (\d+ of \d+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert dict(rows) == measured()


def test_nine_of_ten_labelled_secrets_and_personal_data_are_masked() -> None:
    parts = [tuple(map(int, each.split(" of "))) for kind, each in measured().items() if kind != "nothing"]
    found, all_ = (sum(column) for column in zip(*parts, strict=True))
    assert found / all_ > 0.9, measured()


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail joe@example.com, call +49 30 901820", "mail [EMAIL], call [PHONE]"),
        ("token ghp_" + "a1B2c3" * 6, "token [SECRET]"),
        ("redis://:s3cr3t9x@cache:6379", "redis://:[SECRET]@cache:6379"),
        ("nothing here: 10 apples, 10.0.0.1, version 2", "nothing here: 10 apples, 10.0.0.1, version 2"),
    ],
)
def test_a_masked_place_says_what_it_was(text: str, masked: str) -> None:
    assert masking.mask(text).text == masked


def test_national_numbers_are_found_for_the_countries_that_are_named() -> None:
    assert masking.mask("Ruf mich an: 030 901820", regions=("DE",)).text == "Ruf mich an: [PHONE]"


def test_an_unknown_country_is_refused() -> None:
    with pytest.raises(UsageError, match="not a country: 'XX'"):
        masking.check_regions(("XX",))


def test_arguments_of_calls_descriptions_of_tools_and_rejected_answers_are_masked() -> None:
    call = {"function": {"name": "send", "arguments": {"to": ["joe@example.com"]}}}
    rows = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    tools = [{"type": "function", "function": {"name": "send", "description": "like joe@example.com"}}]
    rejected = {"role": "assistant", "content": "joe@example.com"}
    made = messages.conversation(rows, Limits(), tools=tools, rejected=rejected)
    masked, found = masking.mask_conversation(made, ())
    assert "joe" not in json.dumps(masked.to_json())
    assert found == {"EMAIL": 3}


def masked_arguments(arguments: object) -> Any:
    call = {"function": {"name": "send", "arguments": json.dumps(arguments)}}
    rows = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    made, _ = masking.mask_conversation(messages.conversation(rows, Limits()), ("US",))
    assert [each["role"] for each in made.messages] == ["user", "assistant"]
    return made.messages[1]["tool_calls"][0]["function"]["arguments"]


@pytest.mark.parametrize("name", ["role", "type", "content", "to"])
def test_arguments_are_masked_whatever_their_names(name: str) -> None:
    assert masked_arguments({name: "joe@example.com", "deep": [{name: "joe@example.com"}]}) == {
        name: "[EMAIL]",
        "deep": [{name: "[EMAIL]"}],
    }


def test_names_of_arguments_are_masked_unless_two_would_be_one() -> None:
    assert masked_arguments({"joe@example.com": {"ann@example.com": 1}}) == {"[EMAIL]": {"[EMAIL]": 1}}
    with pytest.raises(Unusable, match="one key twice") as caught:
        masked_arguments({"joe@example.com": 1, "ann@example.com": 2})
    assert caught.value.reason == "repeated-key"


def test_an_argument_is_a_secret_by_its_name_as_in_a_text() -> None:
    arguments = {"db_password": "correcthorse", "api_key": "abcdefgh", "hint": "correcthorse", "password_hint": "correcthorse"}
    secret = {"db_password": "[SECRET]", "api_key": "[SECRET]"}
    assert masked_arguments(arguments) == {**arguments, **secret}
    assert masking.mask("db_password: correcthorse").text == "db_password: [SECRET]"
    assert masked_arguments({"password": {"type": "string"}}) == {"password": {"type": "string"}}


def test_text_that_cannot_be_searched_in_time_is_not_taken() -> None:
    row = messages.conversation([{"role": "user", "content": "x" * 5000}, {"role": "assistant", "content": "a"}], Limits())
    with pytest.raises(Unusable, match="without a space"):
        masking.mask_conversation(row, ())


@pytest.mark.parametrize("piece", ["eyJ", "sk-", "a@a.", "1.2.3.4.", "::", "://a:", "(", "DE44"])
def test_hostile_text_takes_bounded_time(piece: str) -> None:
    begun = time.process_time()
    masking.mask(piece * (2048 // len(piece)))
    assert time.process_time() - begun < 5


@pytest.mark.slow
@given(st.text(max_size=100))
@settings(max_examples=40)
def test_masking_any_text_ends_and_masks_nothing_twice(text: str) -> None:
    once = masking.mask(text)
    assert (once.text == text) == (not once.found)
