"""Refuses layers that would silently hide files of lower layers.

A directory of a layer replaces a link of a lower one (OCI image specification, "Applying Changesets"), a file replaces a
directory with all below it, and a directory replaces a file. All of that is defined, and never intended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vllm_ci.domain.errors import BuildError, ConfigError
from vllm_ci.images.entries import Entry
from vllm_ci.images.members import Kind, Member
from vllm_ci.images.shape import Folder, Leaf, Shape

_WORDS = {Kind.FOLDER: "directory", Kind.LINK: "link", Kind.OTHER: "device"}
_RESERVED_FOR = "base", "environment"


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A layer of an image that is being put together.

    Attributes:
        name: Its tier; of a layer of ``base.image``, its digest.
        members: What is in it.
        whose: Names the owner of a path, for messages.
        ours: We wrote it; layers of ``base.image`` are taken as they are.
    """

    name: str
    members: Sequence[Member]
    whose: Callable[[str], str]
    ours: bool = True


def check_layers(layers: Sequence[Placed], *, reserved: Mapping[str, str]) -> None:
    """Refuse layers that hide files of lower ones by replacing a link, a file or a directory with something else.

    Args:
        layers: Of one image, lowest first.
        reserved: Plain paths that only the base and the environment may bring, each with what it is.

    Raises:
        BuildError: A layer of ``base.image`` cannot be unpacked.
        ConfigError: There are such.
    """
    shape = Shape()
    for layer in layers:
        if layer.ours:
            _Checked(shape, layers, layer).check(reserved if layer.name not in _RESERVED_FOR else {})
        shape.apply(layer.members, name=layer.name)


class _Checked:
    """One layer over those below it."""

    def __init__(self, shape: Shape, layers: Sequence[Placed], layer: Placed) -> None:
        self._shape, self._layers, self._layer = shape, layers, layer

    def check(self, reserved: Mapping[str, str]) -> None:
        gone = {member.path for member in self._layer.members if member.kind is Kind.WHITEOUT}
        new: set[str] = set()
        for member in self._layer.members:
            path = member.path
            if path in reserved and member.kind is not Kind.FOLDER:
                self._refuse_reserved(path, reserved[path])
            if member.kind in {Kind.WHITEOUT, Kind.OPAQUE, Kind.NOTHING}:
                continue
            # What lower layers have not is not asked for again below it.
            node = None if path in gone or path.rpartition("/")[0] in new else self._shape.at(path)
            if node is not None:
                self._check_over(member, node)
            elif member.kind is Kind.FOLDER:
                new.add(path)

    def _check_over(self, member: Member, node: Folder | Leaf) -> None:
        below = Kind.FOLDER if isinstance(node, Folder) else node.member.kind
        if (member.kind is Kind.FOLDER) == (below is Kind.FOLDER):
            return
        if isinstance(node, Leaf) and below is Kind.LINK:
            self._refuse_link(member.path, node)
        # A link may stand for a directory of the base that nothing uses (/mnt, /srv).
        base = self._layers[node.layer]
        if (
            member.kind is Kind.LINK
            and isinstance(node, Folder)
            and not node.entries
            and (base.name == "base" or not base.ours)
        ):
            return
        refuse_kinds(member.path, (member.kind, self._layer.whose(member.path)), (below, base.whose(member.path)))

    def _refuse_link(self, path: str, node: Leaf) -> None:
        placed = next((each.path for each in self._layer.members if each.path.startswith(f"{path}/")), path)
        leaf = next((each.path for each in self._layer.members if each.path.startswith(f"{placed}/")), placed)
        raise ConfigError(
            f"{self._layer.whose(leaf)} goes through /{path}, a link to {node.member.link}"
            f" ({self._layers[node.layer].whose(path)})",
            why=f"/{leaf} would create a directory /{path}, and a directory of a layer replaces a link of a lower one:"
            f" files that are reached through /{path} would be hidden",
            remedy=f"write /{self._shape.end(path.rpartition('/')[0], node.member.link)} instead of /{path}",
        )

    def _refuse_reserved(self, path: str, what: str) -> None:
        raise ConfigError(
            f"{self._layer.whose(path)} would replace /{path}, {what}",
            why="the image's Python would be replaced, or would not start",
            remedy="rename the file, or leave it out",
        )


def check_one(files: Sequence[tuple[Entry, str]], *, error: type[BuildError | ConfigError] = BuildError) -> None:
    """Refuse a file or link of one owner where another has a directory, in one layer.

    Args:
        files: Contents of the layer, each with its owner.
        error: What to raise.

    Raises:
        BuildError: There are such (or another error, if that is asked for).
    """
    leaves = {entry.path: (Kind.LINK if entry.link else Kind.FILE, owner) for entry, owner in files if not entry.folder}
    known: set[str] = set()
    for entry, owner in files:
        above = entry.path if entry.folder else entry.path.rpartition("/")[0]
        while above and above not in known:
            if above in leaves:
                refuse_kinds(above, leaves[above], (Kind.FOLDER, owner), error=error)
            known.add(above)
            above = above.rpartition("/")[0]


def refuse_kinds(
    path: str, one: tuple[Kind, str], other: tuple[Kind, str], *, error: type[BuildError | ConfigError] = ConfigError
) -> None:
    """Raise the error for two owners that use one path for different kinds of files."""
    first, second = (f"a {_WORDS.get(kind, 'file')} of {owner}" for kind, owner in (one, other))
    raise error(
        f"/{path} is {first} and {second}",
        why="only one of them can exist; the other would be hidden with everything below it",
        remedy=f"leave one of them out, or use versions of {one[1]} and {other[1]} that agree",
    )


def owner_of(files: Mapping[str, Mapping[str, str]], path: str, *, otherwise: str) -> str:
    """The owner of a path: of that file, or of one below it."""
    for owner, paths in files.items():
        if path in paths:
            return owner
    below = f"{path}/"
    return next((owner for owner, paths in files.items() if any(each.startswith(below) for each in paths)), otherwise)


def owners(items: Iterable[tuple[str, str]]) -> Callable[[str], str]:
    """``whose`` of a layer of a few things with names: the nearest at or above a path has it, then the nearest below it."""
    known = [(path.strip("/"), name) for path, name in items]

    def whose(path: str) -> str:
        above = [(len(place), number) for number, (place, _) in enumerate(known) if _is_below(path, place)]
        below = [(-len(place), number) for number, (place, _) in enumerate(known) if place and _is_below(place, path)]
        exact = [each for each in above if each[0]]
        return known[max(exact or below or above)[1]][1]

    return whose


def _is_below(path: str, place: str) -> bool:
    return not place or f"{path}/".startswith(f"{place}/")
