"""Tiny wheels, made on the spot."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
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
