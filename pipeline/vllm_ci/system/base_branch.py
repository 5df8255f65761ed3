"""Finds the files that a checkout changes, compared with the branch it will be merged into."""

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
from vllm_ci.system.vcs import DIFF, GitError, discover, git, paths, refs, remote_tip

_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_FETCH_DEADLINE_S = 120.0
# Number of commits by which a shallow clone is deepened, on the first and on the second attempt.
_MORE = (50, 1000)


@dataclass(frozen=True, kw_only=True)
class BaseBranch:
    """What the caller knows about the base branch.

    Attributes:
        branch: Target branch of the pull request; empty when unknown.
        sha: A commit of that branch; empty when the CI does not provide one.
        before: Tip of the branch before the current push; empty when the CI does not provide it.
    """

    branch: str = ""
    sha: str = ""
    before: str = ""


def changes(checkout: Path, commit: Commit, base: BaseBranch, *, folder: str = "") -> Changes:
    """Files that differ between ``commit`` (or the work tree, if dirty) and the point where it branched off the base branch.

    A commit that is already on the base branch is compared with the previous tip of that branch: the one that the caller knows,
    or its first parent. A shallow clone is deepened if it does not contain the branching point.

    Args:
        checkout: Top folder of the repository.
        commit: HEAD of the repository.
        base: What the caller knows; otherwise the upstream branch, the default branch of ``origin``, or ``main``.
        folder: Folder of the configuration, relative to the checkout; the returned paths are relative to it.
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
    """The changes cannot be determined; the message says why."""


def _start(checkout: Path, commit: Commit, base: BaseBranch) -> tuple[str, str]:
    """The commit to compare with, and its description."""
    name, tip = _tip(checkout, commit, base)
    fork = _merge_base(checkout, commit.sha, tip) or _deepened(checkout, commit.sha, tip, name)
    if fork != commit.sha or commit.dirty:
        return fork, name
    if base.before and (before := _merge_base(checkout, commit.sha, base.before)) and before != commit.sha:
        return before, f"{name} before this push"
    return _first_parent(checkout, commit.sha, name)


def _first_parent(checkout: Path, sha: str, name: str) -> tuple[str, str]:
    """The first parent of a commit on the base branch; for a merge, the branch that was merged into."""
    header = git("cat-file", "commit", sha, cwd=checkout).partition(b"\n\n")[0].decode("utf-8", "replace")
    parents = [line.removeprefix("parent ") for line in header.split("\n") if line.startswith("parent ")]
    if not parents:
        return _EMPTY_TREE, "an empty tree, because this is the first commit"
    if not _has(checkout, parents[0]):
        _fetch(checkout, [sha], _depth(checkout, sha, _MORE[0]))
    if not _has(checkout, parents[0]):
        raise _UnknownError(f"the clone is shallow and does not contain the parent of {sha[:12]} (run: git fetch --unshallow)")
    return parents[0], f"the previous commit on {name}"


def _tip(checkout: Path, commit: Commit, base: BaseBranch) -> tuple[str, str]:
    """Name and tip of the base branch."""
    if base.sha:
        return base.branch or base.sha[:12], base.sha
    for ref in _candidates(checkout, commit, base):
        return short(ref), git("rev-parse", "--verify", f"{ref}^{{commit}}", cwd=checkout).decode().strip()
    if not base.branch:
        raise _UnknownError(
            "no base branch found: there is no origin/HEAD, main or master (set VLLM_CI_BASE to a branch or a commit)"
        )
    found = remote_tip("origin", f"refs/heads/{base.branch}", cwd=checkout, deadline_s=_FETCH_DEADLINE_S)
    if not found:
        raise _UnknownError(f"the base branch {base.branch} exists neither locally nor on origin")
    return base.branch, found


def _candidates(checkout: Path, commit: Commit, base: BaseBranch) -> Iterator[str]:
    """Refs that may be the base branch, in order of preference."""
    if base.branch:
        places = ("", "refs/remotes/origin/", "refs/remotes/", "refs/heads/", "refs/tags/")
        yield from refs(checkout, (place + base.branch for place in places))
        return
    followed = git("for-each-ref", "--format=%(upstream)", commit.ref, cwd=checkout).decode().strip() if commit.ref else ""
    # An upstream of the same name is the branch's own copy on the server, not the branch it will be merged into.
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
    """The merge base of two commits; empty when this clone does not contain it."""
    if not _has(checkout, other):
        return ""
    try:
        return git("merge-base", one, other, cwd=checkout).decode().split()[0]
    except GitError as error:
        if error.exit_status == 1:
            return ""
        raise


def _deepened(checkout: Path, sha: str, tip: str, name: str) -> str:
    """The merge base of the two, after fetching the missing commits."""
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
        except GitError:  # the commit was never pushed, so the server does not have it
            _fetch(checkout, [tip], depth)
        if found := _merge_base(checkout, sha, tip):
            return found
    raise _UnknownError(f"the clone is shallow, and {name} is more than {_MORE[-1]} commits away (run: git fetch --unshallow)")


def _is_shallow(checkout: Path) -> bool:
    return git("rev-parse", "--is-shallow-repository", cwd=checkout).strip() == b"true"


def _depth(checkout: Path, sha: str, more: int) -> int:
    """A depth that deepens a shallow clone and never shortens it; 0 for a complete clone."""
    if not _is_shallow(checkout):
        return 0
    return int(git("rev-list", "--count", sha, cwd=checkout)) + more


def _fetch(checkout: Path, shas: list[str], depth: int) -> None:
    how = ("--quiet", "--no-tags", "--no-write-fetch-head", *((f"--depth={depth}",) if depth else ()))
    git("fetch", *how, "origin", *shas, cwd=checkout, deadline_s=_FETCH_DEADLINE_S)


def _differing(checkout: Path, commit: Commit, start: str) -> list[str]:
    """Paths that differ, sorted; for a dirty work tree including untracked files that are not ignored."""
    states = (start,) if commit.dirty else (start, commit.sha)
    found = set(paths(git("diff", *DIFF, *states, cwd=checkout))[1::2])
    if commit.dirty:
        found |= set(paths(git("ls-files", "-z", "--others", "--exclude-standard", cwd=checkout)))
    return sorted(found)


def of_mapping(values: Mapping[str, object]) -> Changes:
    """Parse changes from their JSON object."""
    files = values["files"]
    assert isinstance(files, list)  # noqa: S101 - our own file
    return Changes(files=tuple(files), base=str(values["base"]), unknown=str(values["unknown"]))


if __name__ == "__main__":
    # Run by an engine when only the engine has the checkout: base_branch.py CHECKOUT FOLDER FILE
    _checkout = Path(sys.argv[1])
    _found = changes(_checkout, discover(_checkout), BaseBranch(), folder=sys.argv[2])
    Path(sys.argv[3]).write_text(json.dumps(asdict(_found)), encoding="utf-8")
