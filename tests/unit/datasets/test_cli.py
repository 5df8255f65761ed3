"""The commands of `vllm-ci data`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from standin.rows import Write, chat, lines_of, ticket
from vllm_ci.cli import root
from vllm_ci.domain.errors import FailedError, UsageError


def call(*words: object) -> Result:
    made = CliRunner().invoke(root, [str(word) for word in words])
    if made.exception is not None:
        raise made.exception
    return made


def answer(*words: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call(*words, "--json").stdout)
    return found


@pytest.mark.slow
def test_a_poisoned_data_set_is_caught_row_by_row(write: Write, store: Path, model: Path) -> None:
    good = [ticket(number) for number in range(70)]
    held = [ticket(number) for number in range(100, 120)]
    secret = chat("deploy with AKIAIOSFODNN7EXAMPLA and mail root@example.com", "ok")
    rewritten = chat(held[9]["messages"][0]["content"].upper() + " NOW", "same question")
    poisoned = [*good, *good[:30], *held[:5], secret, rewritten, "{", chat("", ""), b"\xff"]
    train, test = write("train.jsonl", poisoned), write("test.jsonl", held)
    collected = answer("data", "collect", train, "--test", test, "--store", store)
    assert collected["dropped"] == {"duplicate": 30, "empty": 1, "leaked": 5, "not-json": 1, "not-utf-8": 1}
    assert collected["masked"] == {"EMAIL": 1, "SECRET": 1}
    prepared = answer(
        "data",
        "prepare",
        collected["digest"],
        "--model",
        model,
        "--store",
        store,
        "--train",
        0.9,
        "--validation",
        0.1,
        "--test",
        0,
    )
    assert prepared["rows"]["test"] == 20
    assert prepared["rows"]["train"] + prepared["rows"]["validation"] == 71
    named = {(row["line"], row["reason"]) for row in lines_of(Path(prepared["folder"], "dropped.jsonl"))}
    assert named == {
        *((line, "duplicate") for line in range(71, 101)),
        *((line, "leaked") for line in range(101, 106)),
        (107, "near-duplicate"),
        (108, "not-json"),
        (109, "empty"),
        (110, "not-utf-8"),
    }
    content = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    assert b"AKIA" not in content
    assert b"root@example.com" not in content


def test_the_second_call_says_that_nothing_changed_and_the_card_is_printed(write: Write, store: Path, model: Path) -> None:
    path = write("a.jsonl", [ticket(number) for number in range(30)])
    assert call("data", "collect", path, "--store", store).stdout.startswith("collected ")
    again = call("data", "collect", path, "--store", store)
    assert again.stdout.startswith("unchanged ")
    start = again.stdout.split()[1].rstrip(":")
    for word in ("prepared", "unchanged"):
        made = call("data", "prepare", start, "--model", model, "--store", store)
        assert made.stdout.startswith(word)
    card = call("data", "card", made.stdout.split()[1], "--store", store).stdout
    assert card.startswith("# Data card\n")
    assert "| a.jsonl | by content |" in card
    assert answer("data", "card", made.stdout.split()[-1])["prepared"]["rows"]["train"] > 0


@pytest.mark.slow
def test_a_removed_user_is_named_with_the_versions_that_held_rows(write: Write, store: Path, model: Path) -> None:
    rows = [{**ticket(number), "user": "ann" if number == 3 else "bob"} for number in range(30)]
    path = write("a.jsonl", rows)
    collected = answer("data", "collect", path, "--store", store)
    prepared = answer("data", "prepare", collected["folder"], "--model", model, "--store", store)
    told = answer("data", "remove", "ann", "--store", store, "--dry-run")
    assert [each["digest"] for each in told["versions"]] == [prepared["digest"], collected["digest"]]
    assert "would delete" in call("data", "remove", "ann", "--store", store, "--dry-run").stdout
    assert "deleted collected" in call("data", "remove", "ann", "--store", store).stdout
    assert answer("data", "collect", path, "--store", store)["rows"] == 29
    assert "deleted before: prepared" in call("data", "remove", "ann", "--store", store).stdout
    assert "no version holds rows" in call("data", "remove", "eve", "--store", store).stdout


def test_preparing_an_altered_version_is_refused_by_the_name_of_the_file(write: Write, store: Path, model: Path) -> None:
    collected = answer("data", "collect", write("a.jsonl", [ticket(number) for number in range(5)]), "--store", store)
    rows = Path(collected["folder"], "rows.jsonl")
    rows.chmod(0o644)
    rows.write_bytes(rows.read_bytes().replace(b"priority", b"PRIORITY"))
    with pytest.raises(FailedError, match=r"rows\.jsonl was altered") as caught:
        call("data", "prepare", collected["digest"], "--model", model, "--store", store)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["collect"], "no file to collect from"),
        (["collect", "none.jsonl"], "none.jsonl is not a file"),
        (["prepare", "abcdef", "--model", "."], "has no collected version abcdef"),
        (["prepare", "abcdef", "--model", ".", "--train", "2"], "sum up to 1"),
        (["card", "abc"], "has no prepared version abc"),
        (["remove", " ", "--store", "."], "the name of a user is empty"),
    ],
)
def test_a_wrong_call_says_what_to_write(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message) as caught:
        call("data", *words)
    assert caught.value.remedy
