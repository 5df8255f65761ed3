"""What a commit changes of a wheel's files, as one layer over them: new content, and whiteouts for what is gone."""

from __future__ import annotations

from collections.abc import Iterable

from vllm_ci.domain.commit import Commit
from vllm_ci.images.entries import Entry, Inline
from vllm_ci.images.members import WHITEOUT
from vllm_ci.images.overlay import Blob, check_name, identities
from vllm_ci.images.vllm.history import Change, History
from vllm_ci.images.wheels.wheel import pyc_path
from vllm_ci.images.work_tree import GITLINK


def whiteout(path: str) -> Entry:
    """Takes away a file or folder of the layers below (OCI image specification, "Whiteouts")."""
    folder, _, name = path.rpartition("/")
    return Entry(path=f"{folder}/{WHITEOUT}{name}", content=Inline(b""))


def blobs(history: History, commit: Commit, changes: Iterable[Change], target: str) -> tuple[Blob, ...]:
    """Changed files of a package, by where they go below ``target`` (``site-packages``)."""
    wanted = {change.path for change in changes if not change.deleted}
    for path in wanted:
        check_name(path)
    return tuple(
        Blob(path=row.path, target=f"{target}/{row.path}", mode=row.mode, identity=row.identity, local=row.local)
        for row in identities(history.root, commit, tuple(sorted(wanted)))
        if row.mode != GITLINK
    )


def gone(deleted: Iterable[str], kept: set[str], others: set[str]) -> tuple[str, ...]:
    """What to take away: deleted files, and folders of which the commit leaves nothing.

    Args:
        deleted: Paths of files.
        kept: All files of the commit.
        others: Files of the wheel that git never tracked (what the build generated); their folders stay.
    """
    alive = {parent for path in (*kept, *others) for parent in _parents(path)}
    found = set()
    for path in deleted:
        dead = [parent for parent in _parents(path) if parent not in alive]
        found.add(min(dead, key=len) if dead else path)
    return tuple(sorted(found))


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: index + 1]) for index in range(len(parts))]


def whiteouts(paths: Iterable[str], folders: Iterable[str], python: str) -> list[Entry]:
    """Whiteouts of files with their byte code, and of folders."""
    folders = set(folders)
    found = []
    for path in paths:
        found.append(whiteout(path))
        if path not in folders and path.endswith(".py"):
            found.append(whiteout(pyc_path(path, python)))
    return found


def stale(sources: Iterable[Entry], compiled: Iterable[Entry], python: str) -> list[Entry]:
    """Whiteouts of byte code whose source is new and does not compile.

    Unchecked byte code is loaded whatever its source says: a file that no longer compiles would still run as it was.
    """
    made = {entry.path for entry in compiled}
    wanted = [pyc_path(entry.path, python) for entry in sources if entry.content is not None and entry.path.endswith(".py")]
    return [whiteout(path) for path in wanted if path not in made]
