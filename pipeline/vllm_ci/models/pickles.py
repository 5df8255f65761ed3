"""Recognises pickles and archives, whatever their names say, and tells what the pickle would do.

Nothing is unpickled: ``pickletools`` of the standard library lists the opcodes. Pickles are refused in any case, so no list of
dangerous functions has to be complete; the scan only names the place.
"""

from __future__ import annotations

import io
import pickletools
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_SCANNED_BYTES = 64 << 20
_MOST_OPCODES = 2_000_000
_ARRAYS = {b"\x93NUMPY": "a NumPy file", b"\x89HDF\r\n\x1a\n": "an HDF5 file"}
# Opcodes that import something or call it.
_IMPORTS = ("GLOBAL", "STACK_GLOBAL", "INST")
_IMPORTED = re.compile(r"[A-Za-z_][\w]*(\.[\w<>]+)+")
_CALLS = ("REDUCE", "OBJ", "INST", "NEWOBJ", "NEWOBJ_EX", "BUILD")


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """Why a file is not taken.

    Attributes:
        kind: ``pickle`` or ``archive``.
        detail: What was found, where.
    """

    kind: str
    detail: str


def look(path: Path) -> Suspect | None:
    """What makes a file a pickle or an archive; ``None`` for a file that is neither."""
    with path.open("rb") as stream:
        head = stream.read(512)
    if head.startswith(b"PK\x03\x04") or (head.startswith(b"PK") and zipfile.is_zipfile(path)):
        return _zip(path)
    if head[257:262] == b"ustar" or head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf")):
        return Suspect(kind="archive", detail=_outside(_tar_names(path)) or "an archive or a compressed file")
    if array := next((name for magic, name in _ARRAYS.items() if head.startswith(magic)), ""):
        return Suspect(kind="pickle", detail=f"{array}, whose elements can be pickles")
    with path.open("rb") as stream:
        found = scan(stream.read(_SCANNED_BYTES))
    return Suspect(kind="pickle", detail=found) if found else None


def scan(content: bytes) -> str:
    """The opcodes of a pickle that import and call, in words; empty when the bytes are no pickle.

    Without the opcode PROTO, which protocols 2 and later begin with, only imports count: a text that begins with a letter can
    look like a few harmless opcodes.
    """
    strings: list[str] = []
    imported, place, seen = "", "", 0
    marked = content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    try:
        for opcode, argument, position in pickletools.genops(io.BytesIO(content)):
            seen += 1
            if opcode.name in _IMPORTS:
                # GLOBAL and INST name module and attribute with a space between them.
                imported = str(argument).replace(" ", ".", 1) if argument else ".".join(strings)
                if not marked and not _IMPORTED.fullmatch(imported):
                    return ""
                place = f"opcode {opcode.name} at byte {position} imports {imported}"
            elif isinstance(argument, str):
                strings = [*strings[-1:], argument]
            if opcode.name in _CALLS and imported and (marked or opcode.name != "BUILD"):
                return f"opcode {opcode.name} at byte {position} calls {imported}"
            if opcode.name == "STOP" or seen >= _MOST_OPCODES:
                break
    except Exception:  # noqa: BLE001 - the bytes are no pickle, or one that ends early
        return (place or "a broken pickle") if marked and seen > 1 else ""
    return place or (f"a pickle of {seen} opcodes that imports nothing" if marked else "")


def _zip(path: Path) -> Suspect:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            for name in names:
                if name.endswith((".pkl", ".pickle")):
                    with archive.open(name) as member:
                        found = scan(member.read(_SCANNED_BYTES))
                    if found:
                        return Suspect(kind="pickle", detail=f"{name} in it: {found}")
    except Exception as error:  # noqa: BLE001 - archives break readers in many ways, and are refused anyway
        return Suspect(kind="archive", detail=f"a broken archive: {type(error).__name__}")
    return Suspect(kind="archive", detail=_outside(names) or f"an archive of {len(names)} files")


def _tar_names(path: Path) -> list[str]:
    try:
        with tarfile.open(path) as archive:
            return [member.name for _, member in zip(range(10_000), archive, strict=False)]
    except Exception:  # noqa: BLE001 - as above
        return []


def _outside(names: list[str]) -> str:
    """The first name that leads out of the folder that an archive is unpacked into."""
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            return f"an archive whose file {name!r} lies outside the folder it would be unpacked into"
    return ""
