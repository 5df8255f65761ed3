"""Valid paths of a channel's kustomization in the ledger's branch: portable to every file system, and used by nothing else."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

RECORDS = "records"
NAMES = ("kustomization.yaml", "kustomization.yml", "Kustomization")
"""File names that kustomize looks for; a directory may contain only one of them."""

# Characters that HFS+ ignores in names; git's own check of .git ignores them too (git-fsck(1), hasDotgit).
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_LONGEST_NAME, _LONGEST_PATH = 255, 1024


def normalised(path: str) -> str:
    """The path without ``.`` parts and doubled slashes.

    Raises:
        ValueError: The path is not allowed; the text says why.
    """
    if not path or _CONTROL.search(path):
        raise ValueError("the path is empty, or contains a control character")
    if "\\" in path or ":" in path:
        raise ValueError(
            "the path contains a backslash or a colon, which some file systems do not allow; separate folders with /"
        )
    if path.startswith("/"):
        raise ValueError("the path is absolute, but must be relative to the ledger's branch")
    if path.endswith("/"):
        raise ValueError("the path is a folder, but must be a file")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts:
        raise ValueError("the path does not name a file")
    for part in parts:
        if reason := _problem(part):
            raise ValueError(reason)
    if fold(parts[0]) == RECORDS:
        raise ValueError(f"{RECORDS}/ is reserved for the ledger's records")
    found = "/".join(parts)
    if len(found.encode()) > _LONGEST_PATH:
        raise ValueError(f"the path is longer than {_LONGEST_PATH} bytes")
    return found


def _problem(part: str) -> str:
    if part == "..":
        return "the path leaves the ledger's branch (..)"
    plain = _IGNORED.sub("", fold(part)).rstrip(". ")
    if plain in (".git", "git~1"):
        return "the name .git is reserved for git"
    if part != part.rstrip(". ") or part != part.lstrip(" "):
        return "a component starts with a space, or ends with a dot or a space, which some file systems remove"
    if len(part.encode()) > _LONGEST_NAME:
        return f"a component is longer than {_LONGEST_NAME} bytes"
    return ""


def fold(name: str) -> str:
    """The name without case and in one Unicode form: equal for names that a file system may treat as the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def directory(path: str) -> str:
    """The folder of ``path``; empty at the top."""
    return path.rpartition("/")[0]


def alternatives(path: str) -> tuple[str, ...]:
    """Paths that kustomize reads as the same file, ``path`` included; only ``path`` for any other file name."""
    folder, separator, name = path.rpartition("/")
    return tuple(f"{folder}{separator}{each}" for each in NAMES) if name in NAMES else (path,)


def collision(name: str, others: Mapping[str, str]) -> tuple[str, str] | None:
    """Another channel whose path conflicts with the path of channel ``name``, and why; ``None`` when there is none.

    Args:
        name: Name of the channel.
        others: Path by channel, including ``name``.
    """
    mine = others[name]
    for other, theirs in others.items():
        if other == name:
            continue
        one, two = fold(mine), fold(theirs)
        if one == two:
            return other, "they are the same file"
        if one.startswith(two + "/") or two.startswith(one + "/"):
            return other, "one is a file where the other needs a folder"
        if directory(one) == directory(two) and len(alternatives(mine)) > 1 and len(alternatives(theirs)) > 1:
            return other, "kustomize reads only one file per folder"
    return None
