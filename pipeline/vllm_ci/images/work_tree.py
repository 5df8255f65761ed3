"""Files of a dirty work tree, as git would commit them: unchanged ones come from git's objects, the others are read here.

So an unchanged file is the same in a dirty build and in a clean one, whatever this checkout does to line ends, which part of it
is checked out (sparse checkouts), and which files git was told to take as unchanged.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vllm_ci.domain.errors import ConfigError
from vllm_ci.system.vcs import git, root

GITLINK = "160000"
_LINK = "120000"


@dataclass(frozen=True, kw_only=True)
class StatusRow:
    """A file.

    Attributes:
        mode: Git's.
        identity: Object id of what it would be committed as; git has that object unless ``local``.
        path: Relative to the directory that was asked about.
        local: Its content is read from the work tree.
    """

    mode: str
    identity: str
    path: str
    local: bool = False


def files(source: Path, *names: str) -> list[StatusRow]:
    """Files below ``names`` that git tracks or would, by path."""
    found = {row.path: row for row in _index(source, names)}
    length = len(next(iter(found.values())).identity) if found else 0
    changed = dict(_changed(source, names))
    for path, mode in changed.items():
        if mode == "000000":
            found.pop(path, None)
    changed = {path: mode for path, mode in changed.items() if mode != "000000"} | dict(_untracked(source, names))
    found |= {row.path: row for row in _read(source, changed, length or _id_length(source))}
    return [found[path] for path in sorted(found)]


def _listed(source: Path, *arguments: str, names: tuple[str, ...]) -> list[str]:
    output = git("--literal-pathspecs", *arguments, "-z", "--", *names, cwd=source)
    return [row for row in output.decode("utf-8", "surrogateescape").split("\0") if row]


def _index(source: Path, names: tuple[str, ...]) -> Iterator[StatusRow]:
    """What the index has. Files outside a sparse checkout and files taken as unchanged are only there."""
    for row in _listed(source, "ls-files", "--stage", names=names):
        facts, _, path = row.partition("\t")
        mode, identity, _ = facts.split()
        yield StatusRow(mode=mode, identity=identity, path=path)


def _changed(source: Path, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Paths whose file is not, or may not be, what the index has, and their modes; ``000000``: the file is gone."""
    words = _listed(source, "diff-files", "--relative", "--ignore-submodules=none", names=names)
    for facts, path in zip(words[::2], words[1::2], strict=True):
        _, mode, *_, status = facts.removeprefix(":").split()
        if status != "U":
            yield path, mode
        elif (where := source / path).is_symlink() or where.is_file():  # a merge in progress: as it stands in the work tree
            yield path, _mode(where)
        else:
            yield path, "000000"


def _untracked(source: Path, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for path in _listed(source, "ls-files", "--others", "--exclude-standard", names=names):
        yield path.rstrip("/"), GITLINK if path.endswith("/") else _mode(source / path)


def _mode(path: Path) -> str:
    if path.is_symlink():
        return _LINK
    return "100755" if path.stat().st_mode & 0o100 else "100644"


def _id_length(source: Path) -> int:
    return len(git("rev-parse", "HEAD", cwd=source).strip())


def _read(source: Path, changed: dict[str, str], length: int) -> Iterator[StatusRow]:
    """Files of the work tree; those that git would convert (line ends, filters) as git converts them."""
    plain = {path: mode for path, mode in changed.items() if mode not in {GITLINK, _LINK}}
    converted = _converted(source, list(plain))
    for path, mode in changed.items():
        if mode == GITLINK:
            yield StatusRow(mode=mode, identity="0" * length, path=path)
            continue
        own = blob_id(content(source / path), length)
        identity = converted.get(path, own)
        yield StatusRow(mode=mode, identity=identity, path=path, local=identity == own)


def _converted(source: Path, names: list[str]) -> dict[str, str]:
    """Object ids of files as ``git add`` would have them; where that is not their plain content, the object is written as well.

    Files of Git LFS are left out: what they are in the work tree is what they stand for.
    """
    if not names:
        return {}
    top = root(source)
    below = source.resolve().relative_to(top.resolve())
    full = [os.path.normpath(below / name) for name in names]
    fed = os.fsencode("".join(f"{path}\0" for path in full))
    filters = git("check-attr", "-z", "--stdin", "filter", cwd=top, stdin=fed).decode("utf-8", "surrogateescape").split("\0")
    filtered = dict(zip(filters[::3], filters[2::3], strict=False))
    asked = [(name, path) for name, path in zip(names, full, strict=True) if filtered.get(path) != "lfs"]
    if not asked:
        return {}
    lines = os.fsencode("".join(f"{_quoted(path)}\n" for _, path in asked))
    ids = git("hash-object", "--stdin-paths", cwd=top, stdin=lines).decode().split()
    found = dict(zip((name for name, _ in asked), ids, strict=True))
    other = [path for (name, path) in asked if found[name] != blob_id(content(source / name), len(found[name]))]
    if other:
        git("hash-object", "-w", "--stdin-paths", cwd=top, stdin=os.fsencode("".join(f"{_quoted(path)}\n" for path in other)))
    return found


def _quoted(path: str) -> str:
    """A path as git quotes it, so that any byte may be in it."""
    plain = set(range(32, 127)) - set(b'"\\')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in os.fsencode(path)) + '"'


def content(path: Path) -> bytes:
    """Content of a file, or the target of a link.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", why=str(error), remedy="change its permissions, or remove it") from error


def blob_id(data: bytes, length: int) -> str:
    """Git's object id of a file (gitformat-object(5)), of 40 (SHA-1) or 64 (SHA-256) hex digits."""
    digest = hashlib.sha256() if length == 64 else hashlib.sha1(usedforsecurity=False)
    digest.update(b"blob %d\0" % len(data))
    digest.update(data)
    return digest.hexdigest()
