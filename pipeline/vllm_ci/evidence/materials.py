"""What an image was made of: the locked packages and the staged files, checked against each other."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packageurl import PackageURL
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from vllm_ci.domain.errors import ErroredError
from vllm_ci.domain.image_spec import ImageSpec
from vllm_ci.images.lockfile import LockedDeb, LockedWheel, read_debs, read_wheels

# Owners of files in the builder's account that are no package.
_OVERLAY, _DEBIAN, _SETTINGS = "commit", "debian", "settings"
_FOUNDATION = "base image"
_DIST_INFO = re.compile(r".*/site-packages/(?P<name>[^/]+?)-(?P<version>[^/-]+)\.dist-info/METADATA")
# Where a Debian source package's files lie: pool/AREA/PREFIX/SOURCE/FILE (Debian policy's archive layout).
_POOL = re.compile(r"pool/[^/]+/[^/]+/(?P<source>[^/]+)/[^/]+")


@dataclass(frozen=True, kw_only=True)
class Package:
    """A locked package.

    Attributes:
        purl: Package URL (purl specification).
        sha256: Hex digest of its file.
        ecosystem: As OSV names it (``PyPI``, ``Debian:12``).
        source: Name that vulnerability data goes by: the project, or the Debian source package.
    """

    purl: str
    sha256: str
    ecosystem: str
    source: str

    @property
    def name(self) -> str:
        """Its name."""
        return PackageURL.from_string(self.purl).name

    @property
    def version(self) -> str:
        """Its version."""
        return PackageURL.from_string(self.purl).version or ""


@dataclass(frozen=True, kw_only=True)
class Materials:
    """All of it.

    Attributes:
        packages: Wheels and Debian packages, sorted by purl.
        files: Files of the commit: path in the image to hex sha256.
        locks: Lock files: name to hex sha256.
        parameters: What the build was asked for.
        base: Image that it stands on (``NAME@DIGEST``), empty for none.
    """

    packages: tuple[Package, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    locks: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""


def materials(spec: ImageSpec, owners: Mapping[str, Mapping[str, str]], *, replaced: Iterable[LockedWheel] = ()) -> Materials:
    """Materials of an image, from its spec's locks and the builder's account of its files.

    Args:
        spec: What the image was built from.
        owners: Owner (project, ``debian``, ``settings``, ``commit``, ``base image``) to path to hex sha256
            (:mod:`vllm_ci.images.integrity`).
        replaced: Wheels that the builder took instead of locked ones of the same project (vLLM's own, of this very commit).

    Raises:
        ErroredError: Locks and files do not fit: another commit's locks lie in the checkout.
    """
    wheels = [each for each in read_wheels(spec.wheels_lock, spec.platforms) if set(each.platforms) & set(spec.targets)]
    instead = {each.project: each for each in replaced}
    wheels = [instead.get(each.project, each) for each in wheels]
    architectures = {target.partition("/")[2] for target in spec.targets}
    debs = [each for each in (read_debs(spec.debs_lock) if spec.base.suite else ()) if each.architecture in architectures]
    _check(wheels, owners)
    packages = [_wheel(each) for each in wheels] + [_deb(each, spec.base.suite) for each in debs]
    return Materials(
        packages=tuple(sorted({each.purl: each for each in packages}.values(), key=lambda each: each.purl)),
        files=dict(owners.get(_OVERLAY, {})),
        locks={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in _locks(spec)},
        parameters={"image": spec.name, "variant": spec.variant, "platforms": list(spec.targets), "overlays": _overlays(spec)},
        base=spec.base.image,
    )


def _locks(spec: ImageSpec) -> list[Path]:
    return [spec.wheels_lock, *([spec.debs_lock] if spec.base.suite else [])]


def _overlays(spec: ImageSpec) -> list[dict[str, str]]:
    return [{"from": each.source, "to": each.target} for each in spec.overlays]


def _check(wheels: list[LockedWheel], owners: Mapping[str, Mapping[str, str]]) -> None:
    """Each locked wheel is in the image in its locked version, and nothing else is."""
    locked: dict[str, str] = {canonicalize_name(each.project): each.version for each in wheels}
    staged: dict[str, str] = {}
    for owner, files in owners.items():
        if owner not in (_OVERLAY, _DEBIAN, _SETTINGS, _FOUNDATION):
            staged[canonicalize_name(owner)] = ""
            found = [match for path in files if (match := _DIST_INFO.fullmatch(path))]
            staged |= {canonicalize_name(each["name"]): each["version"] for each in found}
    differing = sorted(
        name for name in locked.keys() | staged.keys() if not _same(locked.get(name, "absent"), staged.get(name, "absent"))
    )
    if differing:
        name = differing[0]
        lock, image = locked.get(name, "absent"), staged.get(name, "absent")
        raise ErroredError(
            f"locks and image differ: {name} is {lock} in the one and {image} in the other",
            why=f"{len(differing)} packages differ; the locks in the checkout are those of another commit",
            remedy="check out the commit that the image was built from, or build again",
        )


def _same(one: str, other: str) -> bool:
    try:
        return Version(one) == Version(other)
    except InvalidVersion:
        # A wheel whose metadata is in another layer's half has no version of its own here.
        return one == other or (other == "" and one != "absent")


def _wheel(wheel: LockedWheel) -> Package:
    purl = PackageURL("pypi", None, canonicalize_name(wheel.project), wheel.version, {"file_name": wheel.filename})
    return Package(purl=purl.to_string(), sha256=wheel.sha256, ecosystem="PyPI", source=canonicalize_name(wheel.project))


# Debian's releases by code name (the wiki's DebianReleases), as OSV's ecosystem wants them.
_RELEASES = {"bullseye": "11", "bookworm": "12", "trixie": "13", "forky": "14"}


def _deb(deb: LockedDeb, suite: str) -> Package:
    purl = PackageURL("deb", "debian", deb.name, deb.version, {"arch": deb.architecture, "distro": suite})
    match = _POOL.fullmatch(deb.path)
    release = _RELEASES.get(suite, "")
    return Package(
        purl=purl.to_string(),
        sha256=deb.sha256,
        ecosystem=f"Debian:{release}" if release else "Debian",
        source=match["source"] if match else deb.name,
    )
