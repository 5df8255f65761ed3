"""Files of the user's commit, read from git objects (or from the work tree, for a dirty build)."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.domain.spec import Overlay, selected
from vllm_ci.images.entries import Entry, Inline
from vllm_ci.vcs import git

_SECRET_NAMES = (
    ".env",
    ".env.*",
    ".netrc",
    ".npmrc",
    ".pypirc",
    "id_rsa",
    "id_ed25519",
    "id_ecdsa",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.kdbx",
)
_SECRET_NAMES_ALLOWED = (".env.example", ".env.sample", ".env.template")
_SECRET_TEXT = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\r?\n[A-Za-z0-9+/=\r\n]{64}|\bAKIA[0-9A-Z]{16}\b"
    rb"|\bhf_[A-Za-z]{34}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b|\bglpat-[\w-]{20}\b"
)


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A file of a commit, not yet read.

    Attributes:
        path: In the repository, below the overlay's folder.
        target: In the image, without a slash in front.
        mode: Git's: ``100644``, ``100755``, ``120000``.
        identity: Git's object id; of a work tree file, the sha256 of its content.
    """

    path: str
    target: str
    mode: str
    identity: str


def blobs(source: Path, commit: Commit, overlay: Overlay) -> tuple[Blob, ...]:
    """What ``overlay`` puts into the image, sorted by path.

    Raises:
        ConfigError: The commit has no such path, or something in it must not go into an image.
    """
    name = overlay.source.strip("/") or "."
    found = list(_of_work_tree(source, name) if commit.dirty else _of_commit(source, commit.sha, name))
    if not found:
        raise ConfigError(
            f"overlay {overlay.source} is not in {'the work tree' if commit.dirty else f'commit {commit.sha[:12]}'}",
            why="paths of overlays are relative to the folder of vllm-ci.yaml, and only what git tracks goes into an image",
            remedy="git add and commit it, or correct the path",
        )
    kept = []
    for mode, identity, path in found:
        below = path if name == "." else path.removeprefix(name).lstrip("/")
        if selected(below, overlay.exclude) or "__pycache__" in path.split("/"):
            continue
        _refuse_secret_name(path)
        if mode == "160000":
            raise ConfigError(
                f"{path} is a submodule", why="its files are in another repository", remedy="exclude it from the overlay"
            )
        target = "/".join(part for part in (overlay.target.strip("/"), below) if part)
        kept.append(Blob(path=path, target=target, mode=mode, identity=identity))
    return tuple(sorted(kept, key=lambda blob: blob.target))


def identities(source: Path, commit: Commit, names: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Mode, identity and path of files; in the order of git."""
    if not names:
        return []
    if commit.dirty:
        return [row for name in names for row in _of_work_tree(source, name)]
    return list(_of_commit(source, commit.sha, *names))


def _of_commit(source: Path, sha: str, *names: str) -> Iterable[tuple[str, str, str]]:
    for row in git("ls-tree", "-r", "-z", sha, "--", *names, cwd=source).decode("utf-8", "surrogateescape").split("\0"):
        if row:
            facts, _, path = row.partition("\t")
            mode, _, identity = facts.split()
            yield mode, identity, path


def _of_work_tree(source: Path, name: str) -> Iterable[tuple[str, str, str]]:
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", name, cwd=source)
    for path in sorted(set(listed.decode("utf-8", "surrogateescape").split("\0")) - {""}):
        where = source / path
        if where.is_symlink():
            yield "120000", hashlib.sha256(os.fsencode(where.readlink())).hexdigest(), path
        elif where.is_file():
            mode = "100755" if where.stat().st_mode & 0o100 else "100644"
            yield mode, hashlib.sha256(where.read_bytes()).hexdigest(), path


def _refuse_secret_name(path: str) -> None:
    name = path.rpartition("/")[2]
    if any(fnmatchcase(name, pattern) for pattern in _SECRET_NAMES) and name not in _SECRET_NAMES_ALLOWED:
        raise ConfigError(
            f"{path} looks like a secret",
            why="whoever pulls the image could read it",
            remedy="take it out of the repository, or add it to the overlay's exclude",
        )


def entries(source: Path, commit: Commit, found: Iterable[Blob]) -> list[Entry]:
    """The files with their content.

    Raises:
        UsageError: One holds a secret.
    """
    found = list(found)
    made = []
    for blob, content in zip(found, _contents(source, commit, found), strict=True):
        if _SECRET_TEXT.search(content):
            raise UsageError(
                f"{blob.path} holds what looks like a private key or an access token",
                why="whoever pulls the image could read it",
                remedy="take it out of the repository (and revoke it), or add the file to the overlay's exclude",
            )
        if blob.mode == "120000":
            made.append(Entry(path=blob.target, mode=0o777, link=os.fsdecode(content)))
        else:
            made.append(Entry(path=blob.target, mode=0o755 if blob.mode == "100755" else 0o644, content=Inline(content)))
    return made


def _contents(source: Path, commit: Commit, found: list[Blob]) -> Iterable[bytes]:
    if commit.dirty:
        for blob in found:
            where = source / blob.path
            yield os.fsencode(where.readlink()) if where.is_symlink() else where.read_bytes()
        return
    output = git("cat-file", "--batch", cwd=source, stdin="".join(f"{blob.identity}\n" for blob in found).encode())
    position = 0
    for _ in found:
        end = output.index(b"\n", position)
        size = int(output[position:end].split()[2])
        yield output[end + 1 : end + 1 + size]
        position = end + 1 + size + 1
