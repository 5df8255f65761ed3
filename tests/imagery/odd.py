"""Odd wheels: each a name, and what is odd about it; what pip and uv make of them is asked of pip and uv."""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from imagery.wheels import RawWheel, record_row

INFO = "odd-1.0.dist-info"
DATA = "odd-1.0.data"
CODE = [("odd.py", b"def main(): pass\n")]


def _record(edit: Callable[[list[str]], str | bytes], files: list[tuple[str, bytes]] = CODE) -> RawWheel:
    made = RawWheel(files=files)
    text = edit(made.rows())
    return RawWheel(files=files, record=text if isinstance(text, bytes) else text.encode())


def _text(rows: list[str]) -> str:
    return "\n".join(rows) + "\n"


def _points(text: str | bytes, *more: tuple[str, bytes]) -> RawWheel:
    content = text if isinstance(text, bytes) else text.encode()
    return RawWheel(files=[*CODE, *more, (f"{INFO}/entry_points.txt", content)])


def _console(*lines: str) -> RawWheel:
    return _points("[console_scripts]\n" + "\n".join(lines) + "\n")


def _replaced(rows: list[str], name: str, row: str) -> str:
    return _text([row if line.startswith(f"{name},") else line for line in rows])


RECORDS: dict[str, RawWheel] = {
    "record: correct": RawWheel(files=CODE),
    "record: absent": RawWheel(files=CODE, record=b""),
    "record: blank line in the middle": _record(lambda rows: _text([rows[0], "", *rows[1:]])),
    "record: blank line at the end": _record(lambda rows: _text([*rows, ""])),
    "record: line of spaces": _record(lambda rows: _text([rows[0], "  ", *rows[1:]])),
    "record: name with an unquoted comma": RawWheel(files=[("a,b.py", b"x=1\n"), *CODE]),
    "record: name with a quoted comma": _record(
        lambda rows: _text([rows[0].replace("a,b.py", '"a,b.py"'), *rows[1:]]), [("a,b.py", b"x=1\n"), *CODE]
    ),
    "record: unclosed quote": _record(lambda rows: _text(['"' + rows[0], *rows[1:]])),
    "record: Latin-1": _record(lambda rows: _text(rows).encode("latin-1"), [("caf\u00e9.txt", b"x"), *CODE]),
    "record: UTF-16": _record(lambda rows: _text(rows).encode("utf-16")),
    "record: not base64": _record(lambda rows: _replaced(rows, "odd.py", "odd.py,sha256=!!!,17")),
    "record: base64 of another length": _record(lambda rows: _replaced(rows, "odd.py", "odd.py,sha256=abcd,17")),
    "record: hash without a name": _record(lambda rows: _replaced(rows, "odd.py", "odd.py,abcd,17")),
    "record: unknown hash": _record(lambda rows: _replaced(rows, "odd.py", "odd.py,crc99=abcd,17")),
    "record: wrong hash": _record(lambda rows: _replaced(rows, "odd.py", record_row("odd.py", b"other"))),
    "record: size is no number": _record(lambda rows: _replaced(rows, "odd.py", "odd.py,,many")),
    "record: negative size": _record(lambda rows: _replaced(rows, "odd.py", "odd.py,,-1")),
    "record: name alone": _record(lambda rows: _replaced(rows, "odd.py", "odd.py")),
    "record: two fields": _record(lambda rows: _replaced(rows, "odd.py", "odd.py,")),
    "record: four fields": _record(lambda rows: _replaced(rows, "odd.py", "odd.py,,,")),
    "record: empty name": _record(lambda rows: _text([",,", *rows])),
    "record: row missing": _record(lambda rows: _text(rows[1:])),
    "record: row of itself missing": _record(lambda rows: _text(rows[:-1])),
    "record: row without a file": _record(lambda rows: _text([*rows, "absent.py,,"])),
    "record: sha384": _record(lambda rows: _replaced(rows, "odd.py", record_row("odd.py", CODE[0][1], "sha384"))),
    "record: sha512": _record(lambda rows: _replaced(rows, "odd.py", record_row("odd.py", CODE[0][1], "sha512"))),
    "record: md5": _record(lambda rows: _replaced(rows, "odd.py", record_row("odd.py", CODE[0][1], "md5"))),
    "record: hash name in capitals": _record(lambda rows: _text([rows[0].replace("sha256", "SHA256"), *rows[1:]])),
    "record: absolute name": _record(lambda rows: _text([*rows, "/etc/passwd,,"])),
    "record: name that climbs": _record(lambda rows: _text([*rows, "../../../../etc/passwd,,"])),
    "record: CRLF": _record(lambda rows: _text(rows).replace("\n", "\r\n")),
    "record: CR alone": _record(lambda rows: _text(rows).replace("\n", "\r")),
    "record: byte order mark": _record(lambda rows: "\ufeff" + _text(rows)),
    "record: no newline at the end": _record("\n".join),
    "record: the same row twice": _record(lambda rows: _text([rows[0], *rows])),
    "record: two rows that differ": _record(lambda rows: _text(["odd.py,,", *rows])),
    "record: backslashes": _record(
        lambda rows: _text([rows[0].replace("pkg/a.py", "pkg\\a.py"), *rows[1:]]), [("pkg/a.py", b""), *CODE]
    ),
    "record: NUL": _record(lambda rows: _text(["odd\0.py,,", *rows])),
    "record: a comment": _record(lambda rows: _text(["# made by hand", *rows])),
    "record: signature beside it": RawWheel(files=[*CODE, (f"{INFO}/RECORD.jws", b"{}"), (f"{INFO}/RECORD.p7s", b"x")]),
}

ENTRY_POINTS: dict[str, RawWheel] = {
    "entry point: correct": _console("tool = odd:main"),
    "entry point: without a function": _console("tool = odd"),
    "entry point: without a module": _console("tool = :main"),
    "entry point: empty value": _console("tool ="),
    "entry point: without a value": _console("tool"),
    "entry point: without a name": _console("= odd:main"),
    "entry point: twice": _console("tool = odd:a", "tool = odd:b"),
    "entry point: twice, the same": _console("tool = odd:a", "tool = odd:a"),
    "entry point: group twice": _points("[console_scripts]\na = odd:a\n[console_scripts]\nb = odd:b\n"),
    "entry point: console and graphical": _points("[console_scripts]\ntool = odd:a\n[gui_scripts]\ntool = odd:b\n"),
    "entry point: graphical": _points("[gui_scripts]\ntool = odd:a\n"),
    "entry point: byte order mark": _points(b"\xef\xbb\xbf[console_scripts]\ntool = odd:main\n"),
    "entry point: Latin-1": _points("[console_scripts]\ntool = odd:main\n# caf\u00e9\n".encode("latin-1")),
    "entry point: with an extra": _console("tool = odd:main [fast]"),
    "entry point: with an extra, tight": _console("tool = odd:main[fast]"),
    "entry point: with two extras": _console("tool = odd:main [fast, slow]"),
    "entry point: empty extra": _console("tool = odd:main []"),
    "entry point: comments": _console("# first", "tool = odd:main", "; last"),
    "entry point: comment after the value": _console("tool = odd:main # why"),
    "entry point: empty group": _points("[console_scripts]\n\n[gui_scripts]\n"),
    "entry point: empty file": _points(""),
    "entry point: no group": _points("tool = odd:main\n"),
    "entry point: broken group": _points("[console_scripts\ntool = odd:main\n"),
    "entry point: group with spaces": _points("[ console_scripts ]\ntool = odd:main\n"),
    "entry point: no spaces": _console("tool=odd:main"),
    "entry point: many spaces": _console("tool   =   odd : main"),
    "entry point: tabs": _console("tool\t=\todd:main"),
    "entry point: indented": _console("  tool = odd:main"),
    "entry point: continued": _console("tool = odd:main", "  more"),
    "entry point: colon for equals": _console("tool: odd:main"),
    "entry point: CRLF": _points("[console_scripts]\r\ntool = odd:main\r\n"),
    "entry point: capitals in the name": _console("Tool = odd:main"),
    "entry point: space in the name": _console("my tool = odd:main"),
    "entry point: dots and dashes": _console("my.tool-2_x = odd.sub:Class.method"),
    "entry point: slash in the name": _console("sub/tool = odd:main"),
    "entry point: climbing name": _console("../../tool = odd:main"),
    "entry point: absolute name": _console("/etc/tool = odd:main"),
    "entry point: name in another script": _console("caf\u00e9 = odd:main"),
    "entry point: module in another script": _console("tool = caf\u00e9:main"),
    "entry point: not an identifier": _console("tool = odd-one:main"),
    "entry point: code for a function": _console("tool = odd:main()"),
    "entry point: line break in the value": _points("[console_scripts]\ntool = odd:main\\nimport os\n"),
    "entry point: two colons": _console("tool = odd:main:more"),
    "entry point: other group is odd": _points("[console_scripts]\ntool = odd:main\n[other]\nx = not a : valid % point\n"),
    "entry point: percent sign": _console("tool = odd:main%(x)s"),
    "entry point: called python": _console("python = odd:main"),
    "entry point: called python3": _console("python3 = odd:main"),
    "entry point: called python3.11": _console("python3.11 = odd:main"),
    "entry point: called Python": _console("Python = odd:main"),
    "entry point: called activate": _console("activate = odd:main"),
    "entry point: called .wh.tool": _console(".wh.tool = odd:main"),
    "entry point: called .": _console(". = odd:main"),
    "script: shipped and declared": _points("[console_scripts]\ntool = odd:main\n", (f"{DATA}/scripts/tool", b"#!python\n")),
    "script: shipped as tool-script.py": _points(
        "[console_scripts]\ntool = odd:main\n", (f"{DATA}/scripts/tool-script.py", b"#!python\n")
    ),
    "script: shipped as tool.exe": _points("[console_scripts]\ntool = odd:main\n", (f"{DATA}/scripts/tool.exe", b"MZ")),
    "script: pythonw": RawWheel(files=[*CODE, (f"{DATA}/scripts/tool", b"#!pythonw\nprint()\n")]),
    "script: python3": RawWheel(files=[*CODE, (f"{DATA}/scripts/tool", b"#!/usr/bin/env python3\nprint()\n")]),
    "script: empty": RawWheel(files=[*CODE, (f"{DATA}/scripts/tool", b"")]),
    "script: arguments after python": RawWheel(files=[*CODE, (f"{DATA}/scripts/tool", b"#!python -E\nprint()\n")]),
    "script: CRLF": RawWheel(files=[*CODE, (f"{DATA}/scripts/tool", b"#!python\r\nprint()\r\n")]),
    "script: in a directory": RawWheel(files=[*CODE, (f"{DATA}/scripts/sub/tool", b"#!python\n")]),
    "script: called python": RawWheel(files=[*CODE, (f"{DATA}/scripts/python", b"#!/bin/sh\n")]),
    "data: replaces the interpreter": RawWheel(files=[*CODE, (f"{DATA}/data/bin/python3", b"#!/bin/sh\n")]),
    "data: replaces pyvenv.cfg": RawWheel(files=[*CODE, (f"{DATA}/data/pyvenv.cfg", b"home = /\n")]),
    "data: brings activate": RawWheel(files=[*CODE, (f"{DATA}/data/bin/activate", b"")]),
    "data: unknown scheme": RawWheel(files=[*CODE, (f"{DATA}/other/x", b"")]),
    "data: file beside the schemes": RawWheel(files=[*CODE, (f"{DATA}/x", b"")]),
    "data: of another name": RawWheel(files=[*CODE, ("other-1.0.data/data/x", b"")]),
    "data: the same file in purelib and platlib": RawWheel(
        files=[*CODE, (f"{DATA}/purelib/a.py", b"1"), (f"{DATA}/platlib/a.py", b"1")]
    ),
    "data: two files at one path": RawWheel(files=[*CODE, (f"{DATA}/purelib/a.py", b"1"), (f"{DATA}/platlib/a.py", b"2")]),
    "data: file where a directory is": RawWheel(files=[*CODE, ("pkg/a.py", b"1"), (f"{DATA}/purelib/pkg", b"2")]),
}

DIST_INFO: dict[str, RawWheel] = {
    "dist-info: INSTALLER": RawWheel(files=[*CODE, (f"{INFO}/INSTALLER", b"pip\n")]),
    "dist-info: REQUESTED": RawWheel(files=[*CODE, (f"{INFO}/REQUESTED", b"")]),
    "dist-info: direct_url.json": RawWheel(files=[*CODE, (f"{INFO}/direct_url.json", b'{"url": "file:///x", "dir_info": {}}')]),
    "dist-info: absent": RawWheel(version="2.0", files=CODE, record=b"x"),
    "dist-info: two": RawWheel(files=[*CODE, ("other-1.0.dist-info/METADATA", b"Metadata-Version: 2.1\n")]),
    "dist-info: of another project": RawWheel(files=CODE),
    "dist-info: other spelling": RawWheel(name="Odd_One", files=CODE),
    "metadata: absent": RawWheel(files=CODE),
    "metadata: another name": RawWheel(
        files=[*CODE, (f"{INFO}/METADATA", b"Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")]
    ),
    "metadata: another version": RawWheel(
        files=[*CODE, (f"{INFO}/METADATA", b"Metadata-Version: 2.1\nName: odd\nVersion: 2.0\n")]
    ),
    "metadata: version spelt otherwise": RawWheel(
        files=[*CODE, (f"{INFO}/METADATA", b"Metadata-Version: 2.1\nName: odd\nVersion: 1.0.0\n")]
    ),
    "metadata: no name": RawWheel(files=[*CODE, (f"{INFO}/METADATA", b"Metadata-Version: 2.1\nVersion: 1.0\n")]),
    "metadata: empty": RawWheel(files=[*CODE, (f"{INFO}/METADATA", b"")]),
    "metadata: Latin-1": RawWheel(
        files=[
            *CODE,
            (f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: odd\nVersion: 1.0\nAuthor: caf\u00e9\n".encode("latin-1")),
        ]
    ),
    "metadata: unknown version of the format": RawWheel(
        files=[*CODE, (f"{INFO}/METADATA", b"Metadata-Version: 9.9\nName: odd\nVersion: 1.0\n")]
    ),
    "WHEEL: absent": RawWheel(files=CODE),
    "WHEEL: empty": RawWheel(files=[*CODE, (f"{INFO}/WHEEL", b"")]),
    "WHEEL: version 1.9": RawWheel(files=[*CODE, (f"{INFO}/WHEEL", b"Wheel-Version: 1.9\nRoot-Is-Purelib: true\n")]),
    "WHEEL: version 2.0": RawWheel(files=[*CODE, (f"{INFO}/WHEEL", b"Wheel-Version: 2.0\nRoot-Is-Purelib: true\n")]),
    "WHEEL: version is no number": RawWheel(files=[*CODE, (f"{INFO}/WHEEL", b"Wheel-Version: one\nRoot-Is-Purelib: true\n")]),
    "WHEEL: no version": RawWheel(files=[*CODE, (f"{INFO}/WHEEL", b"Root-Is-Purelib: true\n")]),
    "WHEEL: no Root-Is-Purelib": RawWheel(files=[*CODE, (f"{INFO}/WHEEL", b"Wheel-Version: 1.0\n")]),
    "WHEEL: Latin-1": RawWheel(
        files=[*CODE, (f"{INFO}/WHEEL", "Wheel-Version: 1.0\nGenerator: caf\u00e9\nRoot-Is-Purelib: true\n".encode("latin-1"))]
    ),
}

ARCHIVES: dict[str, RawWheel] = {
    "zip: whiteout": RawWheel(files=[*CODE, ("odd/.wh.other", b"x")]),
    "zip: opaque whiteout": RawWheel(files=[*CODE, ("odd/.wh..wh..opq", b"")]),
    "zip: directory with a whiteout's name": RawWheel(files=[*CODE, (".wh.odd/x", b"x")]),
    "zip: member twice, the same": RawWheel(files=[*CODE, *CODE]),
    "zip: member twice, different": RawWheel(files=[*CODE, ("odd.py", b"other\n")]),
    "zip: link": RawWheel(files=[*CODE, ("link", b"odd.py")], modes={"link": stat.S_IFLNK | 0o777}),
    "zip: link outside": RawWheel(files=[*CODE, ("link", b"/etc/passwd")], modes={"link": stat.S_IFLNK | 0o777}),
    "zip: device": RawWheel(files=[*CODE, ("null", b"")], modes={"null": stat.S_IFCHR | 0o666}),
    "zip: setuid": RawWheel(files=[*CODE, ("tool", b"")], modes={"tool": stat.S_IFREG | 0o4755}),
    "zip: no mode": RawWheel(files=[*CODE, ("tool", b"")], modes={"tool": 0}),
    "zip: climbing name": RawWheel(files=[*CODE, ("../../evil.py", b"x")]),
    "zip: climbing inside": RawWheel(files=[*CODE, ("pkg/../evil.py", b"x")]),
    "zip: absolute name": RawWheel(files=[*CODE, ("/etc/evil", b"x")]),
    "zip: name with a backslash": RawWheel(files=[*CODE, ("pkg\\a.py", b"x")]),
    "zip: drive letter": RawWheel(files=[*CODE, ("C:/a.py", b"x")]),
    "zip: name with a dot component": RawWheel(files=[*CODE, ("./pkg/./a.py", b"x")]),
    "zip: name with a double slash": RawWheel(files=[*CODE, ("pkg//a.py", b"x")]),
    "zip: name with a line break": RawWheel(files=[*CODE, ("a\nb.py", b"x")]),
    "zip: name with a control character": RawWheel(files=[*CODE, ("a\x07b.py", b"x")]),
    "zip: directory with a file's name": RawWheel(files=[*CODE, ("pkg", b"x"), ("pkg/a.py", b"x")]),
    "zip: directories": RawWheel(files=[("pkg/", b""), *CODE, ("pkg/a.py", b"x")], modes={"pkg/": stat.S_IFDIR | 0o755}),
    "zip: stored": RawWheel(files=CODE, compression=zipfile.ZIP_STORED),
    "zip: bzip2": RawWheel(files=CODE, compression=zipfile.ZIP_BZIP2),
    "zip: LZMA": RawWheel(files=CODE, compression=zipfile.ZIP_LZMA),
    "zip: encrypted": RawWheel(files=CODE),
    "zip: NUL in a name": RawWheel(files=[*CODE, ("a_b.py", b"x")]),
    "zip: name that is no UTF-8": RawWheel(files=[*CODE, ("caf\u00e9.py", b"x")]),
    "zip: data descriptors": RawWheel(files=CODE),
    "zip: zip64": RawWheel(files=CODE),
    "zip: local name differs": RawWheel(files=[*CODE, ("aaa.py", b"x")]),
    "zip: damaged content": RawWheel(files=[("big.py", bytes(range(256)) * 64), *CODE]),
    "zip: wrong checksum": RawWheel(files=CODE, compression=zipfile.ZIP_STORED),
    "zip: bytes before": RawWheel(files=CODE),
    "zip: bytes after": RawWheel(files=CODE),
    "zip: cut off": RawWheel(files=CODE),
    "zip: comment": RawWheel(files=CODE),
    "zip: empty archive": RawWheel(files=CODE),
}

TABLE: dict[str, RawWheel] = {**RECORDS, **ENTRY_POINTS, **DIST_INFO, **ARCHIVES}


def write(label: str, folder: Path) -> Path:
    """Write the wheel of that name."""
    path = TABLE[label].write(folder)
    if edit := _EDITS.get(label):
        edit(path)
    return path


def _bytes(edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        before = path.read_bytes()
        after = edit(before)
        assert after != before, path.name
        path.write_bytes(after)

    return apply


def _without(*names: str) -> Callable[[Path], None]:
    return _rewritten(lambda members: [(name, data) for name, data in members if not name.startswith(names)])


def _rewritten(edit: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in edit(members):
                archive.writestr(zipfile.ZipInfo(name), data)

    return apply


def _flagged(bit: int) -> Callable[[bytes], bytes]:
    """Set a general purpose flag in every header (APPNOTE.TXT, 4.4.4)."""

    def edit(content: bytes) -> bytes:
        made = bytearray(content)
        for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            position = made.find(magic)
            while position >= 0:
                (flags,) = struct.unpack_from("<H", made, position + offset)
                struct.pack_into("<H", made, position + offset, flags | bit)
                position = made.find(magic, position + 4)
        return bytes(made)

    return edit


def _streamed(path: Path) -> None:
    """As written to a pipe: sizes and checksums follow the content."""

    class Pipe:
        def __init__(self, target: Path) -> None:
            self.file = target.open("wb")

        def write(self, data: bytes) -> int:
            return self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    pipe = Pipe(path)
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    pipe.file.close()


def _zip64(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                member.write(data)


_EDITS: dict[str, Callable[[Path], None]] = {
    "dist-info: absent": _without("odd-2.0.dist-info"),
    "dist-info: of another project": _rewritten(
        lambda members: [(name.replace("odd-1.0.dist-info", "other-1.0.dist-info"), data) for name, data in members]
    ),
    "dist-info: other spelling": _rewritten(
        lambda members: [(name.replace("Odd_One-1.0.dist-info", "odd.one-1.0.dist-info"), data) for name, data in members]
    ),
    "metadata: absent": _without(f"{INFO}/METADATA"),
    "WHEEL: absent": _without(f"{INFO}/WHEEL"),
    "zip: encrypted": _bytes(_flagged(1)),
    "zip: NUL in a name": _bytes(lambda content: content.replace(b"a_b.py", b"a\0b.py")),
    "zip: name that is no UTF-8": _bytes(lambda content: content.replace("caf\u00e9.py".encode(), b"caf\xff\xfe.py")),
    "zip: data descriptors": _streamed,
    "zip: zip64": _zip64,
    "zip: local name differs": _bytes(lambda content: content.replace(b"aaa.py", b"bbb.py", 1)),
    "zip: damaged content": _bytes(lambda content: content[:60] + b"\xff" * 20 + content[80:]),
    "zip: wrong checksum": _bytes(lambda content: content.replace(b"def main(): pass\n", b"def main(): fail\n")),
    "zip: bytes before": _bytes(lambda content: b"#!/bin/sh\nexit\n" + content),
    "zip: bytes after": _bytes(lambda content: content + b"\0" * 100),
    "zip: cut off": _bytes(lambda content: content[:-30]),
    "zip: comment": _bytes(lambda content: content[:-2] + b"\x05\x00hello"),
    "zip: empty archive": _rewritten(lambda members: members[:0]),
}
