"""Checks the header of a safetensors file (format of the ``safetensors`` library, "Format" in its README).

A header that is accepted covers the whole file: every byte after it belongs to exactly one tensor.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_ci.models.refusals import UnsafeModelError

# The library's own limit.
_LONGEST_HEADER = 100_000_000
_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a weight file holds.

    Attributes:
        tensors: Their names.
        parameters: Number of elements in all tensors.
        types: Elements by data type.
    """

    tensors: frozenset[str]
    parameters: int
    types: Mapping[str, int]


def check(path: Path) -> Weights:
    """The tensors of a file, after its header was checked.

    Raises:
        UnsafeModelError: The header is not valid, or does not fit the file.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length < 2 or length > _LONGEST_HEADER or 8 + length > size:
            raise _refused(path, f"its header would have {length} bytes, and the file has {size}")
        content = stream.read(length)
    return _checked(path, _parsed(path, content), size - 8 - length)


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in found}) != len(found):
            raise ValueError("a key is there twice")
        return dict(found)

    if not content.startswith(b"{"):
        raise _refused(path, "its header does not begin with '{'")
    try:
        value: dict[str, Any] = json.loads(content.decode("utf-8"), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"its header is not valid JSON: {error}") from error
    metadata = value.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(each, str) for each in metadata.values()):
        raise _refused(path, "__metadata__ in its header is not a map of texts")
    return value


def _checked(path: Path, header: Mapping[str, Any], data_bytes: int) -> Weights:
    spans: list[tuple[int, int, str]] = []
    types: Counter[str] = Counter()
    for name, tensor in header.items():
        begin, end, kind, count = _tensor(path, name, tensor)
        spans.append((begin, end, name))
        types[kind] += count
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            what = "overlaps the tensor before it" if begin < at else f"leaves {begin - at} bytes before it to no tensor"
            raise _refused(path, f"tensor {name!r} {what}")
        at = end
    if at != data_bytes:
        raise _refused(path, f"its tensors take {at} bytes, and {data_bytes} follow the header")
    return Weights(tensors=frozenset(header), parameters=types.total(), types=dict(types))


def _tensor(path: Path, name: str, tensor: Any) -> tuple[int, int, str, int]:
    if not isinstance(tensor, dict) or set(tensor) != {"dtype", "shape", "data_offsets"}:
        raise _refused(path, f"tensor {name!r} does not have exactly dtype, shape and data_offsets")
    kind, shape, offsets = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    if not isinstance(kind, str) or kind not in _BITS:
        raise _refused(path, f"tensor {name!r} has the unknown data type {str(kind)[:40]!r}")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise _refused(path, f"the shape or the offsets of tensor {name!r} are not lists of sizes")
    begin, end = offsets
    count = math.prod(shape)
    if end < begin or count * _BITS[kind] != (end - begin) * 8:
        raise _refused(path, f"tensor {name!r} ({kind}, shape {str(shape)[:80]}) does not fit its {end - begin} bytes")
    return begin, end, kind, count


def _sizes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 64
        and all(isinstance(each, int) and not isinstance(each, bool) and 0 <= each < 1 << 63 for each in value)
    )


def _refused(path: Path, why: str) -> UnsafeModelError:
    return UnsafeModelError(
        f"{path.name} is not a valid safetensors file", why=why, remedy="save the checkpoint again, or download it again"
    )
