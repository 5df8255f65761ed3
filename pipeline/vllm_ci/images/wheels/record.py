"""``RECORD`` of a wheel, read as leniently as pip and uv do (Binary distribution format, "The .dist-info directory").

Neither of them checks a hash when it installs, and both take files without a row and rows without a file. So do we: a row
that says nothing usable of a file leaves its hash unknown. What cannot be read at all is refused, by line.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
from collections.abc import Container, Iterator
from dataclasses import dataclass

from vllm_ci.domain.errors import BuildError

REBUILD = "use another version of it, or have its author build it again"


@dataclass(frozen=True, kw_only=True)
class RecordRow:
    """What ``RECORD`` has of a file.

    Attributes:
        sha256: Hex digest; empty when it has none that can be read.
        hash: As it stands there, of any algorithm; empty when it cannot be read.
        size: As it stands there.
    """

    sha256: str = ""
    hash: str = ""
    size: str = ""


def decoded(content: bytes, *, wheel: str, member: str) -> str:
    """Text of a metadata file, a byte order mark removed and line ends made one.

    Raises:
        BuildError: It is not UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BuildError(f"{wheel}: {member}:{line}: this is not UTF-8", why=str(error), remedy=REBUILD) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse(text: str, *, wheel: str, member: str, names: Container[str]) -> dict[str, RecordRow]:
    """Rows by file name; a file with rows that differ has an empty one.

    Args:
        text: Content of ``RECORD``.
        wheel: Name of the wheel, for messages.
        member: Name of ``RECORD`` in it.
        names: Names of the wheel's files.

    Raises:
        BuildError: A line cannot be read.
    """
    found: dict[str, RecordRow] = {}
    for line, fields in _lines(text, f"{wheel}: {member}"):
        name, row = _row(fields, names, where=f"{wheel}: {member}:{line}")
        found[name] = row if found.get(name, row) == row else RecordRow()
    return found


def _lines(text: str, where: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise BuildError(f"{where}:{line}: this is no line of a table", why=str(error), remedy=REBUILD) from error
        if any(field.strip() for field in fields):
            yield line, fields


def _row(fields: list[str], names: Container[str], *, where: str) -> tuple[str, RecordRow]:
    """Name and content of a row; a name with unquoted commas is the one that the wheel has (pypa/pip#6165)."""
    name, (coded, size) = fields[0], (*fields[1:], "", "")[:2]
    if len(fields) > 3:
        name, coded, size = ",".join(fields[:-2]), *fields[-2:]
        if name not in names:
            raise BuildError(
                f"{where}: {len(fields)} fields in place of name, hash and size",
                why=f"and the wheel has no file {name}",
                remedy=REBUILD,
            )
    if name not in names and name.replace("\\", "/") in names:
        name = name.replace("\\", "/")
    return name, _hashed(coded.strip(), size.strip())


def _hashed(coded: str, size: str) -> RecordRow:
    algorithm, _, value = coded.partition("=")
    algorithm = algorithm.lower()
    if algorithm not in hashlib.algorithms_guaranteed or algorithm.startswith("shake"):
        return RecordRow()
    try:
        digest = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return RecordRow()
    if len(digest) != hashlib.new(algorithm, usedforsecurity=False).digest_size:
        return RecordRow()
    return RecordRow(sha256=digest.hex() if algorithm == "sha256" else "", hash=f"{algorithm}={value}", size=size)
