"""Checks the header of a GGUF file (format of the ``ggml`` library, ``docs/gguf.md``, versions 2 and 3)."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vllm_ci.models.refusals import UnsafeModelError

_MAGIC = b"GGUF"
_LONGEST_TEXT, _MOST_ITEMS, _MOST_TENSORS, _DEEPEST = 1 << 26, 1 << 26, 1 << 20, 2
# struct formats by the number of the value's type; 8 is a text and 9 a list.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
# Tensor types (ggml.h, ggml_type): number -> (name, elements of a block, bytes of a block).
_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    30: ("BF16", 1, 2),
    28: ("F64", 1, 8),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}


@dataclass(frozen=True, kw_only=True)
class GgufFacts:
    """What a GGUF file holds.

    Attributes:
        values: Its scalar metadata, by key.
        parameters: Number of elements in all tensors.
        types: Elements by tensor type.
    """

    values: Mapping[str, object]
    parameters: int
    types: Mapping[str, int]


class _Broken(Exception):
    """What is wrong with the bytes."""


def check(path: Path) -> GgufFacts:
    """Metadata and tensors of a file, after its header was checked.

    Raises:
        UnsafeModelError: The header is not valid, or does not fit the file.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            return _read(_Reader(stream, size), size)
    except _Broken as error:
        raise UnsafeModelError(
            f"{path.name} is not a valid GGUF file", why=str(error), remedy="convert the model again, or download it again"
        ) from error


class _Reader:
    """Values in the byte order of the format, within the file."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size

    @property
    def at(self) -> int:
        return self._stream.tell()

    def bytes(self, count: int) -> bytes:
        if count > self._size - self.at:
            raise _Broken(f"{count} bytes are expected at {self.at}, and the file has {self._size}")
        return self._stream.read(count)

    def scalar(self, form: str) -> int | float | bool:
        found: int | float | bool = struct.unpack("<" + form, self.bytes(struct.calcsize("<" + form)))[0]
        return found

    def number(self, form: str, most: int, what: str) -> int:
        found = int(self.scalar(form))
        if found > most:
            raise _Broken(f"{what} is {found}, more than {most}")
        return found

    def text(self) -> str:
        try:
            return self.bytes(self.number("Q", _LONGEST_TEXT, "the length of a text")).decode()
        except UnicodeDecodeError as error:
            raise _Broken(f"a text is not UTF-8: {error}") from error

    def value(self, kind: int, depth: int = 0) -> object:
        """A value; of a list, nothing but that it is there."""
        if kind == _TEXT:
            return self.text()
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind != _LIST or depth >= _DEEPEST:
            raise _Broken(f"there is no value of type {kind} at this place")
        inner, count = int(self.scalar("I")), self.number("Q", _MOST_ITEMS, "the length of a list")
        if inner in _SCALARS:
            self.bytes(count * struct.calcsize("<" + _SCALARS[inner]))
        else:
            for _ in range(count):
                self.value(inner, depth + 1)
        return None


def _read(reader: _Reader, size: int) -> GgufFacts:
    if reader.bytes(4) != _MAGIC:
        raise _Broken("it does not begin with GGUF")
    version = int(reader.scalar("I"))
    if version not in (2, 3):
        raise _Broken(f"version {version} of the format is not supported")
    tensors = reader.number("Q", _MOST_TENSORS, "the number of tensors")
    values: dict[str, object] = {}
    for _ in range(reader.number("Q", _MOST_TENSORS, "the number of metadata values")):
        key = reader.text()
        if key in values:
            raise _Broken(f"the key {key[:80]!r} is there twice")
        values[key] = reader.value(int(reader.scalar("I")))
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
        raise _Broken(f"the alignment is {alignment!r}")
    spans, types = _tensors(reader, tensors, alignment)
    start = -(-reader.at // alignment) * alignment
    _check_spans(spans, size - start, alignment)
    return GgufFacts(
        values={key: value for key, value in values.items() if value is not None},
        parameters=sum(types.values()),
        types=types,
    )


def _tensors(reader: _Reader, count: int, alignment: int) -> tuple[list[tuple[int, int, str]], dict[str, int]]:
    spans: list[tuple[int, int, str]] = []
    types: Counter[str] = Counter()
    names = set()
    for _ in range(count):
        name = reader.text()
        shape = [int(reader.scalar("Q")) for _ in range(reader.number("I", 8, "the number of dimensions"))]
        kind, offset = int(reader.scalar("I")), int(reader.scalar("Q"))
        if name in names or kind not in _TYPES or offset % alignment:
            raise _Broken(f"tensor {name[:80]!r} is there twice, has the unknown type {kind}, or is not aligned")
        names.add(name)
        label, block, block_bytes = _TYPES[kind]
        elements = math.prod(shape)
        if shape and shape[0] % block:
            raise _Broken(f"the rows of tensor {name[:80]!r} are not whole blocks of {label}")
        spans.append((offset, offset + elements // block * block_bytes, name))
        types[label] += elements
    return spans, dict(types)


def _check_spans(spans: list[tuple[int, int, str]], data_bytes: int, alignment: int) -> None:
    """Tensors follow each other, each filled up to the alignment (``docs/gguf.md``, "File Structure"), up to the file's end."""
    at = next_at = 0
    for begin, end, name in sorted(spans):
        if begin != next_at:
            what = "overlaps the tensor before it" if begin < next_at else f"leaves {begin - at} bytes before it to no tensor"
            raise _Broken(f"tensor {name[:80]!r} {what}")
        at, next_at = end, -(-end // alignment) * alignment
    if not at <= data_bytes < at + alignment:
        raise _Broken(f"its tensors take {at} bytes, and {max(data_bytes, 0)} follow the header")
