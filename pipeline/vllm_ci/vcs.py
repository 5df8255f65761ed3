"""Git, called from here and nowhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ErroredError, UsageError

# Variables with which a caller (a git hook, say) could point our git at another repository than the one we name.
_FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX")

_PASSWORD = "VLLM_CI_GIT_PASSWORD"  # noqa: S105 - a name
# A credential helper (gitcredentials(7)) that answers from the environment; an empty one before it takes all others away.
_ANSWER = f'printf "username=%s\\npassword=%s\\n" "${{VLLM_CI_GIT_USERNAME:-git}}" "${_PASSWORD}"'
_HELPERS = ("", f'!f() {{ test "$1" = get && {_ANSWER}; }}; f')


class GitError(ErroredError):
    """Git said no; ``exit_status`` is what it exited with, ``output`` what it had printed on standard output."""

    def __init__(self, message: str, *, exit_status: int, why: str = "", remedy: str = "", output: str = "") -> None:
        super().__init__(message, why=why, remedy=remedy)
        self.exit_status = exit_status
        self.output = output


def git(*arguments: str, cwd: Path, stdin: bytes | None = None) -> bytes:
    """Standard output of ``git ARGUMENTS`` run in ``cwd``.

    Where a server asks for a password, git's own helpers answer, or ``VLLM_CI_GIT_USERNAME`` and ``VLLM_CI_GIT_PASSWORD``.

    Raises:
        GitError: It exited with something other than 0.
        UsageError: There is no git.
    """
    env = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    env |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", **_configured(env)}
    feed: dict[str, Any] = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    try:
        done = subprocess.run(["git", *arguments], cwd=cwd, env=env, capture_output=True, check=False, **feed)
    except FileNotFoundError as error:
        if not cwd.is_dir():
            raise UsageError(f"{cwd} is no folder", remedy="name a checkout of your repository") from error
        raise UsageError("git was not found", remedy="install git (apt-get install git)") from error
    if done.returncode:
        raise GitError(
            f"git {' '.join(arguments[:3])} failed in {cwd}",
            exit_status=done.returncode,
            why=done.stderr.decode(errors="replace").strip(),
            remedy="run the same command by hand in that folder",
            output=done.stdout.decode(errors="replace"),
        )
    output: bytes = done.stdout
    return output


def _configured(env: Mapping[str, str]) -> dict[str, str]:
    """Variables that add to git's configuration (git-config(1), ENVIRONMENT), after those that are there."""
    if not env.get(_PASSWORD):
        return {}
    first = int(env.get("GIT_CONFIG_COUNT") or 0)
    added = {"GIT_CONFIG_COUNT": str(first + len(_HELPERS))}
    for number, value in enumerate(_HELPERS, start=first):
        added |= {f"GIT_CONFIG_KEY_{number}": "credential.helper", f"GIT_CONFIG_VALUE_{number}": value}
    return added


def _text(*arguments: str, cwd: Path) -> str:
    return git(*arguments, cwd=cwd).decode(errors="surrogateescape").strip()


def root(path: Path) -> Path:
    """Top folder of the checkout that ``path`` lies in.

    Raises:
        UsageError: It lies in none.
    """
    folder = path if path.is_dir() else path.parent
    try:
        return Path(_text("rev-parse", "--show-toplevel", cwd=folder))
    except GitError as error:
        raise UsageError(
            f"{folder} lies in no git checkout",
            why="an image is made from a commit, so there has to be one",
            remedy="git init && git add . && git commit, or name the vllm-ci.yaml of a checkout with --config",
        ) from error


def discover(checkout: Path, revision: str = "HEAD") -> Commit:
    """The commit that ``revision`` names in ``checkout``; ``dirty`` is only ever true of ``HEAD``.

    Raises:
        UsageError: There is no such commit.
    """
    try:
        sha, committed_at = _text("log", "-1", "--format=%H %ct", revision, "--", cwd=checkout).split()
    except (GitError, ValueError) as error:
        raise UsageError(
            f"{checkout} has no commit {revision}",
            why="the repository is empty, the name is misspelt, or the clone is shallow",
            remedy="git log, or git fetch --unshallow",
        ) from error
    return Commit(
        sha=sha,
        ref=_ref(checkout, revision),
        dirty=revision == "HEAD" and bool(git("status", "--porcelain", "--untracked-files=normal", cwd=checkout).strip()),
        committed_at=int(committed_at),
        source=_remote(checkout),
    )


def _ref(checkout: Path, revision: str) -> str:
    """Full name of the branch or tag that ``revision`` names, empty when it names neither."""
    try:
        name = _text("rev-parse", "--symbolic-full-name", revision, cwd=checkout)
    except GitError:
        return ""
    return name if name.startswith(("refs/heads/", "refs/tags/")) else ""


def _remote(checkout: Path) -> str:
    """URL of ``origin`` without any credentials in it; empty for a folder of this machine."""
    try:
        url = _text("config", "--get", "remote.origin.url", cwd=checkout)
    except GitError:
        return ""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url if "@" in url and not url.startswith("/") else ""
    if scheme == "file":
        return ""
    return f"{scheme}://{rest.rpartition('@')[2] if '@' in rest.split('/')[0] else rest}"


if __name__ == "__main__":
    # The commit of a checkout as JSON, for an engine that has the checkout where its caller has not: vcs.py CHECKOUT FILE
    Path(sys.argv[2]).write_text(json.dumps(asdict(discover(Path(sys.argv[1])))))
