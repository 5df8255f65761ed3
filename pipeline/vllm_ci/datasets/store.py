"""Folder of data sets: ``collected/HEX`` and ``prepared/HEX`` never change, HEX is the SHA-256 of their ``manifest.json``.

A version is written in a temporary folder and appears by one rename, so that one is there is whole. Locks: ``.lock``, shared by
all that write versions, exclusive for what removes them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vllm_ci.datasets.lines import digest_of
from vllm_ci.datasets.messages import canonical
from vllm_ci.domain.errors import ErroredError, FailedError, UsageError
from vllm_ci.system import scratch
from vllm_ci.system.filelock import hold

Kind = Literal["collected", "prepared"]
_HEX = re.compile(r"[0-9a-f]{64}")
_LARGEST_MANIFEST = 16 << 20


class TamperedError(FailedError):
    """A file of a data set is not what its manifest says."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version whose files were all compared with its manifest."""

    kind: Kind
    folder: Path
    digest: str
    facts: Mapping[str, Any]
    changed: bool = False


@dataclass(frozen=True, kw_only=True)
class Store:
    """The folder."""

    folder: Path

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """A temporary folder for a new version; nothing is removed meanwhile."""
        self.create()
        with hold(self.folder / ".lock", shared=True), scratch.folder("version-", parent=self.folder / "tmp") as made:
            (made / "version").mkdir()
            yield made / "version"

    def create(self) -> None:
        """Make the folder, unless it is there.

        Raises:
            UsageError: It cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _ignore(self.folder)
        except OSError as error:
            raise UsageError(
                f"cannot write to {self.folder}: {error.strerror}", remedy="name another folder with --store"
            ) from error

    @contextlib.contextmanager
    def alone(self, name: str = ".lock") -> Iterator[None]:
        """Nobody else is in here: for what removes versions, or (another name) for what must see all earlier ones."""
        with hold(self.folder / name):
            yield

    def finish(self, kind: Kind, made: Path, facts: Mapping[str, Any]) -> Version:
        """Give a folder its manifest and its place."""
        files = {each.name: {"bytes": each.stat().st_size, "digest": digest_of(each)} for each in sorted(made.iterdir())}
        text = json.dumps({"kind": kind, "files": files, "facts": facts}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        (made / "manifest.json").write_text(text, encoding="utf-8")
        for each in made.iterdir():
            _flush(each)
            each.chmod(0o444)
        name = hashlib.sha256(text.encode()).hexdigest()
        place = self.folder / kind / name
        place.parent.mkdir(exist_ok=True)
        try:
            made.rename(place)
            _flush(place.parent)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise ErroredError(f"cannot write {place}: {error.strerror}", remedy="free some space and retry") from error
            return load(place)  # the same content is there already
        return Version(kind=kind, folder=place, digest=f"sha256:{name}", facts=facts, changed=True)

    def versions(self, kind: Kind) -> list[Path]:
        """Folders of all versions."""
        place = self.folder / kind
        return sorted(each for each in place.iterdir() if _HEX.fullmatch(each.name)) if place.is_dir() else []

    def remembered(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """What an earlier call with the same input noted; ``None`` if there was none."""
        try:
            found = json.loads(self._note(key).read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and _HEX.fullmatch(str(found.get("version"))) else None

    def remember(self, key: Mapping[str, Any], note: Mapping[str, Any]) -> None:
        """Note the result for this input."""
        write(self._note(key), canonical(note))

    def _note(self, key: Mapping[str, Any]) -> Path:
        return self.folder / "known" / f"{hashlib.sha256(canonical(key)).hexdigest()}.json"

    def delete(self, versions: Iterable[Path]) -> None:
        """Delete versions, and what processes that were killed left of others; each is gone at once, its files soon after."""
        with scratch.folder("deleted-", parent=self.folder / "tmp") as grave:
            for each in versions:
                each.rename(grave / each.name)
                shutil.rmtree(grave / each.name)


def load(folder: Path, *, copy: bool = False) -> Version:
    """Read a version, and compare every file with its manifest.

    Args:
        folder: Its folder.
        copy: The folder may have another name than the version.

    Raises:
        UsageError: It is not the folder of a version.
        TamperedError: A file was altered, added or removed.
    """
    manifest = folder / "manifest.json"
    if not manifest.is_file() or manifest.stat().st_size > _LARGEST_MANIFEST:
        raise UsageError(
            f"{folder} is not a data set: it has no manifest.json", remedy="name a folder below collected or prepared"
        )
    text = manifest.read_bytes()
    name = hashlib.sha256(text).hexdigest()
    if not copy and name != folder.resolve().name:
        raise _tampered(folder, manifest, "it is not the manifest of this version")
    found = json.loads(text)
    files: dict[str, dict[str, Any]] = found["files"]
    for unknown in {each.name for each in folder.iterdir()} - {*files, "manifest.json"}:
        raise _tampered(folder, folder / unknown, "the manifest does not name it")
    for file, wanted in files.items():
        place = folder / file
        if place.is_symlink() or not place.is_file():
            raise _tampered(folder, place, "it is not there")
        if place.stat().st_size != wanted["bytes"] or digest_of(place) != wanted["digest"]:
            raise _tampered(folder, place, f"its digest is not {wanted['digest'][:19]}")
    return Version(kind=found["kind"], folder=folder, digest=f"sha256:{name}", facts=found["facts"])


def is_version(folder: Path) -> bool:
    """Whether a folder has the name of a version and its manifest."""
    return bool(_HEX.fullmatch(folder.resolve().name)) and (folder / "manifest.json").is_file()


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a file that was written here."""
    with path.open("rb") as stream:
        for line in stream:
            yield json.loads(line)


def write(path: Path, content: bytes) -> None:
    """Replace a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    _flush(beside)
    beside.replace(path)


def _tampered(folder: Path, file: Path, why: str) -> TamperedError:
    return TamperedError(
        f"{file} was altered: {why}",
        why="a version of a data set never changes",
        remedy=f"delete {folder}, then collect or prepare it again",
    )


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _ignore(folder: Path) -> None:
    """Training data is not for a commit: git leaves the folder out."""
    if not (place := folder / ".gitignore").exists():
        place.write_text("*\n", encoding="utf-8")
