"""Rows of JSONL files, read in bounded memory: whatever a line holds, it becomes an object or a reason."""

from __future__ import annotations

import codecs
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_ci.datasets.record import Limits
from vllm_ci.domain.errors import ErroredError, UsageError

_PIECE = 1 << 20


class Unusable(Exception):
    """A row that is not taken.

    Args:
        reason: One word that is counted.
        detail: What is wrong, without the row's content.
    """

    def __init__(self, *, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def digest_of(path: Path) -> str:
    """``sha256:`` digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return "sha256:" + digest.hexdigest()


def check(path: Path, limits: Limits) -> None:
    """A source is a regular file of JSON lines that is not too large.

    Raises:
        UsageError: It is not.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file", remedy="name a JSONL file: one JSON object on each line")
    if path.stat().st_size > limits.file_bytes:
        raise UsageError(
            f"{path} has {path.stat().st_size} bytes, more than {limits.file_bytes}", remedy="split it into several files"
        )
    try:
        with path.open("rb") as stream:
            start = stream.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", remedy="make it readable, or name another file") from error
    if start.startswith(b"["):
        raise UsageError(
            f"{path}:1: the file is one JSON array, not JSON lines",
            remedy=f"write one object on each line: jq -c '.[]' {path} > {path.with_suffix('.jsonl')}",
        )
    if start.startswith((b"\x1f\x8b", b"(\xb5/\xfd", b"PK\x03\x04", b"PAR1")):
        raise UsageError(f"{path} is compressed or a table in binary form", remedy="unpack it to JSON lines first")


def read(path: Path, limits: Limits, *, expected: str) -> Iterator[tuple[int, dict[str, Any] | Unusable]]:
    """Number and object, or reason, of each line that is not empty.

    Args:
        path: The file.
        limits: Bounds of a row.
        expected: Digest that the file had.

    Raises:
        ErroredError: The file changed in the meantime.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(limits.line_bytes + 1):
            number += 1
            digest.update(line)
            long = len(line) > limits.line_bytes
            while long and not line.endswith(b"\n") and (rest := stream.readline(_PIECE)):
                digest.update(rest)
                line = rest
            if long:
                yield number, Unusable(reason="too-long", detail=f"the line has more than {limits.line_bytes} bytes")
            elif text := (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip():
                yield number, parsed(text, limits)
    if "sha256:" + digest.hexdigest() != expected:
        raise ErroredError(f"{path} changed while it was read", remedy="collect again when nothing writes to it")


def parsed(line: bytes, limits: Limits) -> dict[str, Any] | Unusable:
    """The object that JSON text describes, or why it cannot be used."""
    try:
        found = value(line.decode("utf-8"), limits)
    except Unusable as error:
        return error
    except UnicodeDecodeError as error:
        return Unusable(reason="not-utf-8", detail=f"byte {error.start + 1} is not UTF-8")
    if not isinstance(found, dict):
        return Unusable(reason="not-object", detail="not a JSON object")
    return found


def value(text: str, limits: Limits) -> Any:
    """The value that JSON text describes.

    Raises:
        Unusable: It describes none that can be written again.
    """
    try:
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
        check_values(found, limits.depth)
    except RecursionError as error:
        raise Unusable(reason="too-deep", detail=f"nested more than {limits.depth} levels deep") from error
    except ValueError as error:
        raise Unusable(reason="not-json", detail=f"not JSON: {_short(error)}") from error
    return found


def _short(error: ValueError) -> str:
    """What is wrong and where, without the text that was read."""
    return f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "a number is too long"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Unusable(reason="repeated-key", detail="an object has one key twice")
    return made


def _constant(name: str) -> None:
    raise Unusable(reason="not-json", detail=f"not JSON: {name}")


def check_values(found: Any, depth: int) -> None:
    """Refuse nesting that is too deep, and text and numbers that no tokenizer and no file can hold."""
    open_: list[tuple[Any, int]] = [(found, 1)]
    while open_:
        value, level = open_.pop()
        if level > depth:
            raise Unusable(reason="too-deep", detail=f"nested more than {depth} levels deep")
        if isinstance(value, str):
            _check_text(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise Unusable(reason="not-json", detail="a number is too large")
        elif isinstance(value, dict):
            open_.extend((each, level + 1) for pair in value.items() for each in pair)
        elif isinstance(value, list):
            open_.extend((each, level + 1) for each in value)


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise Unusable(reason="bad-text", detail="contains a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unusable(reason="bad-text", detail="contains half of a surrogate pair") from error
