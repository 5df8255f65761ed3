"""The files of the image that this process runs in. Standard library only."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

Manifest = Mapping[str, Mapping[str, str]]

# Directories of a running system whose content is not part of the image.
_NOT_OURS = ("proc", "sys", "dev", "run", "tmp", "var/tmp")
_BYTE_CODE = (".pyc", ".pyo")


@dataclass(frozen=True)
class Tree:
    """The image's files below ``root``: ``/`` in a container, an unpacked copy where there is none."""

    root: Path

    def place(self, path: str) -> Path:
        """Path on this system of the image's absolute ``path``."""
        return self.root / path.lstrip("/")

    def shown(self, path: Path | str) -> str:
        """The path in the image."""
        relative = os.path.relpath(path, self.root)
        return f"/{relative}"

    def files(self, below: str = "/") -> Iterator[os.DirEntry[str]]:
        """Files and folders of the image below a folder, without mounted file systems."""
        device = self.place("/").stat().st_dev
        top = self.place(below)
        waiting = [str(top)] if top.is_dir() else []
        skipped = {str(self.place(name)) for name in _NOT_OURS}
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.path in skipped or entry.is_symlink():
                        continue
                    yield entry
                    if entry.is_dir() and entry.stat().st_dev == device:
                        waiting.append(entry.path)


def tree(manifest: Manifest) -> Tree:
    """Find the image's root, by comparing the manifest with where this interpreter finds vllm.

    Raises:
        LookupError: vllm is not at the path in the manifest.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        raise LookupError("this interpreter cannot find vllm")
    seen = os.path.realpath(spec.origin)
    for files in manifest.values():
        for path in files:
            if path.endswith("/vllm/__init__.py") and seen.endswith(path):
                return Tree(Path(seen[: -len(path)] or "/"))
    raise LookupError("vllm is not at the path in the image's manifest")


def wrong_files(where: Tree, files: Mapping[str, str]) -> list[str]:
    """Paths whose content does not have the expected SHA-256, each with the reason."""

    def wrong(item: tuple[str, str]) -> str:
        path, expected = item
        place = where.place(path)
        if place.is_symlink():
            found = hashlib.sha256(str(place.readlink()).encode()).hexdigest()
            return "" if expected in (found, _digest(place)) else f"{path} is a link to another target"
        found = _digest(place)
        return "" if found == expected else f"{path} {'is missing' if not found else 'has other content'}"

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return [text for text in pool.map(wrong, files.items()) if text]


def unknown_files(where: Tree, manifest: Manifest, below: str) -> list[str]:
    """Files below a folder that are not in the manifest, except byte code."""
    known = {path for files in manifest.values() for path in files}
    found = (where.shown(entry.path) for entry in where.files(below) if entry.is_file())
    return sorted(path for path in found if path not in known and not path.endswith(_BYTE_CODE))


def writable_by_all(where: Tree, below: str = "/") -> list[str]:
    """Files that everybody may write, and folders in which everybody may replace the files of others."""
    found = []
    for entry in where.files(below):
        mode = entry.stat().st_mode
        if mode & stat.S_IWOTH and not (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
            found.append(where.shown(entry.path))
    return sorted(found)


def _digest(place: Path) -> str:
    try:
        with place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
