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

# Whose files are the image's own; everything else of a running system is mounted or made on the spot.
_NOT_OURS = ("proc", "sys", "dev", "run", "tmp", "var/tmp")
_BYTE_CODE = (".pyc", ".pyo")


@dataclass(frozen=True)
class Tree:
    """The image's files below ``root``: ``/`` in a container, an unpacked copy where there is none."""

    root: Path

    def place(self, path: str) -> Path:
        """Where the image's absolute ``path`` lies."""
        return self.root / path.lstrip("/")

    def shown(self, path: Path | str) -> str:
        """The path as the image has it."""
        relative = os.path.relpath(path, self.root)
        return f"/{relative}"

    def files(self, below: str = "/") -> Iterator[os.DirEntry[str]]:
        """Files and folders of the image below a folder, without what is mounted into it."""
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
    """Find the image's root by a file that the manifest names and this interpreter sees.

    Raises:
        LookupError: vllm is not where the manifest says that it is.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        raise LookupError("this interpreter finds no vllm")
    seen = os.path.realpath(spec.origin)
    for files in manifest.values():
        for path in files:
            if path.endswith("/vllm/__init__.py") and seen.endswith(path):
                return Tree(Path(seen[: -len(path)] or "/"))
    raise LookupError("vllm is not found where the image's manifest says that it is")


def wrong_files(where: Tree, files: Mapping[str, str]) -> list[str]:
    """Paths whose content is not the one with the expected SHA-256, each with what is wrong."""

    def wrong(item: tuple[str, str]) -> str:
        path, expected = item
        place = where.place(path)
        if place.is_symlink():
            found = hashlib.sha256(str(place.readlink()).encode()).hexdigest()
            return "" if expected in (found, _digest(place)) else f"{path} links elsewhere"
        found = _digest(place)
        return "" if found == expected else f"{path} is {'missing' if not found else 'another file'}"

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return [text for text in pool.map(wrong, files.items()) if text]


def unknown_files(where: Tree, manifest: Manifest, below: str) -> list[str]:
    """Files below a folder that no wheel and no commit brought, byte code apart."""
    known = {path for files in manifest.values() for path in files}
    found = (where.shown(entry.path) for entry in where.files(below) if entry.is_file())
    return sorted(path for path in found if path not in known and not path.endswith(_BYTE_CODE))


def writable_by_all(where: Tree, below: str = "/") -> list[str]:
    """Files that everybody may write, and folders in which everybody may replace what is not theirs."""
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
