"""Unpacks a layer while it is written, so that running the image does not have to decompress it again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Self

from vllm_ci.images import members, tree
from vllm_ci.images.entries import Content, Deflated, Entry
from vllm_ci.images.members import Kind, Member
from vllm_ci.images.store import Store


@dataclass(frozen=True)
class _Kept:
    """Content that is also written to a file when it is read."""

    content: Content
    folder: int
    name: str
    executable: bool

    @property
    def size_bytes(self) -> int:
        return self.content.size_bytes

    def chunks(self) -> Iterator[bytes]:
        with members.new_file(self.folder, self.name, executable=self.executable) as output:
            for piece in self.content.chunks():
                output.write(piece)
                yield piece

    def deflated(self) -> Deflated | None:
        return self.content.deflated()


class Unpacking:
    """The files of one layer, each under the number of its member, as :func:`vllm_ci.images.tree.unpacked` makes them.

    What was not kept at the end of the context is removed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._part = stack.enter_context(tree.new_part(self._store))
            self._handle = os.open(self._part, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, self._handle)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def entries(self, entries: Iterable[Entry], listed: Sequence[Member]) -> Iterator[Entry]:
        """The same entries; each file is written here when its content is read.

        Args:
            entries: Entries of the layer.
            listed: Their members, in the same order.
        """
        for number, (entry, member) in enumerate(zip(entries, listed, strict=True)):
            if entry.content is None or member.kind is not Kind.FILE:
                yield entry
            else:
                kept = _Kept(entry.content, self._handle, str(number), member.executable)
                yield replace(entry, content=kept)

    def keep(self, diff_id: str) -> None:
        """Keep the files, under the layer's diff id; another process may have been faster."""
        target = self._store.trees / tree.layer_name(diff_id)
        with self._store.lock(target.name):
            if not target.is_dir():
                tree.keep(self._part, target)
