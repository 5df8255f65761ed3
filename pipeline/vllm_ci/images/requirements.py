"""Whether a lock satisfies what a commit's requirement files or a wheel's metadata ask for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from vllm_ci.domain.errors import ConfigError
from vllm_ci.domain.image_spec import ImageSpec
from vllm_ci.images.lockfile import MACHINES, LockedWheel
from vllm_ci.system.vcs import GitError, git

_COMMENT = re.compile(r"(^|\s)#.*$")


def of_files(root: Path, sha: str, names: Iterable[str]) -> list[str]:
    """Lines of requirement files of a commit, those they include (``-r``) too.

    Raises:
        ConfigError: There is no such file.
    """
    lines: list[str] = []
    for name in names:
        try:
            text = git("cat-file", "blob", f"{sha}:{name}", cwd=root).decode()
        except GitError as error:
            raise ConfigError(f"{name} is not in commit {sha[:12]}", remedy="correct image.vllm.requirements") from error
        for line in text.splitlines():
            clean = _COMMENT.sub("", line).strip()
            if clean.startswith(("-r ", "--requirement ")):
                folder = name.rpartition("/")[0]
                included = clean.split(maxsplit=1)[1]
                lines += of_files(root, sha, (f"{folder}/{included}" if folder else included,))
            elif clean and not clean.startswith("-"):
                lines.append(clean)
    return lines


def check(lines: Iterable[str], *, spec: ImageSpec, wheels: Iterable[LockedWheel], platform: str, whose: str) -> None:
    """Refuse a lock that does not satisfy requirements; what the spec overrides is the spec's business.

    Raises:
        ConfigError: A requirement is not met.
    """
    versions = {canonicalize_name(wheel.project): wheel.version for wheel in wheels}
    ours = {canonicalize_name(Requirement(line).name) for line in spec.overrides}
    surroundings = environment(spec.python, platform)
    unmet = []
    for line in lines:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue
        name = canonicalize_name(wanted.name)
        if name in ours or (wanted.marker and not wanted.marker.evaluate({**surroundings, "extra": ""})):
            continue
        found = versions.get(name)
        if found is None or not wanted.specifier.contains(found, prereleases=True):
            unmet.append(f"{line} (locked: {found or 'nothing'})")
    if unmet:
        raise ConfigError(
            f"{whose} needs packages that the lock of spec {spec.name} does not have",
            why="; ".join(unmet[:5]),
            remedy="add it to requirements of the spec and run vllm-ci lock",
        )


def environment(python: str, platform: str) -> Mapping[str, str]:
    """Variables of environment markers (PEP 508) for a platform."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": MACHINES[platform],
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
