"""The two lock files of an image: the exact contents by name, version and hash, without addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vllm_ci.domain.errors import ConfigError
from vllm_ci.images import store

MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
_RELOCK = "run vllm-ci lock to write it again"
_REQUIREMENT = re.compile(
    r"^# (?P<file>\S+\.whl) (?P<size>\d+)\n"
    r"(?P<name>[^\s=]+)==(?P<version>[^\s;]+)(?P<marker>[^\\\n]*)\\\n"
    r" +--hash=sha256:(?P<sha>[0-9a-f]{64})$",
    re.MULTILINE,
)
_COMMENT = re.compile(r"^#.*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class LockedWheel:
    """One wheel file.

    Attributes:
        project: Normalised name.
        version: Its version.
        filename: Name of the wheel file.
        sha256: Hex digest of the file.
        size_bytes: Size of the file.
        platforms: Platforms it is installed on.
    """

    project: str
    version: str
    filename: str
    sha256: str
    size_bytes: int
    platforms: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LockedDeb:
    """One Debian package file.

    Attributes:
        name: Package name.
        version: Debian version.
        architecture: Debian architecture it is installed on (``amd64``), also for ``Architecture: all``.
        sha256: Hex digest of the file.
        size_bytes: Size of the file.
        path: Where it lies below the root of any mirror (``pool/main/...``).
    """

    name: str
    version: str
    architecture: str
    sha256: str
    size_bytes: int
    path: str


def read_wheels(path: Path, platforms: tuple[str, ...]) -> tuple[LockedWheel, ...]:
    """The wheels of a lock, sorted by project.

    Raises:
        ConfigError: The file is absent or not one of ours.
    """
    text = _text(path)
    wheels = []
    for match in _REQUIREMENT.finditer(text):
        machines = set(re.findall(r"platform_machine == '(\w+)'", match["marker"]))
        wheels.append(
            LockedWheel(
                project=match["name"],
                version=match["version"],
                filename=match["file"],
                sha256=match["sha"],
                size_bytes=int(match["size"]),
                platforms=tuple(name for name in platforms if not machines or MACHINES[name] in machines),
            )
        )
    if len(wheels) != text.count("--hash="):
        raise ConfigError(
            f"{path} has {text.count('--hash=')} hashes, and {len(wheels)} of them could be read",
            why="each requirement needs one hash, and above it a comment with file name and size",
            remedy=_RELOCK,
        )
    if rest := _COMMENT.sub("", _REQUIREMENT.sub("", text)).split():
        raise ConfigError(
            f"{path} has text that is not part of a requirement: {' '.join(rest)[:60]}",
            why="it may come from a merge, or the file was cut short",
            remedy=_RELOCK,
        )
    return tuple(wheels)


def write_wheels(path: Path, wheels: Iterable[LockedWheel], platforms: tuple[str, ...], *, spec: str) -> None:
    """Write a wheel lock: a requirements file that pip can check too."""
    lines = [f"# Wheels of {spec}, written by `vllm-ci lock`: names, versions and hashes; any package index serves them."]
    for wheel in sorted(wheels, key=lambda wheel: (wheel.project, wheel.platforms)):
        machines = [f"platform_machine == '{MACHINES[name]}'" for name in wheel.platforms]
        marker = "" if set(wheel.platforms) == set(platforms) else f" ; {' or '.join(machines)}"
        lines += [
            f"# {wheel.filename} {wheel.size_bytes}",
            f"{wheel.project}=={wheel.version}{marker} \\",
            f"    --hash=sha256:{wheel.sha256}",
        ]
    _write(path, lines)


def read_debs(path: Path) -> tuple[LockedDeb, ...]:
    """The Debian packages of a lock, of all architectures.

    Raises:
        ConfigError: The file is absent or not one of ours.
    """
    debs = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        try:
            architecture, name, version, sha256, size, where = line.split()
            debs.append(
                LockedDeb(
                    name=name, version=version, architecture=architecture, sha256=sha256, size_bytes=int(size), path=where
                )
            )
        except ValueError as error:
            raise ConfigError(
                f"{path}:{number}: not architecture, name, version, sha256, size and path", remedy=_RELOCK
            ) from error
    return tuple(debs)


def write_debs(path: Path, debs: Iterable[LockedDeb], *, spec: str) -> None:
    """Write a Debian lock: one package a line."""
    lines = [
        f"# Debian packages of {spec}, by `vllm-ci lock`: architecture, name, version, sha256, size, path below any mirror.",
        *(
            f"{deb.architecture} {deb.name} {deb.version} {deb.sha256} {deb.size_bytes} {deb.path}"
            for deb in sorted(debs, key=lambda deb: (deb.architecture, deb.name))
        ),
    ]
    _write(path, lines)


def _write(path: Path, lines: Iterable[str]) -> None:
    """Replace a lock in one step: a build that reads it meanwhile sees the old one or the new one, whole."""
    store.write(path.resolve(), ("\n".join(lines) + "\n").encode())


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"the lock {path} does not exist", why="images need locked files", remedy=_RELOCK) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the lock {path} is not UTF-8 text", why=str(error), remedy=_RELOCK) from error
    if not text.strip():
        raise ConfigError(f"the lock {path} is empty", why="images need locked files", remedy=_RELOCK)
    return text
