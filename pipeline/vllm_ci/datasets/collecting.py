"""Collect: rows of files with consent, within their age, without removed users, masked, once each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from vllm_ci.datasets import lines, masking, removing, shapes
from vllm_ci.datasets.lines import Unusable
from vllm_ci.datasets.loading import as_collected
from vllm_ci.datasets.messages import canonical
from vllm_ci.datasets.record import Collected, Dropped, Limits, Source, Split, counted
from vllm_ci.datasets.shapes import Row
from vllm_ci.datasets.store import Store, Version, load
from vllm_ci.domain.errors import FailedError, UsageError
from vllm_ci.domain.events import Emit, Progress, ignore, step

# Counts up when the same sources give other rows.
FORMAT = 2
_TOLD_EVERY = 2000
# A row that is in two files belongs to the split that must stay unseen.
_HELD: Mapping[Split | None, int] = {"test": 2, "validation": 1}


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What decides which rows are kept."""

    sources: tuple[Source, ...]
    labels: tuple[str, ...]
    digests: Mapping[Path, str]
    removed: frozenset[str]
    keep: timedelta | None
    now: datetime
    limits: Limits
    regions: tuple[str, ...]

    def key(self) -> dict[str, Any]:
        """All that the result depends on, but for the time."""
        return {
            "step": "collect",
            "format": FORMAT,
            "sources": self.facts(),
            "removed": sorted(self.removed),
            "keep": None if self.keep is None else self.keep.total_seconds(),
            "limits": vars(self.limits),
            "regions": list(self.regions),
            "libraries": masking.versions(),
        }

    def facts(self) -> list[dict[str, Any]]:
        return [
            {
                "file": label,
                "digest": self.digests[each.path],
                "split": each.split,
                "requests": None if each.requests is None else self.digests[each.requests],
            }
            for label, each in zip(self.labels, self.sources, strict=True)
        ]


@dataclass(kw_only=True)
class _Kept:
    """A row that is kept: where it was first, and the users it belongs to."""

    file: str
    line: int
    split: Split | None
    owners: set[str]


@dataclass(kw_only=True)
class _Tally:
    kept: dict[str, _Kept] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    masked: Counter[str] = field(default_factory=Counter)
    undated: int = 0
    oldest: datetime | None = None


def collect(
    sources: Sequence[Source],
    *,
    into: Path,
    keep_days: float | None = None,
    removed: Sequence[str] = (),
    limits: Limits | None = None,
    regions: tuple[str, ...] = ("US",),
    now: datetime | None = None,
    emit: Emit = ignore,
) -> Collected:
    """Collect the rows of ``sources`` as a version in the folder ``into``; the same input again changes nothing.

    Args:
        sources: Files to read.
        into: Folder of data sets; created if it is not there.
        keep_days: Rows that are older are dropped; rows that have no time are kept.
        removed: Users or keys whose rows are dropped, beside those of :func:`removing.remove`.
        limits: Bounds of files and rows.
        regions: Countries whose national telephone numbers are masked.
        now: Time that ages are counted to.
        emit: Gets progress.

    Raises:
        UsageError: A source is missing, is not a JSONL file or has no row that can be used.
        FailedError: An earlier result was altered.
    """
    store, limits = Store(folder=into), limits or Limits()
    with step(emit, "collect", f"{len(sources)} files") as say:
        wanted = _wanted(store, sources, removed, keep_days, now, limits, regions)
        version = _known(store, wanted) or _collected(store, wanted, emit)
        earlier = tuple(removing.containing(store, removing.owners(removed))) if removed else ()
        made = as_collected(version, earlier=earlier)
        say(f"{made.rows} rows {made.digest[:19]}")
    return made


def _wanted(
    store: Store,
    sources: Sequence[Source],
    removed: Sequence[str],
    keep_days: float | None,
    now: datetime | None,
    limits: Limits,
    regions: tuple[str, ...],
) -> _Wanted:
    if not sources:
        raise UsageError("no file to collect from", remedy="name at least one JSONL file")
    if keep_days is not None and not 0 < keep_days <= 36500:
        raise UsageError(f"keep_days is {keep_days}", remedy="write a number of days above 0")
    masking.versions()
    masking.check_regions(regions)
    paths = [path for each in sources for path in (each.path, each.requests) if path is not None]
    for path in paths:
        lines.check(path, limits)
    return _Wanted(
        sources=tuple(sources),
        labels=_labels([each.path for each in sources]),
        digests={path: lines.digest_of(path) for path in paths},
        removed=frozenset(removing.owners(removed)) | removing.removed(store),
        keep=None if keep_days is None else timedelta(days=keep_days),
        now=(now or datetime.now(UTC)).astimezone(UTC),
        limits=limits,
        regions=tuple(sorted(set(regions))),
    )


def _labels(paths: list[Path]) -> tuple[str, ...]:
    """Short names of the files, the same on every machine: of files with one name, with the folder or the number."""
    names = [_plain(path.name) for path in paths]
    if len(set(names)) == len(names):
        return tuple(names)
    longer = [_plain(f"{path.absolute().parent.name}/{path.name}") for path in paths]
    return tuple(longer) if len(set(longer)) == len(longer) else tuple(f"{n}-{name}" for n, name in enumerate(names, 1))


def _plain(name: str) -> str:
    """A name of a file may be no text."""
    return name.encode("utf-8", "backslashreplace").decode()


def _known(store: Store, wanted: _Wanted) -> Version | None:
    """The result of the same input, while none of its rows became too old."""
    note = store.remembered(wanted.key())
    if note is None or not (folder := store.folder / "collected" / note["version"]).is_dir():
        return None
    until = note.get("until")
    return None if until is not None and wanted.now >= datetime.fromisoformat(until) else load(folder)


def _collected(store: Store, wanted: _Wanted, emit: Emit) -> Version:
    with store.writing() as folder:
        # A user may have been removed since it was read.
        wanted = replace(wanted, removed=wanted.removed | removing.removed(store))
        tally = _Tally()
        with (folder / "rows.jsonl").open("wb") as out:
            for index, source in enumerate(wanted.sources):
                _take(source, wanted.labels[index], wanted, tally, out, emit)
        _require_rows(tally, wanted)
        _write_lines(folder / "index.jsonl", (_belongs(identity, each) for identity, each in tally.kept.items()))
        _write_lines(folder / "dropped.jsonl", (each.to_json() for each in tally.dropped))
        facts = {
            "rows": len(tally.kept),
            "dropped": counted(tally.dropped),
            "masked": dict(sorted(tally.masked.items())),
            "undated": tally.undated,
            "sources": wanted.facts(),
            "libraries": masking.versions(),
        }
        made = store.finish("collected", folder, facts)
    store.remember(wanted.key(), {"version": made.folder.name, "until": _until(tally.oldest, wanted.keep)})
    return made


def _until(oldest: datetime | None, keep: timedelta | None) -> str | None:
    """When the first row will be too old; ``None`` for never, also beyond the last date that there is."""
    if oldest is None or keep is None:
        return None
    try:
        return (oldest + keep).isoformat()
    except OverflowError:
        return None


def _belongs(identity: str, kept: _Kept) -> dict[str, Any]:
    return {"id": identity, "file": kept.file, "line": kept.line, "split": kept.split, "owners": sorted(kept.owners)}


def _write_lines(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("wb") as out:
        out.writelines(canonical(each) + b"\n" for each in rows)


def _require_rows(tally: _Tally, wanted: _Wanted) -> None:
    for label, source in zip(wanted.labels, wanted.sources, strict=True):
        ours = [each for each in tally.dropped if each.file == label]
        if not ours and not any(each.file == label for each in tally.kept.values()):
            raise UsageError(f"{source.path} has no rows", remedy="remove it from the sources, or fill it")
    if not tally.kept:
        first = "; ".join(str(each) for each in tally.dropped[:3])
        raise FailedError(
            "no row can be used",
            why=f"{len(tally.dropped)} dropped, for example {first}",
            remedy="repair the rows; the reasons are above",
        )


def _take(source: Source, label: str, wanted: _Wanted, tally: _Tally, out: BinaryIO, emit: Emit) -> None:
    requests = _requests(source, wanted)
    for number, found in lines.read(source.path, wanted.limits, expected=wanted.digests[source.path]):
        if number % _TOLD_EVERY == 0:
            emit(Progress(step="collect", detail=f"{label}: {number} lines, {len(tally.kept)} rows kept"))
        try:
            if isinstance(found, Unusable):
                raise found
            _keep(shapes.row(found, requests, wanted.limits), source, label, number, wanted, tally, out)
        except Unusable as error:
            tally.dropped.append(Dropped(file=label, line=number, reason=error.reason, detail=error.detail))
        if len(tally.dropped) > wanted.limits.rows:
            raise FailedError(
                f"{source.path}:{number}: more than {wanted.limits.rows} rows cannot be used",
                why=f"the last one: {tally.dropped[-1].detail}",
                remedy="check that this is the right file",
            )


def _requests(source: Source, wanted: _Wanted) -> dict[str, dict[str, Any] | None]:
    """Requests of a batch by their ``custom_id``; ``None`` for one that several different requests have."""
    made: dict[str, dict[str, Any] | None] = {}
    if source.requests is None:
        return made
    for _, found in lines.read(source.requests, wanted.limits, expected=wanted.digests[source.requests]):
        if isinstance(found, dict) and isinstance(found.get("custom_id"), str | int):
            name = str(found["custom_id"])
            made[name] = found if made.get(name, found) == found else None
    return made


def _keep(row: Row, source: Source, label: str, line: int, wanted: _Wanted, tally: _Tally, out: BinaryIO) -> None:
    """Write the row, unless it must not be used or is there already."""
    if row.owners & wanted.removed:
        raise Unusable(reason="removed", detail="its user asked for deletion")
    if wanted.keep is not None and row.time is not None and row.time <= wanted.now - wanted.keep:
        raise Unusable(reason="too-old", detail=f"older than {wanted.keep.days} days")
    conversation, masked = masking.mask_conversation(row.conversation, wanted.regions)
    tally.oldest = min(filter(None, (tally.oldest, row.time)), default=None)
    identity = conversation.identity
    if identity in tally.kept:
        _merge(tally.kept[identity], row, source, label, line, tally)
        return
    if len(tally.kept) >= wanted.limits.rows:
        raise UsageError(
            f"{source.path}:{line}: more than {wanted.limits.rows} rows",
            remedy="collect fewer files, or raise the limit of rows",
        )
    tally.masked.update(masked)
    tally.undated += row.time is None
    tally.kept[identity] = _Kept(file=label, line=line, split=source.split, owners=set(row.owners))
    time = row.time.isoformat() if row.time else None
    out.write(canonical({"id": identity, "time": time, **conversation.to_json()}) + b"\n")


def _merge(kept: _Kept, row: Row, source: Source, label: str, line: int, tally: _Tally) -> None:
    """A row that was there before: its users are added, and a row that is held out leaves the other splits."""
    kept.owners |= row.owners
    new, old = _HELD.get(source.split, 0), _HELD.get(kept.split, 0)
    if new == old:
        dropped = Dropped(file=label, line=line, reason="duplicate", detail=f"the same as {kept.file}:{kept.line}")
    elif new > old:
        detail = f"a row of the {source.split} set: {label}:{line}"
        dropped = Dropped(file=kept.file, line=kept.line, reason="leaked", detail=detail)
        kept.split, kept.file, kept.line = source.split, label, line
    else:
        detail = f"a row of the {kept.split} set: {kept.file}:{kept.line}"
        dropped = Dropped(file=label, line=line, reason="leaked", detail=detail)
    kept.split = kept.split or source.split
    tally.dropped.append(dropped)
