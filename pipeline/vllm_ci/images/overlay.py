"""Files of the user's commit, read from git objects (or from the work tree, for a dirty build)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from vllm_ci.domain import paths
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.domain.image_spec import Overlay, selected
from vllm_ci.images import lfs, work_tree
from vllm_ci.images.entries import Content, Entry, Inline
from vllm_ci.images.work_tree import GITLINK, StatusRow
from vllm_ci.system.vcs import git

_LINK = "120000"
# Part of the key of the layer: raised when files are refused that were taken before, so that no kept layer holds them.
RULES = 1
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
        path: In the repository, relative to the directory that it is read from.
        target: In the image, without a slash in front.
        mode: Git's: ``100644``, ``100755``, ``120000``.
        identity: Git's object id.
        local: The work tree has it, git's objects do not.
        within: Directory of the image that its overlay fills, without a slash in front; links may not leave it for nothing.
    """

    path: str
    target: str
    mode: str
    identity: str
    local: bool = False
    within: str = ""


def blobs(source: Path, commit: Commit, overlay: Overlay) -> tuple[Blob, ...]:
    """What ``overlay`` puts into the image, sorted by path.

    Raises:
        ConfigError: The commit has no such path, or something in it must not go into an image.
    """
    name = paths.in_repository(overlay.source, whole=True)
    found = _rows(source, commit, name)
    if not found:
        raise _absent(source, commit, overlay)
    single = len(found) == 1 and found[0].path == name
    target = paths.in_image(overlay.target, directory=True).removeprefix("/")
    kept = []
    for row in found:
        below = name.rpartition("/")[2] if single else row.path if name == "." else row.path.removeprefix(f"{name}/")
        if selected(below, overlay.exclude) or "__pycache__" in row.path.split("/"):
            continue
        place = target.rstrip("/") if single and not target.endswith("/") else f"{target.rstrip('/')}/{below}"
        within = place.rpartition("/")[0] if single else target.rstrip("/")
        _refuse_name(row)
        kept.append(Blob(path=row.path, target=place, mode=row.mode, identity=row.identity, local=row.local, within=within))
    if not kept:
        raise ConfigError(
            f"overlay {overlay.source}: exclude leaves nothing of it",
            why=f"all {len(found)} files match {', '.join(overlay.exclude) or '__pycache__'}",
            remedy="correct exclude, or remove the overlay",
        )
    return tuple(sorted(kept, key=lambda blob: blob.target))


def identities(source: Path, commit: Commit, names: tuple[str, ...]) -> list[StatusRow]:
    """Files of a commit, or of its dirty work tree, by path."""
    return _rows(source, commit, *names) if names else []


def _rows(source: Path, commit: Commit, *names: str) -> list[StatusRow]:
    return work_tree.files(source, *names) if commit.dirty else list(_of_commit(source, commit.sha, *names))


def _of_commit(source: Path, sha: str, *names: str) -> Iterable[StatusRow]:
    listed = git("--literal-pathspecs", "ls-tree", "-r", "-z", sha, "--", *names, cwd=source)
    for row in listed.decode("utf-8", "surrogateescape").split("\0"):
        if row:
            facts, _, path = row.partition("\t")
            mode, _, identity = facts.split()
            yield StatusRow(mode=mode, identity=identity, path=path)


def _absent(source: Path, commit: Commit, overlay: Overlay) -> ConfigError:
    """What to say of a path that is not there: where it went astray, and what is near."""
    parts = paths.in_repository(overlay.source, whole=True).split("/")
    where = "the work tree" if commit.dirty else f"commit {commit.sha[:12]}"
    above = ""
    known: tuple[str, ...] = ()
    for part in parts:
        kinds = _children(source, commit.sha, above)
        here = f"{above}/{part}" if above else part
        if here not in kinds:
            known = paths.nearest(here, kinds)
            break
        above = here
        if kinds[here] == GITLINK:
            return ConfigError(
                f"overlay {overlay.source} is in the submodule {here}",
                why="its files are in another repository, so they are no part of the commit",
                remedy=f"copy what you need into this repository, or build {here} as a project of its own",
            )
    return ConfigError(
        f"overlay {overlay.source} is not in {where}",
        why="paths of overlays are relative to the directory of vllm-ci.yaml, and only what git tracks goes into an image",
        remedy=f"did you mean {' or '.join(known)}?" if known else "git add and commit it, or correct the path",
    )


def _children(source: Path, sha: str, folder: str) -> dict[str, str]:
    """What a directory of a commit holds: path to mode."""
    below = ("--", f"{folder}/") if folder else ()
    listed = git("--literal-pathspecs", "ls-tree", "-z", sha, *below, cwd=source).decode("utf-8", "surrogateescape")
    rows = (row.partition("\t") for row in listed.split("\0") if row)
    return {path: facts.split()[0] for facts, _, path in rows}


def _refuse_name(row: StatusRow) -> None:
    """Refuse a file that must not go into an image, by its name or kind."""
    path, exclude = paths.shown(row.path), "or add it to the overlay's exclude"
    name = row.path.rpartition("/")[2]
    if any(fnmatchcase(name, pattern) for pattern in _SECRET_NAMES) and name not in _SECRET_NAMES_ALLOWED:
        raise ConfigError(
            f"{path} looks like a secret",
            why="anyone who pulls the image could read it",
            remedy=f"take it out of the repository, {exclude}",
        )
    if row.mode == GITLINK:
        raise ConfigError(
            f"{path} is a submodule, or a repository of its own",
            why="its files are in another repository, so they are no part of the commit",
            remedy=f"copy what you need into this repository, {exclude}",
        )
    check_name(row.path)


def check_name(path: str) -> None:
    """Refuse a file name that no image can hold, or that would delete files of one.

    Raises:
        ConfigError: It is one.
    """
    remedy = "rename it (git mv), or add it to the overlay's exclude"
    if part := paths.whiteout(path):
        raise ConfigError(
            f"{paths.shown(path)} holds {part} in its name",
            why="in an image, a name that begins with .wh. deletes a file of the layers below",
            remedy=remedy,
        )
    if not path.isprintable() and any(0xD800 <= ord(sign) <= 0xDFFF or ord(sign) < 32 or ord(sign) == 127 for sign in path):
        raise ConfigError(
            f"the file name {paths.shown(path)} is not UTF-8, or holds a control character",
            why="records and reports name every file of the image, in UTF-8 and on one line",
            remedy=remedy,
        )


def entries(source: Path, commit: Commit, found: Iterable[Blob]) -> list[Entry]:
    """The files with their content; Git LFS pointers are what they point to.

    Raises:
        ConfigError: A link leads out of its overlay to nothing, or a file of Git LFS is not in this clone.
        UsageError: One holds a secret.
    """
    found = list(found)
    made = []
    for blob, content in zip(found, _contents(source, commit, found), strict=True):
        _refuse_secret(blob.path, content)
        if blob.mode == _LINK:
            link = content.decode("utf-8", "surrogateescape")
            _check_link(blob, link, found)
            made.append(Entry(path=blob.target, mode=0o777, link=link))
        else:
            mode = 0o755 if blob.mode == "100755" else 0o644
            made.append(Entry(path=blob.target, mode=mode, content=_content(source, blob, content)))
    return made


def _content(source: Path, blob: Blob, data: bytes) -> Content:
    if not lfs.resembles(data):
        return Inline(data)
    found = lfs.pointer(data)
    if found is None:
        if lfs.is_filtered(source, blob.path):
            raise ConfigError(
                f"{blob.path} belongs to Git LFS, but is no valid pointer",
                why="it was changed by hand, or its line ends were converted",
                remedy="restore it (git lfs migrate, or git checkout of an earlier commit), or add it to the overlay's exclude",
            )
        return Inline(data)
    return lfs.stored(source, blob.path, found, scan=lambda piece: _refuse_secret(blob.path, piece))


def _refuse_secret(path: str, content: bytes) -> None:
    if _SECRET_TEXT.search(content):
        raise UsageError(
            f"{path} holds what looks like a private key or an access token",
            why="anyone who pulls the image could read it",
            remedy="take it out of the repository (and revoke it), or add the file to the overlay's exclude",
        )


def _check_link(blob: Blob, link: str, found: list[Blob]) -> None:
    """Refuse a link that leads out of its overlay to something that the commit does not put there.

    Absolute links name a path of the image and are the author's business; relative ones were made for the repository.
    """
    if not blob.within or link.startswith("/"):
        return
    parts: list[str] = blob.target.split("/")[:-1]
    for part in link.split("/"):
        if part == ".." and not parts:
            break
        if part == "..":
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    aim = "/".join(parts)
    inside = f"{aim}/".startswith(f"{blob.within}/")
    if not inside and not any(other.target == aim or other.target.startswith(f"{aim}/") for other in found):
        raise ConfigError(
            f"{blob.path} is a symbolic link to {link}, which leads out of its overlay",
            why=f"in the image that is /{aim}, and no overlay puts anything there",
            remedy="add an overlay for what it points to, make it an absolute path of the image, or exclude it",
        )


def _contents(source: Path, commit: Commit, found: list[Blob]) -> Iterable[bytes]:
    there = [blob for blob in found if not blob.local]
    output = (
        git("cat-file", "--batch", cwd=source, stdin="".join(f"{blob.identity}\n" for blob in there).encode()) if there else b""
    )
    position = 0
    for blob in found:
        if blob.local:
            yield _of_work_tree(source, blob)
            continue
        end = output.index(b"\n", position)
        kind = output[position:end].split()
        if len(kind) != 3:
            raise ConfigError(
                f"git has no object {blob.identity[:12]} for {blob.path} of commit {commit.short}",
                why="the clone is not complete, or damaged",
                remedy="git fsck, git fetch, or clone again",
            )
        yield output[end + 1 : end + 1 + int(kind[2])]
        position = end + 1 + int(kind[2]) + 1


def _of_work_tree(source: Path, blob: Blob) -> bytes:
    content = work_tree.content(source / blob.path)
    if work_tree.blob_id(content, len(blob.identity)) != blob.identity:
        raise UsageError(
            f"{blob.path} was changed while the image was built",
            why="its layer would be kept under the old content",
            remedy="build again",
        )
    return content
