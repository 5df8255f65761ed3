"""Tiny Debian packages, made on the spot."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path


def write_deb(path: Path, name: str, version: str, files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> Path:
    """Write a package with ``data.tar.xz``; names of files start as they do in Debian (``./usr/bin/x``)."""
    control = f"Package: {name}\nVersion: {version}\nArchitecture: all\n".encode()
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": _tar({"./control": control}, {}, "gz"),
        "data.tar.xz": _tar(files, links or {}, "xz"),
    }
    content = b"!<arch>\n"
    for member, data in members.items():
        content += f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _tar(files: Mapping[str, bytes], links: Mapping[str, str], kind: str) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode=f"w:{kind}") as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755 if "/bin/" in name else 0o644
            archive.addfile(info, io.BytesIO(data))
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return output.getvalue()
