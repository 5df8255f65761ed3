"""Where a channel's kustomization may be in the ledger's branch: paths that every checkout can hold and nothing else uses."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

RECORDS = "records"
NAMES = ("kustomization.yaml", "kustomization.yml", "Kustomization")
"""Names that kustomize looks for, of which a directory holds one."""

# Characters that HFS+ leaves out of names, as git's own check of .git does (git-fsck(1), hasDotgit).
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_LONGEST_NAME, _LONGEST_PATH = 255, 1024


def normalised(path: str) -> str:
    """The path without ``.`` parts and doubled slashes.

    Raises:
        ValueError: It may not be used; the text says why.
    """
    if not path or _CONTROL.search(path):
        raise ValueError("it is empty, or has a control character in it")
    if "\\" in path or ":" in path:
        raise ValueError("it has a backslash or a colon in it, which not every file system takes; folders are separated by /")
    if path.startswith("/"):
        raise ValueError("it is absolute, and has to be a path inside the ledger's branch")
    if path.endswith("/"):
        raise ValueError("it is a folder, and has to be a file")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts:
        raise ValueError("it names no file")
    for part in parts:
        if reason := _problem(part):
            raise ValueError(reason)
    if fold(parts[0]) == RECORDS:
        raise ValueError(f"{RECORDS}/ holds the ledger's own records")
    found = "/".join(parts)
    if len(found.encode()) > _LONGEST_PATH:
        raise ValueError(f"it is longer than {_LONGEST_PATH} bytes")
    return found


def _problem(part: str) -> str:
    if part == "..":
        return "it leads out of the ledger's branch (..)"
    plain = _IGNORED.sub("", fold(part)).rstrip(". ")
    if plain in (".git", "git~1"):
        return "git keeps its own files under that name"
    if part != part.rstrip(". ") or part != part.lstrip(" "):
        return "a part of it begins with a space, or ends with a dot or a space, which not every file system keeps"
    if len(part.encode()) > _LONGEST_NAME:
        return f"a part of it is longer than {_LONGEST_NAME} bytes"
    return ""


def fold(name: str) -> str:
    """The same for names that a file system may take for one: without case, in one Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def directory(path: str) -> str:
    """Its folder, empty at the top."""
    return path.rpartition("/")[0]


def alternatives(path: str) -> tuple[str, ...]:
    """Paths that kustomize would take in its place, itself included; only itself where kustomize knows no such name."""
    folder, separator, name = path.rpartition("/")
    return tuple(f"{folder}{separator}{each}" for each in NAMES) if name in NAMES else (path,)


def collision(name: str, others: Mapping[str, str]) -> tuple[str, str] | None:
    """Another channel whose path cannot be there together with that of channel ``name``, and why.

    Args:
        name: Of the channel.
        others: Path by channel, that of ``name`` included.
    """
    mine = others[name]
    for other, theirs in others.items():
        if other == name:
            continue
        one, two = fold(mine), fold(theirs)
        if one == two:
            return other, "it is the same file"
        if one.startswith(two + "/") or two.startswith(one + "/"):
            return other, "one of the two is a file where the other needs a folder"
        if directory(one) == directory(two) and len(alternatives(mine)) > 1 and len(alternatives(theirs)) > 1:
            return other, "kustomize takes one file per folder"
    return None
