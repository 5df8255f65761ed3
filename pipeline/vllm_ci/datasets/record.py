"""What goes into a data set and what is known about one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file of rows, one JSON object on a line.

    Attributes:
        path: The file.
        split: Split that all its rows belong to; ``None``: decided by content.
        requests: Input file of a batch, if ``path`` is its output.
    """

    path: Path
    split: Split | None = None
    requests: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of what is read; rows beyond them are dropped, files beyond them are refused.

    Attributes:
        file_bytes: Largest source file.
        line_bytes: Longest row.
        rows: Most rows of a data set.
        depth: Deepest nesting of a row.
        messages: Most messages of a row.
    """

    file_bytes: int = 4 << 30
    line_bytes: int = 1 << 20
    rows: int = 1_000_000
    depth: int = 64
    messages: int = 512


@dataclass(frozen=True, kw_only=True)
class Fractions:
    """Shares of the splits; they sum up to 1."""

    train: float = 0.8
    validation: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        for name in SPLITS:
            object.__setattr__(self, name, float(getattr(self, name)))  # 0 and 0.0 give the same version
        shares = (self.train, self.validation, self.test)
        if not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"fractions are from 0 to 1 and sum up to 1, not {shares}")


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A row that is not in the data set.

    Attributes:
        file: Name of the source file.
        line: Line in it, from 1.
        reason: One word that is counted: ``duplicate``, ``not-json`` ...
        detail: What is wrong with this row, without its content.
    """

    file: str
    line: int
    reason: str
    detail: str

    def to_json(self) -> dict[str, Any]:
        """Row of ``dropped.jsonl``."""
        return {"file": self.file, "line": self.line, "reason": self.reason, "detail": self.detail}

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.detail}"


def counted(dropped: Iterable[Dropped]) -> dict[str, int]:
    """Number of rows for each reason, the most frequent first."""
    counts = Counter(each.reason for each in dropped)
    return dict(sorted(counts.items(), key=lambda each: (-each[1], each[0])))


@dataclass(frozen=True, kw_only=True)
class Collected:
    """A version of collected data.

    Attributes:
        folder: Its files: ``rows.jsonl``, ``index.jsonl``, ``dropped.jsonl``, ``manifest.json``.
        digest: ``sha256:`` digest of its manifest.
        rows: Number of rows.
        dropped: Number of dropped rows for each reason.
        masked: Number of masked places for each kind.
        earlier: Digests of earlier versions that hold rows of users who are removed now.
        changed: Whether this call wrote it.
    """

    folder: Path
    digest: str
    rows: int
    dropped: Mapping[str, int]
    masked: Mapping[str, int]
    earlier: tuple[str, ...] = ()
    changed: bool = False

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "folder": str(self.folder),
            "digest": self.digest,
            "rows": self.rows,
            "dropped": dict(self.dropped),
            "masked": dict(self.masked),
            "earlier": list(self.earlier),
            "changed": self.changed,
        }


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A version of prepared data.

    Attributes:
        folder: Its files: a JSONL file for each split, ``dropped.jsonl``, ``card.json``, ``card.md``, ``manifest.json``.
        digest: ``sha256:`` digest of its manifest.
        collected: Digest of the collected data that it is made from.
        rows: Number of rows of each split.
        tokens: Number of tokens of each split.
        dropped: Number of rows for each reason that were dropped in this step.
        changed: Whether this call wrote it.
    """

    folder: Path
    digest: str
    collected: str
    rows: Mapping[str, int]
    tokens: Mapping[str, int]
    dropped: Mapping[str, int] = field(default_factory=dict)
    changed: bool = False

    def file(self, split: Split) -> Path:
        """Rows of a split, as JSONL."""
        return self.folder / f"{split}.jsonl"

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "folder": str(self.folder),
            "digest": self.digest,
            "collected": self.collected,
            "rows": dict(self.rows),
            "tokens": dict(self.tokens),
            "dropped": dict(self.dropped),
            "changed": self.changed,
        }
