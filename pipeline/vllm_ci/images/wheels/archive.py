"""The zip file that a wheel is: opened, and refused where two readers could see different files in it."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

from vllm_ci.domain.errors import BuildError
from vllm_ci.domain.paths import shown, whiteout
from vllm_ci.images.entries import Archive
from vllm_ci.images.wheels.record import REBUILD

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # APPNOTE.TXT 4.3.7
_ENCRYPTED = 1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def opened(path: Path) -> Archive:
    """The archive of a wheel.

    Raises:
        BuildError: It is no zip file, or one with names that are not text.
    """
    try:
        return Archive(path)
    except (ValueError, NotImplementedError, struct.error, OverflowError) as error:
        raise BuildError(f"{path.name} is no zip file that can be read", why=str(error), remedy=REBUILD) from error


def members(archive: Archive) -> dict[str, zipfile.ZipInfo]:
    """Files of a wheel by name; of a file that is there twice with the same content, the last.

    Raises:
        BuildError: One must not be there: its name leaves the wheel, deletes files in an image, stands for two contents, or it
            cannot be read.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.members:
        name = info.filename
        if why := _refused(info):
            raise BuildError(f"{archive.path.name}: {shown(name)} {why}", remedy=REBUILD)
        known = found.setdefault(name, info)
        if (known.CRC, known.file_size) != (info.CRC, info.file_size):
            raise BuildError(
                f"{archive.path.name}: {shown(name)} is in the archive twice, with different content",
                why="which one counts would depend on who reads it",
                remedy=REBUILD,
            )
        found[name] = info
    _check_local_names(archive)
    return found


def _refused(info: zipfile.ZipInfo) -> str:
    """Why a member must not be in a wheel; empty when it may."""
    name = info.filename
    if name != info.orig_filename or (not name.isprintable() and any(ord(sign) < 32 or ord(sign) == 127 for sign in name)):
        return "holds a control character in its name"
    if name.startswith("/") or ".." in name.split("/"):
        return f"{'is absolute' if name.startswith('/') else 'holds ..'}, and a wheel installs below the environment only"
    if part := whiteout(name):
        return f"holds {part}: in an image, that name deletes a file of the layers below"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in _METHODS:
        return (
            f"is compressed with method {info.compress_type} (APPNOTE.TXT, 4.4.5), and files of wheels are stored or deflated"
        )
    return ""


def _check_local_names(archive: Archive) -> None:
    """Refuse an archive whose directory and whose files do not agree on names, as Python's zipfile does when it reads."""
    with archive.path.open("rb") as file:
        handle = file.fileno()
        for info in archive.members:
            header = os.pread(handle, _LOCAL_HEADER.size + 1024, info.header_offset)
            if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
                raise BuildError(f"{archive.path.name}: {shown(info.filename)} is not where the archive says", remedy=REBUILD)
            fields = _LOCAL_HEADER.unpack_from(header)
            raw = header[_LOCAL_HEADER.size : _LOCAL_HEADER.size + fields[9]]
            # Bit 11 says UTF-8; without it names are code page 437 (APPNOTE.TXT, appendix D).
            if fields[9] <= 1024 and raw.decode("utf-8" if fields[2] & 0x800 else "cp437", "replace") != info.orig_filename:
                raise BuildError(
                    f"{archive.path.name}: {shown(info.filename)} has another name beside its content: {raw!a}",
                    why="which one counts would depend on who reads it",
                    remedy=REBUILD,
                )
