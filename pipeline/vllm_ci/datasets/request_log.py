"""The request log of a gateway: rows of keys that consent, bounded in size and age, and readable by their owner only.

A folder for each key, so that what belongs to a key that withdraws its consent is gone by deleting one folder, also on a full
disk. In it files named by the time of their first row; a file that is older than the log keeps rows is deleted as a whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from vllm_ci.datasets import lines, shapes
from vllm_ci.datasets.lines import Unusable
from vllm_ci.datasets.messages import canonical
from vllm_ci.datasets.record import Limits
from vllm_ci.domain.errors import ErroredError
from vllm_ci.system.filelock import hold

_NAMED = "%Y%m%dT%H%M%S.%fZ"
_FILE = re.compile(r"\d{8}T\d{6}\.\d{6}Z\.jsonl")
# A file holds the rows of at most one day, or of a part of the time that rows are kept.
_PARTS = 16
_LONGEST = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much is kept.

    Attributes:
        keep: Age of the oldest row.
        size_bytes: Of all files; the oldest are deleted first.
    """

    keep: timedelta = timedelta(days=30)
    size_bytes: int = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is kept of one key.

    Attributes:
        key: Its name.
        rows: Number of rows.
        size_bytes: Of its files.
        oldest: When the oldest file was begun; ``None`` without rows.
    """

    key: str
    rows: int
    size_bytes: int
    oldest: datetime | None

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        oldest = None if self.oldest is None else self.oldest.isoformat(timespec="seconds")
        return {"key": self.key, "rows": self.rows, "bytes": self.size_bytes, "oldest": oldest}


@dataclass(frozen=True, kw_only=True)
class RequestLog:
    """The log in ``folder``; every method may be called while another process writes."""

    folder: Path

    def append(self, row: dict[str, Any], bounds: Bounds, *, consents: Callable[[], bool], now: datetime) -> None:
        """Add a row, if its key consents at this very moment.

        Raises:
            Unusable: It does not, or the row is too long.
            OSError: It cannot be written; nothing of it is kept.
        """
        line = canonical(row) + b"\n"
        if len(line) > Limits().line_bytes:
            raise Unusable(reason="too-long", detail=f"request and answer have {len(line)} bytes")
        with self._locked():
            if not consents():
                raise Unusable(reason="no-consent", detail="the key does not consent")
            _append(self._open_file(row["key"], bounds, now), line)
            self._prune(bounds, now)

    def prune(self, bounds: Bounds, *, now: datetime) -> None:
        """Delete what is too old or too much."""
        if self.folder.is_dir():
            with self._locked():
                self._prune(bounds, now)

    def copy(self, into: Path, *, keys: Collection[str]) -> int:
        """Write all rows of these keys to a new file; their number."""
        count = 0
        with self._locked(), into.open("xb") as out:
            for key in sorted(keys):
                for each in self._files(key):
                    content = each.read_bytes()
                    content += b"" if content.endswith(b"\n") or not content else b"\n"
                    count += content.count(b"\n")
                    out.write(content)
        return count

    def rows(self, *, keys: Collection[str]) -> Iterator[dict[str, Any]]:
        """Rows of these keys, oldest first within each; lines that cannot be read are left out."""
        limits = Limits()
        with self._locked():
            contents = [each.read_bytes() for key in sorted(keys) for each in self._files(key)]
        for content in contents:
            for line in content.splitlines():
                row = lines.parsed(line, limits)
                if not isinstance(row, Unusable):
                    yield row

    def delete(self, key: str) -> int:
        """Delete all rows of a key; their number.

        Raises:
            ErroredError: They cannot be deleted.
        """
        if not (self.folder / key).is_dir():
            return 0
        with self._locked(), _explained(self.folder / key):
            count = self._summary(key).rows
            shutil.rmtree(self.folder / key)
        return count

    def remove(self, owners: frozenset[str], *, dry_run: bool) -> int:
        """Delete the rows of these owners (pseudonyms), keys as well as users that requests name; their number.

        Raises:
            ErroredError: They cannot be deleted.
        """
        if not self.folder.is_dir():
            return 0
        with self._locked(), _explained(self.folder):
            if not dry_run:
                self._delete_parts()
            return sum(_without(each, owners, dry_run=dry_run) for key in self._keys() for each in self._files(key))

    def summaries(self) -> list[Summary]:
        """What is kept, by key."""
        if not self.folder.is_dir():
            return []
        with self._locked():
            return [self._summary(key) for key in self._keys()]

    def _summary(self, key: str) -> Summary:
        files = self._files(key)
        return Summary(
            key=key,
            rows=sum(each.read_bytes().count(b"\n") for each in files),
            size_bytes=sum(each.stat().st_size for each in files),
            oldest=_begun(files[0]) if files else None,
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with hold(self.folder / ".lock", timeout_s=60):
            yield

    def _keys(self) -> list[str]:
        return sorted(each.name for each in self.folder.iterdir() if each.is_dir() and not each.is_symlink())

    def _files(self, key: str) -> list[Path]:
        place = self.folder / key
        found = [each for each in place.iterdir() if _FILE.fullmatch(each.name)] if place.is_dir() else []
        return sorted(each for each in found if each.is_file() and not each.is_symlink())

    def _open_file(self, key: str, bounds: Bounds, now: datetime) -> Path:
        """The newest file of a key, or a new one."""
        (self.folder / key).mkdir(mode=0o700, exist_ok=True)
        files = self._files(key)
        span = min(_LONGEST, bounds.keep / _PARTS)
        if files and now - _begun(files[-1]) < span and files[-1].stat().st_size < bounds.size_bytes / _PARTS:
            return files[-1]
        return self.folder / key / f"{now.astimezone(UTC).strftime(_NAMED)}.jsonl"

    def _delete_parts(self) -> None:
        """Files that were being written when the writer was killed: whoever has the lock writes none."""
        for each in self.folder.glob("*/.*.part"):
            each.unlink()

    def _prune(self, bounds: Bounds, now: datetime) -> None:
        self._delete_parts()
        files = sorted((each for key in self._keys() for each in self._files(key)), key=lambda each: each.name)
        total = sum(each.stat().st_size for each in files)
        for each in files:
            if now - _begun(each) < bounds.keep and total <= bounds.size_bytes:
                break
            total -= each.stat().st_size
            each.unlink()


def _begun(file: Path) -> datetime:
    return datetime.strptime(file.name.removesuffix(".jsonl"), _NAMED).replace(tzinfo=UTC)


def _append(file: Path, line: bytes) -> None:
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            line = b"\n" + line  # whoever wrote before was killed in the middle of a row
        try:
            while line:
                line = line[os.write(handle, line) :]
        except OSError:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)


def _without(file: Path, owners: frozenset[str], *, dry_run: bool) -> int:
    """Take rows out of a file; lines that cannot be read are deleted too, because their owner is unknown."""
    content = file.read_bytes()
    kept = [line for line in content.splitlines(keepends=True) if not _belongs(line, owners)]
    count = len(content.splitlines()) - len(kept)
    if count and not dry_run:
        part = file.with_name(f".{file.name}.part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.writelines(kept)
            out.flush()
            os.fsync(out.fileno())
        part.rename(file)
    return count


def _belongs(line: bytes, owners: frozenset[str]) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return True
    return not isinstance(row, dict) or bool(shapes.owners(row) & owners)


@contextlib.contextmanager
def _explained(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ErroredError(
            f"rows of the request log in {place} cannot be deleted: {error.strerror}",
            why="nothing more is recorded of a key without consent; what was recorded before is still there",
            remedy="make the folder writable or free some space, then run it again",
        ) from error
