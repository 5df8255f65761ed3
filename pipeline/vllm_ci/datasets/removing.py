"""Deletion on request: the versions that hold rows of a user are deleted, named, and never written again.

``removed.jsonl`` in the folder of data sets keeps the pseudonym, so that later versions leave the user's rows out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vllm_ci.datasets import store as stores
from vllm_ci.datasets.messages import canonical
from vllm_ci.datasets.shapes import pseudonyms
from vllm_ci.datasets.store import Kind, Store
from vllm_ci.domain.errors import UsageError

# Prepared data comes first: what it is made from is there as long as it is.
_KINDS: tuple[Kind, ...] = ("prepared", "collected")


@dataclass(frozen=True, kw_only=True)
class Holding:
    """A version that holds rows of the users.

    Attributes:
        kind: ``collected`` or ``prepared``.
        digest: Its digest: models name the digest of the data that they are trained on.
        rows: Number of their rows.
    """

    kind: Kind
    digest: str
    rows: int

    def to_json(self) -> dict[str, Any]:
        """For ``--json`` and ``removed.jsonl``."""
        return {"kind": self.kind, "digest": self.digest, "rows": self.rows}


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A deletion.

    Attributes:
        owners: Pseudonyms of the users.
        versions: Versions that hold rows of them; deleted, unless it was a dry run.
        earlier: Versions that earlier requests for the same users deleted.
        dry_run: Nothing was changed.
    """

    owners: tuple[str, ...]
    versions: tuple[Holding, ...]
    earlier: tuple[Holding, ...]
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "owners": list(self.owners),
            "versions": [each.to_json() for each in self.versions],
            "earlier": [each.to_json() for each in self.earlier],
            "dry_run": self.dry_run,
        }


def owners(users: Sequence[str]) -> tuple[str, ...]:
    """Pseudonyms of users or keys.

    Raises:
        UsageError: A name is empty.
    """
    if not all(user.strip() for user in users):
        raise UsageError("the name of a user is empty", remedy="write the user or key as the rows name it")
    return tuple(sorted({each for user in users for each in pseudonyms(user)}))


def remove(users: Sequence[str], *, store: Path, dry_run: bool = False, now: datetime | None = None) -> Removal:
    """Delete every version that holds rows of ``users``, and keep their rows out of later ones.

    The source files are the caller's: delete the rows there too.

    Args:
        users: Users or keys, as the rows name them.
        store: Folder of data sets.
        dry_run: Only say which versions there are.
        now: Time for the record.

    Raises:
        UsageError: There is no such folder, or no user is named.
    """
    wanted, place = owners(users), Store(folder=store)
    if not wanted:
        raise UsageError("no user is named", remedy="write the user or key as the rows name it")
    if not store.is_dir():
        raise UsageError(f"{store} is not a folder of data sets", remedy="name the folder that collect wrote to")
    with place.alone():
        earlier = tuple(dict.fromkeys(_noted(place, frozenset(wanted))))
        found = tuple(_holding(place, frozenset(wanted)))
        if not dry_run:
            _note(place, wanted, found, now or datetime.now(UTC))
            place.delete(store / each.kind / each.digest.removeprefix("sha256:") for each in found)
    return Removal(owners=wanted, versions=found, earlier=earlier, dry_run=dry_run)


def removed(store: Store) -> frozenset[str]:
    """Pseudonyms of all users who were removed."""
    return frozenset(str(each["owner"]) for each in _records(store))


def containing(store: Store, wanted: Sequence[str]) -> Iterator[str]:
    """Digests of versions that hold rows of these pseudonyms, and of those that were deleted for them."""
    found = [*_holding(store, frozenset(wanted)), *_noted(store, frozenset(wanted))]
    yield from dict.fromkeys(each.digest for each in found)


def _holding(store: Store, wanted: frozenset[str]) -> Iterator[Holding]:
    for kind in _KINDS:
        for folder in store.versions(kind):
            if held := sum(bool(wanted & set(each["owners"])) for each in stores.rows(folder / "index.jsonl")):
                yield Holding(kind=kind, digest=f"sha256:{folder.name}", rows=held)


def _records(store: Store) -> Iterator[dict[str, Any]]:
    path = store.folder / "removed.jsonl"
    if path.is_file():
        yield from stores.rows(path)


def _noted(store: Store, wanted: frozenset[str]) -> Iterator[Holding]:
    for record in _records(store):
        if record["owner"] in wanted:
            yield from (Holding(**each) for each in record["versions"])


def _note(store: Store, wanted: Sequence[str], found: Sequence[Holding], now: datetime) -> None:
    """The record comes before the deletion: what is interrupted is known, and a second call deletes the rest."""
    versions = [each.to_json() for each in found]
    made = [{"owner": each, "at": now.astimezone(UTC).isoformat(), "versions": versions} for each in wanted]
    before = list(_records(store))
    stores.write(store.folder / "removed.jsonl", b"".join(canonical(each) + b"\n" for each in [*before, *made]))
