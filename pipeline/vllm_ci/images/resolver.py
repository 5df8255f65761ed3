"""From a spec's requirements to its two locks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from vllm_ci.domain.errors import BuildError, ConfigError
from vllm_ci.domain.events import Emit, ignore, step
from vllm_ci.domain.image_spec import ImageSpec
from vllm_ci.images import store, uv, wheel_metadata
from vllm_ci.images import upgrade as upgrading
from vllm_ci.images.debian import apt
from vllm_ci.images.debian.mirrors import sources
from vllm_ci.images.fetch import client
from vllm_ci.images.index import configured
from vllm_ci.images.lockfile import LockedDeb, LockedWheel, read_debs, read_wheels, write_debs, write_wheels
from vllm_ci.images.store import Store
from vllm_ci.images.upgrade import Edit


@dataclass(frozen=True, kw_only=True)
class LockChange:
    """What a new lock does to one package; an empty version means absent."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Locked:
    """What a lock changed.

    Attributes:
        changes: By package.
        edits: Pins of the spec that changed, in its file.
    """

    changes: tuple[LockChange, ...]
    edits: tuple[Edit, ...] = ()


def lock(
    spec: ImageSpec,
    *,
    file: Path | None = None,
    upgrade: bool = False,
    packages: Iterable[str] = (),
    exclude_newer: str = "",
    only: str = "",
    dry_run: bool = False,
    emit: Emit = ignore,
) -> Locked:
    """Resolve ``spec`` for all its platforms and write its locks.

    Args:
        spec: What to lock.
        file: The spec's file, whose pins of ``packages`` are edited; without it a pinned package stays as it is.
        upgrade: Take the newest wheels of everything; else versions that still fit stay. Debian packages follow their suite.
        packages: Projects to take the newest wheels of, or ``NAME==VERSION``.
        exclude_newer: Date after which nothing is taken.
        only: ``wheels`` or ``debs``; empty for both.
        dry_run: Write nothing.
        emit: Told of each step.

    Raises:
        BuildError: Nothing satisfies the spec.
        ConfigError: A pin cannot be replaced in the spec's file.
        UsageError: One of ``packages`` is neither a name nor an exact version.
    """
    edits: tuple[Edit, ...] = ()
    old_wheels = _locked(lambda: read_wheels(spec.wheels_lock, spec.platforms))
    old_debs = _locked(lambda: read_debs(spec.debs_lock))
    new_wheels, new_debs = old_wheels, old_debs
    if only != "debs":
        dated = ["--exclude-newer", exclude_newer] if exclude_newer else []
        prefer = {} if upgrade else {w.project: w.version for w in old_wheels}
        with step(emit, "resolve wheels", ", ".join(spec.platforms)) as done:
            new_wheels, edits = _resolved(spec, packages, prefer=prefer, arguments=dated, edit=file is not None)
            done(f"{len(new_wheels)} wheels")
    if only != "wheels":
        with step(emit, "resolve packages", f"Debian {spec.base.suite}") as done:
            new_debs = resolve_debs(spec)
            done(f"{len(new_debs)} packages")
    if edits and file is not None:
        text = upgrading.rewritten(file.read_text(encoding="utf-8"), edits, file=file)
        if not dry_run:
            store.write(file.resolve(), text.encode())
    if not dry_run:
        write_wheels(spec.wheels_lock, new_wheels, spec.platforms, spec=spec.name)
        write_debs(spec.debs_lock, new_debs, spec=spec.name)
    return Locked(changes=_changes(_versions(old_wheels, old_debs), _versions(new_wheels, new_debs)), edits=edits)


def _resolved(
    spec: ImageSpec, packages: Iterable[str], *, prefer: Mapping[str, str], arguments: list[str], edit: bool
) -> tuple[tuple[LockedWheel, ...], tuple[Edit, ...]]:
    """The wheels of ``spec`` with other versions of some packages, and the changes that its pins need for that."""
    upgrade = upgrading.of(spec, packages)
    given = [*arguments, *(part for name in upgrade.packages for part in ("--upgrade-package", name))]
    if not upgrade.pinned or not edit:
        return resolve_wheels(spec, prefer=prefer, arguments=given), ()
    found = resolve_packages(upgrade.spec, prefer=prefer, arguments=given)
    chosen = {str(package["name"]): package for _, package in found}
    versions = {name: str(chosen[name]["version"]) for name in upgrade.pinned}
    required = {name: wheel_metadata.requirements(uv.wheel_of(chosen[name])[2]) for name in upgrade.pinned}
    edits = upgrading.edits(upgrade, versions, required)
    # Again, because an override may have changed as well; all versions of the first resolution that still fit stay.
    return resolve_wheels(upgrading.applied(spec, edits), prefer=prefer, arguments=given), edits


_Entry = TypeVar("_Entry")


def _locked(read: Callable[[], tuple[_Entry, ...]]) -> tuple[_Entry, ...]:
    try:
        return read()
    except ConfigError:
        return ()


def _changes(before: dict[str, str], after: dict[str, str]) -> tuple[LockChange, ...]:
    return tuple(
        LockChange(name=name, before=before.get(name, ""), after=after.get(name, ""))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    )


def _versions(wheels: Iterable[LockedWheel], debs: Iterable[LockedDeb]) -> dict[str, str]:
    return {
        **{f"{wheel.project} (wheel)": wheel.version for wheel in wheels},
        **{f"{deb.name} ({deb.architecture})": deb.version for deb in debs},
    }


def resolve_packages(
    spec: ImageSpec, *, prefer: Mapping[str, str], arguments: Iterable[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The packages for each platform of ``spec``, as (platform, package)."""
    for platform in spec.platforms:
        for package in uv.resolve(
            spec.requirements,
            overrides=spec.overrides,
            python=spec.python,
            glibc=spec.glibc,
            platform=platform,
            indexes=configured(),
            prefer=prefer,
            arguments=arguments,
        ):
            yield platform, package


def resolve_wheels(spec: ImageSpec, *, prefer: Mapping[str, str], arguments: Iterable[str] = ()) -> tuple[LockedWheel, ...]:
    """The wheels for each platform of ``spec``; one entry where several platforms take the same file."""
    indexes = configured()
    chosen: dict[str, tuple[dict[str, str], list[str]]] = {}
    for platform, package in resolve_packages(spec, prefer=prefer, arguments=arguments):
        filename, sha256, place = uv.wheel_of(package)
        facts = {"project": package["name"], "version": package["version"], "filename": filename, "place": place}
        chosen.setdefault(sha256, (facts, []))[1].append(platform)
    with client(indexes.certificates) as http, ThreadPoolExecutor(16) as pool:
        sizes = pool.map(lambda item: _size(item[0]["place"], http), chosen.values())
        return tuple(
            LockedWheel(
                project=facts["project"],
                version=facts["version"],
                filename=facts["filename"],
                sha256=sha256,
                size_bytes=size,
                platforms=tuple(platforms),
            )
            for (sha256, (facts, platforms)), size in zip(chosen.items(), sizes, strict=True)
        )


def _size(place: str, http: object) -> int:
    """Size of a wheel without fetching it (not every index lists sizes)."""
    import httpx

    parts = urlsplit(place)
    if parts.scheme in {"", "file"}:
        return Path(parts.path).stat().st_size
    assert isinstance(http, httpx.Client)  # noqa: S101
    answer = http.head(place)
    if answer.is_error or "content-length" not in answer.headers:
        raise BuildError(
            f"the index does not report the size of {place.rpartition('/')[2]} is", why=f"it answered {answer.status_code}"
        )
    return int(answer.headers["content-length"])


def resolve_debs(spec: ImageSpec) -> tuple[LockedDeb, ...]:
    """The Debian packages of the base for each platform of ``spec``."""
    where = sources(spec.base.suite)
    state = Store().root / "apt"
    return tuple(
        deb
        for platform in spec.platforms
        for deb in apt.resolve(spec.base.packages, architecture=platform.partition("/")[2], sources=where, state=state)
    )
