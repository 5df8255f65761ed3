"""The file system of a stack of layers, in memory: the layer of each file, and where each path leads.

Format: OCI image specification 1.1, "Applying Changesets". A directory stays when a directory comes over it; everything else
replaces what lies at its path, with all that is below it. Whiteouts take away what lower layers brought, never what their own
layer brings. The directory of a member that no member names is found through links, as containerd and umoci do it, but ``/`` is
always the image's own root.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from vllm_ci.domain.errors import BuildError
from vllm_ci.images.members import Kind, Member

# As many as Linux follows (path_resolution(7)).
_MOST_LINKS = 40


@dataclass(slots=True, eq=False)
class Folder:
    """A directory.

    Attributes:
        layer: Number of the last layer that has something to say about it.
        entries: What is in it.
    """

    layer: int
    entries: dict[str, Folder | Leaf] = field(default_factory=dict)


@dataclass(slots=True, eq=False, frozen=True)
class Leaf:
    """A file, a link, or what is neither.

    Attributes:
        layer: Number of its layer.
        source: Number of the layer that holds its content; another one for a hard link to a file of a lower layer.
        number: Of its member in that layer.
        member: Kind, link, digest and the path that its layer has for it.
    """

    layer: int
    source: int
    number: int
    member: Member


_Stack = list[tuple[str, Folder]]


class UnresolvedError(Exception):
    """A path leads nowhere: something that is no directory is in its way, or links go round."""


class MissingPathError(UnresolvedError):
    """A path leads nowhere because there is no such directory."""


class Shape:
    """The file system after some layers."""

    def __init__(self) -> None:
        self.root = Folder(-1)
        self._layer = -1
        self._keep_links = False
        self._recent: tuple[str, Folder] = ("", self.root)

    def apply(self, members: Iterable[Member], *, name: str, keep_links: bool = False) -> None:
        """Put the next layer over it.

        Args:
            members: In the order of the layer's tar.
            name: Of the layer, for messages.
            keep_links: A link to a directory stays when a directory comes over it, as dpkg does it; layers replace it.

        Raises:
            BuildError: Container engines could not unpack the layer either.
        """
        self._layer += 1
        self._keep_links = keep_links
        self._recent = ("", self.root)
        self.root.layer = self._layer
        for number, member in enumerate(members):
            try:
                self._apply(number, member)
            except UnresolvedError as error:
                raise BuildError(
                    f"/{member.path} of layer {name} cannot be unpacked",
                    why=str(error),
                    remedy="container engines cannot unpack it either: the image has to be built again",
                ) from error

    def _apply(self, number: int, member: Member) -> None:
        kind = member.kind
        if kind is Kind.NOTHING:
            return
        if kind in {Kind.OPAQUE, Kind.WHITEOUT}:
            self._recent = ("", self.root)
            self._take_away(member)
            return
        above, _, name = member.path.rpartition("/")
        parent = self._parent(above)
        before = parent.entries.get(name)
        if kind is Kind.FOLDER:
            if isinstance(before, Folder):
                before.layer = self._layer
            elif before is None or not (self._keep_links and self.folder(member.path)):
                self._place(parent, name, Folder(self._layer))
        elif kind is Kind.HARD_LINK:
            # Engines first take away what is there, be it the very file that is meant.
            if parent.entries.pop(name, None) is not None:
                self._recent = ("", self.root)
            found = self._linked(member)
            own = found.member._replace(path=member.path)
            self._place(parent, name, Leaf(self._layer, found.source, found.number, own))
        else:
            self._place(parent, name, Leaf(self._layer, self._layer, number, member))

    def _place(self, parent: Folder, name: str, node: Folder | Leaf) -> None:
        before = parent.entries.get(name)
        if isinstance(before, Folder) or (isinstance(before, Leaf) and before.member.kind is Kind.LINK):
            self._recent = ("", self.root)
        parent.entries[name] = node

    def _take_away(self, member: Member) -> None:
        above, _, name = member.path.rpartition("/")
        try:
            parent = self._walk(member.path if member.kind is Kind.OPAQUE else above)[-1][1]
        except MissingPathError:
            return
        node = parent if member.kind is Kind.OPAQUE else parent.entries.get(name)
        if isinstance(node, Folder) and (node.layer == self._layer or node is parent):
            strip(node, self._layer)
        elif node is not None and node.layer < self._layer:
            del parent.entries[name]

    def _parent(self, path: str) -> Folder:
        """The directory ``path``, made where it is missing."""
        known, folder = self._recent
        if path == known:
            return folder
        folder = self._walk(path, make=True)[-1][1]
        self._recent = (path, folder)
        return folder

    def _linked(self, member: Member) -> Leaf:
        above, _, name = member.link.rpartition("/")
        node = self._walk(above)[-1][1].entries.get(name)
        if not isinstance(node, Leaf):
            raise UnresolvedError(f"it is a hard link to /{member.link}, which is {'a directory' if node else 'not there'}")
        return node

    def _walk(self, path: str, *, start: _Stack | None = None, make: bool = False) -> _Stack:
        """Names and directories from the root to ``path``, links followed inside the image."""
        stack = list(start or [("", self.root)])
        pending = path.split("/")[::-1]
        links = 0
        while pending:
            part = pending.pop()
            if part == "..":
                del stack[max(len(stack) - 1, 1) :]
            if part in {"", ".", ".."}:
                continue
            node = self._step(stack[-1][1], part, make=make)
            if isinstance(node, Folder):
                stack.append((part, node))
                continue
            links += 1
            if node.member.kind is not Kind.LINK:
                raise MissingPathError(f"/{path} leads through {part}, which is not a directory")
            if links > _MOST_LINKS:
                raise UnresolvedError(f"/{path} leads through more than {_MOST_LINKS} links")
            if node.member.link.startswith("/"):
                del stack[1:]
            pending += node.member.link.split("/")[::-1]
        return stack

    def _step(self, folder: Folder, part: str, *, make: bool) -> Folder | Leaf:
        node = folder.entries.get(part)
        if node is None and not make:
            raise MissingPathError(f"{part} is not there")
        if node is None:
            node = folder.entries[part] = Folder(self._layer)
        elif make and isinstance(node, Folder):
            node.layer = self._layer
        return node

    def at(self, path: str) -> Folder | Leaf | None:
        """What lies at ``path`` itself; nothing where a component is a link."""
        node: Folder | Leaf | None = self.root
        for part in path.split("/"):
            if not isinstance(node, Folder):
                return None
            node = node.entries.get(part) if part else node
        return node

    def find(self, path: str) -> Folder | Leaf | None:
        """What lies at ``path``, its directory found through links."""
        above, _, name = path.rpartition("/")
        parent = self.folder(above)
        return parent.entries.get(name) if parent is not None else None

    def folder(self, path: str) -> Folder | None:
        """The directory that ``path`` leads to, through links too."""
        try:
            return self._walk(path)[-1][1]
        except UnresolvedError:
            return None

    def files(self) -> Iterator[tuple[str, Leaf]]:
        """All files with their paths."""
        pending = [("", self.root)]
        while pending:
            above, folder = pending.pop()
            for name, node in folder.entries.items():
                if isinstance(node, Folder):
                    pending.append((f"{above}{name}/", node))
                elif node.member.kind is Kind.FILE:
                    yield f"{above}{name}", node

    def inward(self, folder: str, link: str) -> str:
        """A link's target, written so that it stays below any directory that the image is unpacked into.

        Args:
            folder: Path of the directory that holds the link.
            link: Target as written: a leading slash and what ``..`` there is above the root mean the image's root.
        """
        if not link.startswith("/") and ".." not in link.split("/"):
            return link  # down only; the links that it may lead through are written inward themselves
        end = self.end(folder, link)
        above, names = (path.split("/") if path else [] for path in (folder, end))
        common = 0
        while common < min(len(above), len(names)) and above[common] == names[common]:
            common += 1
        return "/".join([".."] * (len(above) - common) + names[common:]) or "."

    def end(self, folder: str, link: str) -> str:
        """Where a link in ``folder`` ends; what is not there, or goes round, is taken by its name."""
        stack = self._walk("" if link.startswith("/") else folder)
        parts = [part for part in link.split("/") if part not in {"", "."}]
        rest: list[str] = []
        for index, part in enumerate(parts):
            try:
                stack = self._walk(part, start=stack)
            except UnresolvedError:
                rest = parts[index:]
                break
        names = [name for name, _ in stack[1:]]
        for name in rest:
            names = names[:-1] if name == ".." else [*names, name]
        return "/".join(names)


def strip(folder: Folder, layer: int) -> None:
    """Remove the entries of layers below ``layer`` from a directory."""
    pending = [folder]
    while pending:
        here = pending.pop()
        for name, node in list(here.entries.items()):
            if node.layer < layer:
                del here.entries[name]
            elif isinstance(node, Folder):
                pending.append(node)
