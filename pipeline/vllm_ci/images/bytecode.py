"""Byte code of an image's Python files: compiled once for each content, kept in the store."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vllm_ci.images.entries import Archive, ArchiveMember, Entry, Inline, read
from vllm_ci.images.interpreter import Compilers
from vllm_ci.images.store import Store, disk, publish, write
from vllm_ci.images.wheels.wheel import pyc_path

_SCRIPT = Path(__file__).with_name("_compiler.py")
_TOGETHER, _SLICE = 32, 512
_TESTS = frozenset({"test", "tests"})
_RULES = b"without tests"


def key(interpreter: str) -> str:
    """What byte code depends on besides path and source: the exact interpreter, our way of calling it, and what is chosen."""
    return hashlib.sha256(b"\0".join((interpreter.encode(), _SCRIPT.read_bytes(), _RULES))).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Bytecode:
    """Compiles for one interpreter, through the store.

    Attributes:
        store: Where results are kept.
        python: Minor version.
        key: See :func:`key`.
        compilers: Starts (at most once) the interpreters; not called when everything is known.
        threads: How many files are compiled at once.
    """

    store: Store
    python: str
    key: str
    compilers: Callable[[], Compilers]
    threads: int

    def of_pack(self, name: str, entries: Iterable[Entry]) -> list[Entry]:
        """Byte code of all sources among ``entries`` but tests, kept together under ``name`` (the wheel's hash).

        Tests of packages (a tenth of all source) are not imported by a server. They run without byte code too.
        """
        target = self.store.bytecode / f"{name}-{self.key}.zip"
        if not target.exists():
            with self.store.lock(f"bytecode-{name}"):
                if not target.exists():
                    self._pack(target, [entry for entry in entries if _is_source(entry) and not _is_test(entry)])
        archive = Archive(target)
        return [Entry(path=info.filename, content=ArchiveMember(archive, info)) for info in archive.members]

    def _pack(self, target: Path, sources: list[Entry]) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".part-")
        part = Path(name)
        try:
            with disk(target), os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as pack:
                for path, content in self._compiled(sources):
                    pack.writestr(zipfile.ZipInfo(path), content)
            publish(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _compiled(self, sources: list[Entry]) -> Iterator[tuple[str, bytes]]:
        if not sources:
            return
        compilers = self.compilers()

        def some(entries: list[Entry]) -> list[tuple[str, bytes]]:
            found = compilers.compile([(f"/{entry.path}", read(entry.content)) for entry in entries if entry.content])
            return [(pyc_path(entry.path, self.python), code) for entry, code in zip(entries, found, strict=True) if code]

        # Slices bound what is in memory; a thread waits for its own interpreter.
        with ThreadPoolExecutor(self.threads, thread_name_prefix="compile") as pool:
            for start in range(0, len(sources), _SLICE):
                slices = [sources[at : at + _TOGETHER] for at in range(start, min(start + _SLICE, len(sources)), _TOGETHER)]
                for compiled in pool.map(some, slices):
                    yield from compiled

    def of_files(self, entries: Iterable[Entry]) -> list[Entry]:
        """Byte code of all sources among ``entries``, each kept on its own: for files that change one at a time."""
        sources = [entry for entry in entries if _is_source(entry)]
        with ThreadPoolExecutor(self.threads, thread_name_prefix="compile") as pool:
            found = list(pool.map(self._of_file, sources))
        return [entry for entry in found if entry is not None]

    def _of_file(self, entry: Entry) -> Entry | None:
        assert entry.content is not None  # noqa: S101
        source = read(entry.content)
        name = hashlib.sha256(
            b"\0".join((self.key.encode(), entry.path.encode("utf-8", "surrogateescape"), source))
        ).hexdigest()
        target = self.store.bytecode / name[:2] / name
        try:
            content = target.read_bytes()
        except FileNotFoundError:
            (content,) = self.compilers().compile([(f"/{entry.path}", source)])
            write(target, content, durable=False)
        return Entry(path=pyc_path(entry.path, self.python), content=Inline(content)) if content else None


def _is_source(entry: Entry) -> bool:
    return entry.content is not None and entry.path.endswith(".py")


def _is_test(entry: Entry) -> bool:
    return not _TESTS.isdisjoint(entry.path.split("/")[:-1])
