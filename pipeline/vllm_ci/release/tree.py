"""Reads a commit of the ledger's branch: its records and the requested kustomizations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vllm_ci.domain import overlay_path
from vllm_ci.domain.errors import ConfigError, ErroredError
from vllm_ci.system.vcs import git

_RECORD = re.compile(r"[0-9]{6}\.json|[1-9][0-9]{6,}\.json")
_FILES = ("100644", "100755")
_KINDS = {"120000": "a symbolic link", "160000": "a submodule", "040000": "a folder"}


@dataclass(frozen=True, kw_only=True)
class Item:
    """An entry of a folder.

    Attributes:
        mode: As git has it.
        id: Of its object.
    """

    mode: str
    id: str

    @property
    def kind(self) -> str:
        """For messages."""
        return _KINDS.get(self.mode, "a file")


@dataclass(frozen=True, kw_only=True)
class File:
    """A file, or the place of one that is not there yet.

    Attributes:
        path: Where it is.
        text: Its content, ``None`` when it is not there.
        mode: As git has it.
    """

    path: str
    text: str | None = None
    mode: str = "100644"


class GitTree:
    """A commit of the branch in a local repository; ``head`` is empty when there is no branch yet."""

    def __init__(self, repository: Path, head: str) -> None:
        self._repository = repository
        self._head = head
        self._listing = cache(self._read_listing)

    def records(self, folder: str = overlay_path.RECORDS) -> Mapping[str, bytes]:
        """Content of each record's file in ``folder``, by path, in order.

        Raises:
            ErroredError: A record's path is not a plain file.
        """
        above, _, last = folder.rpartition("/")
        top = self._listing(above).get(last)
        if top and top.mode != "040000":
            raise ErroredError(
                f"{folder} in the ledger's branch is {top.kind}",
                why="that folder holds the ledger's records",
                remedy="look at the branch's log, and put the folder back by a commit",
            )
        rows = {name: item for name, item in self._listing(folder).items() if _RECORD.fullmatch(name)}
        ordered = sorted(rows, key=lambda name: int(name.removesuffix(".json")))
        for name in ordered:
            if rows[name].mode not in _FILES:
                raise ErroredError(
                    f"{folder}/{name} in the ledger's branch is {rows[name].kind}, not a file",
                    why="records are written by vllm-ci only, and never changed",
                    remedy="look at the branch's log, and put the file back by a commit",
                )
        contents = self._contents([rows[name].id for name in ordered])
        return {f"{folder}/{name}": content for name, content in zip(ordered, contents, strict=True)}

    def overlay(self, path: str) -> File:
        """The kustomization that ``path`` means: that file, or the one in its folder under another of kustomize's names.

        Raises:
            ConfigError: It cannot be read or made there.
        """
        try:
            path = overlay_path.normalised(path)
        except ValueError as error:
            raise _refused(path, str(error), "write another path under release.channels") from error
        folder = self._folder(path)
        choices = {each: each.rpartition("/")[2] for each in overlay_path.alternatives(path)}
        there = [each for each, name in choices.items() if name in folder and folder[name].mode != "040000"]
        if len(there) > 1:
            raise _refused(path, f"{' and '.join(there)} are both there, and kustomize takes one file per folder", "remove one")
        chosen = there[0] if there else path
        name = chosen.rpartition("/")[2]
        if name in folder and folder[name].mode not in _FILES:
            raise _refused(chosen, f"it is {folder[name].kind} there, not a file", "name a file under release.channels")
        if name not in folder:
            self._check_twin(chosen, name, folder)
            return File(path=chosen)
        return File(path=chosen, text=self._text(chosen, folder[name]), mode=folder[name].mode)

    def _folder(self, path: str) -> Mapping[str, Item]:
        """The folder of a path; every part above it must be one, or not be there."""
        found = self._listing("")
        parts = path.split("/")
        for depth, part in enumerate(parts[:-1]):
            if part not in found:
                self._check_twin(path, part, found)
                return {}
            if found[part].mode != "040000":
                above = "/".join(parts[: depth + 1])
                raise _refused(path, f"{above} is {found[part].kind} there, not a folder", "write another path, or remove that")
            found = self._listing("/".join(parts[: depth + 1]))
        return found

    @staticmethod
    def _check_twin(path: str, name: str, folder: Mapping[str, Item]) -> None:
        twins = [each for each in folder if overlay_path.fold(each) == overlay_path.fold(name)]
        if twins:
            raise _refused(
                path,
                f"{twins[0]} is there, which differs from {name} in case only: some file systems hold one of the two",
                "write the path as it stands in the branch",
            )

    def _text(self, path: str, item: Item) -> str:
        try:
            return self._contents([item.id])[0].decode()
        except UnicodeDecodeError as error:
            raise _refused(path, f"it is not UTF-8: {error}", "write it again as UTF-8") from error

    def _read_listing(self, folder: str) -> Mapping[str, Item]:
        if not self._head:
            return {}
        where = [f"{self._head}:{folder}"]
        if folder and not self._is_folder(folder):
            return {}
        rows = git("ls-tree", "-z", *where, cwd=self._repository).split(b"\0")
        found = {}
        for row in filter(None, rows):
            facts, _, name = row.partition(b"\t")
            mode, _, identity = facts.decode().split(" ", 2)
            # Configured names are UTF-8.
            found[name.decode(errors="surrogateescape")] = Item(mode=mode, id=identity)
        return found

    def _is_folder(self, folder: str) -> bool:
        above, _, name = folder.rpartition("/")
        item = self._listing(above).get(name)
        return item is not None and item.mode == "040000"

    def _contents(self, ids: list[str]) -> list[bytes]:
        """Files by the ids of their objects, by one call of git."""
        if not ids:
            return []
        found = git("cat-file", "--batch", cwd=self._repository, stdin="".join(f"{each}\n" for each in ids).encode())
        contents, position = [], 0
        for _ in ids:
            end = found.index(b"\n", position)
            size = int(found[position:end].rsplit(b" ", 1)[1])
            contents.append(found[end + 1 : end + 1 + size])
            position = end + 1 + size + 1
        return contents


def _refused(path: str, why: str, remedy: str) -> ConfigError:
    return ConfigError(f"the kustomization {path} cannot be used in the ledger's branch", why=why, remedy=remedy)
