"""What an image is made of, as package URLs that evidence names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from packageurl import PackageURL
from packaging.utils import canonicalize_name

from vllm_ci.images.lockfile import LockedDeb, LockedWheel
from vllm_ci.images.materials import BuiltFrom

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
    """What an image is made of.

    Attributes:
        packages: Wheels and Debian packages, sorted by purl.
        files: Files of the commit: path in the image to hex sha256.
        locks: Lock files: name to hex sha256.
        parameters: What the build was asked for.
        base: Image that it is based on (``NAME@DIGEST``), empty for none.
    """

    packages: tuple[Package, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    locks: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""


def materials(made: BuiltFrom) -> Materials:
    """Materials of an image, from what was written down when it was built."""
    packages = [_wheel(each) for each in made.wheels] + [_deb(each, made.suite) for each in made.debs]
    return Materials(
        packages=tuple(sorted({each.purl: each for each in packages}.values(), key=lambda each: each.purl)),
        files=made.files,
        locks=made.locks,
        parameters=made.parameters,
        base=made.base,
    )


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
