"""Which versions a model has and what its aliases point to: pure functions over records."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_ci.domain.errors import UsageError
from vllm_ci.models.naming import ModelRef
from vllm_ci.models.record import ModelRecord

Records = Sequence[ModelRecord]


def names(records: Records) -> tuple[str, ...]:
    """All models, sorted."""
    return tuple(sorted({each.model for each in records}))


def versions(records: Records, model: str) -> tuple[ModelRecord, ...]:
    """The records that made a model's versions, oldest first."""
    return tuple(each for each in records if each.model == model and each.action == "add")


def moves(records: Records, model: str, alias: str) -> tuple[ModelRecord, ...]:
    """The records of an alias, oldest first."""
    return tuple(each for each in records if each.model == model and each.alias == alias and each.action != "add")


def head(records: Records, model: str, alias: str) -> ModelRecord | None:
    """The record that an alias stands at."""
    return next(reversed(moves(records, model, alias)), None)


def aliases(records: Records, model: str) -> dict[str, int]:
    """The version that each alias of a model points to."""
    found = {each.alias: each.version for each in records if each.model == model and each.action != "add"}
    return dict(sorted(found.items()))


def earlier(records: Records, model: str, alias: str) -> tuple[int, ...]:
    """Versions that an alias could go back to, newest first.

    A rollback removes the newer ones from this list: rolling back twice goes back two versions, not forth and back.
    """
    pile: list[int] = []
    for record in moves(records, model, alias):
        if record.action == "rollback" and record.version in pile:
            pile = pile[: pile.index(record.version) + 1]
        elif not pile or pile[-1] != record.version:
            pile = [each for each in pile if each != record.version] + [record.version]
    return tuple(reversed(pile[:-1]))


def undone(records: Records, model: str, alias: str, version: int) -> ModelRecord | None:
    """The rollback by which an alias left a version, unless somebody pointed it there again."""
    found: ModelRecord | None = None
    for record in moves(records, model, alias):
        if record.version == version:
            found = None
        elif record.action == "rollback" and record.previous == version:
            found = record
    return found


def was(records: Records, model: str, alias: str, version: int) -> bool:
    """Whether an alias ever pointed to a version."""
    return any(each.version == version for each in moves(records, model, alias))


def find(records: Records, ref: ModelRef) -> ModelRecord:
    """The version that a reference means now.

    Raises:
        UsageError: There is none.
    """
    made = versions(records, ref.name)
    if not made:
        known = ", ".join(names(records)) or "none"
        raise UsageError(f"there is no model {ref.name}", why=f"known models: {known}", remedy="add it: vllm-ci model add")
    if ref.alias:
        standing = head(records, ref.name, ref.alias)
        if standing is None:
            known = ", ".join(aliases(records, ref.name)) or "none"
            raise UsageError(
                f"{ref.name} has no alias {ref.alias}",
                why=f"its aliases: {known}",
                remedy=f"vllm-ci model alias {ref.name} {ref.alias}=v{made[-1].version}",
            )
        return next(each for each in made if each.version == standing.version)
    if not ref.version and not ref.digest:
        return made[-1]
    fitting = [each for each in made if each.version == ref.version or each.digest == ref.digest]
    if not fitting:
        raise UsageError(
            f"there is no {ref}", why=f"the newest is v{made[-1].version}", remedy=f"vllm-ci model show {ref.name}"
        )
    return fitting[0]
