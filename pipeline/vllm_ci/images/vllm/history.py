"""What git knows of a vLLM checkout: compiled inputs, changes between two states, files of a state."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from vllm_ci.domain.commit import Commit
from vllm_ci.system.vcs import DIFF, GitError, git, paths

_PROJECT = "pyproject.toml"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One path that differs between two states; ``deleted`` when the newer one lacks it."""

    path: str
    deleted: bool


@dataclass(frozen=True, kw_only=True)
class History:
    """A checkout of vLLM.

    Attributes:
        root: Its top folder.
        inputs: Paths that compiled files are made from.
    """

    root: Path
    inputs: tuple[str, ...]
    _hashes: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    _build_systems: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def commit_of(self, revision: str) -> str:
        """Full id of the commit that ``revision`` names; empty when there is none here."""
        try:
            found = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", cwd=self.root)
        except GitError:
            return ""
        return found.decode().strip()

    def inputs_hash(self, sha: str) -> str:
        """Hash of everything that compiled files are made from, as of a commit."""
        if sha not in self._hashes:
            self._hashes[sha] = self._hash_of_inputs(sha)
        return self._hashes[sha]

    def _hash_of_inputs(self, sha: str) -> str:
        return hashlib.sha256("\n".join(self._input_rows(sha)).encode()).hexdigest()

    def _input_rows(self, sha: str) -> Iterator[str]:
        """Git's own names for the inputs: a folder's tree id covers all that is in it."""
        # Each call of git costs two milliseconds, and an unchanged build has no time to spend: one for all.
        folders = {path.rpartition("/")[0] + "/" for path in self.inputs if any(sign in path for sign in "*?[")}
        names = [path for path in self.inputs if not any(sign in path for sign in "*?[")]
        listed = git("ls-tree", "-z", sha, "--", _PROJECT, *names, *sorted(folders - {"/"}), cwd=self.root)
        for row in paths(listed):
            path = row.partition("\t")[2]
            if path == _PROJECT:
                yield f"build-system {self._build_system(row.split()[2])}"
            elif any(fnmatchcase(path, pattern) for pattern in self.inputs):
                yield row

    def _build_system(self, blob: str) -> str:
        """Build requirements of a ``pyproject.toml``; the rest of that file compiles nothing."""
        if blob not in self._build_systems:
            content = tomllib.loads(git("cat-file", "blob", blob, cwd=self.root).decode())
            self._build_systems[blob] = repr(sorted(content.get("build-system", {}).get("requires", [])))
        return self._build_systems[blob]

    def changed_inputs(self, base: str, commit: Commit) -> tuple[str, ...]:
        """Compiled inputs that differ between ``base`` and the commit (or its work tree, when it is dirty)."""
        if not commit.dirty and self.inputs_hash(base) == self.inputs_hash(commit.sha):
            return ()
        found = [change.path for change in self.changes(base, commit, ".") if self._is_input(change.path)]
        if not commit.dirty or self.inputs_hash(base) != self.inputs_hash(commit.sha):
            found = found or ["pyproject.toml (build-system)"]
        return tuple(found)

    def _is_input(self, path: str) -> bool:
        parts = path.split("/")
        for pattern in self.inputs:
            depth = pattern.count("/") + 1
            if fnmatchcase("/".join(parts[:depth]), pattern):
                return True
        return False

    def changes(self, base: str, commit: Commit, folder: str) -> list[Change]:
        """Paths below ``folder`` that differ between ``base`` and the commit, or its work tree."""
        states = (base,) if commit.dirty else (base, commit.sha)
        output = git("diff", *DIFF, *states, "--", folder, cwd=self.root)
        words = paths(output)
        found = {path: status.startswith("D") for status, path in zip(words[::2], words[1::2], strict=False)}
        if commit.dirty:
            untracked = git("ls-files", "-z", "--others", "--exclude-standard", "--", folder, cwd=self.root)
            found |= dict.fromkeys(paths(untracked), False)
        return [Change(path=path, deleted=deleted) for path, deleted in sorted(found.items())]

    def files(self, sha: str, folder: str) -> set[str]:
        """All tracked paths below ``folder``, as of a commit."""
        output = git("ls-tree", "-r", "-z", "--name-only", sha, "--", folder, cwd=self.root)
        return set(paths(output))

    def ancestors_with_same_inputs(self, sha: str, limit: int) -> list[str]:
        """The commit's first parents, nearest first, back to the last one that touched an input (that one included)."""
        try:
            listed = git("rev-list", "--first-parent", f"--max-count={limit}", f"{sha}^", cwd=self.root)
        except GitError:  # a root commit has no parent
            return []
        wanted = self.inputs_hash(sha)
        found = []
        for ancestor in listed.decode().split():
            if self.inputs_hash(ancestor) != wanted:
                break
            found.append(ancestor)
        return found
