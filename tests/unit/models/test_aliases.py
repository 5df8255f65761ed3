"""Aliases move by policy, are recorded, and go back; of two writers one wins."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registries.evidence import NOW
from registries.models import add, blob, checkpoint, setup_in, unsigned
from vllm_ci.domain.errors import ConfigError, FailedError, UsageError
from vllm_ci.models import aliases, history, naming
from vllm_ci.models.aliases import AliasMove
from vllm_ci.models.ledger import Records
from vllm_ci.models.policy import AliasPolicy
from vllm_ci.models.record import ModelRecord
from vllm_ci.models.setup import ModelSetup

pytestmark = pytest.mark.slow


@pytest.fixture(name="three")
def _three(setup: ModelSetup, tmp_path: Path) -> ModelSetup:
    for seed in (1, 2, 3):
        add(setup, checkpoint(tmp_path / f"c{seed}", seed))
    return setup


def move(setup: ModelSetup, version: str, alias: str = "champion", *, dry_run: bool = False) -> AliasMove:
    return aliases.move(setup, naming.parse(f"chat@{version}"), alias, now=NOW, dry_run=dry_run)


def standing(setup: ModelSetup) -> dict[str, int]:
    return history.aliases(setup.ledger.read(), "chat")


def test_an_alias_moves_and_the_record_says_why(three: ModelSetup) -> None:
    assert move(three, "v1").changed
    moved = move(three, "v2")
    assert (moved.previous, moved.changed) == (1, True)
    record = three.ledger.read()[-1]
    assert (record.action, record.alias, record.version, record.previous) == ("alias", "champion", 2, 1)
    assert {each.rule for each in record.rules} == {"files", "signature", "provenance"}
    assert len(record.evidence) == 2
    assert not move(three, "v2").changed
    assert len(three.ledger.read()) == 5
    assert move(three, "champion", "challenger").record.version == 2


def test_a_dry_run_records_nothing(three: ModelSetup) -> None:
    assert move(three, "v1", dry_run=True).changed
    assert standing(three) == {}


def test_without_trusted_evidence_an_alias_does_not_move(three: ModelSetup) -> None:
    moved = move(unsigned(three), "v1")
    assert not moved.decision.allowed
    assert standing(three) == {}
    with pytest.raises(FailedError, match="may not become champion"):
        moved.require()


def test_a_version_with_an_altered_file_is_refused_by_the_name_of_the_file(three: ModelSetup) -> None:
    record = history.versions(three.ledger.read(), "chat")[0]
    with three.open() as repository:
        layer = repository.manifest(record.digest).json["layers"][3]
    place = blob(three, layer["digest"])
    place.write_bytes(place.read_bytes() + b"x")
    moved = move(three, "v1")
    assert not moved.decision.allowed
    assert layer["annotations"]["org.cncf.model.filepath"] in moved.decision.reasons[0]


def test_policies_ask_for_signers_licences_and_the_alias_before(tmp_path: Path) -> None:
    rules = {
        "challenger": AliasPolicy(),
        "champion": AliasPolicy(licenses=("Apache-2.0",), after="challenger"),
        "other": AliasPolicy(signers=("boss",)),
    }
    setup = setup_in(tmp_path / "p", aliases=rules)
    add(setup, checkpoint(tmp_path / "one", 1))
    add(setup, checkpoint(tmp_path / "two", 2), licence="Apache-2.0")
    refused = move(setup, "v1").decision
    assert {each.rule for each in refused.rules if not each.ok} == {"license", "after"}
    assert [each.rule for each in move(setup, "v2").decision.rules if not each.ok] == ["after"]
    assert move(setup, "v2", "challenger").changed
    assert move(setup, "v2").changed
    assert "2 statements by other signers" in move(setup, "v2", "other").decision.reasons[0]


def test_unknown_aliases_and_odd_names_are_refused(three: ModelSetup) -> None:
    with pytest.raises(ConfigError, match="there is no alias best"):
        move(three, "v1", "best")
    with pytest.raises(UsageError):
        move(three, "v1", "v2")
    with pytest.raises(UsageError):
        move(three, "v9")


def test_going_back_twice_goes_back_two_versions(three: ModelSetup) -> None:
    for version in ("v1", "v2", "v3"):
        move(three, version)
    assert aliases.rollback(three, "chat", "champion", now=NOW).record.version == 2
    assert aliases.rollback(three, "chat", "champion", now=NOW).record.version == 1
    with pytest.raises(UsageError, match="cannot go back"):
        aliases.rollback(three, "chat", "champion", now=NOW)
    assert three.ledger.read()[-1].action == "rollback"


def test_going_back_skips_versions_that_are_broken_and_refuses_when_none_is_left(three: ModelSetup) -> None:
    for version in ("v1", "v2", "v3"):
        move(three, version)
    records = {each.version: each for each in history.versions(three.ledger.read(), "chat")}
    with three.open() as repository:
        unique = repository.manifest(records[2].digest).json["layers"][3]["digest"]
    blob(three, unique).unlink()
    assert aliases.rollback(three, "chat", "champion", now=NOW, dry_run=True).record.version == 1
    named = aliases.rollback(three, "chat", "champion", to=2, now=NOW)
    assert not named.decision.allowed
    assert "is missing" in named.decision.reasons[0]
    moved = aliases.rollback(three, "chat", "champion", now=NOW)
    assert (moved.record.version, len(moved.skipped)) == (1, 1)
    with pytest.raises(UsageError):
        aliases.rollback(three, "chat", "champion", to=3, now=NOW)
    with pytest.raises(UsageError, match="has no alias"):
        aliases.rollback(three, "chat", "challenger", now=NOW)


def test_of_two_who_move_an_alias_at_once_one_wins(three: ModelSetup) -> None:
    move(three, "v1")
    barrier = threading.Barrier(2)
    outcomes: list[str] = []

    class Together:
        """Both have read the ledger before either writes to it."""

        def __init__(self) -> None:
            self.read = three.ledger.read

        def append(self, propose: Callable[[Records], ModelRecord | None]) -> ModelRecord | None:
            barrier.wait(30)
            return three.ledger.append(propose)

    def one(version: str) -> None:
        try:
            move(replace(three, ledger=Together()), version)  # type: ignore[arg-type]
            outcomes.append(version)
        except FailedError as error:
            outcomes.append(error.message)

    threads = [threading.Thread(target=one, args=(each,)) for each in ("v2", "v3")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    winners = [each for each in outcomes if each in ("v2", "v3")]
    assert len(winners) == 1, outcomes
    assert any("in the meantime" in each for each in outcomes)
    assert standing(three) == {"champion": int(winners[0][1:])}
    assert len(three.ledger.read()) == 5
