"""Collected data: what is kept, what is dropped row by row, and versions that never change."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from standin.rows import Write, chat, lines_of, ticket
from vllm_ci.datasets import loading, removing
from vllm_ci.datasets.collecting import collect
from vllm_ci.datasets.record import Collected, Limits, Source
from vllm_ci.datasets.store import TamperedError
from vllm_ci.domain.errors import FailedError, UsageError

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def logged(question: str, key: str, *, days: float = 1, consent: object = True, user: str = "") -> dict[str, Any]:
    return {
        "time": (NOW - timedelta(days=days)).isoformat(),
        "key": key,
        "consent": consent,
        "request": {"messages": [{"role": "user", "content": question}], **({"user": user} if user else {})},
        "response": {"choices": [{"message": {"role": "assistant", "content": "a"}}]},
    }


def questions(made: Collected) -> list[str]:
    return [row["messages"][0]["content"] for row in lines_of(made.folder / "rows.jsonl")]


def dropped(made: Collected) -> list[tuple[str, int, str]]:
    return [(row["file"], row["line"], row["reason"]) for row in lines_of(made.folder / "dropped.jsonl")]


def test_every_dropped_row_is_named_with_its_file_line_and_reason(write: Write, store: Path) -> None:
    first = write("a.jsonl", [chat("one"), "{broken", chat("one"), chat("mail joe@example.com"), chat("mail ann@example.com")])
    log = write(
        "log.jsonl",
        [logged("two", "k", consent=False), logged("three", "k", days=40), logged("four", "gone"), logged("5", "k")],
    )
    made = collect([Source(path=first), Source(path=log)], into=store, keep_days=30, removed=["gone"], now=NOW)
    assert questions(made) == ["one", "mail [EMAIL]", "5"]
    assert dropped(made) == [
        ("a.jsonl", 2, "not-json"),
        ("a.jsonl", 3, "duplicate"),
        ("a.jsonl", 5, "duplicate"),
        ("log.jsonl", 1, "no-consent"),
        ("log.jsonl", 2, "too-old"),
        ("log.jsonl", 3, "removed"),
    ]
    assert made.dropped == {"duplicate": 2, "no-consent": 1, "not-json": 1, "removed": 1, "too-old": 1}
    assert made.masked == {"EMAIL": 1}


def test_no_secret_of_a_source_is_in_any_file_of_the_store(write: Write, store: Path) -> None:
    rows = [
        chat("my password is hunter2xyz"),
        logged("use ghp_" + "a1B2c3" * 6, "key-of-ann", user="ann@example.com"),
        '{"x": "hunter2xyz',
    ]
    collect([Source(path=write("a.jsonl", rows))], into=store, now=NOW)
    content = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    for secret in (b"hunter2xyz", b"ghp_", b"ann@example.com", b"key-of-ann"):
        assert secret not in content


def test_a_row_of_the_test_file_leaves_training_wherever_it_comes_first(write: Write, store: Path) -> None:
    train, test = write("train.jsonl", [ticket(1), ticket(2)]), write("test.jsonl", [ticket(2), ticket(3)])
    for order in ([Source(path=train), Source(path=test, split="test")], [Source(path=test, split="test"), Source(path=train)]):
        made = collect(order, into=store)
        assert dropped(made) == [("train.jsonl", 2, "leaked")]
        splits = {(row["file"], row["line"]): row["split"] for row in lines_of(made.folder / "index.jsonl")}
        assert splits == {("train.jsonl", 1): None, ("test.jsonl", 1): "test", ("test.jsonl", 2): "test"}


def test_the_same_input_again_changes_nothing(write: Write, store: Path, tmp_path: Path) -> None:
    sources = [Source(path=write("a.jsonl", [ticket(n) for n in range(20)]))]
    first = collect(sources, into=store)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    again = collect(sources, into=store)
    assert (first.changed, again.changed) == (True, False)
    assert again.to_json() == {**first.to_json(), "changed": False}
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before
    elsewhere = collect(sources, into=tmp_path / "other")
    assert elsewhere.digest == first.digest


def test_a_row_that_became_too_old_is_dropped_by_the_same_call_later(write: Write, store: Path) -> None:
    sources = [Source(path=write("a.jsonl", [logged("old", "k", days=29), logged("new", "k", days=1)]))]
    assert collect(sources, into=store, keep_days=30, now=NOW).rows == 2
    assert not collect(sources, into=store, keep_days=30, now=NOW + timedelta(hours=23)).changed
    later = collect(sources, into=store, keep_days=30, now=NOW + timedelta(hours=25))
    assert questions(later) == ["new"]


def test_a_row_of_the_last_year_that_there_is_never_becomes_too_old(write: Write, store: Path) -> None:
    rows = [{**chat("one"), "time": "9999-12-31T23:59:59Z"}]
    made = collect([Source(path=write("a.jsonl", rows))], into=store, keep_days=30, now=NOW)
    assert (made.rows, made.changed) == (1, True)
    assert not collect([Source(path=write("a.jsonl", rows))], into=store, keep_days=30, now=NOW).changed


def test_a_removed_user_is_out_of_all_versions_and_stays_out(write: Write, store: Path) -> None:
    both = logged("shared", "ann")
    first = write("a.jsonl", [logged("hers", "ann"), logged("his", "bob"), both, {**both, "key": "bob"}])
    second = write("b.jsonl", [logged("his", "bob")])
    old, other = (collect([Source(path=path)], into=store, now=NOW) for path in (first, second))
    asked = collect([Source(path=first)], into=store, removed=["ann"], now=NOW)
    assert asked.earlier == (old.digest,)
    dry = removing.remove(["ann"], store=store, dry_run=True)
    assert [(each.digest, each.rows) for each in dry.versions] == [(old.digest, 2)]
    assert old.folder.is_dir()
    assert [each.digest for each in removing.remove(["ann"], store=store).versions] == [old.digest]
    assert not old.folder.exists()
    assert loading.collected(other.folder).rows == 1
    later = collect([Source(path=first)], into=store, now=NOW)
    assert questions(later) == ["his", "shared"]
    assert [each.digest for each in removing.remove(["ann"], store=store).earlier] == [old.digest]


@pytest.mark.parametrize("written", ["zo\u00eb", " zo\u00eb\n", "zoe\u0308"])
@pytest.mark.parametrize("asked", ["zo\u00eb", "zo\u00eb ", "zoe\u0308"])
def test_a_removed_user_is_found_whatever_spaces_and_accents_the_name_has(
    write: Write, store: Path, written: str, asked: str
) -> None:
    rows = [chat("hers", user=written), chat("also hers", metadata={"user_id": written}), chat("not hers", user="Zo\u00eb")]
    collect([Source(path=write("a.jsonl", rows))], into=store)
    assert [each.rows for each in removing.remove([asked], store=store).versions] == [2]
    assert questions(collect([Source(path=write("a.jsonl", rows))], into=store)) == ["not hers"]


def test_a_version_with_an_altered_file_is_refused_by_name(write: Write, store: Path) -> None:
    made = collect([Source(path=write("a.jsonl", [ticket(1), ticket(2)]))], into=store)
    for name in ("rows.jsonl", "index.jsonl", "manifest.json"):
        path = made.folder / name
        before = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(
            before.replace(b"ticket 1", b"ticket 9").replace(b'"line":1', b'"line":7').replace(b'"rows": 2', b'"rows": 3')
        )
        with pytest.raises(TamperedError, match=name):
            loading.collected(made.folder)
        path.write_bytes(before)
    (made.folder / "more.jsonl").touch()
    with pytest.raises(TamperedError, match=r"more\.jsonl"):
        collect([Source(path=write("a.jsonl", [ticket(1), ticket(2)]))], into=store)


KILLED = """
import os, signal, sys
from pathlib import Path
from vllm_ci.datasets.collecting import collect
from vllm_ci.datasets.record import Source
from vllm_ci.domain.events import Progress
def emit(event):
    if isinstance(event, Progress):
        os.kill(os.getpid(), signal.SIGKILL)
collect([Source(path=Path(sys.argv[1]))], into=Path(sys.argv[2]), emit=emit)
"""


@pytest.mark.slow
def test_a_killed_collection_leaves_no_version_and_the_next_one_is_the_same(write: Write, store: Path, tmp_path: Path) -> None:
    path = write("a.jsonl", [chat(f"q{number}") for number in range(2100)])
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path), str(store)], check=False, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    assert not (store / "collected").exists()
    assert list((store / "tmp").glob("version-*"))
    made, whole = collect([Source(path=path)], into=store), collect([Source(path=path)], into=tmp_path / "other")
    assert made.digest == whole.digest
    assert not list((store / "tmp").glob("version-*"))


def test_a_batch_is_joined_with_its_input(write: Write, store: Path) -> None:
    asked = write("in.jsonl", [{"custom_id": "1", "body": {"messages": [{"role": "user", "content": "q"}]}}])
    body = {"choices": [{"message": {"role": "assistant", "content": "a"}}]}
    answered = write("out.jsonl", [{"custom_id": each, "response": {"status_code": 200, "body": body}} for each in ("1", "2")])
    made = collect([Source(path=answered, requests=asked)], into=store)
    assert questions(made) == ["q"]
    assert dropped(made) == [("out.jsonl", 2, "no-question")]


def test_an_answer_of_a_batch_is_not_joined_with_one_of_several_questions(write: Write, store: Path) -> None:
    def request(name: object, question: str) -> dict[str, Any]:
        return {"custom_id": name, "body": {"messages": [{"role": "user", "content": question}]}}

    rows = [request("1", "q"), request("2", "x"), request("1", "other"), request("2", "x"), request(None, "y"), request(3, "z")]
    body = {"choices": [{"message": {"role": "assistant", "content": "a"}}]}
    answers = [{"custom_id": each, "response": {"status_code": 200, "body": body}} for each in ("1", "2", None, 3)]
    made = collect([Source(path=write("out.jsonl", answers), requests=write("in.jsonl", rows))], into=store)
    assert questions(made) == ["x", "z"]
    assert dropped(made) == [("out.jsonl", 1, "no-question"), ("out.jsonl", 3, "no-question")]


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([], UsageError, "has no rows"),
        (["{", "["], FailedError, r"a\.jsonl:1: not JSON"),
        ([chat(str(number)) for number in range(6)], UsageError, r"a\.jsonl:6: more than 5 rows"),
        (["{"] * 7, FailedError, "more than 5 rows cannot be used"),
    ],
)
def test_a_file_without_usable_rows_is_refused(
    write: Write, store: Path, rows: list[Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        collect([Source(path=write("a.jsonl", rows))], into=store, limits=Limits(rows=5))
    assert not (store / "collected").exists()


def test_input_that_is_not_there_is_refused(write: Write, store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file to collect from"):
        collect([], into=store)
    with pytest.raises(UsageError, match="is not a file"):
        collect([Source(path=tmp_path)], into=store)
    with pytest.raises(UsageError, match="keep_days is -1"):
        collect([Source(path=write("a.jsonl", [chat("q")]))], into=store, keep_days=-1)
    with pytest.raises(UsageError, match="is not a data set"):
        loading.collected(tmp_path)
    with pytest.raises(UsageError, match="not a folder of data sets"):
        removing.remove(["ann"], store=tmp_path / "none")
    blocked = tmp_path / "blocked"
    blocked.touch()
    with pytest.raises(UsageError, match="cannot write to"):
        collect([Source(path=write("a.jsonl", [chat("q")]))], into=blocked)


def test_files_with_one_name_are_told_apart(write: Write, store: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    one, other = write("a.jsonl", ["{", chat("q")]), write("x/a.jsonl", ["{", chat("r")])
    made = collect([Source(path=one), Source(path=other)], into=store)
    assert [row[0] for row in dropped(made)] == [f"{tmp_path.name}/a.jsonl", "x/a.jsonl"]


def test_git_leaves_the_data_out(write: Write, store: Path) -> None:
    collect([Source(path=write("a.jsonl", [chat("q")]))], into=store)
    assert (store / ".gitignore").read_text(encoding="utf-8") == "*\n"
    assert json.loads((next((store / "collected").iterdir()) / "manifest.json").read_bytes())["kind"] == "collected"
