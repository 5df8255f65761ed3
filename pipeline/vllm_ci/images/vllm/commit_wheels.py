"""Wheels of single commits: found in folders or on indexes, accepted only when they name their commit."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from vllm_ci.domain.image_spec import ImageSpec, VllmSource
from vllm_ci.images import fetch, index
from vllm_ci.images.entries import Archive, ArchiveMember, read
from vllm_ci.images.lockfile import MACHINES, LockedWheel
from vllm_ci.images.store import Store, appearing
from vllm_ci.images.supply import wheel_path
from vllm_ci.system import scratch

_IDENTITY = re.compile(r"(?:__commit__|__commit_id__|commit_id)\s*=\s*(?:commit_id\s*=\s*)?['\"]g?([0-9a-f]{7,40})['\"]")
_LOCAL = re.compile(r"\.?g([0-9a-f]{7,40})\b")


def tags(python: str, glibc: str, platform: str) -> set[Tag]:
    """Wheel tags that fit an image."""
    from packaging.tags import compatible_tags, cpython_tags

    major, minor = (int(part) for part in python.split("."))
    newest = int(glibc.partition(".")[2])
    machine = MACHINES[platform]
    names = [f"manylinux_2_{number}_{machine}" for number in range(newest, 4, -1)]
    names += [f"manylinux2014_{machine}", f"linux_{machine}"]
    return {
        *cpython_tags((major, minor), platforms=names),
        *compatible_tags((major, minor), f"cp{major}{minor}", platforms=names),
    }


class CommitWheels:
    """Places with wheels of commits."""

    def __init__(self, *, spec: ImageSpec, vllm: VllmSource, platform: str, store: Store, locked: LockedWheel) -> None:
        self.vllm, self.platform, self.store, self.locked = vllm, platform, store, locked
        self._tags = tags(spec.python, spec.glibc, platform)

    def find(self, sha: str) -> LockedWheel | None:
        """The wheel of a commit, fetched into the store; ``None`` when no place has one."""
        key = hashlib.sha256("\n".join((sha, self.platform, self.locked.project, *self.vllm.wheels)).encode()).hexdigest()
        record = self.store.record("commit-wheels", key)
        if record is not None:
            wheel = LockedWheel(**{**record, "platforms": (self.platform,)})
            if wheel_path(self.store, wheel).exists():
                return wheel
        for place in self.vllm.wheels:
            named = "{sha}" in place
            for path in self._candidates(place.replace("{sha}", sha)):
                if named or _is_of(path, sha):
                    wheel = self.adopt(path)
                    facts = {name: getattr(wheel, name) for name in ("project", "version", "filename", "sha256", "size_bytes")}
                    self.store.keep("commit-wheels", key, facts)
                    return wheel
        return None

    def fits(self, filename: str) -> bool:
        """Whether a file is a wheel of vLLM for the image's platform and Python."""
        try:
            name, _, _, found = parse_wheel_filename(filename)
        except InvalidWheelFilename:
            return False
        projects = {canonicalize_name(self.locked.project), canonicalize_name(self.vllm.package)}
        return canonicalize_name(name) in projects and bool(found & self._tags)

    def adopt(self, path: Path) -> LockedWheel:
        """Take a wheel file into the store under its hash; the place of the locked one is its."""
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        _, version, _, _ = parse_wheel_filename(path.name)
        wheel = LockedWheel(
            project=self.locked.project,
            version=str(version),
            filename=path.name,
            sha256=sha256,
            size_bytes=path.stat().st_size,
            platforms=(self.platform,),
        )
        target = wheel_path(self.store, wheel)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with appearing(target) as part:
                shutil.copyfile(path, part)
        return wheel

    def _candidates(self, place: str) -> Iterator[Path]:
        if place.startswith(("http://", "https://")):
            yield from self._downloaded(place)
        else:
            folder = Path(place.removeprefix("file://")).expanduser()
            yield from (path for path in sorted(folder.glob("*.whl")) if self.fits(path.name))

    def _downloaded(self, root: str) -> Iterator[Path]:
        """Wheels on the index ``root`` that fit, each fetched whole: such indexes seldom say hashes."""
        from vllm_ci.images.simple import listed

        trusted = index.configured().certificates
        with (
            fetch.client(trusted) as http,
            fetch.receiver(trusted) as receives,
            scratch.folder("wheels-") as folder,
        ):
            for url, filename in listed(root, self.vllm.package, http):
                if self.fits(filename):
                    target = folder / filename
                    fetch.download(url, target, receives)
                    yield target


def _is_of(path: Path, sha: str) -> bool:
    """Whether a wheel says that it was built from a commit: in its version, or in the files its build wrote."""
    version = path.name.split("-")[1]
    found = _LOCAL.search(version.partition("+")[2])
    if found:
        return sha.startswith(found.group(1))
    archive = Archive(path)
    for info in archive.members:
        if info.filename.endswith(("/_version.py", "/commit_id.py")) and info.filename.count("/") == 1:
            text = read(ArchiveMember(archive, info)).decode(errors="replace")
            if match := _IDENTITY.search(text):
                return sha.startswith(match.group(1))
    return False
