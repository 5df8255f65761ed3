"""The ledger: concurrent writers, lost answers, and what it does not put up with."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from importlib import resources
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest

from registries.evidence import NOW
from registries.releases import world_in
from vllm_ci.domain.errors import ErroredError
from vllm_ci.release import history, record
from vllm_ci.release.ledger import KustomizeOverlay, Ledger, LedgerEntry, State
from vllm_ci.release.publish import publish
from vllm_ci.release.record import Record, Release, parse
from vllm_ci.system.vcs import git

# How often two of them meet; 50 shows what 10 do not.
ROUNDS = int(os.environ.get("VLLM_CI_TEST_ROUNDS", "10"))


def release(number: int) -> Release:
    return Release(commit=f"{number:040x}", digest=f"sha256:{number:064x}", repository="r.example.com/name", tag=f"t{number}")


def entry(number: int, channel: str = "staging") -> LedgerEntry:
    made = Record(number=0, at="2026-11-20T12:00:00Z", action="publish", channel=channel, release=release(number))
    overlay = KustomizeOverlay(path=f"deploy/{channel}/kustomization.yaml", name="vllm", fields={"newTag": f"t{number}"})
    return LedgerEntry(record=made, overlay=overlay)


@pytest.fixture(name="ledger")
def _ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "ledger.git"))


def test_a_ledger_that_is_not_there_is_empty_and_stays_so_when_read(ledger: Ledger) -> None:
    assert ledger.read() == State()
    assert not Path(ledger.remote).exists()


@pytest.mark.slow
def test_records_count_and_are_read_back(ledger: Ledger) -> None:
    for number in (1, 2):
        _, written = ledger.append(lambda _, number=number: entry(number))  # type: ignore[misc]
        assert written
        assert written.number == number
    records = ledger.read().records
    assert [each.release.tag for each in records] == ["t1", "t2"]
    assert all(each.by.endswith(">") and each.tool for each in records)
    assert ledger.append(lambda _: None)[1] is None


def test_a_record_fits_its_schema_and_the_schema_is_the_code_s() -> None:
    schema = json.loads(resources.files("vllm_ci").joinpath("schema/release.schema.json").read_text())
    assert schema == record.schema(), (
        "write it anew: python -m vllm_ci.release.record > pipeline/vllm_ci/schema/release.schema.json"
    )
    jsonschema.Draft202012Validator.check_schema(schema)
    made = Record(
        number=1, at="2026-11-20T12:00:00Z", action="publish", channel="staging", release=release(1), previous=release(2)
    )
    jsonschema.validate(made.to_json(), schema)
    assert record.parse(made.content, "x") == made
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**made.to_json(), "extra": 1}, schema)


@pytest.mark.parametrize(
    "change", [{"format": "vllm-ci/release/v2"}, {"extra": 1}, {"action": "delete"}, {"release": None}, {"number": "x"}]
)
def test_a_record_that_is_not_one_stops_everything(change: dict[str, object]) -> None:
    made = Record(number=1, at="2026-11-20T12:00:00Z", action="publish", channel="staging", release=release(1))
    with pytest.raises(ErroredError, match="ledger"):
        record.parse(json.dumps({**made.to_json(), **change}).encode(), "records/000001.json")


@pytest.mark.slow
def test_a_rewritten_ledger_is_noticed(ledger: Ledger, tmp_path: Path) -> None:
    for number in (1, 2):
        ledger.append(lambda _, number=number: entry(number))  # type: ignore[misc]
    checkout = tmp_path / "checkout"
    git("clone", "--quiet", "--branch", "releases", ledger.remote, str(checkout), cwd=tmp_path)
    git("rm", "--quiet", "records/000001.json", cwd=checkout)
    git("-c", "user.name=p", "-c", "user.email=p@example.com", "commit", "--quiet", "-m", "tidy up", cwd=checkout)
    git("push", "--quiet", cwd=checkout)
    with pytest.raises(ErroredError, match="without gaps"):
        ledger.read()


@pytest.mark.slow
def test_a_writer_that_was_overtaken_decides_again(ledger: Ledger) -> None:
    seen: list[int] = []

    def propose(state: State) -> LedgerEntry:
        seen.append(len(state.records))
        if len(seen) == 1:  # somebody else is faster, once
            Ledger(ledger.remote).append(lambda _: entry(7))
        return entry(8)

    before, written = Ledger(ledger.remote, sleep=lambda _: None).append(propose)
    assert seen == [0, 1]
    assert len(before.records) == 1
    assert written
    assert written.number == 2


@pytest.mark.slow
def test_a_writer_that_is_always_overtaken_gives_up(ledger: Ledger) -> None:
    count = 0

    def propose(_: State) -> LedgerEntry:
        nonlocal count
        count += 1
        Ledger(ledger.remote).append(lambda _: entry(count))
        return entry(1000)

    with pytest.raises(ErroredError, match="in a row"):
        Ledger(ledger.remote, attempts=3, sleep=lambda _: None).append(propose)
    assert all(each.release.tag != "t1000" for each in ledger.read().records)


def test_an_unreachable_ledger_is_said_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "no-repository").mkdir()
    with pytest.raises(ErroredError, match="no-repository"):
        Ledger(str(tmp_path / "no-repository")).read()


def together(work: Callable[[int], None], barrier: threading.Barrier) -> None:
    """Two threads at once; a problem of theirs is the caller's."""
    problems: list[BaseException] = []

    def guarded(which: int) -> None:
        try:
            work(which)
        except BaseException as error:  # noqa: BLE001 - raised again below
            problems.append(error)
            barrier.abort()

    threads = [threading.Thread(target=guarded, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


@pytest.mark.slow
def test_two_writers_at_once_lose_nothing(ledger: Ledger) -> None:
    barrier = threading.Barrier(2, timeout=60)

    def work(which: int) -> None:
        for number in range(ROUNDS):
            barrier.wait()
            written = ledger.append(lambda _: entry(2 * number + which))[1]  # noqa: B023 - called at once
            assert written

    together(work, barrier)
    records = ledger.read().records
    assert [each.number for each in records] == list(range(1, 2 * ROUNDS + 1))
    assert {each.release.tag for each in records} == {f"t{number}" for number in range(2 * ROUNDS)}


@pytest.mark.slow
def test_a_branch_that_appears_after_the_fetch_is_fetched_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Ledger(ledger.remote)
    ask = ledger._head
    asked: list[str] = []

    def head() -> str:
        if not asked:
            asked.append("once")
            other.append(lambda _: entry(1))
        return ask()

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_head", head)
        _, written = ledger.append(lambda _: entry(2))
    assert asked
    assert written
    assert written.number == 2


@pytest.mark.slow
def test_two_publishers_at_once_lose_nothing(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    rounds = min(ROUNDS, 3) if "VLLM_CI_TEST_ROUNDS" not in os.environ else ROUNDS
    candidates = [world.candidate(number) for number in range(1, 2 * rounds + 1)]
    barrier = threading.Barrier(2, timeout=60)

    def work(which: int) -> None:
        for number in range(rounds):
            barrier.wait()
            at = NOW + timedelta(minutes=number)
            publish(world.setup, candidates[2 * number + which], "staging", now=at).require()

    together(work, barrier)
    records = world.setup.ledger.read().records
    assert [each.number for each in records] == list(range(1, 2 * rounds + 1))
    assert {each.release.commit for each in records} == {each.commit.sha for each in candidates}
    for before, after in pairwise(records):
        assert after.previous == before.release
    head = history.current(records, "staging")
    with world.setup.open() as repository:
        assert head
        assert repository.resolve("staging") == head.release.digest


def test_a_repair_that_an_earlier_version_recorded_is_read() -> None:
    release = Release(commit="1" * 40, digest=f"sha256:{2:064x}", repository="r.example.com/name", tag="t")
    made = Record(number=1, at="2026-11-20T12:00:00Z", action="repair", channel="staging", release=release)
    written = made.content.replace(b'"repair"', b'"mend"')
    assert b'"mend"' in written
    assert parse(written, made.path) == made
