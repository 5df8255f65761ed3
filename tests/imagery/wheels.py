"""Tiny wheels, made on the spot."""

from __future__ import annotations

import base64
import hashlib
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ELF = b"\x7fELF\x02\x01\x01" + bytes(57) + b"machine code"


def write_wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, bytes],
    *,
    tag: str = "py3-none-any",
    requires: tuple[str, ...] = (),
    scripts: tuple[str, ...] = (),
) -> Path:
    """Write a wheel with a proper ``RECORD``; the same arguments give the same bytes."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {line}" for line in requires)]
    content = {
        **files,
        f"{info}/METADATA": ("\n".join(lines) + "\n").encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    if scripts:
        content[f"{info}/entry_points.txt"] = ("[console_scripts]\n" + "\n".join(scripts) + "\n").encode()
    rows = [f"{path},sha256={_coded(data)},{len(data)}" for path, data in content.items()] + [f"{info}/RECORD,,"]
    content[f"{info}/RECORD"] = ("\n".join(rows) + "\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            archive.writestr(_member(path), data, zipfile.ZIP_DEFLATED)
    return target


def _member(path: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0))
    member.external_attr = (0o755 if path.endswith(".sh") else 0o644) << 16
    return member


def _coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


@dataclass(kw_only=True)
class RawWheel:
    """A wheel written member by member, so that each part of it may be wrong.

    Attributes:
        name: As in the file's name.
        version: As in the file's name.
        files: Members and their content, in order; a member may be there twice.
        modes: Unix modes (``st_mode``) of members that are not plain files.
        record: Content of ``RECORD``; ``None`` for a correct one, empty for none.
        compression: Method of :mod:`zipfile`.
        tag: As in the file's name.
    """

    name: str = "odd"
    version: str = "1.0"
    files: list[tuple[str, bytes]] = field(default_factory=list)
    modes: dict[str, int] = field(default_factory=dict)
    record: bytes | None = None
    compression: int = zipfile.ZIP_DEFLATED
    tag: str = "py3-none-any"

    @property
    def info(self) -> str:
        """Its ``.dist-info`` directory."""
        return f"{self.name}-{self.version}.dist-info"

    def with_metadata(self) -> list[tuple[str, bytes]]:
        """Its members, those that every wheel has included unless they are given."""
        names = {name for name, _ in self.files}
        own = [
            (f"{self.info}/METADATA", f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n".encode()),
            (f"{self.info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {self.tag}\n".encode()),
        ]
        return [*self.files, *(item for item in own if item[0] not in names)]

    def rows(self) -> list[str]:
        """Correct lines of ``RECORD``, without quoting."""
        return [record_row(name, data) for name, data in self.with_metadata()] + [f"{self.info}/RECORD,,"]

    def write(self, folder: Path) -> Path:
        """Write it; the same wheel gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{self.name}-{self.version}-{self.tag}.whl"
        record = self.record if self.record is not None else ("\n".join(self.rows()) + "\n").encode()
        members = [*self.with_metadata(), *([(f"{self.info}/RECORD", record)] if record else [])]
        with zipfile.ZipFile(target, "w", self.compression) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile warns of duplicate names
            for name, data in members:
                member = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
                member.external_attr = self.modes.get(name, 0o100644) << 16
                member.create_system = 3
                archive.writestr(member, data, self.compression)
        return target


def record_row(name: str, data: bytes, algorithm: str = "sha256") -> str:
    """One line of ``RECORD``."""
    digest = base64.urlsafe_b64encode(hashlib.new(algorithm, data).digest()).decode().rstrip("=")
    return f"{name},{algorithm}={digest},{len(data)}"
