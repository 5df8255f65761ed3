"""Runs git: plumbing commands with settings that do not depend on the user's preferences. No other module calls git."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ErroredError, UsageError
from vllm_ci.domain.refs import short
from vllm_ci.system import external
from vllm_ci.system.vcs_settings import arguments_of, environment

# Seconds. Reading a partial clone may fetch, so local commands get the same timeout as remote ones.
_DEADLINE_S = 120.0
_CLONE_DEADLINE_S = 1800.0
_REMOTE = ("fetch", "push", "ls-remote", "clone", "pull")
_OUTPUT_BYTES = 4 * 1024**3

_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_UNSAFE = "safe.directory"  # part of the error message of every version of git that refuses
_SECRET = re.compile(r"(?<=://)[^/@\s']+@")


class GitError(ErroredError):
    """Git failed with ``exit_status``; ``why`` is its standard error, ``output`` its standard output."""

    def __init__(self, message: str, *, exit_status: int, why: str = "", remedy: str = "", output: str = "") -> None:
        super().__init__(message, why=why, remedy=remedy)
        self.exit_status = exit_status
        self.output = output


class UnsafeCheckoutError(UsageError):
    """The repository belongs to another user, so git refuses to read it (git-config(1), ``safe.directory``)."""


# Arguments of ``git diff`` that list paths and their status in a format that does not depend on the configuration.
DIFF = ("--name-status", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-relative", "--ignore-submodules=dirty", "-z")


def git(*arguments: str, cwd: Path, stdin: bytes | None = None, deadline_s: float = 0.0) -> bytes:
    """Standard output of ``git ARGUMENTS`` run in ``cwd``.

    Passwords come from git's credential helpers, or from ``VLLM_CI_GIT_USERNAME`` and ``VLLM_CI_GIT_PASSWORD``; git never
    prompts.

    Args:
        arguments: The subcommand and its arguments.
        cwd: A directory in the repository.
        stdin: Standard input.
        deadline_s: Timeout in seconds; by default 120, and 1800 for a clone.

    Raises:
        ErroredError: It did not end in time.
        GitError: Its exit status is not 0.
        UnsafeCheckoutError: The repository belongs to another user.
        UsageError: Git is not installed, or the directory does not exist.
    """
    remote = arguments[0] in _REMOTE
    env = environment(os.environ, cwd)
    done = external.run(
        ["git", *arguments_of(env), *arguments],
        what=f"git {arguments[0]}",
        deadline_s=deadline_s or (_CLONE_DEADLINE_S if arguments[0] == "clone" else _DEADLINE_S),
        cwd=cwd,
        env=_without_prompts(env, cwd) if remote else env,
        stdin=stdin,
        quick=not remote,
        output_bytes=_OUTPUT_BYTES,
        missing="install git (apt-get install git)",
        remedy="check that the repository's server responds (git ls-remote)" if remote else "",
    )
    if done.exit_code:
        raise _failed(arguments, cwd, done)
    return done.output


def _without_prompts(env: Mapping[str, str], cwd: Path) -> dict[str, str]:
    """Make SSH fail instead of prompting; an SSH command that the user has set is kept (it has no terminal to prompt on)."""
    if any(env.get(name) for name in ("GIT_SSH_COMMAND", "GIT_SSH")) or _config(cwd, "core.sshCommand"):
        return dict(env)
    return {**env, "GIT_SSH_COMMAND": "ssh -o BatchMode=yes"}


def _failed(arguments: tuple[str, ...], cwd: Path, done: external.Done) -> ErroredError | UsageError:
    said = _SECRET.sub("", done.errors.decode("utf-8", "replace").strip())
    if _UNSAFE in said:
        place = _unsafe_place(said, cwd)
        return UnsafeCheckoutError(
            f"git refuses to read {place}: it belongs to another user",
            why=said,
            remedy=f"if you trust its content, run: git config --global --add safe.directory {place}",
        )
    shown = _SECRET.sub("", " ".join(arguments[:3]))
    return GitError(
        f"git {shown} failed in {cwd}",
        exit_status=done.exit_code,
        why=said,
        remedy="run the same command by hand in that directory",
        output=done.output.decode("utf-8", "replace"),
    )


def _unsafe_place(said: str, cwd: Path) -> str:
    """The directory that git names in its error message."""
    found = re.search(r"safe\.directory (\S.*)$", said, re.MULTILINE)
    return found[1].strip() if found else str(cwd)


def paths(output: bytes) -> list[str]:
    """Paths in NUL-terminated output of git (``-z``), decoded with ``os.fsdecode``."""
    return [os.fsdecode(path) for path in output.split(b"\0") if path]


def _text(*arguments: str, cwd: Path) -> str:
    return os.fsdecode(git(*arguments, cwd=cwd).removesuffix(b"\n"))


def _answer(*arguments: str, cwd: Path) -> str:
    """Like :func:`_text`, but empty when git fails."""
    try:
        return _text(*arguments, cwd=cwd)
    except GitError:
        return ""


def _config(cwd: Path, name: str) -> str:
    return _answer("config", "--get", name, cwd=cwd)


def root(path: Path) -> Path:
    """Top directory of the checkout that contains ``path``.

    Raises:
        UnsafeCheckoutError: It belongs to another user.
        UsageError: ``path`` is not in a checkout.
    """
    place = path if path.is_dir() else path.parent
    try:
        return Path(_text("rev-parse", "--show-toplevel", cwd=place))
    except GitError as error:
        if _answer("rev-parse", "--is-bare-repository", cwd=place) == "true":
            raise UsageError(
                f"{place} is a bare repository",
                why="it has no work tree to read a configuration from",
                remedy=f"run git clone {place} CHECKOUT, then run this command in the clone",
            ) from error
        if _answer("rev-parse", "--git-dir", cwd=place):
            raise UsageError(f"{place} has no work tree", why=error.why, remedy="run this command in a checkout") from error
        raise UsageError(
            f"{place} is not in a git checkout",
            why=f"images are built from commits; git reports: {error.why}",
            remedy="run git init && git add . && git commit, or name the vllm-ci.yaml of a checkout with --config",
        ) from error


def discover(checkout: Path, revision: str = "HEAD") -> Commit:
    """The commit that ``revision`` resolves to in ``checkout``.

    ``ref`` is a full name (``refs/heads/main``), empty when HEAD is detached or ``revision`` is not a ref; only ``HEAD`` can be
    ``dirty``.

    Raises:
        UsageError: There is no such commit, the name is both a branch and a tag, or the repository does not use SHA-1.
    """
    ref = _ref(checkout, revision)
    sha, committed_at = _commit(checkout, ref or revision, revision)
    return Commit(
        sha=sha,
        ref=ref,
        dirty=revision == "HEAD" and _dirty(checkout),
        committed_at=committed_at,
        source=_remote(checkout),
    )


def _dirty(checkout: Path) -> bool:
    """Whether the work tree differs from HEAD. New files in a folder ``.vllm-ci`` do not count: they are reports and caches."""
    rows = git("status", "--porcelain", "-z", "--untracked-files=normal", cwd=checkout).split(b"\0")
    return any(row and not (row.startswith(b"?? ") and b".vllm-ci" in row[3:].split(b"/")) for row in rows)


def _commit(checkout: Path, name: str, revision: str) -> tuple[str, int]:
    """Id and committer time (seconds since the epoch) of a commit, from its object (git-cat-file(1), BATCH OUTPUT)."""
    # One line of input is one object, so a name with a line break cannot exist.
    feed = f"{name.partition(chr(10))[0]}^{{commit}}\n"
    said = git("cat-file", "--batch", cwd=checkout, stdin=os.fsencode(feed))
    head, _, content = said.partition(b"\n")
    facts = head.decode("utf-8", "replace").split(" ")
    if len(facts) != 3 or facts[1] != "commit" or "\n" in name:
        raise _absent(checkout, revision, head.decode("utf-8", "replace"))
    if len(facts[0]) != 40:
        raise UsageError(
            f"{checkout} uses SHA-256 commit ids",
            why="image tags, labels and release records identify a commit by its 40-digit SHA-1 id",
            remedy="use a repository with SHA-1 ids: git init --object-format=sha1, then git fast-export and git fast-import",
        )
    committer = next(line for line in content.split(b"\n") if line.startswith(b"committer "))
    return facts[0], int(committer.rsplit(b" ", 2)[1])


def _absent(checkout: Path, revision: str, said: str) -> UsageError:
    branch = _ref(checkout, revision) if revision == "HEAD" else ""
    if branch and not refs(checkout, (branch,)):
        return UsageError(
            f"{checkout} has no commits", why=f"its branch {short(branch)} is empty", remedy="run git add . && git commit"
        )
    if _answer("rev-parse", "--is-shallow-repository", cwd=checkout) == "true":
        why, remedy = "the clone is shallow: it has only the newest commits", "run git fetch --unshallow, or correct the name"
    else:
        why, remedy = f"git reports: {said}", "list the commits with git log --all; get missing ones with git fetch"
    return UsageError(f"{checkout} has no commit {revision}", why=why, remedy=remedy)


def _ref(checkout: Path, revision: str) -> str:
    """Full name of the ref that ``revision`` refers to; empty when it is not a ref."""
    if revision == "HEAD":
        return _answer("symbolic-ref", "--quiet", "HEAD", cwd=checkout)
    if _ID.fullmatch(revision):  # git reads it as a commit id even if a branch has that name
        return ""
    found = refs(checkout, (revision, f"refs/tags/{revision}", f"refs/heads/{revision}", f"refs/remotes/{revision}"))
    if len(found) > 1:
        raise UsageError(
            f"{revision} is the name of more than one ref",
            why=" and ".join(found),
            remedy=f"use the full name: {found[0]}",
        )
    return found[0] if found else ""


def refs(checkout: Path, names: Iterable[str]) -> list[str]:
    """Those of the full ref names that exist in the repository, in the same order."""
    wanted = [name for name in names if name.startswith("refs/") and not set(name) & set("*?[\\\n")]
    if not wanted:
        return []
    output = git("for-each-ref", "--format=%(refname)", *wanted, cwd=checkout)
    there = set(os.fsdecode(output).split("\n"))
    return [name for name in wanted if name in there]


def remote_tip(remote: str, ref: str, *, cwd: Path, deadline_s: float = 0.0) -> str:
    """The object of a full ref name on a server, empty if it does not exist there.

    git-ls-remote(1) takes the name for a pattern, which ``refs/heads/x/refs/heads/main`` matches as ``refs/heads/main`` does.

    Raises:
        GitError: The server cannot be asked.
    """
    rows = (row.partition(b"\t") for row in git("ls-remote", remote, ref, cwd=cwd, deadline_s=deadline_s).split(b"\n"))
    return next((found.decode("ascii", "replace") for found, _, name in rows if name == os.fsencode(ref)), "")


def _remote(checkout: Path) -> str:
    """URL of ``origin`` without credentials; empty for a local directory."""
    url = _config(checkout, "remote.origin.url")
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url if "@" in url and not url.startswith("/") else ""
    if scheme == "file":
        return ""
    return f"{scheme}://{rest.rpartition('@')[2] if '@' in rest.split('/')[0] else rest}"


if __name__ == "__main__":
    # Run by an engine when only the engine has the checkout; writes the commit as JSON: vcs.py CHECKOUT FILE
    Path(sys.argv[2]).write_text(json.dumps(asdict(discover(Path(sys.argv[1])))), encoding="utf-8")
