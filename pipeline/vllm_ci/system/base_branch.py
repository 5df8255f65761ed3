"""What a checkout changes, compared with the branch that it is to be merged into."""

from __future__ import annotations

import json
import posixpath
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vllm_ci.domain.changes import Changes
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ErroredError
from vllm_ci.domain.refs import short
from vllm_ci.system.vcs import DIFF, GitError, discover, git, paths, refs

_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_FETCH_DEADLINE_S = 120.0
# Commits that are added to a shallow clone, at the first try and at the second.
_MORE = (50, 1000)


@dataclass(frozen=True, kw_only=True)
class Base:
    """What the caller says about the base.

    Attributes:
        branch: Name of the branch that a pull request goes to, empty when nobody says.
        sha: A commit of it; empty when the CI does not tell.
        before: What the branch was before the push that is looked at; empty when the CI does not tell.
    """

    branch: str = ""
    sha: str = ""
    before: str = ""


def changes(checkout: Path, commit: Commit, base: Base, *, folder: str = "") -> Changes:
    """Files that differ between ``commit`` (the work tree, when it is dirty) and where it left the base branch.

    A commit that is on the base branch already is compared with what the branch was before it: as the caller says, or its first
    parent. A shallow clone is deepened where the start of the branch is not in it.

    Args:
        checkout: Top folder of the repository.
        commit: HEAD of it.
        base: What the caller says; otherwise the branch that this one follows, the default branch of ``origin``, ``main``.
        folder: Of the configuration, relative to the checkout; the paths are relative to it.
    """
    try:
        start, name = _start(checkout, commit, base)
        found = _differing(checkout, commit, start)
    except _UnknownError as error:
        return Changes(unknown=str(error))
    except ErroredError as error:
        return Changes(unknown=f"{error.message} ({error.why})" if error.why else error.message)
    shown = f"{name} ({start[:12]})" if start != _EMPTY_TREE else name
    return Changes(files=tuple(posixpath.relpath(path, folder or ".") for path in found), base=shown)


class _UnknownError(Exception):
    """It cannot be told, and why."""


def _start(checkout: Path, commit: Commit, base: Base) -> tuple[str, str]:
    """The commit to compare with, and what it is."""
    name, tip = _tip(checkout, commit, base)
    fork = _merge_base(checkout, commit.sha, tip) or _deepened(checkout, commit.sha, tip, name)
    if fork != commit.sha or commit.dirty:
        return fork, name
    if base.before and (before := _merge_base(checkout, commit.sha, base.before)) and before != commit.sha:
        return before, f"{name} before this push"
    return _first_parent(checkout, commit.sha, name)


def _first_parent(checkout: Path, sha: str, name: str) -> tuple[str, str]:
    """What a commit of the base branch itself is compared with; a merge's first parent is what it was merged into."""
    header = git("cat-file", "commit", sha, cwd=checkout).partition(b"\n\n")[0].decode("utf-8", "replace")
    parents = [line.removeprefix("parent ") for line in header.splitlines() if line.startswith("parent ")]
    if not parents:
        return _EMPTY_TREE, "an empty tree, it is the first commit"
    if not _has(checkout, parents[0]):
        _fetch(checkout, [sha], _depth(checkout, sha, _MORE[0]))
    if not _has(checkout, parents[0]):
        raise _UnknownError(f"the clone is shallow and has no parent of {sha[:12]} (git fetch --unshallow)")
    return parents[0], f"the commit before it on {name}"


def _tip(checkout: Path, commit: Commit, base: Base) -> tuple[str, str]:
    """Name and tip of the base branch."""
    if base.sha:
        return base.branch or base.sha[:12], base.sha
    for ref in _candidates(checkout, commit, base):
        return short(ref), git("rev-parse", "--verify", f"{ref}^{{commit}}", cwd=checkout).decode().strip()
    if not base.branch:
        raise _UnknownError(
            "there is no base branch here: no origin/HEAD, main or master (VLLM_CI_BASE=BRANCH names one, or a commit)"
        )
    listed = (
        git("ls-remote", "origin", f"refs/heads/{base.branch}", cwd=checkout, deadline_s=_FETCH_DEADLINE_S).decode().split()
    )
    if not listed:
        raise _UnknownError(f"the base branch {base.branch} is neither here nor on origin")
    return base.branch, listed[0]


def _candidates(checkout: Path, commit: Commit, base: Base) -> Iterator[str]:
    """Refs that may be the base branch, the best first."""
    if base.branch:
        places = ("", "refs/remotes/origin/", "refs/remotes/", "refs/heads/", "refs/tags/")
        yield from refs(checkout, (place + base.branch for place in places))
        return
    followed = git("for-each-ref", "--format=%(upstream)", commit.ref, cwd=checkout).decode().strip() if commit.ref else ""
    # A branch that follows its own copy on the server says nothing about where it is to go.
    if followed and followed.rpartition("/")[2] != commit.ref.rpartition("/")[2]:
        yield from refs(checkout, (followed,))
    names = [f"refs/{place}/{name}" for place in ("remotes/origin", "heads") for name in ("main", "master")]
    yield from refs(checkout, ("refs/remotes/origin/HEAD", *names))


def _has(checkout: Path, sha: str) -> bool:
    try:
        git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{sha}^{{commit}}", cwd=checkout)
    except GitError:
        return False
    return True


def _merge_base(checkout: Path, one: str, other: str) -> str:
    """Where two commits part; empty when it is not here."""
    if not _has(checkout, other):
        return ""
    try:
        return git("merge-base", one, other, cwd=checkout).decode().split()[0]
    except GitError as error:
        if error.exit_status == 1:
            return ""
        raise


def _deepened(checkout: Path, sha: str, tip: str, name: str) -> str:
    """Where the two part, after fetching what is missing."""
    if not _is_shallow(checkout):
        if not _has(checkout, tip):
            _fetch(checkout, [tip], 0)
        if found := _merge_base(checkout, sha, tip):
            return found
        raise _UnknownError(f"{sha[:12]} and {name} have no common history")
    for more in _MORE:
        depth = _depth(checkout, sha, more)
        try:
            _fetch(checkout, [sha, tip], depth)
        except GitError:  # a commit that was never pushed: the server has no such object
            _fetch(checkout, [tip], depth)
        if found := _merge_base(checkout, sha, tip):
            return found
    raise _UnknownError(f"the clone is shallow, and {name} is more than {_MORE[-1]} commits away (git fetch --unshallow)")


def _is_shallow(checkout: Path) -> bool:
    return git("rev-parse", "--is-shallow-repository", cwd=checkout).strip() == b"true"


def _depth(checkout: Path, sha: str, more: int) -> int:
    """A depth that takes nothing away from a shallow clone, and adds; 0 for a clone that is whole."""
    if not _is_shallow(checkout):
        return 0
    return int(git("rev-list", "--count", sha, cwd=checkout)) + more


def _fetch(checkout: Path, shas: list[str], depth: int) -> None:
    how = ("--quiet", "--no-tags", "--no-write-fetch-head", *((f"--depth={depth}",) if depth else ()))
    git("fetch", *how, "origin", *shas, cwd=checkout, deadline_s=_FETCH_DEADLINE_S)


def _differing(checkout: Path, commit: Commit, start: str) -> list[str]:
    """Paths that differ, sorted; of a dirty work tree also those that git does not track and does not ignore."""
    states = (start,) if commit.dirty else (start, commit.sha)
    found = set(paths(git("diff", *DIFF, *states, cwd=checkout))[1::2])
    if commit.dirty:
        found |= set(paths(git("ls-files", "-z", "--others", "--exclude-standard", cwd=checkout)))
    return sorted(found)


def of_mapping(values: Mapping[str, object]) -> Changes:
    """Changes from their JSON object."""
    files = values["files"]
    assert isinstance(files, list)  # noqa: S101 - our own file
    return Changes(files=tuple(files), base=str(values["base"]), unknown=str(values["unknown"]))


if __name__ == "__main__":
    # For an engine that has the checkout where its caller has not: base_branch.py CHECKOUT FOLDER FILE
    _checkout = Path(sys.argv[1])
    _found = changes(_checkout, discover(_checkout), Base(), folder=sys.argv[2])
    Path(sys.argv[3]).write_text(json.dumps(asdict(_found)), encoding="utf-8")
