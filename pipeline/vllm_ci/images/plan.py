"""Which layers an image has, and what each is made of: its inputs decide its key, and a known key is not made again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from vllm_ci.domain.errors import BuildError, ConfigError
from vllm_ci.domain.image_spec import Files, ImageSpec, Tier, selected
from vllm_ci.images import conflicts
from vllm_ci.images.entries import Entry
from vllm_ci.images.lockfile import LockedWheel
from vllm_ci.images.store import canonical


@dataclass(frozen=True, kw_only=True)
class Made:
    """Content of a layer.

    Attributes:
        entries: Its contents; sorted and completed when the layer is written.
        files: Owner (project or ``debian``, ``commit``) to path to hex sha256 of its files.
    """

    entries: list[Entry]
    files: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """A layer to have.

    Attributes:
        tier: Name of its tier, numbered where a tier has several layers.
        inputs: All that decides its bytes, as JSON.
        wheels: The wheels that making it takes.
        make: Makes its content; called only when its key is unknown.
        explain: What it is, for people.
        whose: Names the owner of a path, for messages; by default the owner of the file.
    """

    tier: str
    inputs: Mapping[str, Any]
    make: Callable[[], Made]
    wheels: tuple[LockedWheel, ...] = ()
    explain: str = ""
    whose: Callable[[str], str] | None = None

    @cached_property
    def key(self) -> str:
        """Hash of the inputs."""
        return hashlib.sha256(canonical(self.inputs)).hexdigest()


def deal(spec: ImageSpec, wheels: Iterable[LockedWheel]) -> list[tuple[Tier, str, tuple[LockedWheel, ...]]]:
    """Wheels by layer, in the order of the spec's tiers: tier, name of the layer, its wheels.

    Raises:
        ConfigError: A wheel belongs to no tier, or to two.
    """
    wheels = sorted(wheels, key=lambda wheel: wheel.project)
    halves: dict[str, list[Files]] = {wheel.project: [] for wheel in wheels}
    dealt = []
    for tier in spec.tiers:
        mine = [wheel for wheel in wheels if selected(wheel.project, tier.wheels)]
        for wheel in mine:
            halves[wheel.project].append(tier.files)
        groups = _filled(mine, tier.max_bytes)
        for number, group in enumerate(groups, 1):
            dealt.append((tier, tier.name if len(groups) == 1 else f"{tier.name}-{number}", tuple(group)))
    for project, files in halves.items():
        if files != [Files.ALL] and sorted(files) != sorted([Files.COMPILED, Files.PYTHON]):
            raise ConfigError(
                f"{project} matches {'no tier' if not files else f'{len(files)} tiers'} of spec {spec.name}",
                why=f"its files are taken as: {', '.join(files) or 'nothing'}",
                remedy="it must match one tier with files: all, or two tiers with files: compiled and files: python",
            )
    return dealt


def _filled(wheels: list[LockedWheel], max_bytes: int) -> list[list[LockedWheel]]:
    """Groups of at most ``max_bytes``, in order; a wheel that is larger gets one of its own."""
    groups: list[list[LockedWheel]] = []
    size = 0
    for wheel in wheels:
        if not groups or size + wheel.size_bytes > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(wheel)
        size += wheel.size_bytes
    return groups


def loses(path: str, project: str, winners: Mapping[str, str]) -> bool:
    """Whether the spec gives ``path`` to another project than ``project``."""
    return any(fnmatchcase(f"/{path}", pattern) and winner != project for pattern, winner in winners.items())


def united(files: Iterable[tuple[str, Entry, str]]) -> tuple[list[Entry], dict[str, dict[str, str]]]:
    """Files of several wheels as one tree; the first of two that claim a path with the same content stays.

    Args:
        files: Project, entry and hex sha256.

    Raises:
        BuildError: Two claim a path with different content, or one has a file where another has a directory.
    """
    taken: dict[str, tuple[str, str]] = {}
    fights: dict[str, tuple[str, str]] = {}
    entries: list[Entry] = []
    owned: dict[str, dict[str, str]] = {}
    for project, entry, digest in files:
        if entry.path in taken:
            owner, known = taken[entry.path]
            if known != digest:
                fights[entry.path] = (owner, project)
            continue
        taken[entry.path] = (project, digest)
        entries.append(entry)
        owned.setdefault(project, {})[entry.path] = digest
    _refuse(fights)
    conflicts.check_one([(entry, taken[entry.path][0]) for entry in entries])
    return entries, owned


def added(entries: Iterable[Entry], more: Iterable[Entry]) -> list[Entry]:
    """Those of ``more`` whose paths are not taken, the first of each path."""
    taken = {entry.path for entry in entries}
    found = []
    for entry in more:
        if entry.path not in taken:
            taken.add(entry.path)
            found.append(entry)
    return found


def check_collisions(layers: Iterable[Mapping[str, Mapping[str, str]]]) -> None:
    """Refuse wheels of different layers that claim a path with different content.

    Raises:
        BuildError: There are such.
    """
    taken: dict[str, tuple[str, str]] = {}
    fights: dict[str, tuple[str, str]] = {}
    for layer in layers:
        for project, files in layer.items():
            for path, digest in files.items():
                owner, known = taken.setdefault(path, (project, digest))
                if known != digest:
                    fights[path] = (owner, project)
    _refuse(fights)


def _refuse(fights: Mapping[str, tuple[str, str]]) -> None:
    if not fights:
        return
    path, (first, second) = next(iter(fights.items()))
    more = f" (and {len(fights) - 1} more paths)" if len(fights) > 1 else ""
    shown = "; ".join(f"/{path}: {' or '.join(owners)}" for path, owners in list(fights.items())[:5])
    raise BuildError(
        f"/{path} is claimed by {first} and by {second}, with different content{more}",
        why="which one is kept would depend on the order of installation",
        remedy=f"lock versions without the conflict, or name winners (path patterns) in the spec: {shown}",
    )


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What changed between the inputs of two layers of one name, in a few words."""
    words = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
            shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            words.append(f"{name}: {shown}")
        else:
            words.append(name)
    return "; ".join(words) or "its blob was missing"
